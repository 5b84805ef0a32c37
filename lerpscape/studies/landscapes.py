"""The loss around one network, along two directions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.engine.measurement import check_options
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Params, Source
from lerpscape.paths.directions import Scale
from lerpscape.paths.planes import Plane, PointList
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.profiles.profile import profile
from lerpscape.studies.many_profiles import StudyOptions, how_of


@dataclass(frozen=True, eq=False)
class Landscape(Result):
    """Loss around a network at θ + s·d₁ + t·d₂.

    `losses` has shape (points, points), t as the first dimension, on the grid `at` of s and t. `lowest` is the (s, t)
    with the smallest loss. `trajectory` (snapshots, 2) are the coordinates of the nearest points to the snapshots,
    `apart` their distance from the plane over their distance from the network; both empty without snapshots.
    """

    FORMAT = "lerpscape landscape 1"
    PLOT = "studies.plot_landscape"

    source: str
    at: Floats
    losses: Floats = field(repr=False)
    labels: tuple[str, ...]
    trajectory: Floats = field(repr=False)
    apart: Floats
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    @property
    def lowest(self) -> tuple[float, float]:
        """(s, t) of the smallest loss on the grid."""
        row, column = np.unravel_index(np.nanargmin(self.losses), self.losses.shape)
        return float(self.at[column]), float(self.at[row])

    @property
    def summary(self) -> str:
        """The loss in the middle, the range, where the lowest is, and what a picture of two directions cannot say."""
        size = f"{len(self.at)} × {len(self.at)} points, n = {self.examples:,}"
        middle = self.losses[len(self.at) // 2, len(self.at) // 2]
        s, t = self.lowest
        text = (
            f"The loss of {self.source} is {middle:.4g} {self.unit}; on the grid it goes from "
            f"{np.nanmin(self.losses):.4g}, at ({s:.3g}, {t:.3g}), to {np.nanmax(self.losses):.4g} ({size}). "
            "These are two of all directions: no proof of anything beyond them."
        )
        if len(self.apart):
            text += f" Up to {self.apart.max():.0%} of the distance to a snapshot lies outside the plane."
        return text


def landscape(
    model: nn.Module,
    center: Source,
    data: Data,
    *,
    seed: int = 0,
    scale: Scale = "filter",
    plane: Plane | None = None,
    radius: float = 1.0,
    points: int = 25,
    trajectory: Snapshots | None = None,
    partial: str | Path | None = None,
    **options: Unpack[StudyOptions],
) -> Landscape:
    """Measure the loss around a network on a plane of two directions, random ones if none are given.

    * `seed`, `scale`: of the random directions, see `Plane.around`.
    * `plane`: another plane, whose origin is `center`: through eigenvectors of the Hessian, or other networks.
    * `radius`: s and t go from −`radius` to `radius`, in units of the directions.
    * `points`: number along each side, odd so that the network itself is one of them.
    * `trajectory`: snapshots of training, projected onto the plane. Between random directions there is little of it:
      `apart` says how little.
    * `partial`: a file from which a stopped measurement goes on, as for `profile`.
    * `options`: see `StudyOptions`; it has no `alphas` here.

    Batch norm needs a policy, as everywhere: statistics of the middle are wrong elsewhere on the plane.

    Raises `ValueError` for an even number of points, fewer than three, a radius that is not positive, or a plane that
    does not begin at `center`.

    Source: Li et al. (2018).

    >>> model = nn.Linear(2, 1, bias=False)
    >>> torch.nn.init.ones_(model.weight) is model.weight
    True
    >>> inputs = torch.eye(2)
    >>> found = landscape(model, model, [(inputs, torch.ones(2, 1))], loss="squared_error", points=3)
    >>> float(found.losses[1, 1]), found.lowest
    (0.0, (0.0, 0.0))
    """
    if points < 3 or points % 2 == 0 or not radius > 0:
        raise ValueError(
            explain(
                expected="an odd number of points ≥ 3, and radius > 0.",
                got=f"points={points}, radius={radius}.",
                hint="points=25, radius=1.0",
            )
        )
    check_options(landscape, options, StudyOptions, without=["alphas", "label"])
    through = Plane.around(center, seed, scale) if plane is None else plane
    if plane is not None and plane.position(center) != (0.0, 0.0, 0.0):
        raise ValueError(
            explain(
                expected="a plane whose origin is the network in the middle.",
                got=f"{plane.describe()}.",
                hint="Plane(center, …, …)",
            )
        )
    training = {} if trajectory is None else snapshots(trajectory)
    at = radius * np.linspace(-1, 1, points)

    def point(k: int) -> Params:
        return through.at(float(at[k % points]), float(at[k // points]))

    stops = PointList((through.origin, through.x), points**2, point, through.describe())
    named: StudyOptions = {**options, "alphas": len(stops), "label": "landscape"}
    surface = profile(model, stops, data, derivative=False, partial=partial, **named)
    positions = [through.position(snapshot) for snapshot in training.values()]
    heights = np.array([position.height for position in positions])
    away = np.array([np.linalg.norm(position) for position in positions])
    return Landscape(
        source=through.origin.source,
        at=at,
        losses=surface.loss.reshape(points, points),
        labels=tuple(training),
        trajectory=np.array([through.from_flat(position.x, position.y) for position in positions]),
        apart=np.divide(heights, away, out=np.zeros_like(away), where=away > 0),
        examples=surface.examples,
        unit=surface.unit,
        how=how_of(surface) | {"plane": through.describe()},
    )
