"""The loss on a plane through three checkpoints, with lines and a trajectory on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.engine.measurement import check_options
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Params, Source
from lerpscape.paths.line import Line
from lerpscape.paths.planes import Plane, PointList
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.profiles.profile import profile
from lerpscape.studies.many_profiles import StudyOptions, how_of
from lerpscape.studies.trajectories import on_line


@dataclass(frozen=True, eq=False)
class LossPlane(Result):
    """Loss on a plane through a start, another start and an end, in distances of parameter space.

    `losses` has shape (len(y), len(x)) on the grid of `x` and `y`, with the start at (0, 0) and the end to the right of
    it. `corners` (3, 2) are start, other and end. `lines` (2, points) are the losses from start and other to the end at
    `alphas`. `trajectory` (snapshots, 2) is the projection of the snapshots, `heights` their distance from the plane,
    `travelled` the share of the trajectory's length up to each and `along` its loss; all empty without snapshots.
    """

    FORMAT = "lerpscape loss plane 1"
    PLOT = "studies.plot_plane"
    FIGURE = "studies.plane_figure"

    names: tuple[str, ...]
    corners: Floats
    x: Floats
    y: Floats
    losses: Floats = field(repr=False)
    alphas: Floats
    lines: Floats = field(repr=False)
    labels: tuple[str, ...]
    trajectory: Floats = field(repr=False)
    heights: Floats
    travelled: Floats
    along: Floats
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """The range of the losses, and the distance of the trajectory from the plane, in sentences."""
        size = f"{len(self.x)} × {len(self.y)} points, n = {self.examples:,}"
        text = f"Losses from {np.nanmin(self.losses):.4g} to {np.nanmax(self.losses):.4g} {self.unit} ({size})."
        if len(self.heights):
            far = int(np.argmax(self.heights))
            length = float(np.linalg.norm(self.corners[2] - self.corners[0]))
            text += (
                f" The trajectory is up to {self.heights[far] / length:.3g} of the line's length above the plane, at "
                f"{self.labels[far]}."
            )
        return text


def plane(
    model: nn.Module,
    start: Source,
    other: Source,
    end: Source,
    data: Data,
    *,
    trajectory: Snapshots | None = None,
    points: int = 25,
    margin: float = 0.2,
    **options: Unpack[StudyOptions],
) -> LossPlane:
    """Measure the loss on the plane through a start, another start and an end, and on the lines to the end.

    * `trajectory`: snapshots of training from start to end, projected onto the plane.
    * `points`: number along each side of the grid. The grid covers corners and trajectory, with a margin on every side
      of `margin` times their larger extent.
    * `options`: see `StudyOptions`; `alphas` are those of the lines.

    Raises `ValueError` for three checkpoints on one line, fewer than two points, or a negative margin;
    `EndpointMismatch` for checkpoints of different networks.

    Source: Lucas et al. (2021), figure 1.

    >>> points = [{"weight": torch.tensor([corner])} for corner in ([0.0, 0.0], [0.0, 1.0], [2.0, 0.0])]
    >>> x = torch.eye(2)
    >>> grid = plane(nn.Linear(2, 1, bias=False), *points, [(x, x[:, 1:])], loss="squared_error", points=3, margin=0)
    >>> grid.x, grid.y, grid.losses[0]  # (x² + (y − 1)²) / 2
    (array([0., 1., 2.]), array([0. , 0.5, 1. ]), array([0.5, 1. , 2.5]))
    """
    if points < 2 or margin < 0:
        raise ValueError(
            explain(
                expected="points ≥ 2 and margin ≥ 0.",
                got=f"points={points}, margin={margin}.",
                hint="points=25, margin=0.2",
            )
        )
    check_options(plane, options, StudyOptions, without=["label"])
    through = Plane(start, end, other)
    corners = np.array([through.position(corner)[:2] for corner in (through.origin, through.y, through.x)])
    training = {} if trajectory is None else snapshots(trajectory)
    positions = [through.position(snapshot) for snapshot in training.values()]
    projected = np.array([position[:2] for position in positions])
    low, high = np.min([*corners, *projected], axis=0), np.max([*corners, *projected], axis=0)
    more = margin * (high - low).max()
    x, y = np.linspace(low - more, high + more, points).T
    count = points**2

    def stop(k: int) -> Params:
        if k >= count:
            return list(training.values())[k - count].tensors
        return through.at(*through.from_flat(float(x[k % points]), float(y[k // points])))

    stops = PointList((through.origin, through.x), count + len(training), stop, through.describe())
    at_stops: StudyOptions = {**options, "alphas": len(stops), "label": "plane"}
    surface = profile(model, stops, data, derivative=False, **at_stops)
    lines = [
        profile(model, Line(corner, through.x), data, derivative=False, **options)
        for corner in (through.origin, through.y)
    ]
    return LossPlane(
        names=(through.origin.source, through.y.source, through.x.source),
        corners=corners,
        x=x,
        y=y,
        losses=surface.loss[:count].reshape(points, points),
        alphas=lines[0].alphas,
        lines=np.stack([line.loss for line in lines]),
        labels=tuple(training),
        trajectory=projected,
        heights=np.array([position.height for position in positions]),
        travelled=on_line(training)[2] if training else np.array([]),
        along=surface.loss[count:],
        examples=surface.examples,
        unit=surface.unit,
        how=how_of(surface) | {"plane": through.describe()},
    )
