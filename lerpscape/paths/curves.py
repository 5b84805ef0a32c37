"""Paths that are not straight: polylines through given points, and Bezier curves with a control point."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Params, Source, ends_digest
from lerpscape.paths.line import Line, moving
from lerpscape.paths.matching import all_matched, first_tied_names
from lerpscape.paths.path import Path

# An α that was computed, as k · step or 1 − α, is off by a few units in the last place of 1.
KNOT_ROUNDING = 16 * sys.float_info.epsilon


class Polyline(Path):
    """Straight lines from point to point: at α = k/(n−1) the path is at point k of n, bit for bit.

    The velocity at a point is that of the line that starts there; at the last point, of the line that ends there. An α
    within 16 rounding units of k/(n−1), such as 3 · 0.1 for 0.3, is point k.

    Raises `EndpointMismatch` for points of different networks and for equal neighbours, `ValueError` for fewer than
    two points.

    >>> path = Polyline({"w": torch.zeros(1)}, {"w": torch.ones(1)}, {"w": torch.zeros(1)})
    >>> path.at(0.5), path.at(0.75), path.velocity(0.75)
    ({'w': tensor([1.])}, {'w': tensor([0.5000])}, {'w': tensor([-2.])})
    """

    def __init__(self, *points: Source) -> None:
        if len(points) < 2:
            raise ValueError(
                explain(expected="at least two points.", got=f"{len(points)}.", hint="Polyline(start, middle, end)")
            )
        self.points = all_matched(list(points))
        self.start, self.end = self.points[0], self.points[-1]
        self._lines = [Line(*ends) for ends in zip(self.points[:-1], self.points[1:], strict=True)]
        self._moving = moving(*self.points)

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α; α outside [0, 1] extrapolates the first or last line."""
        line, share = self._place(alpha)
        return line.at(share)

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move anywhere on the path."""
        line, _ = self._place(alpha)
        here = line.velocity(0.0)
        tensors = self.start.tensors
        count = len(self._lines)
        return {name: count * here[name] if name in here else torch.zeros_like(tensors[name]) for name in self._moving}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Polyline:
        """The path on a device, with its floating-point tensors in `dtype` unless that is None."""
        return Polyline(*(point.to(device, dtype) for point in self.points))

    def describe(self) -> str:
        """The path in words."""
        return f"polyline through {', '.join(point.source for point in self.points)}"

    def digest(self) -> str:
        """12 hex digits over all points."""
        return ends_digest("polyline", **{f"point{index}": point for index, point in enumerate(self.points)})

    def _place(self, alpha: float) -> tuple[Line, float]:
        """The line that α lies on, and the α of that line."""
        count = len(self._lines)
        along = alpha * count
        if abs(along - round(along)) <= KNOT_ROUNDING * count:  # rounding of α, not a point before the knot
            along = round(along)
        index = min(max(math.floor(along), 0), count - 1)
        return self._lines[index], along - index


class Bezier(Path):
    """The quadratic Bezier curve θ(α) = (1−α)²θ₀ + 2α(1−α)θ_c + α²θ_T with control point θ_c.

    At α = 0 and α = 1 it gives the tensors of the two ends bit for bit. `lerpscape.studies.connect` trains a control
    point.

    Raises `EndpointMismatch` for checkpoints of different networks, and for three equal ones.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson (2018).

    >>> curve = Bezier({"w": torch.zeros(1)}, {"w": torch.ones(1)}, {"w": torch.zeros(1)})
    >>> curve.at(0.5), curve.velocity(0.25)
    ({'w': tensor([0.5000])}, {'w': tensor([1.])})
    """

    def __init__(self, start: Source, control: Source, end: Source) -> None:
        self.start, self.control, self.end = all_matched([start, control, end])
        self._moving = moving(self.start, self.control, self.end)
        self._tied = first_tied_names(self.start, self.control, self.end)
        if not self._moving:
            raise EndpointMismatch(
                explain(
                    expected="a curve that moves.",
                    got="three equal checkpoints.",
                    hint="Give two ends and a control point.",
                )
            )

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α, by two rounds of `torch.lerp`; tied names share one tensor."""
        tensors = dict((self.start if alpha < 0.5 else self.end).tensors)
        for name in self._moving:
            first = self._tied[name]
            tensors[name] = tensors[first] if first != name else torch.lerp(*self._chords(name, alpha), alpha)
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα = 2((1−α)(θ_c − θ₀) + α(θ_T − θ_c)) of the tensors that move."""
        chords = {name: self._chords(name, alpha) for name in self._moving}
        return {name: 2 * (towards_end - from_start) for name, (from_start, towards_end) in chords.items()}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Bezier:
        """The curve on a device, with its floating-point tensors in `dtype` unless that is None."""
        return Bezier(*(each.to(device, dtype) for each in (self.start, self.control, self.end)))

    def describe(self) -> str:
        """The curve in words."""
        return f"Bezier curve from {self.start.source} by {self.control.source} to {self.end.source}"

    def digest(self) -> str:
        """12 hex digits over both ends and the control point."""
        return ends_digest("bezier", start=self.start, control=self.control, end=self.end)

    def _chords(self, name: str, alpha: float) -> tuple[Tensor, Tensor]:
        start, control, end = (each.tensors[name] for each in (self.start, self.control, self.end))
        return torch.lerp(start, control, alpha), torch.lerp(control, end, alpha)
