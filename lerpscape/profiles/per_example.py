"""The loss of every example along a path: which examples make a rise, and what the mean hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lerpscape.base.arrays import Floats, Integers
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.readings.monotonicity import max_rise, rises

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class ExampleCurves(Result):
    """Losses of shape (points, examples) at `alphas`, in the order of the data; `classes` if targets are class numbers.

    `weights` of shape (examples,) are those in the mean, None where all are 1; an example of weight 0
    does not count, and has the loss 0.

    If no example's loss rises, their mean does not. The reverse does not hold: see `hidden_by_averaging`,
    `made_by_a_minority` and `cancels_between_classes`.
    """

    FORMAT = "lerpscape example curves 2"
    PLOT = "attribution.plot_examples"
    PAGE = (7.2, 4.4)

    alphas: Floats
    losses: Floats = field(repr=False)
    classes: Integers | None = field(repr=False)
    unit: str
    loss_name: str
    label: str
    how: dict[str, Any] = field(repr=False)
    weights: Floats | None = field(default=None, repr=False)

    @property
    def mean(self) -> Floats:
        """The mean loss at every α, shape (points,)."""
        mean: Floats = np.average(self.losses, axis=1, weights=self._weights())
        return mean

    @property
    def rise(self) -> Floats:
        """`max_rise` of every example's own loss, shape (examples,)."""
        self._require_finite()
        rise: Floats = (self.losses - np.minimum.accumulate(self.losses, axis=0)).max(axis=0)
        return rise

    def share_rising(self, tolerance: float) -> float:
        """Share of examples whose own loss rises by more than the tolerance, in the unit of the loss."""
        return float(np.mean(self.rise[self._weights() > 0] > tolerance))

    def largest_rise(self) -> tuple[float, float]:
        """The two α between which the mean loss rises most.

        Raises `ValueError` where it never rises.
        """
        self._require_finite()
        all_rises = rises(self.mean, self.alphas)
        if not all_rises:
            raise ValueError(
                explain(
                    expected="a mean loss that rises somewhere, or between=(a, b).",
                    got=f"one that never rises on {len(self.alphas)} points.",
                    hint="Pass two α of the grid as between=; share_rising() is the share of examples that rise.",
                )
            )
        largest = max(all_rises, key=lambda rise: rise.height)
        return largest.opens, largest.peak

    @property
    def interval(self) -> tuple[float, float]:
        """The two α of the largest rise of the mean or, if it never rises, of the whole grid."""
        return self.largest_rise() if max_rise(self.mean) else (float(self.alphas[0]), float(self.alphas[-1]))

    def contributions(self, between: tuple[float, float] | None = None) -> Floats:
        """The part of each example in L(b) − L(a): w (ℓ(b) − ℓ(a)) / Σ w, shape (examples,).

        `between` are two α of the grid; None takes the largest rise of the mean.
        """
        left, right = (self._position(alpha) for alpha in between or self.largest_rise())
        parts: Floats = self._weights() * (self.losses[right] - self.losses[left]) / self._weights().sum()
        return parts

    def ranked(self, between: tuple[float, float] | None = None) -> list[tuple[int, float]]:
        """Numbers of the examples with their parts, the largest first."""
        parts = self.contributions(between)
        return [(int(i), float(parts[i])) for i in np.argsort(-parts, kind="stable")]

    def by_class(self, tolerance: float, between: tuple[float, float] | None = None) -> list[ClassCurve]:
        """One curve per class: its mean loss, rise, share of examples that rise, and part of the change of the mean.

        `between` are two α of the grid; None takes `interval`. Empty without classes.
        """
        if self.classes is None:
            return []
        parts = self.contributions(between or self.interval)
        rise = self.rise
        curves = []
        counts = self._weights() > 0
        for number in np.unique(self.classes[counts]):
            members = (self.classes == number) & counts
            curve: Floats = np.average(self.losses[:, members], axis=1, weights=self._weights()[members])
            curves.append(
                ClassCurve(
                    int(number),
                    int(members.sum()),
                    curve,
                    max_rise(curve),
                    float(np.mean(rise[members] > tolerance)),
                    float(parts[members].sum()),
                )
            )
        return curves

    def hidden_by_averaging(self, tolerance: float) -> bool:
        """Whether the mean does not rise although the loss of some example does."""
        return max_rise(self.mean) <= tolerance and self.share_rising(tolerance) > 0

    def made_by_a_minority(self) -> bool:
        """Whether the loss of most examples does not increase over the largest rise of the mean."""
        if max_rise(self.mean) == 0:
            return False
        return float(np.mean(self.contributions()[self._weights() > 0] > 0)) < 0.5

    def cancels_between_classes(self, tolerance: float) -> tuple[int, ...]:
        """Classes whose mean loss rises although that of all examples does not."""
        if max_rise(self.mean) > tolerance:
            return ()
        return tuple(curve.number for curve in self.by_class(tolerance) if curve.rise > tolerance)

    @property
    def summary(self) -> str:
        """The verdict with tolerance 0."""
        return self.verdict(0.0)

    def verdict(self, tolerance: float) -> str:
        """How many examples rise, and whether the mean hides it, in a sentence or two."""
        n, unit = int((self._weights() > 0).sum()), f" {self.unit}" if self.unit else ""
        share = f"{100 * self.share_rising(tolerance):.3g} % of {n} examples rise by more than {tolerance:g}{unit}"
        if max_rise(self.mean) > tolerance:
            left, right = self.largest_rise()
            upward = float(np.mean(self.contributions()[self._weights() > 0] > 0))
            text = (
                f"The mean loss rises by {max_rise(self.mean):.4g}{unit} from α = {left:.4g} to {right:.4g}; {share}."
            )
            text += f" Between these {100 * upward:.3g} % increase"
            text += ": a rise made by a minority." if self.made_by_a_minority() else "."
            return text
        text = f"The mean loss does not rise by more than the tolerance; {share}"
        text += ": rises hidden by averaging." if self.hidden_by_averaging(tolerance) else "."
        classes = self.cancels_between_classes(tolerance)
        if classes:
            text += f" The means of classes {', '.join(map(str, classes))} rise and cancel against the others."
        return text

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example: class, loss at both ends, largest rise. Needs pandas."""
        columns: dict[str, Any] = {} if self.classes is None else {"class": self.classes}
        columns |= {"first_loss": self.losses[0], "last_loss": self.losses[-1], "max_rise": self.rise}
        return data_frame(columns)

    def _weights(self) -> Floats:
        return np.ones(self.losses.shape[1]) if self.weights is None else self.weights

    def _position(self, alpha: float) -> int:
        positions = np.flatnonzero(np.abs(self.alphas - alpha) < 1e-12)
        if not len(positions):
            raise ValueError(
                explain(
                    expected="two α of the grid.", got=f"{alpha:.6g}.", hint="Measure with alphas=[…] that contains it."
                )
            )
        return int(positions[0])

    def _require_finite(self) -> None:
        bad = np.argwhere(~np.isfinite(self.losses))
        if len(bad):
            point, example = bad[0]
            raise NonFiniteLoss(
                explain(
                    expected="finite losses: a curve with NaN or inf has no verdict.",
                    got=f"{self.losses[point, example]} for example {example} at α = {self.alphas[point]:.6g}.",
                    hint="Measure with dtype=torch.float64, or look at the outputs for that example.",
                )
            )


@dataclass(frozen=True)
class ClassCurve:
    """The mean loss of one class at every α, its `rise` (max_rise), the share of its examples that rise, its `part`."""

    number: int
    examples: int
    curve: Floats
    rise: float
    share_rising: float
    part: float


def classes_of(targets: Sequence[Any]) -> Integers | None:
    """Class numbers if the targets of every batch are a vector of integers, else None."""
    numbers = [np.asarray(batch) for batch in targets]
    if not all(batch.ndim == 1 and np.issubdtype(batch.dtype, np.integer) for batch in numbers):
        return None
    return np.concatenate(numbers).astype(np.int64)
