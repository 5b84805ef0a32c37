"""The earliest snapshot of training from which the line to the final network is monotonic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Source, checkpoint
from lerpscape.paths.line import Line, moving
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.studies.many_profiles import StudyOptions, how_of, profiles_of, rise_of


@dataclass(frozen=True, eq=False)
class Onset(Result):
    """Loss along the lines from every snapshot of a training run to its end.

    `labels` name the snapshots in order, `losses` has shape (snapshots, points), `max_rise` (snapshots,) is nan where
    a loss is NaN or infinite. A line is monotonic if `max_rise` is at most `tolerance`, in the unit of the loss.
    """

    FORMAT = "lerpscape onset 1"
    PLOT = "studies.plot_onset"

    labels: tuple[str, ...]
    end: str
    alphas: Floats
    losses: Floats = field(repr=False)
    max_rise: Floats
    tolerance: float
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    @property
    def monotonic(self) -> tuple[bool, ...]:
        """For each snapshot, whether the loss on its line rises by no more than the tolerance."""
        return tuple(bool(rise <= self.tolerance) for rise in self.max_rise)

    @property
    def onset(self) -> str | None:
        """The first snapshot whose line, and that of every later one, is monotonic; None if that of the last is not."""
        onset = None
        for label, fine in zip(reversed(self.labels), reversed(self.monotonic), strict=True):
            if not fine:
                break
            onset = label
        return onset

    @property
    def summary(self) -> str:
        """The answer in a sentence."""
        where = f"tolerance {self.tolerance:g} {self.unit}, {len(self.labels)} snapshots, n = {self.examples:,}"
        if self.onset is None:
            return f"No onset: the line from the last snapshot, {self.labels[-1]}, is not monotonic ({where})."
        earlier = sum(self.monotonic[: self.labels.index(self.onset)])
        also = f"; before it, {earlier} of {self.labels.index(self.onset)} are" if self.onset != self.labels[0] else ""
        return f"From {self.onset} on, every line to {self.end} is monotonic as far as the grid shows ({where}){also}."


def onset(
    model: nn.Module,
    checkpoints: Snapshots,
    data: Data,
    *,
    tolerance: float,
    end: Source | None = None,
    **options: Unpack[StudyOptions],
) -> Onset:
    """Find the earliest snapshot from which the line to the final network is monotonic, and stays so.

    * `checkpoints`: a folder (ordered by the numbers in the names), a list or a mapping, in the order of training.
    * `end`: the final network; by default the last checkpoint. A snapshot equal to it is left out.
    * `tolerance`: largest increase that still counts as monotonic, in the unit of the loss.
    * `options`: see `StudyOptions`.

    Raises `EndpointMismatch` that names a snapshot of another network, `ValueError` for fewer than two.

    Source: Frankle (2020).

    >>> points = [{"weight": torch.full((1, 1), value)} for value in (-1.0, 2.0, 0.5, 1.0)]
    >>> x = torch.ones(3, 1)
    >>> result = onset(nn.Linear(1, 1, bias=False), points, [(x, x)], tolerance=0, loss="squared_error", alphas=9)
    >>> result.monotonic, result.onset
    ((True, True, True), '0')
    """
    points = snapshots(checkpoints, least=2 if end is None else 1)
    final = points[list(points)[-1]] if end is None else checkpoint(end)
    lines = {label: Line(start, final) for label, start in points.items() if moving(start, final)}
    if not lines:
        raise ValueError(explain(expected="snapshots other than the end.", got="none.", hint="Give earlier ones."))
    profiles = profiles_of(onset, model, list(lines.values()), data, options)
    return Onset(
        labels=tuple(lines),
        end=list(points)[-1] if end is None else final.source,
        alphas=profiles[0].alphas,
        losses=np.stack([profile.loss for profile in profiles]),
        max_rise=np.array([rise_of(profile) for profile in profiles]),
        tolerance=tolerance,
        examples=profiles[0].examples,
        unit=profiles[0].unit,
        how=how_of(profiles[0]),
    )
