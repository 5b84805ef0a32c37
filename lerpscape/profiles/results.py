"""The result of `profile`: loss, accuracy and derivative along a path, and the readings of that curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.readings import intervals, monotonicity, rises_between_points
from lerpscape.readings.intervals import RiseInterval
from lerpscape.readings.monotonicity import BarrierKind, Rise
from lerpscape.readings.published import Curve, published_readings
from lerpscape.readings.results import Readings
from lerpscape.readings.rises_between_points import HiddenRise

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Invalid:
    """An α at which `examples` losses are NaN or infinite; `first` is the number of the first such example."""

    alpha: float
    examples: int
    first: int


@dataclass(frozen=True, eq=False)
class MetricCurve:
    """A metric at every α: its `values`, and their standard `errors` if the examples are a random sample.

    >>> MetricCurve.exponential(np.array([0.0, 1.0]), np.array([0.1, 0.1])).errors.round(3)
    array([0.1  , 0.272])
    """

    values: Floats
    errors: Floats

    @classmethod
    def exponential(cls, mean: Floats, error: Floats) -> MetricCurve:
        """The exponential of a mean; its standard error is exp(mean) times that of the mean (delta method)."""
        with np.errstate(over="ignore", invalid="ignore"):
            return cls(np.exp(mean), np.exp(mean) * error)


@dataclass(frozen=True, eq=False)
class Profile(Result):
    """Mean loss, accuracy and dL/dα over the examples at every α of a path.

    `alphas`, `loss` and `derivative` (both in `unit`), `derivative_error` (its standard error) and `accuracy` (from 0
    to 1) have shape (points,). `metrics` has a `MetricCurve` for each metric that was asked for.
    `covariance` (points, points) is that of the per-example losses, in unit².
    `accuracy` is None for losses without right answers. `derivative` is None if it was not measured, and
    `derivative_reason` says why; `derivative_error` is also None where backward passes gave the sum over a batch, not
    each example's derivative. `invalid` lists every α at which losses are NaN or infinite: no value is replaced, and
    readings of such a curve raise `NonFiniteLoss`. `distance` is ‖θ_T − θ₀‖₂, and `relative_distance` is ‖θ_T − θ₀‖ /
    ‖θ₀‖. Readings use the points with 0 ≤ α ≤ 1 only. `how` is metadata: device, threads, versions, digests.
    `how["noise_floor"]` is one rounding unit of the largest loss in the dtype of the computation: no verdict is given
    on a rise below it.
    """

    FORMAT = "lerpscape profile 2"
    PLOT = "profiles.plot_profile"
    FIGURE = "profiles.profile_figure"

    alphas: Floats
    loss: Floats
    accuracy: Floats | None
    metrics: dict[str, MetricCurve]
    derivative: Floats | None
    derivative_error: Floats | None
    derivative_reason: str | None
    covariance: Floats = field(repr=False)
    examples: int
    unit: str
    loss_name: str
    label: str
    invalid: tuple[Invalid, ...]
    distance: float
    relative_distance: float
    how: dict[str, Any] = field(repr=False)

    @property
    def max_rise(self) -> float:
        """Largest rise of the loss on the grid; see `lerpscape.max_rise`."""
        return monotonicity.max_rise(self._inside("loss"))

    @property
    def rises(self) -> tuple[Rise, ...]:
        """Every excursion of the loss above its running minimum; see `lerpscape.rises`."""
        return monotonicity.rises(self._inside("loss"), self._inside("alphas"))

    @property
    def hidden_rises(self) -> tuple[HiddenRise, ...]:
        """Rises between grid points that only the derivative shows; () without derivatives.

        See `lerpscape.readings.hidden_rises`.
        """
        if self.derivative is None:
            return ()
        return rises_between_points.hidden_rises(
            self._inside("loss"), self._inside("derivative"), self._inside("alphas")
        )

    def is_monotonic(self, tolerance: float) -> bool:
        """Whether `max_rise` ≤ tolerance, in the unit of the loss. A grid can refute monotonicity, not prove it."""
        return monotonicity.is_monotonic(self._inside("loss"), tolerance)

    @property
    def relative_rise(self) -> float:
        """`max_rise` / (L(0) − L(1)); nan if the loss at the end is not below that at the start."""
        self._require_ends()
        return monotonicity.relative_rise(self._inside("loss"))

    @property
    def max_step(self) -> float:
        """Largest increase between neighbouring grid points; it shrinks as the grid is refined."""
        return monotonicity.max_step(self._inside("loss"))

    def barrier(self, kind: BarrierKind) -> float:
        """Height above a reference value of both ends; see `lerpscape.barrier` for the five kinds."""
        return monotonicity.barrier(self._inside("loss"), kind, self._inside("alphas"))

    @property
    def local_convexity(self) -> float:
        """Share of interior points at which the curve is convex; see `lerpscape.readings.local_convexity`."""
        return monotonicity.local_convexity(self._inside("loss"), self._inside("alphas"))

    @property
    def global_convexity(self) -> float:
        """Share of interior points at or below the chord between the ends."""
        return monotonicity.global_convexity(self._inside("loss"), self._inside("alphas"))

    def plateau(self, eps: float) -> float:
        """The α up to which the loss stays within a share `eps` of its drop; see `lerpscape.readings.plateau`."""
        return monotonicity.plateau(self._inside("loss"), eps, self._inside("alphas"))

    @property
    def area(self) -> float:
        """∫ (L(α) − L(1)) / (L(0) − L(1)) dα: ½ for a straight line, near 1 for a long plateau."""
        return monotonicity.area(self._inside("loss"), self._inside("alphas"))

    def rise_interval(self, level: float = 0.95, draws: int = 2000, seed: int = 0) -> RiseInterval:
        """Confidence interval and p-value of the largest rise, if the examples are a random sample.

        See `lerpscape.readings.rise_interval`.
        """
        inside = self._positions()
        return intervals.rise_interval(
            self.loss[inside],
            self.covariance[np.ix_(inside, inside)],
            self.examples,
            level=level,
            draws=draws,
            seed=seed,
        )

    @property
    def loss_error(self) -> Floats:
        """Standard error of the mean loss at every α, if the examples are a random sample; shape (points,).

        NaN for a single example, of which nothing is known but its own loss.
        """
        single = np.nan if self.examples < 2 else 1.0
        return single * np.sqrt(np.maximum(np.diag(self.covariance), 0) / self.examples)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per α. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        columns = {"alpha": self.alphas, "loss": self.loss, "loss_error": self.loss_error}
        for name in ("accuracy", "derivative", "derivative_error"):
            values = getattr(self, name)
            columns[name] = np.full(len(self.alphas), np.nan) if values is None else values
        for name, metric in self.metrics.items():
            columns |= {name: metric.values, f"{name}_error": metric.errors}
        return data_frame(columns)

    def readings(self, tolerance: float = 0.0) -> Readings:
        """Every published monotonicity, barrier, convexity and plateau reading, on this grid and on half of it.

        `tolerance`, in the unit of the loss, is the largest rise or barrier that verdicts still count as none. The
        result's `["max_rise"].value` is one number, its `disagreements` are the questions that definitions answer
        differently; see `lerpscape.readings.Readings`.

        Raises `NonFiniteLoss` for a curve with invalid points.
        """
        parts = {
            name: None if getattr(self, name) is None else self._inside(name) for name in ("accuracy", "derivative")
        }
        error = None if parts["accuracy"] is None else 100 * (1 - parts["accuracy"])
        curve = Curve(self._inside("alphas"), self._inside("loss"), error, parts["derivative"])
        return published_readings(curve, tolerance=tolerance, unit=self.unit)

    @property
    def summary(self) -> str:
        """The verdict with tolerance 0."""
        return self.verdict(0)

    def verdict(self, tolerance: float) -> str:
        """Whether the curve is monotonic, in a sentence; `tolerance` has the unit of the loss.

        The verdict is about the grid points, and the rises between them that the derivative shows.
        """
        if self.invalid:
            first = self.invalid[0]
            return (
                f"No verdict: the loss is NaN or infinite at {len(self.invalid)} of {len(self.alphas)} points, "
                f"first at α = {first.alpha:.4g} ({first.examples} of {self.examples} examples, first {first.first})."
            )
        return f"{self._verdict(tolerance)}{self._jumps()}"

    def _jumps(self) -> str:
        """The integers that jump at α = ½, in a sentence; "" for none but the counters of batch norm."""
        names = [name for name in self.how.get("jumps", []) if not name.endswith("num_batches_tracked")]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        shown = ", ".join(map(repr, names[:3]))
        return f" Not interpolated but from the nearer end, with a jump at α = 0.5: {shown}{more}." if names else ""

    def _verdict(self, tolerance: float) -> str:
        inside = self._inside("alphas")
        where = f"on {len(inside)} points, tolerance {tolerance:g} {self.unit}".rstrip()
        losses = self._inside("loss")
        floor = self.how.get("noise_floor", 0.0)
        if tolerance < self.max_rise <= tolerance + floor or (tolerance > 0 and self.max_rise <= tolerance < floor):
            return (
                f"Undecided: the loss rises by {self.max_rise:.4g} {self.unit} in {self.how['dtype']}, where one "
                f"rounding of it is up to {floor:.2g}: measure in a wider dtype ({where})."
            )
        if self.max_rise > tolerance:
            largest = max(self.rises, key=lambda rise: rise.height)
            shape = (
                "never falls" if losses.min() == losses[0] else f"rises by {largest.height:.4g} {self.unit}".rstrip()
            )
            return f"Not monotonic: the loss {shape}, from α = {largest.opens:.4g} to {largest.peak:.4g} ({where})."
        hidden = [rise for rise in self.hidden_rises if rise.estimate > tolerance]
        if hidden:
            worst = max(hidden, key=lambda rise: rise.estimate)
            return (
                f"Falls from point to point, but the derivative shows a rise of about {worst.estimate:.2g} {self.unit} "
                f"hidden between α = {worst.left:.4g} and {worst.right:.4g} ({where})."
            )
        return f"Monotonic as far as the grid shows: the loss never rises by more than the tolerance ({where})."

    def _positions(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Indices of the points with 0 ≤ α ≤ 1, which readings use.

        Raises `NonFiniteLoss` if one of them is invalid.
        """
        inside = np.flatnonzero((self.alphas >= 0) & (self.alphas <= 1))
        bad = [point for point in self.invalid if 0 <= point.alpha <= 1]
        if bad:
            raise NonFiniteLoss(
                explain(
                    expected="finite losses on [0, 1]: a curve with NaN or inf has no verdict.",
                    got=f"{bad[0].examples} of {self.examples} examples NaN or infinite at α = {bad[0].alpha:.6g}, the "
                    f"first is number {bad[0].first} ({len(bad)} such points).",
                    hint="Measure with dtype=torch.float64, or look at what the network does to that example.",
                )
            )
        return inside

    def _inside(self, name: str) -> Floats:
        values: Floats = getattr(self, name)[self._positions()]
        return values

    def _has_ends(self) -> bool:
        inside = self.alphas[(self.alphas >= 0) & (self.alphas <= 1)]
        return len(inside) > 1 and inside[0] == 0 and inside[-1] == 1

    def _require_ends(self) -> None:
        if not self._has_ends():
            raise ValueError(
                explain(
                    expected="a grid that contains 0 and 1, as this reading uses the losses at both ends.",
                    got=f"a grid from {self.alphas.min():.4g} to {self.alphas.max():.4g}.",
                    hint="Include both among alphas.",
                )
            )
