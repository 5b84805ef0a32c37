"""Rises between the points of a grid, which only the derivative shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lerpscape.base.errors import explain
from lerpscape.readings.monotonicity import Values, checked_curve, max_rise

# A value of the cubic differs from the exact one by at most 10 unit roundoffs of its terms: 4 in its coefficients and 6
# in Horner's rule (Higham 2002, section 5.1). Its terms add up to at most 4|m0| + 2|m1| + 5|drop|, so that a difference
# of two values below 2 · 10 · 5 unit roundoffs of |m0| + |m1| + |drop| is rounding and no rise.
UNIT, ROUNDINGS = 2.0**-53, 100


@dataclass(frozen=True)
class HiddenRise:
    """A grid interval over which the losses do not rise although the derivative at one of its ends is positive.

    `estimate` is the rise inside it on the cubic that meets both losses and both derivatives (Hermite).
    """

    left: float
    right: float
    estimate: float


def hidden_rises(losses: Values, derivative: Values, alphas: Values | None = None) -> tuple[HiddenRise, ...]:
    """Rises that a grid cannot see: the losses do not rise over an interval, yet dL/dα > 0 at one of its ends.

    A positive derivative at a grid point means that the loss rises right there, whatever the losses at the grid
    points do. The estimated height comes from the cubic through both losses and both derivatives; one that is not
    above the rounding of that cubic in float64 is no rise.

    An interval with a derivative that is not finite says nothing and is passed over.

    Raises `NonFiniteLoss` for NaN or inf among the losses, `ValueError` for lengths that differ.

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
    found = []
    for i in range(len(values) - 1):
        known = np.isfinite(slopes[i : i + 2]).all()
        if not known or values[i + 1] > values[i] or (slopes[i] <= 0 and slopes[i + 1] <= 0):
            continue
        width = grid[i + 1] - grid[i]
        estimate = _hermite_rise(values[i], values[i + 1], slopes[i], slopes[i + 1], width)
        sizes = abs(values[i + 1] - values[i]) + width * (abs(slopes[i]) + abs(slopes[i + 1]))
        if estimate > ROUNDINGS * UNIT * sizes:
            found.append(HiddenRise(float(grid[i]), float(grid[i + 1]), estimate))
    return tuple(found)


def _hermite_rise(left: float, right: float, slope_left: float, slope_right: float, width: float) -> float:
    """max_rise of the cubic with the given values and slopes at the ends of an interval of this width."""
    # p(s) = left + m0 s + b s² + c s³ on s in [0, 1]; p′(s) = m0 + 2 b s + 3 c s²
    drop, m0, m1 = right - left, slope_left * width, slope_right * width
    b, c = 3 * drop - 2 * m0 - m1, m0 + m1 - 2 * drop
    discriminant = b * b - 3 * c * m0
    turning = []
    if discriminant >= 0:
        # The stable form of both roots: c may be mere rounding, as on a parabola.
        q = -(b + math.copysign(math.sqrt(discriminant), b))
        turning = [top / bottom for top, bottom in ((q, 3 * c), (m0, q)) if bottom != 0]
    points = np.array([0.0, *sorted(s for s in turning if 0 < s < 1), 1.0])
    # Measured from `left`, so that a rise far below the rounding of the losses themselves is not lost.
    return max_rise(points * (m0 + points * (b + points * c)))
