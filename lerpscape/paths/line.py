"""The straight line between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, checkpoint, continuous, ends_digest
from lerpscape.paths.distances import distances
from lerpscape.paths.library_names import named_by
from lerpscape.paths.matching import OnlyInOne, abbreviated, first_tied_names, matched
from lerpscape.paths.pairs import Pairs
from lerpscape.paths.path import Path, Rest, Segment
from lerpscape.paths.patterns import Pattern, pattern_text, tensors_matching
from lerpscape.paths.unlike_vectors import parametrised


class Line(Path):
    """The straight line θ(α) = (1−α)θ₀ + αθ_T between two checkpoints; α outside [0, 1] extrapolates.

    `start` and `end` are modules, mappings of names to tensors, or files (see `checkpoint`); their tensors are copied.
    At α = 0 and α = 1 the line gives them bit for bit. Tensors of real and complex numbers, parameters and buffers, are
    interpolated by `torch.lerp`, those of half precision in float32. Integer buffers (flags, counters, indices) are
    taken from the nearer end; `how["jumps"]` of a result lists those that differ. If the two ends have different dtypes
    for a tensor, the wider one is used. Of a parametrised weight, the tensors that it is made from are interpolated.

    `only_in_one="hold"` holds a tensor that only one end has, such as a new head, constant along the line.

    Raises `EndpointMismatch` for names or shapes that differ, for two equal checkpoints, and for tensors that differ
    and have no line between them: quantised weights, integer parameters, the unit vectors of `spectral_norm`.

    Source: Goodfellow, Vinyals & Saxe (2014).

    >>> line = Line({"w": torch.tensor([0.0, 3.0])}, {"w": torch.tensor([4.0, 0.0])})
    >>> line.at(0.5)["w"], line.distance(), round(line.relative_distance(), 4)
    (tensor([2.0000, 1.5000]), 5.0, 1.6667)
    """

    def __init__(self, start: Source, end: Source, only_in_one: OnlyInOne = "error") -> None:
        if only_in_one not in ("error", "hold"):
            raise ValueError(
                explain(expected='only_in_one as "error" or "hold".', got=f"{only_in_one!r}.", hint="Choose one.")
            )
        one, other = checkpoint(start), checkpoint(end)
        if isinstance(end, nn.Module) and not isinstance(start, nn.Module):
            one = named_by(end, one)
        elif isinstance(start, nn.Module) and not isinstance(end, nn.Module):
            other = named_by(start, other)
        self.start, self.end = matched(one, other, only_in_one)
        self._tied = first_tied_names(self.start, self.end)
        self._pairs = self._given = Pairs(self.start, self.end, self._tied)
        if not self._moves():
            count = sum(map(continuous, self.start.tensors.values()))
            raise EndpointMismatch(
                explain(
                    expected="two different checkpoints.",
                    got=f"{self.start.source} and {self.end.source}, equal in all {count} tensors that could move.",
                    hint="state_dict() shares memory with its module: keep "
                    "copy.deepcopy(model.state_dict()) of the start.",
                )
            )

    @property
    def lies_in_files(self) -> bool:
        """Whether an end is in files that are too large to be held in memory: its tensors are read when asked for."""
        return self._pairs.lie_in_files

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """Names of the tensors of real or complex numbers that are not equal at both ends."""
        if not self.lies_in_files:
            return moving(self.start, self.end)
        tensors = self.start.tensors.items()
        return tuple(name for name, each in tensors if continuous(each) and not self._pairs.facts(name).equal)

    def _moves(self) -> bool:
        """Whether any tensor moves; of files, the smallest tensors are read first, to read few."""
        if not self.lies_in_files:
            return bool(self.moving)
        sizes = sorted((each.numel(), name) for name, each in self.start.tensors.items() if continuous(each))
        return any(not self._pairs.facts(name).equal for _, name in sizes)

    def ends_of(self, name: str) -> tuple[Tensor, Tensor]:
        """One tensor at both ends: the same object twice where it does not move."""
        start, end = self._given.read(name)
        if self._given.facts(name).equal:
            end = start
        like = self.start.tensors[name]
        if (start.dtype, start.device) == (like.dtype, like.device):
            return start, end
        first = start.to(like.device, like.dtype)
        last = first if end is start else end.to(like.device, like.dtype)
        return first, first if torch.equal(first, last) else last

    def between_ends(self, ends: tuple[Tensor, Tensor], alpha: float) -> Tensor:
        """The tensor at α, from `ends_of`: one of them where it does not move, or is not interpolated."""
        start, end = ends
        if start is end or not continuous(start):
            return start if alpha < 0.5 else end
        return torch.lerp(start, end, alpha)

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α, by `torch.lerp`; tied names share one tensor.

        >>> Line({"w": torch.zeros(2)}, {"w": torch.ones(2)}).at(0.25)
        {'w': tensor([0.2500, 0.2500])}
        """
        nearer = self.start if alpha < 0.5 else self.end
        if self.lies_in_files:
            found: Params = {}
            for name, first in self._tied.items():
                found[name] = found[first] if first != name else self.between_ends(self.ends_of(name), alpha)
            return found
        tensors = dict(nearer.tensors)
        for name in self.moving:
            first = self._tied[name]
            tensors[name] = (
                tensors[first] if first != name else torch.lerp(self.start.tensors[name], self.end.tensors[name], alpha)
            )
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move: θ_T − θ₀, whatever α.

        >>> Line({"w": torch.zeros(1), "v": torch.ones(1)}, {"w": torch.ones(1), "v": torch.ones(1)}).velocity(0.3)
        {'w': tensor([1.])}
        """
        if self.lies_in_files:
            ends = ((name, self.ends_of(name)) for name in self.start.tensors if continuous(self.start.tensors[name]))
            return {name: end - start for name, (start, end) in ends if start is not end}
        return {name: self.end.tensors[name] - self.start.tensors[name] for name in self.moving}

    def velocity_of(self, name: str) -> Tensor:
        """dθ/dα of one tensor that moves."""
        start, end = self.ends_of(name) if self.lies_in_files else (self.start.tensors[name], self.end.tensors[name])
        return end - start

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Line:
        """The line on a device, with its floating-point tensors in `dtype` unless that is None."""
        line = Line(self.start.to(device, dtype), self.end.to(device, dtype))
        line._given = self._given  # what is read of them is noted there
        return line

    def describe(self) -> str:
        """The line in words."""
        weights = parametrised(self.start.tensors) and parametrised(self.moving)  # may have to read everything
        words = f", in what {abbreviated(weights)} is made from" if weights else ""
        return f"line from {self.start.source} to {self.end.source}{words}"

    def digest(self) -> str:
        """12 hex digits over both ends."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return self._pairs.digest("line") if self.lies_in_files else ends_digest("line", start=self.start, end=self.end)

    def only(self, *patterns: Pattern, rest: Rest = "end") -> Line:
        """The line along which only some tensors move, with all others held at one end; see `Path.only`."""
        chosen = set(tensors_matching(patterns, self.start, self.end))
        held = self.end if rest == "end" else self.start
        tensors = ({**held.tensors, **{name: end.tensors[name] for name in chosen}} for end in (self.start, self.end))
        words = f" ({abbreviated([pattern_text(each) for each in patterns])} alone, the rest as in {held.source})"
        start, end = (
            Checkpoint(state, end.parameters, end.source + (words if end is not held else ""))
            for state, end in zip(tensors, (self.start, self.end), strict=True)
        )
        return Line(start, end)

    def between(self, first: float, last: float) -> Line:
        """The segment of the line from α = `first` to α = `last`, which may lie outside [0, 1]; see `Path.between`."""
        segment = Segment(self, first, last)
        return Line(segment.start, segment.end)

    def distance(self) -> float:
        """‖θ_T − θ₀‖₂ over all parameters, each tied one counted once, accumulated in float64."""
        return self.distances(self.start.parameters)[0]

    def relative_distance(self) -> float:
        """‖θ_T − θ₀‖ / ‖θ₀‖ over all parameters, as normalised by Lucas et al. (2021); inf if θ₀ = 0."""
        return self.distances(self.start.parameters)[1]

    def distances(self, names: Iterable[str]) -> tuple[float, float]:
        """‖θ_T − θ₀‖₂ over these tensors, and the same relative to ‖θ₀‖."""
        return self._pairs.distances(names) if self.lies_in_files else distances(self.start, self.end, names)

    def layer_distances(self, relative: bool = False) -> dict[str, float]:
        """‖θ_T − θ₀‖₂ of every parameter by name, divided by its ‖θ₀‖ if `relative`.

        >>> Line({"a": torch.ones(4), "b": torch.ones(1)}, {"a": torch.zeros(4), "b": torch.ones(1)}).layer_distances()
        {'a': 2.0, 'b': 0.0}
        """
        return {name: self.distances([name])[relative] for name in self.start.parameters}


def moving(*ends: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors of real or complex numbers that are not equal in all checkpoints."""
    first = ends[0].tensors
    return tuple(
        name
        for name, tensor in first.items()
        if continuous(tensor) and any(not torch.equal(tensor, other.tensors[name]) for other in ends[1:])
    )
