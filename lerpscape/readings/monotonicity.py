"""Numbers that describe a sequence of losses along a path: its rises, barriers, convexity and plateau.

Every function takes a sequence or a numpy array of losses. `alphas` defaults to an even grid on [0, 1].
NaN or infinity among the losses raises `NonFiniteLoss`. A reading that is undefined for a curve, such as a ratio to a
drop of the loss that does not occur, is `nan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain

Values: TypeAlias = Sequence[float] | NDArray[np.floating]
BarrierKind: TypeAlias = Literal["mean", "chord", "max", "midpoint", "signed"]


@dataclass(frozen=True)
class Rise:
    """One excursion of the loss above its running minimum.

    `opens` is the α of the last grid point at the running minimum, `peak` that of the highest point after it, and
    `closes` that of the first point back at or below the minimum. If there is none, `closes` is the last α and
    `returns` is false. `height` is the loss at `peak` minus the minimum.
    """

    opens: float
    peak: float
    closes: float
    height: float
    returns: bool

    @property
    def width(self) -> float:
        """`closes` − `opens`, accurate to one grid step at either side."""
        return self.closes - self.opens


def max_rise(losses: Values) -> float:
    """Largest amount by which a later loss exceeds an earlier one, called min Δ by Lucas et al.

    max over i ≤ j of L_j − L_i, in the unit of the losses. Never negative, and 0 exactly if the sequence never
    increases. Adding points to a grid never lowers it.

    Raises `NonFiniteLoss` for NaN or inf, `ValueError` for fewer than two values.

    Source: Lucas et al. (2021), "Analyzing Monotonic Linear Interpolation".

    >>> max_rise([2.0, 1.0, 1.5, 0.2])
    0.5
    >>> max_rise([3.0, 2.0, 1.0])
    0.0
    """
    values = _losses(losses)
    return float(np.max(values - np.minimum.accumulate(values)))


def is_monotonic(losses: Values, tolerance: float) -> bool:
    """Whether no later loss exceeds an earlier one by more than `tolerance`: max_rise ≤ tolerance.

    `tolerance` has the unit of the loss. It has no default, because published work uses 0, 1e-3 and 1e-2.

    Raises `NonFiniteLoss` for NaN or inf, `ValueError` for a negative tolerance.

    Source: Lucas et al. (2021).

    >>> is_monotonic([1.0, 0.5, 0.5005], tolerance=1e-3), is_monotonic([0.1, 0.2], tolerance=0)
    (True, False)
    """
    if not tolerance >= 0:
        raise ValueError(
            explain(expected="a tolerance ≥ 0, in the unit of the loss.", got=f"{tolerance}.", hint="Use 0 for strict.")
        )
    return max_rise(losses) <= tolerance


def rises(losses: Values, alphas: Values | None = None) -> tuple[Rise, ...]:
    """Every maximal excursion of the losses above their running minimum (bumps of Lucas et al.), in order of α.

    The largest height is `max_rise`.

    Raises `NonFiniteLoss` for NaN or inf, `ValueError` for a grid that does not fit.

    >>> rises([2.0, 1.0, 1.5, 0.5, 0.4])
    (Rise(opens=0.25, peak=0.5, closes=0.75, height=0.5, returns=True),)
    """
    values, grid = checked_curve(losses, alphas)
    excursions: list[Rise] = []
    low = 0  # last index at the running minimum
    index = 1
    while index < len(values):
        if values[index] <= values[low]:
            low = index
            index += 1
            continue
        back = np.flatnonzero(values[index:] <= values[low])
        end = index + int(back[0]) if len(back) else len(values) - 1
        peak = index + int(np.argmax(values[index : end + 1]))
        excursions.append(
            Rise(
                opens=float(grid[low]),
                peak=float(grid[peak]),
                closes=float(grid[end]),
                height=float(values[peak] - values[low]),
                returns=len(back) > 0,
            )
        )
        if not len(back):
            break
        low, index = end, end + 1
    return tuple(excursions)


def relative_rise(losses: Values) -> float:
    """`max_rise` relative to the drop from the first to the last loss: max_rise / (L(0) − L(1)).

    Has no unit, so that different losses can be compared. `nan` if the last loss is not below the first.

    >>> relative_rise([2.0, 1.0, 1.5, 0.0]), relative_rise([1.0, 1.0])
    (0.25, nan)
    """
    values = _losses(losses)
    drop = values[0] - values[-1]
    return max_rise(values) / float(drop) if drop > 0 else float("nan")


def max_step(losses: Values) -> float:
    """Largest increase between neighbouring points: max_i (L_{i+1} − L_i). Negative for a strictly falling curve.

    It shrinks as the grid is refined, so only grids of the same size are comparable.

    Source: Lim et al. (2024), with 25 points.

    >>> max_step([2.0, 1.0, 1.5, 1.75])
    0.5
    """
    return float(np.max(np.diff(_losses(losses))))


def barrier(losses: Values, kind: BarrierKind, alphas: Values | None = None) -> float:
    """Height of the curve above a reference value of its two ends, under one of five published definitions.

    * `"mean"`: max_α L(α) − (L(0) + L(1))/2 (linear mode connectivity, Frankle et al. 2020)
    * `"chord"`: max_α [L(α) − ((1−α)L(0) + αL(1))] (Git Re-Basin, Ainsworth et al. 2023)
    * `"max"`: max_α L(α) − max(L(0), L(1))
    * `"midpoint"`: L(½) − (L(0) + L(1))/2 (Lim et al. 2024)
    * `"signed"`: mean of the ends minus L(t*), t* the point farthest from that mean; negative for a barrier
      (Yang et al. 2021)

    Raises `ValueError` for an unknown kind, a grid that lacks 0 or 1, or `"midpoint"` on a grid without ½.

    >>> barrier([1.0, 3.0, 0.0], "mean"), barrier([1.0, 3.0, 0.0], "max"), barrier([1.0, 3.0, 0.0], "signed")
    (2.5, 2.0, -2.5)
    """
    values, grid = checked_curve(losses, alphas, ends=True)
    first, last = values[0], values[-1]
    middle = (first + last) / 2
    if kind == "mean":
        return float(values.max() - middle)
    if kind == "chord":
        return float(np.max(values - _chord(values, grid)))
    if kind == "max":
        return float(values.max() - max(first, last))
    if kind == "midpoint":
        half = np.flatnonzero(np.abs(grid - 0.5) < 1e-12)
        if not len(half):
            raise ValueError(
                explain(
                    expected="a grid that contains α = 0.5.",
                    got=f"{len(grid)} points without it.",
                    hint="Use an odd count.",
                )
            )
        return float(values[half[0]] - middle)
    if kind == "signed":
        return float(middle - values[np.argmax(np.abs(values - middle))])
    raise ValueError(
        explain(
            expected='"mean", "chord", "max", "midpoint" or "signed".',
            got=f"{kind!r}.",
            hint="See `help(lerpscape.barrier)`.",
        )
    )


def local_convexity(losses: Values, alphas: Values | None = None) -> float:
    """Share of interior points at which the curve is convex: L_{i+1} − 2L_i + L_{i−1} ≥ 0.

    On an uneven grid, the share at which the slope does not decrease. `nan` for fewer than three points.

    Source: Lim et al. (2024), for even grids.

    >>> local_convexity([4.0, 1.0, 0.0, 1.0]), local_convexity([0.0, 1.0, 1.5])
    (1.0, 0.0)
    >>> local_convexity([0.0, 1.0, 1.5], alphas=[0.0, 0.9, 1.0])
    1.0
    """
    values, grid = checked_curve(losses, alphas)
    if len(values) < 3:
        return float("nan")
    steps = np.diff(grid)
    even = np.ptp(steps) <= 1e-9 * steps.max()
    bends = np.diff(values, 2) if even else np.diff(np.diff(values) / steps)
    return float(np.mean(bends >= 0))


def global_convexity(losses: Values, alphas: Values | None = None) -> float:
    """Share of interior points at or below the chord between the ends: L(α) ≤ (1−α)L(0) + αL(1).

    `nan` for fewer than three points.

    Source: Lim et al. (2024).

    >>> global_convexity([1.0, 0.2, 0.0]), global_convexity([1.0, 0.9, 0.0])
    (1.0, 0.0)
    """
    values, grid = checked_curve(losses, alphas, ends=True)
    below = values <= _chord(values, grid)
    return float(np.mean(below[1:-1])) if len(values) > 2 else float("nan")


def plateau(losses: Values, eps: float, alphas: Values | None = None) -> float:
    """End of the plateau at the start: the α up to which the loss stays within a share `eps` of its total drop.

    `sup{α : |L(β) − L(0)| ≤ eps·(L(0) − L(1)) for all β ≤ α}`, on the curve that interpolates linearly between grid
    points. `nan` if L(0) ≤ L(1).

    Raises `ValueError` unless 0 ≤ eps < 1.

    Sources: Frankle (2020), Wang et al. (2022).

    >>> plateau([1.0, 1.0, 0.5, 0.0], eps=0.25, alphas=[0, 0.5, 0.75, 1])
    0.625
    """
    if not 0 <= eps < 1:
        raise ValueError(
            explain(expected="0 ≤ eps < 1, a share of the drop.", got=f"{eps}.", hint="0.05 is a usual choice.")
        )
    values, grid = checked_curve(losses, alphas, ends=True)
    allowed = eps * (values[0] - values[-1])
    if not values[0] > values[-1]:
        return float("nan")
    deviation = np.abs(values - values[0])
    outside = int(np.flatnonzero(deviation > allowed)[0])  # the last point deviates by the whole drop
    # The curve is linear on the interval where it leaves the band, so one linear equation gives the crossing.
    before, after = values[outside - 1] - values[0], values[outside] - values[0]
    edge = allowed if after > 0 else -allowed
    share = (edge - before) / (after - before)
    return float(grid[outside - 1] + share * (grid[outside] - grid[outside - 1]))


def area(losses: Values, alphas: Values | None = None) -> float:
    """Area under the normalised curve, by the trapezoid rule: ∫ (L(α) − L(1)) / (L(0) − L(1)) dα.

    ½ for a straight line, near 1 for a long plateau. `nan` if the last loss is not below the first.

    >>> area([1.0, 0.5, 0.0]), area([1.0, 0.0, 0.0])
    (0.5, 0.25)
    """
    values, grid = checked_curve(losses, alphas, ends=True)
    drop = values[0] - values[-1]
    if not drop > 0:
        return float("nan")
    shares = (values - values[-1]) / drop
    return float(np.sum((shares[1:] + shares[:-1]) / 2 * np.diff(grid)))


def _losses(losses: Values) -> Floats:
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            explain(
                expected="a sequence of at least two losses.",
                got=f"an array of shape {values.shape}.",
                hint="Use more points.",
            )
        )
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise NonFiniteLoss(
            explain(
                expected="finite losses: a curve with NaN or inf has no verdict.",
                got=f"{values[wrong[0]]} at position {wrong[0]} ({len(wrong)} of {len(values)} points).",
                hint="Measure in float64, or read the finite part of the curve alone.",
            )
        )
    return values


def checked_curve(losses: Values, alphas: Values | None, ends: bool = False) -> tuple[Floats, Floats]:
    """Losses and grid as arrays, after checking them; with `ends`, the grid must run from exactly 0 to exactly 1.

    Raises `NonFiniteLoss` for NaN or inf, `ValueError` for fewer than two losses and for a grid that does not fit.
    """
    values = _losses(losses)
    grid = np.linspace(0, 1, len(values)) if alphas is None else np.asarray(alphas, dtype=np.float64)
    if grid.shape != values.shape or not np.all(np.diff(grid) > 0):
        raise ValueError(
            explain(
                expected=f"{len(values)} increasing alphas, one per loss.",
                got=f"an array of shape {grid.shape}.",
                hint="Sort both by α.",
            )
        )
    if ends and (grid[0] != 0 or grid[-1] != 1):
        raise ValueError(
            explain(
                expected="a grid from exactly 0 to exactly 1, as this reading uses the losses at both ends.",
                got=f"a grid from {grid[0]} to {grid[-1]}.",
                hint="Include both ends, or cut the curve to [0, 1].",
            )
        )
    return values, grid


def _chord(values: Floats, grid: Floats) -> Floats:
    """The straight line between the first and the last loss, exact at both."""
    chord: Floats = (1 - grid) * values[0] + grid * values[-1]
    return chord
