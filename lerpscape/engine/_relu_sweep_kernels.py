"""Units that switch on a line, and quadratics updated from one α to the next: loops that numba compiles.

Everything is done example by example, so that an example's coefficients stay next to the processor while units switch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lerpscape.base.arrays import Floats

# For each example and place where the switches before its α begin, and each switch: the unit, its start and change.
Switches: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32], Floats, Floats]


Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """The loop, compiled for the types it is first called with, and kept on disk.

    NaN and infinities pass through as they do in torch; a product and a sum are rounded once.
    """
    return cast(Loop, njit(error_model="numpy", fastmath={"contract"}, nogil=True, cache=True)(loop))


@compiled
def switching(start: Floats, change: Floats, alphas: Floats, begun: Floats, moving: Floats) -> Switches:
    """Which units are on at the first α, and which switch before which α: start + α·change, (examples, units).

    Writes to `begun` and `moving` what `start` and `change` are for the units that are on at the first α, 0 for others.
    The switches stand example by example and in the order of α: those of example r before the α of place k from
    `offsets[r, k]` to `offsets[r, k + 1]` in the units' numbers, and in their `start` and `change`, with both signs
    turned where the unit switches off.

    >>> begun, moving = np.empty((1, 2)), np.empty((1, 2))
    >>> offsets, units, starts, changes = switching(
    ...     np.array([[1.0, -1.0]]), np.array([[-2.0, 4.0]]), np.array([0.0, 0.3, 0.7]), begun, moving
    ... )
    >>> begun.tolist(), offsets.tolist(), units.tolist(), starts.tolist(), changes.tolist()
    ([[1.0, 0.0]], [[0, 0, 1, 2]], [1, 0], [-1.0, -1.0], [4.0, 2.0])
    """
    rows, units = start.shape
    points = len(alphas)
    offsets = np.zeros((rows, points + 1), np.int64)
    switched, places = np.empty(rows * units, np.int32), np.empty(rows * units, np.int32)
    total = 0
    for row in range(rows):
        before = total
        for unit in range(units):
            value, speed = start[row, unit], change[row, unit]
            first, last = value + alphas[0] * speed > 0, value + alphas[-1] * speed > 0
            begun[row, unit], moving[row, unit] = (value, speed) if first else (0, 0)
            if first != last:
                # Rounding may put a switch outside the grid; at the point nearest to it the unit is 0 to rounding.
                place = min(max(np.searchsorted(alphas, -value / speed), 1), points - 1)
                switched[total], places[total] = unit, place
                offsets[row, place + 1] += 1
                total += 1
        offsets[row, 0] = before
        for place in range(points):
            offsets[row, place + 1] += offsets[row, place]
    ordered = np.empty(total, np.int32)
    starts, changes = np.empty(total, start.dtype), np.empty(total, start.dtype)
    for row in range(rows):
        free = offsets[row].copy()
        for index in range(offsets[row, 0], offsets[row, points]):
            unit, place = switched[index], places[index]
            value, speed = start[row, unit], change[row, unit]
            into = free[place]
            free[place] += 1
            ordered[into] = unit
            starts[into], changes[into] = (value, speed) if speed > 0 else (-value, -speed)
    return offsets, ordered, starts, changes


@compiled
def advance(
    columns: Floats,
    coefficients: Floats,
    switches: Switches,
    before: int,
    alphas: Floats,
    begin: int,
    first: int,
    stop: int,
    results: Floats,
) -> None:
    """Take the coefficients on from place `begin` to `stop`, and write the quadratics and derivatives from `first` on.

    `columns` (units, 2, outputs) are those of W₀ and Δ; `coefficients` (3, examples, outputs) are changed; `results`
    (1 + order, places, examples, outputs). For the examples that the `switches` are of, so many `before` them.

    >>> columns, coefficients, results = np.ones((1, 2, 1)), np.zeros((3, 1, 1)), np.zeros((1, 2, 1, 1))
    >>> switches = np.array([[0, 0, 1]]), np.array([0], np.int32), np.array([-1.0]), np.array([2.0])
    >>> advance(columns, coefficients, switches, 0, np.array([0.0, 1.0]), 0, 0, 2, results)
    >>> results.ravel().tolist()  # 0, then (W₀ + αΔ)(−1 + 2α)
    [0.0, 2.0]
    """
    offsets, units, starts, changes = switches
    order, outputs = len(results) - 1, columns.shape[2]
    # The three lie apart, and not at multiples of a page, where a store would seem to concern the loads that follow.
    local = np.empty((3, outputs + 16), columns.dtype)
    one, two, three = local[0, :outputs], local[1, :outputs], local[2, :outputs]
    for example in range(len(offsets)):
        row = before + example
        one[:], two[:], three[:] = coefficients[0, row], coefficients[1, row], coefficients[2, row]
        for place in range(begin, stop):
            for index in range(offsets[example, place], offsets[example, place + 1]):
                start, change = starts[index], changes[index]
                weight, moved = columns[units[index], 0], columns[units[index], 1]
                for output in range(outputs):
                    one[output] += start * weight[output]
                    two[output] += change * weight[output] + start * moved[output]
                    three[output] += change * moved[output]
            if place < first:
                continue
            alpha = alphas[place]
            into = results[0, place - first, row]
            for output in range(outputs):
                into[output] = one[output] + alpha * (two[output] + alpha * three[output])
            if order > 0:
                into = results[1, place - first, row]
                for output in range(outputs):
                    into[output] = two[output] + alpha * (three[output] + three[output])
            if order > 1:
                into = results[2, place - first, row]
                for output in range(outputs):
                    into[output] = three[output] + three[output]  # times 2 would be in float64
        coefficients[0, row], coefficients[1, row], coefficients[2, row] = one, two, three
