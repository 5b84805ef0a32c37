from __future__ import annotations

import numpy as np
import pytest

import lerpscape as ls
from lerpscape.readings.intervals import Moments, difference_errors


def sample(seed: int, mean: np.ndarray, n: int) -> np.ndarray:
    """Per-example losses (points, n) with strongly correlated, heteroscedastic errors."""
    generator = np.random.default_rng(seed)
    points = len(mean)
    mixing = np.tril(np.ones((points, points))) * 0.1 + 0.5
    return mean[:, None] + mixing @ generator.standard_normal((points, n))


def test_moments_agree_with_numpy_whatever_the_batches() -> None:
    values = sample(0, np.linspace(2, 0, 7), 101) + 1e6  # a large offset must not cost accuracy
    moments = Moments(7)
    for part in np.split(values, [1, 1, 40, 77], axis=1):
        moments.add(part)
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean, values.mean(1), rtol=1e-14)
    # rtol: the data themselves are rounded at 1e6 · 2⁻⁵³
    np.testing.assert_allclose(moments.covariance(), np.cov(values), rtol=1e-8)


def test_difference_errors_are_paired() -> None:
    values = sample(1, np.zeros(4), 400)
    errors = difference_errors(np.cov(values), 400)
    for i in range(4):
        for j in range(4):
            direct = np.std(values[j] - values[i], ddof=1) / 20
            assert errors[i, j] == pytest.approx(direct, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("mean", "seed"), [(np.array([2, 1, 1.2, 0.5, 0.5]), 0), (np.array([1, 0.9, 0.8, 0.7, 0.6]), 1)]
)
def test_interval_covers_the_true_rise_as_often_as_it_says(mean: np.ndarray, seed: int) -> None:
    truth, n, covered = ls.max_rise(mean), 200, 0
    for trial in range(200):
        values = sample(1000 * seed + trial, mean, n)
        found = ls.readings.rise_interval(values.mean(1), np.cov(values), n, level=0.9, draws=300, seed=trial)
        covered += found.lower <= truth <= found.upper
    # Simultaneous, hence conservative: at least 0.9; 200 trials have a standard error of 0.021.
    assert covered / 200 >= 0.9 - 3 * 0.021


def test_p_value_is_uniform_or_larger_on_a_flat_curve_and_small_on_a_clear_rise() -> None:
    p = []
    for trial in range(200):
        values = sample(trial, np.ones(5), 200)
        p.append(ls.readings.rise_interval(values.mean(1), np.cov(values), 200, draws=300, seed=trial).p_value)
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * 0.021  # binomial standard error of 200 trials
    assert 0.3 < np.median(p) < 0.7  # flat is the least favourable case: neither too strict nor too lax
    values = sample(0, np.array([1, 0, 0.5, 0, 0]), 2000)
    assert ls.readings.rise_interval(values.mean(1), np.cov(values), 2000).p_value < 0.01


def test_without_spread_the_interval_is_the_value() -> None:
    found = ls.readings.rise_interval([1.0, 0.0, 0.5], np.zeros((3, 3)), 10)
    assert (found.lower, found.upper, found.p_value) == (0.5, 0.5, 0.0)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two examples"):
        ls.readings.rise_interval([1.0, 0.0], np.eye(2), 1)
    with pytest.raises(ValueError, match="0 < level < 1"):
        ls.readings.rise_interval([1.0, 0.0], np.eye(2), 5, level=95)
    with pytest.raises(ls.NonFiniteLoss):
        ls.readings.rise_interval([1.0, float("nan")], np.eye(2), 5)
