"""Sums over examples for every α, in float64: all that a profile keeps of the losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.resume import Arrays
from lerpscape.readings.intervals import Moments


class Accumulator:
    """Sums over the groups of examples done so far, and the losses of the group that is not done yet."""

    def __init__(self, points: int) -> None:
        self.moments = Moments(points)
        self.slopes = np.zeros(points)
        self.slope_squares = np.zeros(points)
        self.right = np.zeros(points)
        self.invalid = np.zeros(points, dtype=np.int64)
        self.first_invalid = np.full(points, -1, dtype=np.int64)
        self.groups = 0
        self.unfinished = LossMatrix(points)

    def add(self, group: LossMatrix) -> None:
        """Add a group once its losses at every α are there; keep it as the unfinished one until then."""
        self.unfinished = group
        if not group.is_complete:
            return
        losses, slopes, right = group.numbers()
        for position in np.flatnonzero(~np.isfinite(losses).all(axis=1)):
            wrong = np.flatnonzero(~np.isfinite(losses[position]))
            if self.first_invalid[position] < 0:
                self.first_invalid[position] = self.moments.count + wrong[0]
            self.invalid[position] += len(wrong)
        self.moments.add(losses)
        slopes = np.full_like(losses, np.nan) if slopes is None else slopes
        with np.errstate(invalid="ignore"):  # infinite derivatives stay what they are
            self.slopes += slopes.sum(axis=1)
            self.slope_squares += np.square(slopes).sum(axis=1)
        self.right += np.nan if right is None else right
        self.groups += 1
        self.unfinished = LossMatrix(len(losses))

    def arrays(self) -> Arrays:
        """Everything, as arrays to write to disk."""
        own = vars(self).items()
        arrays = {name: np.asarray(value) for name, value in own if name not in ("moments", "unfinished")}
        arrays |= {
            "count": np.asarray(self.moments.count),
            "mean": self.moments.mean,
            "comoment": self.moments.comoment,
        }
        for name, values in zip(("losses", "slopes", "right"), self.unfinished.numbers(), strict=True):
            arrays[f"unfinished_{name}"] = np.zeros(0) if values is None else values
        return arrays

    @classmethod
    def restored(cls, points: int, arrays: Arrays) -> Accumulator:
        """The sums that were written as `arrays`."""
        sums = cls(points)
        values: dict[str, Any] = dict(arrays)
        losses, slopes, right = (values.pop(f"unfinished_{name}") for name in ("losses", "slopes", "right"))
        sums.moments.count = int(values.pop("count"))
        sums.moments.mean, sums.moments.comoment = values.pop("mean"), values.pop("comoment")
        sums.groups = int(values.pop("groups"))
        vars(sums).update(values)
        unfinished = (
            LossesAtAlpha.of(at_alpha, slopes[i] if len(slopes) else None, float(right[i]) if len(right) else None)
            for i, at_alpha in enumerate(losses)
        )
        sums.add(LossMatrix.of(points, unfinished))
        return sums
