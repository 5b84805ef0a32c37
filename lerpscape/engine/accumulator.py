"""What is kept of the examples seen so far: sums over chunks for every α, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.resume import Arrays
from lerpscape.readings.intervals import Moments


class Accumulator:
    """Sums over the chunks seen so far, for every α, and the rows of the chunk at work. All in float64."""

    def __init__(self, points: int) -> None:
        self.moments = Moments(points)
        self.slopes = np.zeros(points)
        self.slope_squares = np.zeros(points)
        self.right = np.zeros(points)
        self.invalid = np.zeros(points, dtype=np.int64)
        self.first_invalid = np.full(points, -1, dtype=np.int64)
        self.chunks = 0
        self.rows = LossMatrix(points)

    def close_chunk(self) -> None:
        """Take the rows of the chunk at work into the sums."""
        losses, slopes, right = self.rows.numbers()
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
        self.chunks += 1
        self.rows = LossMatrix(len(losses))

    def arrays(self) -> Arrays:
        """Everything, as arrays to write to disk."""
        kept = {name: np.asarray(value) for name, value in vars(self).items() if name not in ("moments", "rows")}
        kept |= {
            "count": np.asarray(self.moments.count),
            "mean": self.moments.mean,
            "comoment": self.moments.comoment,
        }
        for name, values in zip(("losses", "slopes", "right"), self.rows.numbers(), strict=True):
            kept[f"rows_{name}"] = np.zeros(0) if values is None else values
        return kept

    @classmethod
    def restored(cls, points: int, arrays: Arrays | None) -> Accumulator:
        """The sums that were written as `arrays`; new ones for None."""
        sums = cls(points)
        if arrays is None:
            return sums
        kept: dict[str, Any] = dict(arrays)
        losses, slopes, right = (kept.pop(f"rows_{name}") for name in ("losses", "slopes", "right"))
        for i, each in enumerate(losses):
            sums.rows.append(
                LossesAtAlpha.of(each, slopes[i] if len(slopes) else None, float(right[i]) if len(right) else None)
            )
        sums.moments.count = int(kept.pop("count"))
        sums.moments.mean, sums.moments.comoment = kept.pop("mean"), kept.pop("comoment")
        sums.chunks = int(kept.pop("chunks"))
        vars(sums).update(kept)
        return sums
