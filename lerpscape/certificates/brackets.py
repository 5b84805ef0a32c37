"""A bracket of the largest rise, from bounds of L at points and of dL/dα between them.

Every bound is computed by a few operations on floats and then moved outwards by more than their rounding errors, except
that zero remains zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Relative rounding error allowed for in every bound: that of 64 operations.
OUTWARD = 2.0**-46


@dataclass(frozen=True)
class Point:
    """Bounds of L at one α: low ≤ L(alpha) ≤ high."""

    alpha: float
    low: float
    high: float


@dataclass(frozen=True)
class Piece:
    """Bounds of dL/dα on [left, right]: at almost every α it lies between two lines.

    `low` and `high` are the values of the lines at left and right.
    """

    left: float
    right: float
    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def direction(self) -> str:
        """The sign of dL/dα that the bounds prove: `falling` (≤ 0), `rising` (≥ 0), `flat` (= 0) or `undecided`."""
        falls, climbs = max(self.high) <= 0, min(self.low) >= 0
        return "flat" if falls and climbs else "falling" if falls else "rising" if climbs else "undecided"


@dataclass(frozen=True)
class Bracket:
    """lower ≤ sup over α₁ < α₂ of L(α₂) − L(α₁) ≤ upper, with the bounds of each piece that it follows from.

    The loss rises by at least `lower` from α = `lowest` to α = `highest`. For each piece, `inside` is an upper bound of
    the rises within it, `reached` one of the rises that end in it, and `culprit` the index of the piece that should be
    divided to lower `reached`.
    """

    lower: float
    upper: float
    lowest: float
    highest: float
    inside: tuple[float, ...]
    reached: tuple[float, ...]
    culprit: tuple[int, ...]


def bracket(points: Sequence[Point], pieces: Sequence[Piece]) -> Bracket:
    """Bracket the largest rise over adjacent pieces, with a point at every end of a piece.

    Let e_j be a bound of L at the right end of piece j minus the lowest loss up to there, D_j one of the change of L
    over piece j, and I_j one of any rise within it. A rise that ends in piece j starts in it or before it, so
    reached_j = max(I_j, e_{j−1} + I_j) and e_j = max(I_j, e_{j−1} + D_j). e_j is also at most the upper bound of the
    loss at the point minus a lower bound of all losses before, so that errors do not accumulate. If all pieces are
    falling, all e_j are exactly zero.

    >>> points = [Point(0.0, 1.0, 1.0), Point(0.5, 0.0, 0.0), Point(1.0, 0.25, 0.25)]
    >>> pieces = [Piece(0.0, 0.5, (-3.0, -3.0), (-1.0, -1.0)), Piece(0.5, 1.0, (0.0, 0.0), (1.0, 1.0))]
    >>> rise = bracket(points, pieces)
    >>> round(rise.lower, 9), round(rise.upper, 9), rise.culprit
    (0.25, 0.25, (0, 1))
    """
    lower, lowest, highest = _lower(points)
    inside: list[float] = []
    reached: list[float] = []
    culprits: list[int] = []
    excess, floor, floor_piece, floor_slack = 0.0, float("inf"), 0, 0.0
    for index, piece in enumerate(pieces):
        start, end = points[index], points[index + 1]
        fall, rise, change = _moves(piece, start, end)
        inside.append(rise)
        slack = max(0.0, rise - max(0.0, end.high - start.low))
        peak = _up(min(_up(start.high + rise), _up(end.high - fall)))
        before = min(_up(excess + rise), _up(peak - floor))
        reached.append(max(rise, before))
        by_floor = before > rise and floor_slack > slack
        # A piece without a rise passes on what was reached before it.
        own = index if rise > 0 or not culprits else culprits[-1]
        culprits.append(floor_piece if by_floor else own)
        dip = max(_down(end.low - rise), _down(start.low + fall))
        if dip < floor:
            floor, floor_piece = dip, index
            floor_slack = max(0.0, min(start.low, end.low) - dip - 4 * OUTWARD * abs(dip))
        excess = max(0.0, min(max(rise, _up(excess + change)), _up(end.high - floor)))
    return Bracket(lower, max(reached), lowest, highest, tuple(inside), tuple(reached), tuple(culprits))


def _lower(points: Sequence[Point]) -> tuple[float, float, float]:
    """The largest rise that the points prove, with the two α between which it is."""
    best = (0.0, points[0].alpha, points[0].alpha)
    low = points[0]
    for point in points[1:]:
        rise = _down(point.low - low.high)
        if rise > best[0]:
            best = (rise, low.alpha, point.alpha)
        if point.high < low.high:
            low = point
    return best


def _moves(piece: Piece, start: Point, end: Point) -> tuple[float, float, float]:
    """Bounds of the largest fall (≤ 0) and rise (≥ 0) within a piece, and of the change of L over it.

    Let l ≤ L′ ≤ h on a piece of width w, over which L changes by D. A rise over a length τ is at most hτ and at most
    D − l(w − τ), so it is at most their common value at τ = (D − lw)/(h − l).
    """
    width = piece.right - piece.left
    rise, fall = _area(piece.high, width), -_area((-piece.low[0], -piece.low[1]), width)
    change = min(_up(0.5 * width * (piece.high[0] + piece.high[1])), _up(end.high - start.low))
    high, low = max(piece.high), min(piece.low)
    rise = max(0.0, min(rise, _up(change - fall)))
    if low < 0 < high and math.isfinite(high - low):
        rise = min(rise, max(0.0, _up(high * (_up(change - low * width) / (high - low)))))
    return fall, rise, change


def _area(line: tuple[float, float], width: float) -> float:
    """∫ max(0, line) over a piece of this width, rounded up."""
    one, other = line
    if one <= 0 and other <= 0:
        return 0.0
    if one >= 0 and other >= 0:
        return _up(0.5 * width * (one + other))
    most, least = max(line), min(line)
    return _up(0.5 * width * most * (most / (most - least)))


def _up(value: float) -> float:
    return value + OUTWARD * abs(value)


def _down(value: float) -> float:
    return value - OUTWARD * abs(value)
