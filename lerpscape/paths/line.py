"""The straight line between two checkpoints."""

from __future__ import annotations

from functools import cached_property

import torch

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, checkpoint, ends_digest
from lerpscape.paths.distances import distance, distances
from lerpscape.paths.matching import listed, matched, placed, twins
from lerpscape.paths.path import Path, Rest
from lerpscape.paths.patterns import Pattern, selected
from lerpscape.paths.schedules import text_of


class Line(Path):
    """The straight line θ(α) = (1−α)θ₀ + αθ_T between two checkpoints; α outside [0, 1] extrapolates.

    Ends are modules, mappings of names to tensors, or files (see `checkpoint`), copied when the line is made.
    At α = 0 and α = 1 it gives their tensors bit for bit. Floating-point tensors that differ are interpolated,
    buffers too; what cannot be interpolated (integers) or does not differ is taken from the nearer end. Where one
    tensor has two dtypes, the wider one holds.

    Raises `EndpointMismatch` for names or shapes that differ, and for two ends that are the same network.

    Source: Goodfellow, Vinyals & Saxe (2014).

    >>> line = Line({"w": torch.tensor([0.0, 3.0])}, {"w": torch.tensor([4.0, 0.0])})
    >>> line.at(0.5)["w"], line.distance(), round(line.relative_distance(), 4)
    (tensor([2.0000, 1.5000]), 5.0, 1.6667)
    """

    def __init__(self, start: Source, end: Source) -> None:
        self.start, self.end = matched(checkpoint(start), checkpoint(end))
        self._moving = moving(self.start, self.end)
        self._twins = twins(self.start, self.end)
        if not self._moving:
            raise EndpointMismatch(
                explain(
                    expected="two different checkpoints.",
                    got=f"{self.start.source} and {self.end.source}, equal in all {len(self.start.tensors)} tensors.",
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
        for name in self._moving:
            twin = self._twins[name]
            tensors[name] = (
                tensors[twin] if twin != name else torch.lerp(self.start.tensors[name], self.end.tensors[name], alpha)
            )
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move: θ_T − θ₀, whatever α.

        >>> Line({"w": torch.zeros(1), "v": torch.ones(1)}, {"w": torch.ones(1), "v": torch.ones(1)}).velocity(0.3)
        {'w': tensor([1.])}
        """
        return {name: self.end.tensors[name] - self.start.tensors[name] for name in self._moving}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Line:
        """The same line with its tensors on a device, the floating-point ones in `dtype` where one is given."""
        return Line(placed(self.start, device, dtype), placed(self.end, device, dtype))

    def describe(self) -> str:
        """Where the line runs, in words."""
        return f"line from {self.start.source} to {self.end.source}"

    def digest(self) -> str:
        """12 hex digits over both ends."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return ends_digest("line", start=self.start, end=self.end)

    def only(self, *patterns: Pattern, rest: Rest = "end") -> Line:
        """The line of some tensors alone, all others held at the end or at the start; see `Path.only`."""
        chosen = set(selected(patterns, self.start, self.end))
        held = self.end if rest == "end" else self.start
        tensors = ({**held.tensors, **{name: end.tensors[name] for name in chosen}} for end in (self.start, self.end))
        words = f" ({listed([text_of(each) for each in patterns])} alone, the rest as in {held.source})"
        start, end = (
            Checkpoint(made, end.parameters, end.source + (words if end is not held else ""))
            for made, end in zip(tensors, (self.start, self.end), strict=True)
        )
        return Line(start, end)

    def between(self, first: float, last: float) -> Line:
        """The stretch of the line from α = `first` to α = `last`, also beyond [0, 1]; see `Path.between`."""
        return Line(self._stop(first), self._stop(last))

    def distance(self) -> float:
        """‖θ_T − θ₀‖₂ over all parameters, tied ones once, accumulated in float64."""
        return distance(self.start, self.end, self.start.parameters)

    def relative_distance(self) -> float:
        """‖θ_T − θ₀‖ / ‖θ₀‖ over all parameters; the paper's normalisation. inf from a start of zero."""
        return distances(self.start, self.end, self.start.parameters)[1]

    def layer_distances(self, relative: bool = False) -> dict[str, float]:
        """‖θ_T − θ₀‖₂ of every parameter by name, or relative to ‖θ₀‖ of the same parameter.

        >>> Line({"a": torch.ones(4), "b": torch.ones(1)}, {"a": torch.zeros(4), "b": torch.ones(1)}).layer_distances()
        {'a': 2.0, 'b': 0.0}
        """
        return {name: distances(self.start, self.end, [name])[relative] for name in self.start.parameters}

    def _stop(self, alpha: float) -> Checkpoint:
        if alpha in (0, 1):
            return self.end if alpha else self.start
        return Checkpoint(self.at(alpha), self.start.parameters, f"α = {alpha:g} of the {self.describe()}")


def moving(*ends: Checkpoint) -> tuple[str, ...]:
    """Names of the floating-point tensors that are not the same in all checkpoints."""
    first = ends[0].tensors
    return tuple(
        name
        for name, tensor in first.items()
        if tensor.is_floating_point() and any(not torch.equal(tensor, other.tensors[name]) for other in ends[1:])
    )
