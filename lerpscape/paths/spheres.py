"""A path along spheres: parameters turn instead of shrinking."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import Params, Source, ends_digest
from lerpscape.paths.line import Line, moving
from lerpscape.paths.matching import placed, twins
from lerpscape.paths.path import Path

# Below this angle (rad) between two tensors, or between one and the other's opposite, a sphere has no clear direction.
_SMALL_ANGLE = 1e-6


@dataclass(frozen=True)
class _Turn:
    """What a parameter does: it turns by `angle` while its norm goes from `first` to `last`."""

    angle: float
    first: float
    last: float

    def weights(self, alpha: float) -> tuple[float, float]:
        """What start and end are multiplied with at α."""
        norm = (1 - alpha) * self.first + alpha * self.last
        one, other = math.sin((1 - alpha) * self.angle), math.sin(alpha * self.angle)
        return self._scaled(norm * one, norm * other)

    def rates(self, alpha: float) -> tuple[float, float]:
        """The derivatives of both weights by α."""
        norm, growth = (1 - alpha) * self.first + alpha * self.last, self.last - self.first
        left, right = (1 - alpha) * self.angle, alpha * self.angle
        one = growth * math.sin(left) - norm * self.angle * math.cos(left)
        other = growth * math.sin(right) + norm * self.angle * math.cos(right)
        return self._scaled(one, other)

    def _scaled(self, one: float, other: float) -> tuple[float, float]:
        return one / (self.first * math.sin(self.angle)), other / (self.last * math.sin(self.angle))


class SphericalLine(Path):
    """A path on which no parameter shrinks on the way: each turns at a constant rate while its norm goes straight.

    For a parameter with unit vectors u₀, u_T at angle ω and norms r₀, r_T:
    θ(α) = ((1−α)r₀ + αr_T) (sin((1−α)ω) u₀ + sin(αω) u_T) / sin ω. Parameters that are zero at an end or parallel
    (ω < 1e-6 rad) go straight, and so do buffers. The angle is taken in float64; ends are met bit for bit.

    Raises `ValueError` for a parameter that is turned into its opposite: there is no one way round.

    Source: Shoemake (1985).

    >>> path = SphericalLine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 3.0])})
    >>> path.at(0.5)["w"].norm(), Line(path.start, path.end).at(0.5)["w"].norm()
    (tensor(2.0000), tensor(1.5811))
    """

    def __init__(self, start: Source, end: Source) -> None:
        self._line = Line(start, end)
        self.start, self.end = self._line.start, self._line.end
        self._twins = twins(self.start, self.end)
        parameters = {self._twins[name] for name in self.start.parameters}
        turning = [name for name in moving(self.start, self.end) if self._twins[name] in parameters]
        turns = {name: self._turn(name) for name in turning}
        self._turns = {name: turn for name, turn in turns.items() if turn is not None}

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α; tied names share one tensor."""
        tensors = self._line.at(alpha)
        if alpha in (0, 1):
            return tensors
        for name, turn in self._turns.items():
            one, other = turn.weights(alpha)
            twin = self._twins[name]
            tensors[name] = tensors[twin] if twin != name else self._combined(name, one, other)
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move."""
        return self._line.velocity(alpha) | {
            name: self._combined(name, *turn.rates(alpha)) for name, turn in self._turns.items()
        }

    def to(self, device: torch.device, dtype: torch.dtype | None) -> SphericalLine:
        """The same path with its tensors on a device, the floating-point ones in `dtype` where one is given."""
        return SphericalLine(placed(self.start, device, dtype), placed(self.end, device, dtype))

    def describe(self) -> str:
        """Where the path runs, in words."""
        return f"spherical {self._line.describe()}"

    def digest(self) -> str:
        """12 hex digits over both ends."""
        return ends_digest("spherical line", start=self.start, end=self.end)

    def _combined(self, name: str, one: float, other: float) -> torch.Tensor:
        return one * self.start.tensors[name] + other * self.end.tensors[name]

    def _turn(self, name: str) -> _Turn | None:
        """How a parameter turns; None where it goes straight."""
        start, end = self.start.tensors[name].double(), self.end.tensors[name].double()
        first, last = float(start.norm()), float(end.norm())
        if not first or not last:
            return None
        one, other = start / first, end / last
        angle = 2 * math.atan2(float((one - other).norm()), float((one + other).norm()))
        if math.pi - angle < _SMALL_ANGLE:
            raise ValueError(
                explain(
                    expected="parameters that are not turned into their opposite.",
                    got=f"{name!r}, at π from {self.start.source} to {self.end.source}.",
                    hint="Line(start, end) goes straight, through zero.",
                )
            )
        return _Turn(angle, first, last) if angle >= _SMALL_ANGLE else None
