"""Spherical interpolation between two checkpoints, along which the norms of parameters change linearly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import Params, Source, as_vector, ends_digest
from lerpscape.paths.line import Line, moving
from lerpscape.paths.matching import first_tied_names
from lerpscape.paths.path import Path

# Two vectors with an angle (rad) below this count as parallel, as their great circle is not determined numerically.
_SMALL_ANGLE = 1e-6


@dataclass(frozen=True)
class _Turn:
    """The movement of one parameter: it turns by `angle` (rad) while its norm goes from `first` to `last`."""

    angle: float
    first: float
    last: float

    def weights(self, alpha: float) -> tuple[float, float]:
        """The factors of the start's and the end's tensor at α."""
        norm = (1 - alpha) * self.first + alpha * self.last
        one, other = math.sin((1 - alpha) * self.angle), math.sin(alpha * self.angle)
        return self._scaled(norm * one, norm * other)

    def rates(self, alpha: float) -> tuple[float, float]:
        """The derivatives of both factors by α."""
        norm, growth = (1 - alpha) * self.first + alpha * self.last, self.last - self.first
        left, right = (1 - alpha) * self.angle, alpha * self.angle
        one = growth * math.sin(left) - norm * self.angle * math.cos(left)
        other = growth * math.sin(right) + norm * self.angle * math.cos(right)
        return self._scaled(one, other)

    def _scaled(self, one: float, other: float) -> tuple[float, float]:
        return one / (self.first * math.sin(self.angle)), other / (self.last * math.sin(self.angle))


class SphericalLine(Path):
    """Spherical interpolation of every parameter, with its norm interpolated linearly.

    For a parameter with norms r₀, r_T and unit vectors u₀, u_T at an angle ω:
    θ(α) = ((1−α)r₀ + αr_T) (sin((1−α)ω) u₀ + sin(αω) u_T) / sin ω. Buffers, parameters that are zero at an end, and
    those with ω < 1e-6 rad are interpolated linearly. Angles are computed in float64. At α = 0 and α = 1 the path gives
    the tensors of the two ends bit for bit.

    Raises `ValueError` for a parameter with ω = π, between whose ends no great circle is the shortest.

    Source: Shoemake (1985).

    >>> path = SphericalLine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 3.0])})
    >>> path.at(0.5)["w"].norm(), Line(path.start, path.end).at(0.5)["w"].norm()
    (tensor(2.0000), tensor(1.5811))
    """

    def __init__(self, start: Source, end: Source) -> None:
        self._line = Line(start, end)
        self.start, self.end = self._line.start, self._line.end
        self._tied = first_tied_names(self.start, self.end)
        parameters = {self._tied[name] for name in self.start.parameters}
        turning = [name for name in moving(self.start, self.end) if self._tied[name] in parameters]
        turns = {name: self._turn(name) for name in turning}
        self._turns = {name: turn for name, turn in turns.items() if turn is not None}

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α; tied names share one tensor."""
        tensors = self._line.at(alpha)
        if alpha in (0, 1):
            return tensors
        for name, turn in self._turns.items():
            one, other = turn.weights(alpha)
            first = self._tied[name]
            tensors[name] = tensors[first] if first != name else self._combined(name, one, other)
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move."""
        return self._line.velocity(alpha) | {
            name: self._combined(name, *turn.rates(alpha)) for name, turn in self._turns.items()
        }

    def to(self, device: torch.device, dtype: torch.dtype | None) -> SphericalLine:
        """The path on a device, with its floating-point tensors in `dtype` unless that is None."""
        return SphericalLine(self.start.to(device, dtype), self.end.to(device, dtype))

    def describe(self) -> str:
        """The path in words."""
        return f"spherical {self._line.describe()}"

    def digest(self) -> str:
        """12 hex digits over both ends."""
        return ends_digest("spherical line", start=self.start, end=self.end)

    def _combined(self, name: str, one: float, other: float) -> torch.Tensor:
        return one * self.start.tensors[name] + other * self.end.tensors[name]

    def _turn(self, name: str) -> _Turn | None:
        """The turn of a parameter; None for one that is interpolated linearly."""
        start, end = as_vector(self.start.tensors[name]), as_vector(self.end.tensors[name])
        first, last = float(start.norm()), float(end.norm())
        if not first or not last:
            return None
        one, other = start / first, end / last
        angle = 2 * math.atan2(float((one - other).norm()), float((one + other).norm()))
        if math.pi - angle < _SMALL_ANGLE:
            raise ValueError(
                explain(
                    expected="parameters that do not point in opposite directions at the two ends.",
                    got=f"{name!r}, at an angle of π between {self.start.source} and {self.end.source}.",
                    hint="Line(start, end) interpolates linearly, through zero.",
                )
            )
        return _Turn(angle, first, last) if angle >= _SMALL_ANGLE else None
