"""Where to measure next: points go where the curve is not yet predicted by its neighbours."""

from __future__ import annotations

import numpy as np

from lerpscape.errors import three_parts
from lerpscape.monotonicity import Floats

# Points to begin with: a bump wider than their distance leaves a trace in a value or a derivative.
FIRST = 9
# Where the curve does not settle (kinks, noise), refining ends here; the result says so.
MOST = 129
# An error of fourth order falls to a sixteenth when an interval is halved; a quarter of that gain is trusted.
TRUSTED_GAIN = 4.0


def interval_errors(alphas: Floats, losses: Floats, slopes: Floats | None) -> Floats:
    """Estimated error of the interpolated curve inside each interval, in the unit of the losses; shape (points − 1,).

    Every inner point is predicted from the others: by the cubic through both neighbours' losses and derivatives where
    there are derivatives, else by the cubic through the four nearest points. What is missed, in the loss or in the
    derivative times the distance, divided by `TRUSTED_GAIN`, is the error on both sides of the point. An estimate: a
    bump that leaves no trace at any point is not seen.

    >>> grid = np.linspace(0, 1, 5)
    >>> bool(interval_errors(grid, grid**3, 3 * grid**2).max() < 1e-15)
    True
    """
    missed = np.zeros(len(alphas))
    for i in range(1, len(alphas) - 1):
        if slopes is None:
            missed[i] = abs(_from_nearest(alphas, losses, i) - losses[i])
            continue
        left, right = i - 1, i + 1
        width = alphas[right] - alphas[left]
        value, slope = _hermite(
            (alphas[i] - alphas[left]) / width, losses[left], losses[right], slopes[left] * width, slopes[right] * width
        )
        missed[i] = max(abs(value - losses[i]), abs(slope / width - slopes[i]) * width / 8)
    errors: Floats = np.maximum(missed[:-1], missed[1:]) / TRUSTED_GAIN
    return errors


def next_points(alphas: Floats, losses: Floats, slopes: Floats | None, tolerance: float) -> Floats:
    """Midpoints of the intervals whose error exceeds `tolerance` times the range of the losses; none when settled.

    Only the larger half of the errors is refined at a time, as one new point settles several intervals.

    Raises `ValueError` for a tolerance that is not positive.

    >>> grid = np.linspace(0, 1, 9)
    >>> next_points(grid, np.abs(grid - 0.45), None, 1e-3)
    array([0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875])
    """
    if not tolerance > 0:
        raise ValueError(
            three_parts(
                "a tolerance above 0, as a share of the range of the loss.", f"{tolerance!r}.", "1e-3 is usual."
            )
        )
    errors = interval_errors(alphas, losses, slopes)
    scale = float(np.ptp(losses))
    wanted = (errors > tolerance * scale) & (errors >= errors.max() / 2) & (np.diff(alphas) > 1e-6)
    middles: Floats = (alphas[:-1] + alphas[1:])[wanted] / 2
    return middles[: max(MOST - len(alphas), 0)] if np.isfinite(losses).all() else middles[:0]


def interpolated(alphas: Floats, losses: Floats, slopes: Floats | None, at: Floats) -> Floats:
    """The curve between the points as the error estimates mean it, at increasing α.

    >>> interpolated(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([0.0, 3.0]), np.array([0.5]))
    array([0.125])
    """
    found = np.empty(len(at))
    for k, alpha in enumerate(at):
        right = int(np.clip(np.searchsorted(alphas, alpha), 1, len(alphas) - 1))
        if slopes is None:
            first = int(np.clip(right - 2, 0, max(len(alphas) - 4, 0)))
            near = slice(first, first + 4)
            found[k] = _lagrange(alphas[near], losses[near], float(alpha))
            continue
        left, width = right - 1, alphas[right] - alphas[right - 1]
        found[k], _ = _hermite(
            (alpha - alphas[left]) / width, losses[left], losses[right], slopes[left] * width, slopes[right] * width
        )
    return found


def _hermite(s: float, left: float, right: float, slope_left: float, slope_right: float) -> tuple[float, float]:
    """Value and slope at s in [0, 1] of the cubic with these values and slopes at 0 and 1."""
    b = 3 * (right - left) - 2 * slope_left - slope_right
    c = slope_left + slope_right - 2 * (right - left)
    return left + s * (slope_left + s * (b + s * c)), slope_left + s * (2 * b + 3 * s * c)


def _from_nearest(alphas: Floats, losses: Floats, i: int) -> float:
    others = sorted((j for j in range(len(alphas)) if j != i), key=lambda j: abs(alphas[j] - alphas[i]))[:4]
    return _lagrange(alphas[others], losses[others], float(alphas[i]))


def _lagrange(nodes: Floats, values: Floats, at: float) -> float:
    total = 0.0
    for i, (node, value) in enumerate(zip(nodes, values, strict=True)):
        others = np.delete(nodes, i)
        total += float(value * np.prod((at - others) / (node - others)))
    return total
