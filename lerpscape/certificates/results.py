"""The result of `certify`: a bracket of the largest rise over all α, with the intervals that prove it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result

# Relative rounding error allowed for in `largest_step`: that of a few hundred operations.
OUTWARD = 2.0**-40


@dataclass(frozen=True, eq=False)
class Certificate(Result):
    """A proof that lower ≤ sup over 0 ≤ α₁ < α₂ ≤ 1 of L(α₂) − L(α₁) ≤ upper for given data, network and line.

    `verdict` is `monotonic` (upper ≤ tolerance), `violated` (lower > tolerance) or `undecided`, and `stopped` says
    why the search ended. The loss rises by at least `lower` from α = `lowest` to α = `highest`. Losses are in `unit`.

    The proof: `edges` (intervals + 1,) divide [0, 1] into intervals, and L at them is between `loss_low` and
    `loss_high` (intervals + 1,). On each interval dL/dα is between two lines, `slope_low` and `slope_high`
    (intervals, 2), given by their values at its ends; no rise within it is larger than `rise` (intervals,);
    `direction` (intervals,) is the proved sign of dL/dα, `falling`, `rising`, `flat` or `undecided`; and the accuracy
    is between `accuracy_low` and `accuracy_high` (intervals,), which are None for losses without correct predictions.
    `evaluations` is the number of intervals bounded during the search, and `how` is metadata: device, threads,
    versions, digests.
    """

    FORMAT = "lerpscape certificate 3"
    PLOT = "profiles.plot_certificate"
    PAGE = (5.8, 3.4)

    lower: float
    upper: float
    verdict: str
    tolerance: float
    stopped: str
    lowest: float
    highest: float
    edges: Floats
    loss_low: Floats
    loss_high: Floats
    slope_low: Floats
    slope_high: Floats
    rise: Floats
    accuracy_low: Floats | None
    accuracy_high: Floats | None
    direction: tuple[str, ...]
    evaluations: int
    examples: int
    unit: str
    loss_name: str
    how: dict[str, Any] = field(repr=False)

    @property
    def intervals(self) -> int:
        """Number of intervals in the proof."""
        return len(self.direction)

    @property
    def undecided(self) -> tuple[tuple[float, float], ...]:
        """The intervals (left, right) on which dL/dα may have both signs."""
        return tuple(
            (float(self.edges[i]), float(self.edges[i + 1]))
            for i, direction in enumerate(self.direction)
            if direction == "undecided"
        )

    @property
    def certified_share(self) -> float:
        """Total length of the intervals on which the loss is proved not to rise."""
        widths = np.diff(self.edges)
        return float(sum(w for w, kind in zip(widths, self.direction, strict=True) if kind in ("falling", "flat")))

    def loss_bounds(self, alphas: Floats) -> tuple[Floats, Floats]:
        """Bounds of L at any α in [0, 1], each of shape (points,), from those at the edges and those of dL/dα.

        Raises `ValueError` for α outside [0, 1].
        """
        alphas, index, share = self._located(alphas)
        width = np.diff(self.edges)[index]
        low, high = np.full(alphas.shape, -np.inf), np.full(alphas.shape, np.inf)
        bounded = np.isfinite(np.hstack([self.slope_low, self.slope_high])[index]).all(axis=1)
        size = np.zeros(alphas.shape)
        for edge, begin, end in ((index, np.zeros_like(share), share), (index + 1, np.ones_like(share), share)):
            # bounds of the change of L from the edge to α: the integrals of both lines
            changes = []
            for lines in (self.slope_low, self.slope_high):
                left, right = np.where(bounded, lines[index].T, 0.0)
                middle = 0.5 * (begin + end)
                changes.append((end - begin) * width * ((1 - middle) * left + middle * right))
                size = size + np.abs(left) + np.abs(right)
            low = np.maximum(low, np.where(bounded, self.loss_low[edge] + np.minimum(*changes), -np.inf))
            high = np.minimum(high, np.where(bounded, self.loss_high[edge] + np.maximum(*changes), np.inf))
        margin = 2.0**-46 * (np.abs(self.loss_low[index]) + np.abs(self.loss_high[index + 1]) + size)
        return low - margin, high + margin

    def slope_bounds(self, alphas: Floats) -> tuple[Floats, Floats]:
        """Bounds of dL/dα at any α in [0, 1], each of shape (points,); at a kink they hold for both one-sided slopes.

        Raises `ValueError` for α outside [0, 1].
        """
        alphas, index, share = self._located(alphas)
        low, high = (
            (1 - share) * lines[index, 0] + share * lines[index, 1] for lines in (self.slope_low, self.slope_high)
        )
        margin = 2.0**-48 * (np.abs(self.slope_low[index]).max(1) + np.abs(self.slope_high[index]).max(1))
        return low - margin, high + margin

    def accuracy_bounds(self, alphas: Floats) -> tuple[Floats, Floats]:
        """Bounds of the accuracy at any α in [0, 1], each of shape (points,): those of the interval that contains α.

        At an edge the bounds of both intervals hold, and the narrower ones are returned.

        Raises `ValueError` for α outside [0, 1], and for losses without correct predictions.
        """
        if self.accuracy_low is None or self.accuracy_high is None:
            raise ValueError(
                explain(
                    expected="a loss with correct predictions.",
                    got=f"{self.loss_name}.",
                    hint="Certify cross_entropy with class numbers.",
                )
            )
        alphas, index, share = self._located(alphas)
        before = np.where((share == 0) & (index > 0), index - 1, index)
        return (
            np.maximum(self.accuracy_low[index], self.accuracy_low[before]),
            np.minimum(self.accuracy_high[index], self.accuracy_high[before]),
        )

    def max_step(self, width: float) -> tuple[float, float]:
        """Bounds of sup over α in [0, 1 − width] of L(α + width) − L(α), for 0 < width ≤ 1.

        `readings.max_step` of any grid with this spacing is at most the upper bound. The supremum is negative if the
        loss falls over every such step.

        Raises `ValueError` for another width.
        """
        if not 0 < width <= 1:
            raise ValueError(
                explain(
                    expected="0 < width ≤ 1.", got=f"{width}.", hint="Use the spacing of a grid: 1/24 for 25 points."
                )
            )
        starts = np.concatenate([self.edges, self.edges - width])
        starts = np.clip(starts[(starts >= 0) & (starts <= 1 - width)], 0, 1 - width)
        starts = np.concatenate([starts, [0.0, 1 - width]])
        before, after = self.loss_bounds(starts), self.loss_bounds(np.minimum(starts + width, 1.0))
        upper = largest_step(self.edges, self.slope_high, width)
        return float((after[0] - before[1]).max()), min(upper, self.upper)

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        unit = f" {self.unit}".rstrip()
        over = f"over every α, tolerance {self.tolerance:g}{unit}, {self.examples} examples, {self.intervals} intervals"
        if self.verdict == "monotonic":
            most = "never rises" if self.upper == 0 else f"never rises by more than {self.upper:.4g}{unit}"
            return f"Monotonic, proved: the loss {most} ({over})."
        bracket = f"between {self.lower:.4g} and {self.upper:.4g}{unit}"
        if self.verdict == "violated":
            where = f"from α = {self.lowest:.4g} to {self.highest:.4g}"
            return f"Not monotonic, proved: the largest rise is {bracket}, one is {where} ({over})."
        reasons = {
            "budget": "a larger budget",
            "time": "more seconds",
            "rounding": "more digits than float64 has",
        }
        decide = reasons.get(self.stopped, self.stopped)
        return (
            f"Undecided: the largest rise is {bracket} ({over}, {len(self.undecided)} of them undecided). "
            f"A tolerance of {self.upper:.2g}{unit} would call it monotonic; to decide this one it takes {decide}."
        )

    def _located(self, alphas: Floats) -> tuple[Floats, NDArray[np.intp], Floats]:
        alphas = np.asarray(alphas, dtype=np.float64)
        if not np.all((alphas >= 0) & (alphas <= 1)):
            raise ValueError(
                explain(expected="α between 0 and 1.", got=f"{alphas!r}."[:200], hint="A certificate covers [0, 1].")
            )
        index = np.clip(np.searchsorted(self.edges, alphas, side="right") - 1, 0, self.intervals - 1)
        return alphas, index, (alphas - self.edges[index]) / np.diff(self.edges)[index]


def largest_step(edges: Floats, lines: Floats, width: float) -> float:
    """An upper bound of L(α + width) − L(α) over all α, given a line above L′ on every interval.

    With H an integral of the lines, L(α + w) − L(α) ≤ U(α) = H(α + w) − H(α). Between any two neighbouring α for which
    α or α + w is an edge, U is a parabola, so its largest value there is at an end or at its vertex.

    `edges` has shape (intervals + 1,). `lines` has shape (intervals, 2), the values of each line at both ends.

    >>> round(largest_step(np.array([0.0, 1.0]), np.array([[-2.0, 2.0]]), 0.5), 9)  # L = 2(α − ½)²
    0.5
    """
    spans = np.diff(edges)
    areas = np.concatenate([[0.0], np.cumsum(0.5 * spans * lines.sum(1))])

    def at(alphas: Floats, inside: Floats) -> tuple[Floats, Floats]:
        """H and the line at α, on the interval that holds `inside`."""
        index = np.clip(np.searchsorted(edges, inside, side="right") - 1, 0, len(spans) - 1)
        since = alphas - edges[index]
        left, tilt = lines[index, 0], (lines[index, 1] - lines[index, 0]) / spans[index]
        return areas[index] + since * (left + 0.5 * tilt * since), left + tilt * since

    if not np.isfinite(lines).all():
        return float("inf")
    last = 1.0 - width
    cuts = np.unique(np.clip(np.concatenate([edges, edges - width, [0.0, last]]), 0.0, last))
    starts, ends = (cuts[:-1], cuts[1:]) if len(cuts) > 1 else (cuts, cuts)
    middles = 0.5 * (starts + ends)
    values, slopes = [], []
    for place in (starts, ends):
        (before, here), (after, there) = at(place, middles), at(place + width, middles + width)
        values.append(after - before)
        slopes.append(there - here)
    best = np.maximum(values[0], values[1])
    bend = slopes[1] - slopes[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = values[0] - 0.5 * slopes[0] ** 2 * (ends - starts) / bend
    inside = (slopes[0] > 0) & (slopes[1] < 0)
    best = np.where(inside, np.maximum(best, vertex), best)
    return float(best.max() + OUTWARD * np.sum(spans * np.abs(lines).max(1)))
