"""Rises between two points of a grid, which the losses at the points do not show but the derivatives do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lerpscape.base.errors import explain
from lerpscape.readings.monotonicity import Values, checked_curve, max_rise

# A computed value of the cubic differs from the exact one by at most 10 unit roundoffs of its terms: 4 in its
# coefficients and 6 in Horner's rule (Higham 2002, section 5.1). The terms add up to at most 4|m0| + 2|m1| + 5|drop|.
# So a difference of two values below 2 · 10 · 5 unit roundoffs of |m0| + |m1| + |drop| is rounding.
UNIT, ROUNDINGS = 2.0**-53, 100


@dataclass(frozen=True)
class HiddenRise:
    """A grid interval over which the losses do not rise although the derivative at one of its ends is positive.

    `left` and `right` are its ends, `estimate` the rise inside it, in the unit of the loss, on the cubic through both
    losses and both derivatives (Hermite interpolation).
    """

    left: float
    right: float
    estimate: float


def hidden_rises(losses: Values, derivative: Values, alphas: Values | None = None) -> tuple[HiddenRise, ...]:
    """Grid intervals over which the losses do not rise although dL/dα > 0 at one end, so that the loss rises inside.

    The height of the rise is estimated on the cubic through both losses and both derivatives. Intervals with a
    derivative that is not finite are skipped, and so are those whose estimate is within the rounding of the cubic in
    float64.

    Raises `NonFiniteLoss` for NaN or inf among the losses, `ValueError` for arrays of different lengths.

    >>> hidden_rises([1.0, 0.0], [-1.0, 0.5])[0].left, hidden_rises([1.0, 0.0], [-1.0, -0.5])
    (0.0, ())
    """
    values, grid = checked_curve(losses, alphas)
    slopes = np.asarray(derivative, dtype=np.float64)
    if slopes.shape != values.shape:
        raise ValueError(
            explain(
                expected=f"one derivative per loss ({len(values)}).",
                got=f"an array of shape {slopes.shape}.",
                hint="Pass matching lists.",
            )
        )
    rises = []
    for i in range(len(values) - 1):
        finite = np.isfinite(slopes[i : i + 2]).all()
        if not finite or values[i + 1] > values[i] or (slopes[i] <= 0 and slopes[i + 1] <= 0):
            continue
        width = grid[i + 1] - grid[i]
        estimate = _hermite_rise(values[i], values[i + 1], slopes[i], slopes[i + 1], width)
        size = abs(values[i + 1] - values[i]) + width * (abs(slopes[i]) + abs(slopes[i + 1]))
        if estimate > ROUNDINGS * UNIT * size:
            rises.append(HiddenRise(float(grid[i]), float(grid[i + 1]), estimate))
    return tuple(rises)


def _hermite_rise(left: float, right: float, slope_left: float, slope_right: float, width: float) -> float:
    """max_rise of the cubic with the given values and slopes at the ends of an interval of this width."""
    # p(s) = left + m0 s + b s² + c s³ on s in [0, 1]; p′(s) = m0 + 2 b s + 3 c s²
    drop, m0, m1 = right - left, slope_left * width, slope_right * width
    b, c = 3 * drop - 2 * m0 - m1, m0 + m1 - 2 * drop
    discriminant = b * b - 3 * c * m0
    turning = []
    if discriminant >= 0:
        # The numerically stable form of both roots, as c may be nothing but rounding, for example on a parabola.
        q = -(b + math.copysign(math.sqrt(discriminant), b))
        turning = [top / bottom for top, bottom in ((q, 3 * c), (m0, q)) if bottom != 0]
    points = np.array([0.0, *sorted(s for s in turning if 0 < s < 1), 1.0])
    # p(s) − left, so that a rise far below the rounding of the losses themselves is not lost.
    return max_rise(points * (m0 + points * (b + points * c)))
