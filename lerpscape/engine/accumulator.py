"""Sums over examples for every α, in float64: all that a profile keeps of the losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.resume import Arrays
from lerpscape.readings.intervals import Moments


class Accumulator:
    """Sums over the groups of examples done so far, and the losses of the group that is not done yet.

    The mean is L = Σ wℓ / Σ w over the examples with a weight w > 0. `moments` are those of (wℓ at every α, w): the
    error of a ratio of two means follows from their covariance.
    """

    def __init__(self, points: int) -> None:
        self.moments = Moments(points + 1)
        self.slopes = np.zeros(points)
        self.slope_squares = np.zeros(points)
        self.slope_weights = np.zeros(points)
        self.weight_squares = np.zeros(1)
        self.right = np.zeros(points)
        self.metrics = np.zeros((points, 1, 1))  # becomes (points, metrics, 6) with the first group that has any
        self.invalid = np.zeros(points, dtype=np.int64)
        self.first_invalid = np.full(points, -1, dtype=np.int64)
        self.seen = 0
        self.groups = 0
        self.unfinished = LossMatrix(points)

    def add(self, group: LossMatrix) -> None:
        """Add a group once its losses at every α are there; keep it as the unfinished one until then.

        Raises `ValueError` for weights that are negative, NaN or infinite.
        """
        self.unfinished = group
        if not group.is_complete:
            return
        losses, slopes, right = group.numbers()
        seen, weights = losses.shape[1], group.weights
        counts = np.ones(seen, dtype=bool) if weights is None else _checked(weights) > 0
        for position in np.flatnonzero(~np.isfinite(losses).all(axis=1)):
            wrong = np.flatnonzero(~np.isfinite(losses[position]) & counts)
            if len(wrong) and self.first_invalid[position] < 0:
                self.first_invalid[position] = self.seen + wrong[0]
            self.invalid[position] += len(wrong)
        self.seen += seen
        if weights is None:
            weights = np.ones(seen)
        elif not (weights == 1).all():
            weights = weights[counts]
            losses = losses[:, counts] * weights
            slopes = None if slopes is None else slopes[:, counts] * weights
        self.moments.add(np.ascontiguousarray(np.vstack([losses, weights])))  # sums go along the rows
        with np.errstate(invalid="ignore"):  # infinite derivatives stay what they are
            self.slopes += np.nan if slopes is None else slopes.sum(axis=1)
            self.slope_squares += np.nan if slopes is None else np.square(slopes).sum(axis=1)
            self.slope_weights += np.nan if slopes is None else slopes @ weights
        self.weight_squares += weights @ weights
        self.right += np.nan if right is None else right
        self.metrics = self.metrics + (0.0 if group.metrics is None else group.metrics)
        self.groups += 1
        self.unfinished = LossMatrix(len(losses))

    @property
    def count(self) -> int:
        """Number of examples that count."""
        return self.moments.count

    def mean_weight(self) -> float:
        """Σ w / n over the examples that count.

        Raises `ValueError` where none does.
        """
        if not self.moments.count:
            raise ValueError(
                explain(
                    expected="at least one example that counts.",
                    got=f"{self.seen} examples, all left out or of weight 0.",
                    hint="Check the labels: −100 is left out, and so is what Loss(..., ignore=) names.",
                )
            )
        return float(self.moments.mean[-1])

    def mean(self) -> Floats:
        """L = Σ wℓ / Σ w at every α."""
        mean: Floats = self.moments.mean[:-1] / self.mean_weight()
        return mean

    def covariance(self) -> Floats:
        """Covariance between the α of w(ℓ − L) / w̄, an example's influence on L; divided by n, that of L itself.

        Where all weights are equal, it is that of the losses.

        Source: Cochran (1977), Sampling Techniques, section 6.4: the variance of a ratio.
        """
        covariance, mean, weight = self.moments.covariance(), self.mean(), self.mean_weight()
        with np.errstate(invalid="ignore"):
            cross = np.outer(mean, covariance[-1, :-1])
            centred: Floats = covariance[:-1, :-1] - cross - cross.T + np.outer(mean, mean) * covariance[-1, -1]
        return centred / weight**2

    def error(self) -> Floats:
        """Standard error of the mean loss at every α, if the examples are a random sample; NaN for a single one."""
        single = np.nan if self.count < 2 else 1.0
        return single * np.sqrt(np.maximum(np.diag(self.covariance()), 0) / self.count)

    def slope_and_error(self) -> tuple[Floats, Floats]:
        """dL/dα = Σ w dℓ/dα / Σ w at every α, and its standard error."""
        count, weight = self.count, self.mean_weight()
        slope = self.slopes / (count * weight)
        with np.errstate(invalid="ignore"):  # inf − inf: an infinite derivative has no error
            squares = self.slope_squares - 2 * slope * self.slope_weights + slope**2 * self.weight_squares
            variance = np.maximum(squares / count, 0) / weight**2
        return slope, np.sqrt(variance / (count - 1 or np.nan))

    def accuracy(self) -> Floats | None:
        """Share of right predictions at every α, weighed as the losses are; None where there is no such thing."""
        return None if np.isnan(self.right).any() else self.right / (self.count * self.mean_weight())

    def metric_and_error(self, position: int) -> tuple[Floats, Floats]:
        """The mean Σ wm / Σ w of a metric at every α, and its standard error, that of a ratio as for the loss.

        NaN where nothing counts.
        """
        count, weight, squares, value, cross, value_squares = np.moveaxis(self.metrics[:, position], 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = value / weight
            variance = np.maximum(value_squares - 2 * mean * cross + mean**2 * squares, 0) / weight**2
            return mean, np.sqrt(variance * count / np.where(count > 1, count - 1, np.nan))

    def arrays(self) -> Arrays:
        """Everything, as arrays to write to disk."""
        own = vars(self).items()
        arrays = {name: np.asarray(value) for name, value in own if name not in ("moments", "unfinished")}
        arrays |= {
            "count": np.asarray(self.moments.count),
            "mean": self.moments.mean,
            "comoment": self.moments.comoment,
        }
        parts = (*self.unfinished.numbers(), self.unfinished.weights, self.unfinished.metrics)
        for name, values in zip(_UNFINISHED, parts, strict=True):
            arrays[f"unfinished_{name}"] = np.zeros(0) if values is None else values
        return arrays

    @classmethod
    def restored(cls, points: int, arrays: Arrays) -> Accumulator:
        """The sums that were written as `arrays`."""
        sums = cls(points)
        values: dict[str, Any] = dict(arrays)
        losses, slopes, right, weights, metrics = (values.pop(f"unfinished_{name}") for name in _UNFINISHED)
        sums.moments.count = int(values.pop("count"))
        sums.moments.mean, sums.moments.comoment = values.pop("mean"), values.pop("comoment")
        sums.groups, sums.seen = int(values.pop("groups")), int(values.pop("seen"))
        vars(sums).update(values)
        unfinished = (
            LossesAtAlpha.of(
                at_alpha,
                slopes[i] if len(slopes) else None,
                float(right[i]) if len(right) else None,
                weights if len(weights) else None,
                metrics[i] if len(metrics) else None,
            )
            for i, at_alpha in enumerate(losses)
        )
        sums.add(LossMatrix.of(points, unfinished))
        return sums


_UNFINISHED = ("losses", "slopes", "right", "weights", "metrics")


def _checked(weights: Floats) -> Floats:
    wrong = weights[~((weights >= 0) & np.isfinite(weights))]
    if len(wrong):
        raise ValueError(
            explain(
                expected="finite weights ≥ 0.",
                got=f"{wrong[0]:g} ({len(wrong)} such weights of {len(weights)}).",
                hint="The mean is Σ wℓ / Σ w; 0 leaves an example out.",
            )
        )
    return weights
