"""What is kept of the examples seen so far: sums over chunks for every α, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lerpscape.monotonicity import Floats
from lerpscape.partial import Arrays
from lerpscape.statistics import Moments

# A row's losses, slopes and right predictions in float64.
Numbers: TypeAlias = tuple[Floats, Floats | None, float | None]


@dataclass(frozen=True)
class Row:
    """The examples of one group at one α: losses, derivatives dℓ/dα, and how many predictions are right.

    Still on the device and in the type they were computed in, so that measuring the next α need not wait for them.
    `slopes` and `right` are None where they were not asked for or do not exist.
    """

    losses: Tensor
    slopes: Tensor | None
    right: Tensor | None

    @classmethod
    def joined(cls, rows: list[Row]) -> Row:
        """The examples of several rows, in order, as one."""
        slopes = [row.slopes for row in rows if row.slopes is not None]
        right = [row.right for row in rows if row.right is not None]
        return cls(
            torch.cat([row.losses for row in rows]),
            torch.cat(slopes) if slopes else None,
            torch.stack(right).sum() if right else None,
        )

    def numbers(self) -> Numbers:
        """The numbers in float64, to be sent to another process."""
        slopes = None if self.slopes is None else in_float64([self.slopes])[0]
        return in_float64([self.losses])[0], slopes, None if self.right is None else float(self.right)

    @classmethod
    def of(cls, losses: Floats, slopes: Floats | None, right: float | None) -> Row:
        """The row of which these are the `numbers`."""
        return cls(
            torch.tensor(losses),
            None if slopes is None else torch.tensor(slopes),
            None if right is None else torch.tensor(right, dtype=torch.float64),
        )


def in_float64(parts: list[Tensor]) -> Floats:
    """Tensors of one shape, stacked, in float64 on the host.

    >>> in_float64([torch.ones(2), torch.zeros(2)])
    array([[1., 1.],
           [0., 0.]])
    """
    stacked: Floats = torch.stack([part.to(parts[-1].device, torch.float64) for part in parts]).cpu().numpy()
    return stacked


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
        losses = in_float64([row.losses for row in self.rows])
        for position in np.flatnonzero(~np.isfinite(losses).all(axis=1)):
            wrong = np.flatnonzero(~np.isfinite(losses[position]))
            if self.first_invalid[position] < 0:
                self.first_invalid[position] = self.moments.count + wrong[0]
            self.invalid[position] += len(wrong)
        self.moments.add(losses)
        moving = [row.slopes for row in self.rows if row.slopes is not None]
        slopes = in_float64(moving) if moving else np.full_like(losses, np.nan)
        with np.errstate(invalid="ignore"):  # infinite derivatives stay what they are
            self.slopes += slopes.sum(axis=1)
            self.slope_squares += np.square(slopes).sum(axis=1)
        right = [row.right for row in self.rows if row.right is not None]
        self.right += in_float64(right) if right else np.nan
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
            parts = [getattr(row, name) for row in self.rows if getattr(row, name) is not None]
            kept[f"rows_{name}"] = in_float64(parts) if parts else np.zeros(0)
        return kept

    @classmethod
    def restored(cls, points: int, arrays: Arrays | None) -> Sums:
        """The sums that were written as `arrays`; new ones for None."""
        sums = cls(points)
        if arrays is None:
            return sums
        kept: dict[str, Any] = dict(arrays)
        losses, slopes, right = (kept.pop(f"rows_{name}") for name in ("losses", "slopes", "right"))
        sums.rows = [
            Row.of(each, slopes[i] if len(slopes) else None, float(right[i]) if len(right) else None)
            for i, each in enumerate(losses)
        ]
        sums.moments.count = int(kept.pop("count"))
        sums.moments.mean, sums.moments.comoment = kept.pop("mean"), kept.pop("comoment")
        sums.chunks = int(kept.pop("chunks"))
        vars(sums).update(kept)
        return sums
