"""The loss of every example along a path: who makes a rise, and what an average hides."""

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
    """Losses of shape (points, examples) at `alphas`, in the order of the data; `classes` where targets are numbers.

    A mean of curves that never rise never rises, so there is no reversal in Simpson's strict sense here. What an
    average over examples does hide has three names: `hidden_by_averaging`, `made_by_a_minority` and
    `cancels_between_classes`.
    """

    FORMAT = "lerpscape example curves 1"
    PLOT = "attribution.plot_examples"
    PAGE = (7.2, 4.4)

    alphas: Floats
    losses: Floats = field(repr=False)
    classes: Integers | None = field(repr=False)
    unit: str
    loss_name: str
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def mean(self) -> Floats:
        """The mean loss at every α, shape (points,)."""
        found: Floats = self.losses.mean(axis=1)
        return found

    @property
    def rise(self) -> Floats:
        """`max_rise` of every example's own loss, shape (examples,)."""
        self._require_finite()
        found: Floats = (self.losses - np.minimum.accumulate(self.losses, axis=0)).max(axis=0)
        return found

    def share_rising(self, tolerance: float) -> float:
        """Share of examples whose own loss rises by more than the tolerance, in the unit of the loss."""
        return float(np.mean(self.rise > tolerance))

    def largest_rise(self) -> tuple[float, float]:
        """The two α between which the mean loss rises most.

        Raises `ValueError` where it never rises.
        """
        self._require_finite()
        found = rises(self.mean, self.alphas)
        if not found:
            raise ValueError(
                explain(
                    expected="a mean loss that rises somewhere, or the stretch to take apart.",
                    got=f"one that never rises on {len(self.alphas)} points.",
                    hint="Pass between=(a, b), two α of the grid; the share of examples that rise is in "
                    "share_rising().",
                )
            )
        largest = max(found, key=lambda each: each.height)
        return largest.opens, largest.peak

    @property
    def stretch(self) -> tuple[float, float]:
        """The largest rise of the mean, or the whole grid where it never rises."""
        return self.largest_rise() if max_rise(self.mean) else (float(self.alphas[0]), float(self.alphas[-1]))

    def contributions(self, between: tuple[float, float] | None = None) -> Floats:
        """What each example adds to L(b) − L(a): (ℓ(b) − ℓ(a)) / n, shape (examples,); they sum to the change.

        `between` are two α of the grid; None takes the largest rise of the mean.
        """
        left, right = (self._position(alpha) for alpha in between or self.largest_rise())
        found: Floats = (self.losses[right] - self.losses[left]) / self.losses.shape[1]
        return found

    def ranked(self, between: tuple[float, float] | None = None) -> list[tuple[int, float]]:
        """Examples by number with what they add, those that raise the mean most first."""
        parts = self.contributions(between)
        return [(int(i), float(parts[i])) for i in np.argsort(-parts, kind="stable")]

    def by_class(self, tolerance: float, between: tuple[float, float] | None = None) -> list[ClassCurve]:
        """One curve per class: its mean loss, rise, share of examples that rise, and part of the change of the mean.

        `between` None takes the largest rise of the mean, or the whole grid where it never rises. Without classes: [].
        """
        if self.classes is None:
            return []
        parts = self.contributions(between or self.stretch)
        own = self.rise
        found = []
        for each in np.unique(self.classes):
            members = self.classes == each
            curve: Floats = self.losses[:, members].mean(axis=1)
            found.append(
                ClassCurve(
                    int(each),
                    int(members.sum()),
                    curve,
                    max_rise(curve),
                    float(np.mean(own[members] > tolerance)),
                    float(parts[members].sum()),
                )
            )
        return found

    def hidden_by_averaging(self, tolerance: float) -> bool:
        """Whether the mean does not rise although the losses of single examples do."""
        return max_rise(self.mean) <= tolerance and self.share_rising(tolerance) > 0

    def made_by_a_minority(self) -> bool:
        """Whether the mean rises over its largest rise although most examples' losses fall there."""
        if max_rise(self.mean) == 0:
            return False
        return float(np.mean(self.contributions() > 0)) < 0.5

    def cancels_between_classes(self, tolerance: float) -> tuple[int, ...]:
        """Classes whose mean loss rises although that of all examples does not."""
        if max_rise(self.mean) > tolerance:
            return ()
        return tuple(each.number for each in self.by_class(tolerance) if each.rise > tolerance)

    @property
    def summary(self) -> str:
        """The verdict that forgives no rise."""
        return self.verdict(0.0)

    def verdict(self, tolerance: float) -> str:
        """Who rises, in a sentence or two, with the name of what the average hides."""
        n, unit = self.losses.shape[1], f" {self.unit}" if self.unit else ""
        share = f"{100 * self.share_rising(tolerance):.3g} % of {n} examples rise by more than {tolerance:g}{unit}"
        if max_rise(self.mean) > tolerance:
            left, right = self.largest_rise()
            upward = float(np.mean(self.contributions() > 0))
            text = (
                f"The mean loss rises by {max_rise(self.mean):.4g}{unit} from α = {left:.4g} to {right:.4g}; {share}."
            )
            text += f" Over that stretch {100 * upward:.3g} % go up"
            text += ": a rise made by a minority." if self.made_by_a_minority() else "."
            return text
        text = f"The mean loss does not rise by more than the tolerance; {share}"
        text += ": rises hidden by averaging." if self.hidden_by_averaging(tolerance) else "."
        classes = self.cancels_between_classes(tolerance)
        if classes:
            text += f" The means of classes {', '.join(map(str, classes))} rise and cancel against the others."
        return text

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example: class, loss at both ends, own largest rise. Needs pandas."""
        columns: dict[str, Any] = {} if self.classes is None else {"class": self.classes}
        columns |= {"first_loss": self.losses[0], "last_loss": self.losses[-1], "max_rise": self.rise}
        return data_frame(columns)

    def _position(self, alpha: float) -> int:
        found = np.flatnonzero(np.abs(self.alphas - alpha) < 1e-12)
        if not len(found):
            raise ValueError(
                explain(
                    expected="two α of the grid.", got=f"{alpha:.6g}.", hint="Measure with alphas=[…] that contains it."
                )
            )
        return int(found[0])

    def _require_finite(self) -> None:
        bad = np.argwhere(~np.isfinite(self.losses))
        if len(bad):
            at, example = bad[0]
            raise NonFiniteLoss(
                explain(
                    expected="finite losses: a curve with NaN or inf has no verdict.",
                    got=f"{self.losses[at, example]} for example {example} at α = {self.alphas[at]:.6g}.",
                    hint="Measure with dtype=torch.float64, or look at what the network does to that example.",
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
    """Class numbers where every batch's targets are a vector of whole numbers, else None."""
    numbers = [np.asarray(each) for each in targets]
    if not all(each.ndim == 1 and np.issubdtype(each.dtype, np.integer) for each in numbers):
        return None
    return np.concatenate(numbers).astype(np.int64)
