"""How straight was the real road? The trajectory of training beside the line between its ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress
from lerpscape.base.results import Result
from lerpscape.networks.batches import Data
from lerpscape.paths.checkpoints import Checkpoint
from lerpscape.paths.distances import distance
from lerpscape.paths.line import Line
from lerpscape.paths.planes import PointList
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.profiles.profile import profile
from lerpscape.studies.many_profiles import Choices, how_of


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """Snapshots of training measured against the line from the first to the last, d = θ_T − θ₀.

    Arrays have shape (snapshots,): `projection` is ⟨θ_k − θ₀, d⟩ / ‖d‖², the α of the nearest point of the line;
    `residual` is ‖θ_k − that point‖₂; `travelled` is the share of the way gone, along straight pieces from snapshot to
    snapshot; `losses` is the loss at the snapshots, `line` that at the nearest points of the line. `length` is ‖d‖ and
    `road` the length of the way.
    """

    FORMAT = "lerpscape trajectory 1"
    PLOT = "studies.plot_trajectory"

    labels: tuple[str, ...]
    projection: Floats
    residual: Floats
    travelled: Floats
    losses: Floats
    line: Floats
    length: float
    road: float
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """How straight the road was, in a sentence."""
        far = int(np.argmax(self.residual))
        return (
            f"The road is {self.road / self.length:.4g} times as long as the line ({self.road:.4g} against "
            f"{self.length:.4g}) and leaves it by up to {self.residual[far] / self.length:.4g} of its length, at "
            f"{self.labels[far]}; {len(self.labels)} snapshots, so the real road is at least as long."
        )


def on_line(points: dict[str, Checkpoint]) -> tuple[Floats, Floats, Floats, float, float]:
    """Projection, residual and share travelled of each point, then the length of the line and of the road.

    Raises `ValueError` where first and last are the same.
    """
    every = list(points.values())
    first, last = every[0], every[-1]
    names = first.parameters
    length = distance(first, last, names)
    if not length:
        raise ValueError(
            explain(
                expected="a first and a last snapshot that differ.",
                got="two equal ones.",
                hint="Leave one of them out.",
            )
        )
    projections, residuals = [], []
    for each in every:
        along = sum(
            float(
                (each.tensors[name].double() - first.tensors[name].double()).flatten()
                @ (last.tensors[name].double() - first.tensors[name].double()).flatten()
            )
            for name in names
        )
        share = along / length**2
        away = 0.0
        for name in names:
            start, end, here = (point.tensors[name].double() for point in (first, last, each))
            away += float((here - start - share * (end - start)).square().sum())
        projections.append(share)
        residuals.append(away**0.5)
    steps = [distance(one, other, names) for one, other in pairwise(every)]
    gone = np.concatenate([[0.0], np.cumsum(steps)])
    return np.array(projections), np.array(residuals), gone / gone[-1], length, float(gone[-1])


def trajectory(
    model: nn.Module,
    checkpoints: Snapshots,
    data: Data,
    *,
    progress: Progress = None,
    **choices: Unpack[Choices],
) -> Trajectory:
    """Measure the real road of training beside the line: how far off it is, and what the loss is on both.

    * `checkpoints`: a folder (ordered by the numbers in the names), a list or a mapping, in the order of training.
    * `choices`: `loss`, `batch_norm`, `device`, `dtype` as in `profile`; `alphas` has no meaning here.

    Raises `EndpointMismatch` that names a snapshot of another network, `ValueError` for fewer than two, or equal ends.

    Source: Goodfellow, Vinyals & Saxe (2014).

    >>> corners = ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0])
    >>> points = [{"weight": torch.tensor([corner])} for corner in corners]
    >>> x = torch.ones(3, 2)
    >>> found = trajectory(nn.Linear(2, 1, bias=False), points, [(x, 2 * x[:, :1])], loss="squared_error")
    >>> found.projection, found.residual.round(4), found.losses, found.line
    (array([0. , 0.5, 1. ]), array([0.    , 0.7071, 0.    ]), array([4., 1., 0.]), array([4., 1., 0.]))
    """
    if "alphas" in choices:
        raise TypeError(
            explain(expected="no alphas.", got="alphas.", hint="Each snapshot is measured, and its nearest point.")
        )
    points = snapshots(checkpoints)
    projection, residual, travelled, length, road = on_line(points)
    labels = list(points)
    first, last = points[labels[0]], points[labels[-1]]
    line = Line(first, last)
    count = len(labels)
    stops = PointList(
        (first, last),
        2 * count,
        lambda k: points[labels[k]].tensors if k < count else line.at(float(projection[k - count])),
        "trajectory and the line beside it",
    )
    rest: Choices = {**choices, "alphas": len(stops)}
    found = profile(model, stops, data, derivative=False, label="trajectory", progress=progress, **rest)
    return Trajectory(
        labels=tuple(labels),
        projection=projection,
        residual=residual,
        travelled=travelled,
        losses=found.loss[:count],
        line=found.loss[count:],
        length=length,
        road=road,
        examples=found.examples,
        unit=found.unit,
        how=how_of(found) | {"line": line.describe()},
    )
