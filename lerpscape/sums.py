"""What is kept of the examples seen so far: sums over chunks for every α, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lerpscape.monotonicity import Floats
from lerpscape.partial import Arrays
from lerpscape.statistics import Moments


@dataclass(frozen=True)
class Row:
    """The examples of one chunk at one α: losses, derivatives dℓ/dα, and how many predictions are right.

    `slopes` and `right` are NaN where they were not asked for or do not exist; `moves` says whether `slopes` do.
    """

    losses: Floats
    slopes: Floats
    right: float
    moves: bool = False

    @classmethod
    def joined(cls, rows: list[Row]) -> Row:
        """The examples of several rows, in order, as one."""
        losses, slopes = (np.concatenate([getattr(row, name) for row in rows]) for name in ("losses", "slopes"))
        return cls(losses, slopes, float(sum(row.right for row in rows)), all(row.moves for row in rows))


class Sums:
    """Sums over the chunks seen so far, for every α, and the rows of the chunk at work. All in float64."""

    def __init__(self, points: int) -> None:
        self.moments = Moments(points)
        self.slopes = np.zeros(points)
        self.slope_squares = np.zeros(points)
        self.right = np.zeros(points)
        self.invalid = np.zeros(points, dtype=np.int64)
        self.first_invalid = np.full(points, -1, dtype=np.int64)
        self.chunks = 0
        self.rows: list[Row] = []

    def close_chunk(self) -> None:
        """Take the rows of the chunk at work into the sums."""
        losses = np.stack([row.losses for row in self.rows])
        for position in np.flatnonzero(~np.isfinite(losses).all(axis=1)):
            wrong = np.flatnonzero(~np.isfinite(losses[position]))
            if self.first_invalid[position] < 0:
                self.first_invalid[position] = self.moments.count + wrong[0]
            self.invalid[position] += len(wrong)
        self.moments.add(losses)
        with np.errstate(invalid="ignore"):  # infinite derivatives stay what they are
            self.slopes += [row.slopes.sum() for row in self.rows]
            self.slope_squares += [np.square(row.slopes).sum() for row in self.rows]
        self.right += [row.right for row in self.rows]
        self.chunks += 1
        self.rows = []

    def arrays(self) -> Arrays:
        """Everything, as arrays to write to disk."""
        kept = {name: np.asarray(value) for name, value in vars(self).items() if name not in ("moments", "rows")}
        kept |= {
            "count": np.asarray(self.moments.count),
            "mean": self.moments.mean,
            "comoment": self.moments.comoment,
        }
        for name in ("losses", "slopes", "right"):
            kept[f"rows_{name}"] = np.asarray([getattr(row, name) for row in self.rows])
        return kept

    @classmethod
    def restored(cls, points: int, arrays: Arrays | None) -> Sums:
        """The sums that were written as `arrays`; new ones for None."""
        sums = cls(points)
        if arrays is None:
            return sums
        kept: dict[str, Any] = dict(arrays)
        rows = zip(kept.pop("rows_losses"), kept.pop("rows_slopes"), kept.pop("rows_right"), strict=True)
        sums.rows = [Row(losses, slopes, float(right)) for losses, slopes, right in rows]
        sums.moments.count = int(kept.pop("count"))
        sums.moments.mean, sums.moments.comoment = kept.pop("mean"), kept.pop("comoment")
        sums.chunks = int(kept.pop("chunks"))
        vars(sums).update(kept)
        return sums
