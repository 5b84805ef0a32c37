"""A plane through three checkpoints, the position of other checkpoints relative to it, and lists of single points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, as_vector, checkpoint, digest, ends_digest
from lerpscape.paths.directions import Scale, random_direction
from lerpscape.paths.line import moving
from lerpscape.paths.matching import all_matched, matched

# Three points count as collinear if the sine of the angle at the origin is below this.
_COLLINEAR = 1e-6


class Position(NamedTuple):
    """Position of a checkpoint: flat coordinates of the nearest point of a plane, and the distance from that point.

    All three are lengths in parameter space; see `Plane.flat`.
    """

    x: float
    y: float
    height: float


class Plane:
    """The plane θ(s, t) = θ_o + s(θ_x − θ_o) + t(θ_y − θ_o) through three checkpoints.

    At (0, 0), (1, 0) and (0, 1) it gives the three checkpoints bit for bit. Buffers are interpolated like parameters,
    and integers are taken from the origin. Distances and coordinates are over parameters, in float64.

    Raises `EndpointMismatch` for checkpoints of different networks, `ValueError` for three on one line.

    >>> corners = torch.eye(3)
    >>> plane = Plane(*({"w": corner} for corner in corners))
    >>> plane.at(0.5, 0.5)["w"], plane.coordinates({"w": torch.tensor([0.0, 1.0, 1.0])})
    (tensor([0.0000, 0.5000, 0.5000]), (0.6666666666666666, 0.6666666666666666))
    >>> round(plane.position({"w": torch.ones(3)}).height, 4)  # 2/√3
    1.1547
    """

    def __init__(self, origin: Source, x: Source, y: Source) -> None:
        self.origin, self.x, self.y = all_matched([origin, x, y])
        self._moving = moving(self.origin, self.x, self.y)
        self._xx, self._xy, self._yy = (
            self._product(*pair) for pair in ((self.x, self.x), (self.x, self.y), (self.y, self.y))
        )
        self._determinant = self._xx * self._yy - self._xy**2
        if not self._determinant > _COLLINEAR**2 * self._xx * self._yy:
            raise ValueError(
                explain(
                    expected="three checkpoints that are not on one line, which make a plane.",
                    got=f"{self.origin.source}, {self.x.source} and {self.y.source}, collinear to within rounding.",
                    hint="Choose a third one from another run, or measure the line with profile().",
                )
            )

    @classmethod
    def around(cls, center: Source, seed: int = 0, scale: Scale = "filter") -> Plane:
        """The plane through a checkpoint along two random directions of its own scale (see `random_direction`).

        (s, t) are in units of these directions: at s = ±1 every weight is as far from its own as from zero.

        Raises what `random_direction` raises.

        Source: Li et al. (2018), section 4.

        >>> plane = Plane.around({"w": torch.eye(2)}, seed=1)
        >>> torch.equal(plane.at(0, 0)["w"], torch.eye(2)), round(plane.flat(1, 0)[0], 4)
        (True, 1.4142)
        """
        center = checkpoint(center)
        return cls(center, *(random_direction(center, 2 * seed + axis, scale) for axis in (0, 1)))

    def at(self, s: float, t: float) -> Params:
        """Every tensor of the network at the point (s, t)."""
        corner = {(0.0, 0.0): self.origin, (1.0, 0.0): self.x, (0.0, 1.0): self.y}.get((s, t))
        if corner is not None:
            return dict(corner.tensors)
        tensors = dict(self.origin.tensors)
        for name in self._moving:
            origin = self.origin.tensors[name]
            tensors[name] = torch.lerp(origin, self.x.tensors[name], s) + t * (self.y.tensors[name] - origin)
        return tensors

    def coordinates(self, of: Source) -> tuple[float, float]:
        """(s, t) of the point of the plane that is nearest to a checkpoint."""
        point = matched(self.origin, checkpoint(of))[1]
        along_x, along_y = self._product(point, self.x), self._product(point, self.y)
        s = (along_x * self._yy - along_y * self._xy) / self._determinant
        t = (along_y * self._xx - along_x * self._xy) / self._determinant
        return s, t

    def flat(self, s: float, t: float) -> tuple[float, float]:
        """Coordinates of (s, t) in an orthonormal basis of the plane, so that lengths and angles are true.

        The origin is at (0, 0), and the second checkpoint is on the positive first axis.
        """
        width = math.sqrt(self._xx)
        return s * width + t * self._xy / width, t * math.sqrt(self._determinant) / width

    def from_flat(self, x: float, y: float) -> tuple[float, float]:
        """(s, t) of a point in these coordinates: the inverse of `flat`."""
        width = math.sqrt(self._xx)
        t = y * width / math.sqrt(self._determinant)
        return (x - t * self._xy / width) / width, t

    def position(self, of: Source) -> Position:
        """Flat coordinates of the point of the plane nearest to a checkpoint θ, and ‖θ − nearest point‖₂."""
        point = matched(self.origin, checkpoint(of))[1]
        s, t = self.coordinates(point)
        total = 0.0
        for name in self.origin.parameters:
            origin, x, y, here = (as_vector(each.tensors[name]) for each in (self.origin, self.x, self.y, point))
            away = here - origin - (s * (x - origin) + t * (y - origin))
            total += float(away.square().sum())
        return Position(*self.flat(s, t), math.sqrt(total))

    def describe(self) -> str:
        """The plane in words."""
        return f"plane through {self.origin.source}, {self.x.source} and {self.y.source}"

    def digest(self) -> str:
        """12 hex digits over the three checkpoints."""
        return ends_digest("plane", origin=self.origin, x=self.x, y=self.y)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Plane:
        """The plane on a device, with its floating-point tensors in `dtype` unless that is None."""
        return Plane(*(each.to(device, dtype) for each in (self.origin, self.x, self.y)))

    def _product(self, one: Checkpoint, other: Checkpoint) -> float:
        """Inner product ⟨one − origin, other − origin⟩ over parameters."""
        total = 0.0
        for name in self.origin.parameters:
            origin = as_vector(self.origin.tensors[name])
            total += float(torch.dot(*(as_vector(point.tensors[name]) - origin for point in (one, other))))
        return total


class PointList:
    """A list of n unconnected points of parameter space in the form of a path: point k is at α = k/(n−1).

    So one reading of the data measures all of them: `profile(..., alphas=len(points), derivative=False)`. `ends` are
    the first and the last point, `find` gives the tensors of point k, and `what` describes what the points are of.
    """

    def __init__(
        self, ends: tuple[Checkpoint, Checkpoint], count: int, find: Callable[[int], Params], what: str
    ) -> None:
        self.start, self.end = ends
        self._count, self._find, self._what = count, find, what
        self._place: tuple[torch.device, torch.dtype | None] | None = None

    def __len__(self) -> int:
        return self._count

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at the point nearest to α."""
        tensors = self._find(round(alpha * (self._count - 1)))
        return tensors if self._place is None else Checkpoint(tensors, (), "").to(*self._place).tensors

    def velocity(self, alpha: float) -> Params:
        """Raises `TypeError`: unconnected points have no derivative."""
        raise TypeError(
            explain(
                expected="a path, for a derivative.", got=f"{self.describe()}, single points.", hint="derivative=False"
            )
        )

    def to(self, device: torch.device, dtype: torch.dtype | None) -> PointList:
        """The points on a device, with their floating-point tensors in `dtype` unless that is None."""
        ends = self.start.to(device, dtype), self.end.to(device, dtype)
        moved = PointList(ends, self._count, self._find, self._what)
        moved._place = device, dtype
        return moved

    def describe(self) -> str:
        """The points in words."""
        return f"{self._count} points of the {self._what}"

    def digest(self) -> str:
        """12 hex digits over the tensors of every point."""
        parts = {f"{index}": digest(self._find(index)) for index in range(self._count)}
        return digest({f"stop:{index}:{part}": torch.empty(0, dtype=torch.float32) for index, part in parts.items()})
