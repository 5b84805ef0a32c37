"""The training trajectory compared with the line between its ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.engine.measurement import check_options
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Checkpoint, as_vector
from lerpscape.paths.distances import distance
from lerpscape.paths.line import Line
from lerpscape.paths.planes import PointList
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.profiles.profile import profile
from lerpscape.studies.many_profiles import StudyOptions, how_of


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """Snapshots of training compared with the line from the first to the last, d = θ_T − θ₀.

    Arrays have shape (snapshots,): `projection` is ⟨θ_k − θ₀, d⟩ / ‖d‖², the α of the nearest point of the line;
    `residual` is ‖θ_k − that point‖₂; `travelled` is the share of the trajectory's length up to the snapshot; `losses`
    is the loss at the snapshots, `line` that at the nearest points of the line. `length` is ‖d‖ and `path_length` that
    of the straight pieces between snapshots, a lower bound of the trajectory's.
    """

    FORMAT = "lerpscape trajectory 2"
    PLOT = "studies.plot_trajectory"

    labels: tuple[str, ...]
    projection: Floats
    residual: Floats
    travelled: Floats
    losses: Floats
    line: Floats
    length: float
    path_length: float
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """How long the trajectory is, and how far from the line, in a sentence."""
        far = int(np.argmax(self.residual))
        return (
            f"The trajectory is at least {self.path_length / self.length:.4g} times as long as the line "
            f"({self.path_length:.4g} against {self.length:.4g}, {len(self.labels)} snapshots) and up to "
            f"{self.residual[far] / self.length:.4g} of the line's length away from it, at {self.labels[far]}."
        )


def on_line(points: dict[str, Checkpoint]) -> tuple[Floats, Floats, Floats, float, float]:
    """Projection, residual and share travelled of each point, then the lengths of the line and of the pieces.

    Raises `ValueError` where first and last are the same.
    """
    snapshots = list(points.values())
    first, last = snapshots[0], snapshots[-1]
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
    for snapshot in snapshots:
        product = sum(
            float(
                (as_vector(snapshot.tensors[name]) - as_vector(first.tensors[name]))
                @ (as_vector(last.tensors[name]) - as_vector(first.tensors[name]))
            )
            for name in names
        )
        alpha = product / length**2
        squares = 0.0
        for name in names:
            start, end, here = (as_vector(point.tensors[name]) for point in (first, last, snapshot))
            squares += float((here - start - alpha * (end - start)).square().sum())
        projections.append(alpha)
        residuals.append(squares**0.5)
    steps = [distance(one, other, names) for one, other in pairwise(snapshots)]
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    return np.array(projections), np.array(residuals), travelled / travelled[-1], length, float(travelled[-1])


def trajectory(
    model: nn.Module,
    checkpoints: Snapshots,
    data: Data,
    **options: Unpack[StudyOptions],
) -> Trajectory:
    """Compare the training trajectory with the line: the distance between them, and the loss on both.

    * `checkpoints`: a folder (ordered by the numbers in the names), a list or a mapping, in the order of training.
    * `options`: see `StudyOptions`, without `alphas`: the loss is measured at the snapshots and their nearest points.

    Raises `EndpointMismatch` that names a snapshot of another network, `ValueError` for fewer than two, or equal ends.

    Source: Goodfellow, Vinyals & Saxe (2014).

    >>> corners = ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0])
    >>> points = [{"weight": torch.tensor([corner])} for corner in corners]
    >>> x = torch.ones(3, 2)
    >>> result = trajectory(nn.Linear(2, 1, bias=False), points, [(x, 2 * x[:, :1])], loss="squared_error")
    >>> result.projection, result.residual.round(4), result.losses, result.line
    (array([0. , 0.5, 1. ]), array([0.    , 0.7071, 0.    ]), array([4., 1., 0.]), array([4., 1., 0.]))
    """
    check_options(trajectory, options, StudyOptions, without=["alphas", "label"])
    points = snapshots(checkpoints)
    projection, residual, travelled, length, path_length = on_line(points)
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
    at_stops: StudyOptions = {**options, "alphas": len(stops), "label": "trajectory"}
    curve = profile(model, stops, data, derivative=False, **at_stops)
    return Trajectory(
        labels=tuple(labels),
        projection=projection,
        residual=residual,
        travelled=travelled,
        losses=curve.loss[:count],
        line=curve.loss[count:],
        length=length,
        path_length=path_length,
        examples=curve.examples,
        unit=curve.unit,
        how=how_of(curve) | {"line": line.describe()},
    )
