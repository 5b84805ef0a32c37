"""Where to measure next: points go where the curve is not yet predicted by its neighbours.

A pilot sample of the examples is measured on a fine grid first, which costs about as much as all of them at one or two
points. It shows where the curve bends; what the other examples add is smoother, and is estimated at the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.readings.monotonicity import max_rise

# Points to begin with, with and without a pilot sample.
FIRST, FIRST_ALONE = 5, 9
# Points of a pilot sample, and its examples: one in so many, within bounds.
PILOT_GRID = np.linspace(0.0, 1.0, 257)
ONE_IN, FEWEST_PILOTS, MOST_PILOTS = 128, 16, 256
# The sample's errors are multiplied by this, as it stands for all examples.
MARGIN = 1.5
# Where the curve does not settle (kinks, noise), refinement ends at so many points; the result says so.
MOST = 129
# An error of fourth order falls to a sixteenth when an interval is halved; a quarter of that gain is trusted.
TRUSTED_GAIN = 4.0


@dataclass(frozen=True)
class PilotSample:
    """The mean loss of a few examples at `PILOT_GRID`, as a stand-in for the curve between the points measured."""

    losses: Floats
    examples: int

    def at(self, alphas: Floats) -> tuple[Floats, Floats]:
        """Losses and slopes at any α, between the points of the fine grid linear."""
        slopes = np.gradient(self.losses, PILOT_GRID, edge_order=2)
        return np.interp(alphas, PILOT_GRID, self.losses), np.interp(alphas, PILOT_GRID, slopes)

    def errors(self, alphas: Floats, with_slopes: bool) -> tuple[Floats, Floats]:
        """The largest error of interpolation inside each interval, on the sample's curve, and where."""
        losses, slopes = self.at(alphas)
        missed = np.abs(interpolated(alphas, losses, slopes if with_slopes else None, PILOT_GRID) - self.losses)
        errors, places = np.zeros(len(alphas) - 1), (alphas[:-1] + alphas[1:]) / 2
        for i in range(len(errors)):
            inside = np.flatnonzero((alphas[i] < PILOT_GRID) & (alphas[i + 1] > PILOT_GRID))
            if len(inside):
                worst = inside[missed[inside].argmax()]
                errors[i], places[i] = missed[worst], PILOT_GRID[worst]
        return errors, places


