"""The straight line between two checkpoints."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import nn

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, checkpoint, continuous, ends_digest
from lerpscape.paths.distances import distance, distances
from lerpscape.paths.library_names import named_by
from lerpscape.paths.matching import OnlyInOne, abbreviated, first_tied_names, matched
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
        self.moving = moving(self.start, self.end)
        self._tied = first_tied_names(self.start, self.end)
        if not self.moving:
            count = sum(map(continuous, self.start.tensors.values()))
            raise EndpointMismatch(
                explain(
                    expected="two different checkpoints.",
                    got=f"{self.start.source} and {self.end.source}, equal in all {count} tensors that could move.",
                    hint="state_dict() shares memory with its module: keep "
                    "copy.deepcopy(model.state_dict()) of the start.",
                )
            )

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α, by `torch.lerp`; tied names share one tensor.

        >>> Line({"w": torch.zeros(2)}, {"w": torch.ones(2)}).at(0.25)
        {'w': tensor([0.2500, 0.2500])}
        """
        nearer = self.start if alpha < 0.5 else self.end
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
        return {name: self.end.tensors[name] - self.start.tensors[name] for name in self.moving}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Line:
        """The line on a device, with its floating-point tensors in `dtype` unless that is None."""
        return Line(self.start.to(device, dtype), self.end.to(device, dtype))

    def describe(self) -> str:
        """The line in words."""
        weights = parametrised(self.moving)
        words = f", in what {abbreviated(weights)} is made from" if weights else ""
        return f"line from {self.start.source} to {self.end.source}{words}"

    def digest(self) -> str:
        """12 hex digits over both ends."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return ends_digest("line", start=self.start, end=self.end)

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
        return distance(self.start, self.end, self.start.parameters)

    def relative_distance(self) -> float:
        """‖θ_T − θ₀‖ / ‖θ₀‖ over all parameters, as normalised by Lucas et al. (2021); inf if θ₀ = 0."""
        return distances(self.start, self.end, self.start.parameters)[1]

    def layer_distances(self, relative: bool = False) -> dict[str, float]:
        """‖θ_T − θ₀‖₂ of every parameter by name, divided by its ‖θ₀‖ if `relative`.

        >>> Line({"a": torch.ones(4), "b": torch.ones(1)}, {"a": torch.zeros(4), "b": torch.ones(1)}).layer_distances()
        {'a': 2.0, 'b': 0.0}
        """
        return {name: distances(self.start, self.end, [name])[relative] for name in self.start.parameters}


def moving(*ends: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors of real or complex numbers that are not equal in all checkpoints."""
    first = ends[0].tensors
    return tuple(
        name
        for name, tensor in first.items()
        if continuous(tensor) and any(not torch.equal(tensor, other.tensors[name]) for other in ends[1:])
    )
