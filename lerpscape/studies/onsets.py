"""From when on in training is the rest of the road monotone?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress
from lerpscape.base.results import Result
from lerpscape.networks.batches import Data
from lerpscape.paths.checkpoints import Source, checkpoint
from lerpscape.paths.line import Line, moving
from lerpscape.paths.snapshots import Snapshots, snapshots
from lerpscape.studies.many_profiles import Choices, how_of, profiles_of, rise_of


@dataclass(frozen=True, eq=False)
class Onset(Result):
    """Loss along the lines from every snapshot of a run to its end.

    `labels` name the snapshots in order, `losses` has shape (snapshots, points), `max_rise` (snapshots,) is nan where
    a loss is NaN or infinite, and the verdicts forgive rises up to `tolerance`, in the unit of the loss.
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
        """For each snapshot, whether the rest of its road rises by no more than the tolerance."""
        return tuple(bool(rise <= self.tolerance) for rise in self.max_rise)

    @property
    def onset(self) -> str | None:
        """The first snapshot from which on every line is monotonic; None where the last one is not."""
        found = None
        for label, fine in zip(reversed(self.labels), reversed(self.monotonic), strict=True):
            if not fine:
                break
            found = label
        return found

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
    progress: Progress = None,
    **choices: Unpack[Choices],
) -> Onset:
    """Measure the lines from every snapshot of a run to its end: checkpoint_k → final.

    * `checkpoints`: a folder (ordered by the numbers in the names), a list or a mapping, in the order of training.
    * `end`: the final network; by default the last of them. A snapshot equal to it is left out.
    * `tolerance`: rise that a verdict forgives, in the unit of the loss.
    * `choices`: `loss`, `alphas`, `batch_norm`, `device`, `dtype` as in `profile`.

    Raises `EndpointMismatch` that names a snapshot of another network, `ValueError` for fewer than two.

    Source: Frankle (2020).

    >>> points = [{"weight": torch.full((1, 1), value)} for value in (-1.0, 2.0, 0.5, 1.0)]
    >>> x = torch.ones(3, 1)
    >>> found = onset(nn.Linear(1, 1, bias=False), points, [(x, x)], tolerance=0, loss="squared_error", alphas=9)
    >>> found.monotonic, found.onset
    ((True, True, True), '0')
    """
    found = snapshots(checkpoints, least=2 if end is None else 1)
    final = found[list(found)[-1]] if end is None else checkpoint(end)
    lines = {label: each for label, each in found.items() if moving(each, final)}
    if not lines:
        raise ValueError(explain(expected="snapshots other than the end.", got="none.", hint="Give earlier ones."))
    roads = [Line(each, final) for each in lines.values()]
    profiles = profiles_of(model, roads, data, "onset", progress, choices)
    return Onset(
        labels=tuple(lines),
        end=list(found)[-1] if end is None else final.source,
        alphas=profiles[0].alphas,
        losses=np.stack([each.loss for each in profiles]),
        max_rise=np.array([rise_of(each) for each in profiles]),
        tolerance=tolerance,
        examples=profiles[0].examples,
        unit=profiles[0].unit,
        how=how_of(profiles[0]),
    )