def pilot_size(examples: int) -> int:
    """The number of examples in the pilot sample of so many.

    >>> pilot_size(10), pilot_size(60_000)
    (10, 256)
    """
    return min(examples, max(FEWEST_PILOTS, min(examples // ONE_IN, MOST_PILOTS)))


def interval_errors(alphas: Floats, losses: Floats, slopes: Floats | None) -> Floats:
    """Estimated error of the interpolated curve inside each interval, in the unit of the losses; shape (points − 1,).

    Every inner point is predicted from the others: by the cubic through both neighbours' losses and derivatives where
    there are derivatives, else by the cubic through the four nearest points. The error of that prediction, in the loss
    or in the derivative times the distance, divided by `TRUSTED_GAIN`, is the estimate on both sides of the point. It
    does not see a bump that leaves no trace at any point.

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


def curve_errors(
    alphas: Floats, losses: Floats, slopes: Floats | None, pilot: PilotSample | None
) -> tuple[Floats, Floats]:
    """Estimated error of the interpolated curve inside each interval, and where it is the largest.

    With a pilot sample: the error on the sample's curve times `MARGIN`, plus the `interval_errors` of the rest.

    >>> grid = np.array([0.0, 0.5, 1.0])
    >>> errors, places = curve_errors(grid, grid, None, PilotSample(np.exp(-(((PILOT_GRID - 0.75) / 0.02) ** 2)), 16))
    >>> round(errors[1], 2), places[1]
    (np.float64(1.5), np.float64(0.75))
    """
    if pilot is None:
        return interval_errors(alphas, losses, slopes), (alphas[:-1] + alphas[1:]) / 2
    known, known_slopes = pilot.at(alphas)
    missed, places = pilot.errors(alphas, slopes is not None)
    rest = interval_errors(alphas, losses - known, None if slopes is None else slopes - known_slopes)
    return MARGIN * missed + rest, np.where(missed >= rest, places, (alphas[:-1] + alphas[1:]) / 2)


def first_points(pilot: PilotSample | None, precision: float, *, with_slopes: bool) -> Floats:
    """Points to measure together at first: as many as the pilot sample's own curve needs.

    What all α share is then computed once for most of the points.

    >>> first_points(None, 1e-3, with_slopes=False)
    array([0.   , 0.125, 0.25 , 0.375, 0.5  , 0.625, 0.75 , 0.875, 1.   ])
    >>> len(first_points(PilotSample(np.exp(-4 * PILOT_GRID), 256), 1e-3, with_slopes=True))
    6
    """
    if pilot is None:
        return np.linspace(0.0, 1.0, FIRST_ALONE)
    grid, new = np.empty(0), np.linspace(0.0, 1.0, FIRST)
    while len(new):
        grid = np.union1d(grid, new)
        losses, slopes = pilot.at(grid)
        new = next_points(grid, losses, slopes if with_slopes else None, precision, pilot)
    return grid


def next_points(
    alphas: Floats, losses: Floats, slopes: Floats | None, precision: float, pilot: PilotSample | None = None
) -> Floats:
    """New points, in the intervals whose error exceeds `precision` times the range of the losses; none when settled.

    Only errors of at least half the largest are refined at a time, as one new point may settle several intervals. Last
    come both ends of the largest rise of the interpolated curve, if it is higher than the points show.

    Raises `ValueError` for a precision that is not positive.

    >>> grid = np.linspace(0, 1, 9)
    >>> next_points(grid, np.abs(grid - 0.45), None, 1e-3)
    array([0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875])
    """
    if not precision > 0:
        raise ValueError(
            explain(
                expected="a precision above 0, as a share of the range of the loss.",
                got=f"{precision!r}.",
                hint="1e-3 is usual.",
            )
        )
    if not np.isfinite(losses).all():
        return alphas[:0]
    errors, places = curve_errors(alphas, losses, slopes, pilot)
    allowed = precision * float(np.ptp(losses))
    wanted = (errors > allowed) & (errors >= errors.max() / 2) & (np.diff(alphas) > 1e-6)
    points = places[wanted] if wanted.any() else _ends_of_the_rise(alphas, losses, slopes, allowed)
    return points[: max(MOST - len(alphas), 0)]


def reached(
    alphas: Floats, losses: Floats, slopes: Floats | None, precision: float, pilot: PilotSample | None
) -> dict[str, Any]:
    """How well these points know the curve, in plain numbers. The error is an estimate; only a certificate is a bound.

    >>> reached(np.linspace(0, 1, 9), np.linspace(1, 0, 9), None, 1e-3, None)["settled"]
    True
    """
    finite = bool(np.isfinite(losses).all())
    error = float(curve_errors(alphas, losses, slopes, pilot)[0].max()) if finite else float("nan")
    scale = float(np.ptp(losses))
    return {
        "precision": precision,
        "estimated_error": error,
        "range": scale,
        "settled": finite and error <= precision * scale,
        "widest_interval": float(np.diff(alphas).max()),
        "pilot_examples": 0 if pilot is None else pilot.examples,
    }


def _ends_of_the_rise(alphas: Floats, losses: Floats, slopes: Floats | None, allowed: float) -> Floats:
    """Where the largest rise of the interpolated curve begins and ends, if it is higher than the points show."""
    curve = interpolated(alphas, losses, slopes, PILOT_GRID)
    if max_rise(curve) <= max_rise(losses) + allowed:
        return alphas[:0]
    peak = int(np.argmax(curve - np.minimum.accumulate(curve)))
    ends = PILOT_GRID[[int(np.argmin(curve[: peak + 1])), peak]]
    return np.array([end for end in ends if np.abs(alphas - end).min() > 1e-6])


def interpolated(alphas: Floats, losses: Floats, slopes: Floats | None, at: Floats) -> Floats:
    """The curve between the points as the error estimates mean it, at increasing α.

    >>> interpolated(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([0.0, 3.0]), np.array([0.5]))
    array([0.125])
    """
    right = np.clip(np.searchsorted(alphas, at), 1, len(alphas) - 1)
    if slopes is None:
        count = min(4, len(alphas))
        near = np.clip(right - 2, 0, len(alphas) - count)[:, None] + np.arange(count)
        return _lagrange(alphas[near], losses[near], at)
    left, width = right - 1, alphas[right] - alphas[right - 1]
    values, _ = _hermite(
        (at - alphas[left]) / width, losses[left], losses[right], slopes[left] * width, slopes[right] * width
    )
    return values


def _hermite(s: Floats, left: Floats, right: Floats, slope_left: Floats, slope_right: Floats) -> tuple[Floats, Floats]:
    """Value and slope at s in [0, 1] of the cubic with these values and slopes at 0 and 1."""
    b = 3 * (right - left) - 2 * slope_left - slope_right
    c = slope_left + slope_right - 2 * (right - left)
    return left + s * (slope_left + s * (b + s * c)), slope_left + s * (2 * b + 3 * s * c)


def _from_nearest(alphas: Floats, losses: Floats, i: int) -> float:
    others = sorted((j for j in range(len(alphas)) if j != i), key=lambda j: abs(alphas[j] - alphas[i]))[:4]
    return float(_lagrange(alphas[others], losses[others], alphas[i]))


def _lagrange(nodes: Floats, values: Floats, at: Floats) -> Floats:
    """The polynomial through nodes and values, shape (…, points), at one place for each; shape (…)."""
    interpolant = np.zeros(np.shape(at))
    for i in range(nodes.shape[-1]):
        others = np.delete(nodes, i, axis=-1)
        gaps = nodes[..., i : i + 1] - others
        interpolant = interpolant + values[..., i] * np.prod((np.asarray(at)[..., None] - others) / gaps, axis=-1)
    return interpolant
