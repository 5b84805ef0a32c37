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
    assert 0.3 < np.median(p) < 0.8  # flat is the least favourable case; the margin for skewness makes p larger
    values = sample(0, np.array([1, 0, 0.5, 0, 0]), 2000)
    assert ls.readings.rise_interval(values.mean(1), np.cov(values), 2000).p_value < 0.01


def drawn(kind: str, correlation: str, points: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Losses (points, n) with the same expectation at every point."""
    noise = generator.standard_normal((points, n))
    if correlation == "smooth":
        distance = np.abs(np.subtract.outer(np.arange(points), np.arange(points)))
        noise = np.linalg.cholesky(np.exp(-2 * distance / points)) @ noise
    if kind == "normal":
        return noise
    skewed = np.exp(noise) / np.exp(0.5)
    if kind == "fading lognormal":  # the hardest: later minus earlier losses are skewed to the left
        return 1 + (skewed - 1) * np.linspace(1, 0.05, points)[:, None]
    return skewed


@pytest.mark.parametrize("kind", ["normal", "lognormal", "fading lognormal"])
@pytest.mark.parametrize("correlation", ["none", "smooth"])
@pytest.mark.parametrize("n", [16, 100])
def test_few_or_skewed_examples_do_not_make_a_flat_curve_rise(kind: str, correlation: str, n: int) -> None:
    generator = np.random.default_rng(n)
    trials, rejected, missed = 200, 0, 0
    for trial in range(trials):
        values = drawn(kind, correlation, 20, n, generator)
        found = ls.readings.rise_interval(values.mean(1), np.cov(values), n, draws=200, seed=trial)
        rejected += found.p_value <= 0.05
        missed += found.lower > 0
    most = 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5  # nominal rate and three binomial errors
    assert rejected <= most and missed <= most


def test_without_spread_the_interval_is_the_value() -> None:
    found = ls.readings.rise_interval([1.0, 0.0, 0.5], np.zeros((3, 3)), 16)
    assert (found.lower, found.upper, found.p_value) == (0.5, 0.5, 0.0)


def test_bad_requests_are_refused() -> None:
    for examples in (0, 1, 2, 15):
        with pytest.raises(ValueError, match=rf"at least 16 examples.*\ngot: {examples}\."):
            ls.readings.rise_interval([1.0, 0.0], np.eye(2), examples)
        with pytest.raises(ValueError, match="at least 16 examples"):  # a few equal losses are no certainty
            ls.readings.rise_interval([1.0, 0.0], np.zeros((2, 2)), examples)
    with pytest.raises(ValueError, match="0 < level < 1"):
        ls.readings.rise_interval([1.0, 0.0], np.eye(2), 5, level=95)
    with pytest.raises(ls.NonFiniteLoss):
        ls.readings.rise_interval([1.0, float("nan")], np.eye(2), 5)
