"""The largest change of a loss over steps of one width, from a line above its derivative on every interval."""

from __future__ import annotations

import numpy as np

from lerpscape.base.arrays import Floats

# Every number here is the result of a few hundred operations at most, each relative to the sizes that enter.
OUTWARD = 2.0**-40


def most_over_a_step(edges: Floats, lines: Floats, width: float) -> float:
    """An upper bound of L(α + width) − L(α) over all α, for L′ below lines given by their values at both ends.

    With H an integral of the lines, L(α + w) − L(α) ≤ U(α) = H(α + w) − H(α). Between the α at which α or α + w is
    at an edge, U is a parabola: its largest value is at an end or at its vertex.

    `edges` has shape (intervals + 1,), `lines` (intervals, 2).

    >>> round(most_over_a_step(np.array([0.0, 1.0]), np.array([[-2.0, 2.0]]), 0.5), 9)  # L = 2(α − ½)²
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
