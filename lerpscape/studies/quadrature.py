"""Integrals of vector-valued functions over an interval by Simpson's rule, on a grid that is halved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain

FIRST = 8  # intervals of the first grid


@dataclass(frozen=True)
class Integral:
    """Integrals of the columns of `samples`, shape (points, parts), over `points`; `errors` by the last halving."""

    values: Floats
    errors: Floats
    points: Floats
    samples: Floats


def integrate(
    function: Callable[[Floats], Floats],
    left: float,
    right: float,
    *,
    settled: Callable[[Integral], bool],
    budget: int,
) -> Integral:
    """Simpson's rule for every column of a function, the grid halved until `settled` or the budget of points is spent.

    `function` takes points of shape (k,) and returns samples of shape (k, parts); each point is evaluated once. An
    error is the change at the last halving: an estimate, and an overestimate for smooth functions.

    Raises `ValueError` for a budget below the first grid's 9 points.

    >>> integral = integrate(lambda x: np.stack([x**3, x], 1), 0.0, 2.0, settled=lambda _: True, budget=9)
    >>> integral.values.round(12).tolist(), bool(integral.errors.max() < 1e-12)
    ([4.0, 2.0], True)
    """
    if budget < FIRST + 1:
        raise ValueError(
            explain(expected=f"a budget of at least {FIRST + 1} points.", got=f"{budget}.", hint="65 is the default.")
        )
    points = np.linspace(left, right, FIRST + 1)
    samples = function(points)
    while True:
        values, coarse = _simpson(samples, right - left), _simpson(samples[::2], right - left)
        integral = Integral(values, np.abs(values - coarse), points, samples)
        if settled(integral) or 2 * len(points) - 1 > budget:
            return integral
        finer = np.linspace(left, right, 2 * len(points) - 1)
        both = np.empty((len(finer), samples.shape[1]))
        both[::2], both[1::2] = samples, function(finer[1::2])
        points, samples = finer, both


def _simpson(samples: Floats, width: float) -> Floats:
    weights = np.full(len(samples), 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    total: Floats = weights @ samples * (width / (3 * (len(samples) - 1)))
    return total
