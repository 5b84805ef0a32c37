"""The lines between all pairs of a set of checkpoints: rises in both directions, barriers, means over groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.engine.measurement import alpha_grid
from lerpscape.networks.batch_norm import EndStatistics
from lerpscape.networks.reading import Data
from lerpscape.paths.line import Line
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.readings.monotonicity import BarrierKind, max_rise
from lerpscape.studies.many_profiles import StudyOptions, how_of, profiles_of


class Block(NamedTuple):
    """Means over the `n` lines from one group of checkpoints to another."""

    max_rise: float
    barrier: float
    n: int


@dataclass(frozen=True, eq=False)
class Pairwise(Result):
    """Readings of the line from each checkpoint (row) to each other (column), 0 on the diagonal.

    `max_rise` and `barrier` have shape (checkpoints, checkpoints), in the unit of the loss, nan where a loss is NaN or
    infinite; `barrier` is symmetric, and its definition is `kind`. `groups` names the group of each checkpoint.
    """

    FORMAT = "lerpscape pairwise 1"
    PLOT = "studies.plot_matrix"
    FIGURE = "studies.pairwise_figure"

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    max_rise: Floats
    barrier: Floats
    kind: BarrierKind
    points: int
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    def blocks(self) -> dict[tuple[str, str], Block]:
        """Means over all lines from one group to another, by (from, to), without the diagonal."""
        blocks = {}
        names = list(dict.fromkeys(self.groups))
        for one in names:
            for other in names:
                here = [
                    (i, j)
                    for i, group in enumerate(self.groups)
                    for j, target in enumerate(self.groups)
                    if i != j and (group, target) == (one, other)
                ]
                if here:
                    rows, columns = zip(*here, strict=True)
                    rise, barrier = (float(matrix[rows, columns].mean()) for matrix in (self.max_rise, self.barrier))
                    blocks[one, other] = Block(rise, barrier, len(here))
        return blocks

    @property
    def summary(self) -> str:
        """The means over groups, a line each."""
        return "\n".join(
            f"{one} to {other} ({block.n} lines): max_rise {block.max_rise:.4g} {self.unit}, "
            f"barrier_{self.kind} {block.barrier:.4g} {self.unit} on average"
            for (one, other), block in self.blocks().items()
        )


def pairwise(
    model: nn.Module,
    checkpoints: Snapshots,
    data: Data,
    *,
    groups: Mapping[str, str] | None = None,
    kind: BarrierKind = "mean",
    **options: Unpack[StudyOptions],
) -> Pairwise:
    """Measure the lines between all pairs of a set of checkpoints, such as initialisations and optima.

    * `checkpoints`: a folder, a list or a mapping of labels.
    * `groups`: the group of each label, for means over groups (init–init, init–opt, opt–opt); by default one group.
    * `kind`: definition of the barrier (see `lerpscape.readings.barrier`).
    * `options`: see `StudyOptions`. Each pair is measured once, and the curve is reversed for the other direction: so
      `alphas` must be symmetric about 1/2 and `batch_norm` must not depend on the direction (no `EndStatistics()`).

    Raises `EndpointMismatch` that names a checkpoint of another network or two equal ones, `ValueError` for a label
    without a group, and for α or statistics that differ in the other direction.

    >>> points = {name: {"weight": torch.full((1, 1), value)} for name, value in (("a", 0.0), ("b", 1.0), ("c", 3.0))}
    >>> x = torch.ones(3, 1)
    >>> pairs = pairwise(nn.Linear(1, 1, bias=False), points, [(x, x)], loss="squared_error", alphas=7)
    >>> pairs.max_rise
    array([[0., 0., 4.],
           [1., 0., 4.],
           [1., 0., 0.]])
    """
    points = snapshots(checkpoints, ordered=False)
    labels = list(points)
    group_of = dict.fromkeys(labels, "all") if groups is None else dict(groups)
    missing = [label for label in labels if label not in group_of]
    if missing:
        raise ValueError(
            explain(expected="a group for each checkpoint.", got=f"none for {missing[0]!r}.", hint=f"Labels: {labels}")
        )
    grid = alpha_grid(options.get("alphas", 50))
    if not np.allclose(grid, 1 - grid[::-1], rtol=0, atol=1e-12):
        raise ValueError(
            explain(expected="alphas symmetric about 1/2.", got=f"{grid}.", hint="Give a count of points.")
        )
    if isinstance(options.get("batch_norm"), EndStatistics):
        raise ValueError(
            explain(
                expected="statistics that are the same in both directions.",
                got="EndStatistics().",
                hint="Use InterpolateStatistics().",
            )
        )
    pairs = list(combinations(range(len(labels)), 2))
    rises, barriers = (np.zeros((len(labels), len(labels))) for _ in range(2))
    lines = [Line(points[labels[i]], points[labels[j]]) for i, j in pairs]
    profiles = profiles_of(pairwise, model, lines, data, options)
    inside = (grid >= 0) & (grid <= 1)
    for (i, j), profile in zip(pairs, profiles, strict=True):
        if profile.invalid:
            rises[i, j] = rises[j, i] = barriers[i, j] = barriers[j, i] = np.nan
        else:
            rises[i, j], rises[j, i] = profile.max_rise, max_rise(profile.loss[inside][::-1])
            barriers[i, j] = barriers[j, i] = profile.barrier(kind)
    return Pairwise(
        labels=tuple(labels),
        groups=tuple(group_of[label] for label in labels),
        max_rise=rises,
        barrier=barriers,
        kind=kind,
        points=len(grid),
        examples=profiles[0].examples,
        unit=profiles[0].unit,
        how=how_of(profiles[0]),
    )
