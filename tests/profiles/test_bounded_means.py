"""Bounds that hold for samples of any size, over every order there is."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from lerpscape.profiles.bounded_means import MOST, least_differences

POPULATIONS = (
    ((0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 1.0)),
    ((0.2, 0.9, 0.4, 0.0, 1.0), (0.1, 1.0, 0.3, 0.9, 0.2)),
    ((1.0, 1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0, 1.0)),
)


@pytest.mark.parametrize("rows", POPULATIONS)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_no_more_orders_fail_than_the_error(rows: tuple[tuple[float, ...], ...], count: int) -> None:
    values, orders = np.array(rows), [list(order) for order in permutations(range(5))]
    true = values.mean(1)[None, :] - values.mean(1)[:, None]
    for error in (0.2, 0.6, 0.95):
        found = np.array([least_differences(values[:, order][:, :count], 5, error) for order in orders])
        assert ((found > true + 1e-12).mean(axis=0) <= error).all()


def one_by_one(x: np.ndarray, of: int, error: float) -> float:
    """The bound of one mean as it is written, example by example."""
    gained, paid, scale = 0.0, math.log(1 / error), 0.0
    centre, variance, squares = 0.5, 0.25, 0.25
    for t, value in enumerate(x, start=1):
        bet = min(MOST, math.sqrt(2 * math.log(1 / error) / (len(x) * variance)))
        gained += bet * (value + x[: t - 1].sum() / (of - t + 1))
        scale += bet * of / (of - t + 1)
        paid += (-math.log(1 - bet) - bet) * (value - centre) ** 2
        squares += (value - centre) ** 2
        if (t & (t - 1)) == 0:  # at 1, 2, 4, 8, … the stretch ends
            centre, variance = (0.5 + x[:t].sum()) / (t + 1), squares / (t + 1)
    return 2 * (gained - paid) / scale - 1


def test_stretches_are_the_sums_written_out() -> None:
    draw = np.random.default_rng(0)
    values = np.stack([draw.random(77), draw.beta(0.2, 0.8, 77), (draw.random(77) < 0.1).astype(float)])
    found = least_differences(values, 200, 0.05)
    for i in range(3):
        for j in range(3):
            assert found[i, j] == pytest.approx(one_by_one((values[j] - values[i] + 1) / 2, 200, 0.05), abs=1e-12)


def test_margins_come_near_those_of_normal_means() -> None:
    draw = np.random.default_rng(1)
    whole = np.stack([np.zeros(60_000), (np.arange(60_000) < 3000).astype(float)])
    gaps = [0.05 - least_differences(whole[:, draw.permutation(60_000)[:8192]], 60_000, 0.01)[0, 1] for _ in range(20)]
    normal = 2.3263 * math.sqrt(0.05 * 0.95 / 8192 * (1 - 8192 / 60_000))
    assert normal < np.mean(gaps) < 1.6 * normal
