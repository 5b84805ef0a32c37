"""Interim analyses of a sample without replacement: how often their brackets are wrong, and edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

import lerpscape as ls
from lerpscape.profiles.bounded_means import least_differences
from lerpscape.profiles.interim_analyses import check_confidence, interim_analysis, sample_sizes, unseen

pytestmark = pytest.mark.kernels

POINTS = 9
ALPHA = np.linspace(0, 1, POINTS)[:, None]


def population(kind: str, count: int = 4000) -> np.ndarray:
    """Losses (points, examples) of a curve that falls, rises in the middle and falls, its bump drawn per example."""
    draw = np.random.default_rng(7)
    heights = {
        "normal": 0.6 + draw.standard_normal(count),
        "exponential": draw.exponential(0.6, count),
        "left": 1.2 - draw.exponential(0.6, count),
        "bounded": (draw.random(count) < 0.3).astype(float),
    }[kind]
    bump = np.exp(-0.5 * ((ALPHA - 0.625) / 0.05) ** 2)
    if kind == "bounded":
        return bump.round() * heights
    return 2 * np.exp(-3 * ALPHA) + bump * heights + 0.05 * draw.standard_normal((POINTS, count))


def wrong(losses: np.ndarray, error: float, counts: list[int], trials: int, **choices: object) -> tuple[int, int]:
    """How often an analysis of a random order puts the largest rise below, and above, its true value."""
    rise = ls.max_rise(losses.mean(axis=1))
    low = high = 0
    for trial in range(trials):
        order = losses[:, np.random.default_rng(trial).permutation(losses.shape[1])]
        found = [
            interim_analysis(order[:, :seen], losses.shape[1], error / len(counts), seed=trial, **choices)
            for seen in counts
        ]
        low += any(each.upper < rise for each in found)
        high += any(each.lower > rise for each in found)
    return low, high


@pytest.mark.parametrize("first", [8, 64, 256])
def test_early_analyses_of_skewed_losses_keep_their_error(first: int) -> None:
    draw = np.random.default_rng(first)
    fading = np.exp(draw.standard_normal((POINTS, 4000))) * (1.05 - ALPHA)  # later minus earlier: skewed to the left
    trials, error = 200, 0.1
    counts = [first, 2 * first]
    low, high = wrong(2 + fading - fading.mean(1, keepdims=True), error, counts, trials)
    most = error * trials + 3 * math.sqrt(trials * error * (1 - error))
    assert low <= most and high <= most


@pytest.mark.parametrize("kind", ["normal", "exponential", "left"])
def test_brackets_fail_no_more_often_than_they_say(kind: str) -> None:
    trials, error = 200, 0.1
    low, high = wrong(population(kind), error, [256, 1024, 2048], trials)
    most = error * trials + 3 * math.sqrt(trials * error * (1 - error))  # binomial: nominal rate, three errors
    assert low <= most and high <= most
    # Nor are the bounds far too wide: over three analyses, the union bound costs less than a factor of ten.
    assert low >= error * trials / 10


def test_a_flat_curve_is_seldom_called_rising_though_any_pair_of_points_may_be() -> None:
    noise = np.random.default_rng(3).standard_normal((POINTS, 3000))
    trials, error = 200, 0.1
    _, high = wrong(1 + noise - noise.mean(1, keepdims=True), error, [256, 1024], trials)
    assert high <= error * trials + 3 * math.sqrt(trials * error * (1 - error))


def test_bounds_hold_for_a_handful_of_examples() -> None:
    losses = population("bounded", 60)
    low, high = wrong(losses, 0.2, [5, 10, 20, 40], 200, bounds=(0.0, 1.0))
    assert low <= 40 and high <= 40  # 0.2 · 200, without any allowance: the inequality is no approximation
    scaled = interim_analysis(3 + 2 * population("bounded")[:, :2000], 4000, 0.01, bounds=(3.0, 5.0))
    plain = interim_analysis(population("bounded")[:, :2000], 4000, 0.01, bounds=(0.0, 1.0))
    assert (scaled.lower, scaled.upper) == pytest.approx((2 * plain.lower, 2 * plain.upper))
    assert 0.2 < plain.lower < 0.3 < plain.upper < 0.4
    order = np.random.default_rng(0).permutation(population("bounded")[:, :2000], axis=1)
    assert plain.lower == pytest.approx(least_differences(order, 4000, 0.01 / 36).max())  # 36 pairs of 9 points
    assert plain.upper == pytest.approx(-np.tril(least_differences(order, 4000, 0.01)).min())


def test_bounded_examples_may_come_in_the_order_of_the_data() -> None:
    losses = np.sort(population("bounded")[[0, 5]][:, :2000], axis=1)  # all wrong ones last: no order that chance makes
    found = interim_analysis(losses, 4000, 0.01, bounds=(0.0, 1.0))
    assert found.lower <= losses[1].mean() <= found.upper
    assert found.upper - found.lower < 0.1


def test_the_upper_end_of_two_points_is_the_normal_bound_and_widens_with_skewness() -> None:
    draw = np.random.default_rng(0)
    common, rise = draw.exponential(3.0, 1000), draw.exponential(1.0, 1000)
    rise -= rise.mean()
    third = (rise**3).mean() / rise.std(ddof=1) ** 3
    found = {}
    for sign in (1, -1):
        losses = np.stack([common, common + sign * rise + 5])
        found[sign] = interim_analysis(losses, 4000, 0.01)
        z, share = 2.3263478740408408, 0.25
        error = rise.std(ddof=1) * math.sqrt((1 - share) / 1000)
        term = ((2 - share) * z**2 + 1 - 2 * share) / (6 * math.sqrt(1000 * (1 - share)))
        widened = (z + max(sign * third, 0) * term) * error
        assert found[sign].upper == pytest.approx(5 + widened, abs=1e-10)  # the margin for rounding is 5e-12
    assert found[1].upper != found[-1].upper


def test_the_expansion_for_finite_populations_is_that_of_simulated_means() -> None:
    """The third cumulant's effect on the studentised mean, where nothing else is left: the shift of a quantile."""
    draw = np.random.default_rng(1)
    whole = draw.exponential(1.0, 600)
    count, share = 200, 1 / 3
    samples = whole[draw.random((20_000, 600)).argpartition(count, axis=1)[:, :count]]
    found = (samples.mean(1) - whole.mean()) / (samples.std(1, ddof=1) * math.sqrt((1 - share) / count))
    skewness = ((whole - whole.mean()) ** 3).mean() / whole.std() ** 3
    for z in (-1.6448536, -2.3263479):
        shift = skewness * ((2 - share) * z**2 + 1 - 2 * share) / (6 * math.sqrt(count * (1 - share)))
        level = {-1.6448536: 0.05, -2.3263479: 0.01}[z]
        # a quantile of 20,000 draws is known to 0.015–0.03; the next term of the expansion is of that size too
        assert np.quantile(found, level) == pytest.approx(z - shift, abs=0.12)
        assert abs(np.quantile(found, level) - z) > 0.5 * shift  # without the term one would be far off


def test_all_examples_leave_nothing_to_guess() -> None:
    losses = population("normal", 300)
    found = interim_analysis(losses, 300, 0.01)
    assert found.lower == found.upper == ls.max_rise(losses.mean(axis=1))
    mean = losses.mean(axis=1)
    assert mean[found.second] - mean[found.first] == found.lower


def test_points_that_agree_and_single_examples() -> None:
    draw = np.random.default_rng(0)
    losses = np.stack([draw.random(500) + 1, draw.random(500)])[[0, 1, 1, 0]]
    found = interim_analysis(losses, 1000, 0.01)  # equal points add nothing to the largest of all
    assert (found.first, found.second) in {(1, 3), (2, 3)}
    assert 0.9 < found.lower < 1 < found.upper < 1.1
    heights = draw.uniform(1, 4, 256)
    parabola = np.linspace(-1, 1, 50)[:, None] ** 2 * heights  # both halves agree but for rounding
    low = interim_analysis(parabola, 1000, 0.01).lower
    # All differences are one number times the height, so that the largest is |z|, with 0.99 of it below 2.576. Of 2000
    # draws that quantile is known to √(0.99 · 0.01 / 2000) / 0.029 = 0.077; three of these. The skewness is set to 6.2.
    error = heights.std(ddof=1) * math.sqrt((1 - 0.256) / 256)
    skewed = 6.2 * ((2 - 0.256) * 2.576**2 + 1 - 2 * 0.256) / (6 * math.sqrt(256 * (1 - 0.256)))
    rise = heights.mean() * (1 - 1 / 49**2)
    slack = 3 * 0.077 * 1.5  # a wider quantile also widens the term of the skewness
    assert rise - (2.576 + slack + skewed) * error < low < rise - (2.576 - slack + skewed) * error
    flat = interim_analysis(np.ones((3, 256)), 1000, 0.01)
    assert flat.lower == 0 and flat.upper < 1e-11
    for count in (1, 2, 255):  # too few for normal means
        few = interim_analysis(losses[:, :count], 1000, 0.01)
        assert (few.lower, few.upper) == (0.0, math.inf)
        assert interim_analysis(losses[:, :count], 1000, 0.01, bounds=(0, 2)).upper < math.inf
        assert interim_analysis(losses[:, :count], count, 0.01).upper < math.inf


def test_sample_sizes_double_up_to_the_largest() -> None:
    assert sample_sizes(2, 16) == [2, 4, 8, 16]
    assert sample_sizes(300, 300) == [300]


def test_what_goes_unseen() -> None:
    for examples, of, error in ((10, 100, 0.05), (256, 60_000, 0.01), (99, 100, 0.3)):
        most = unseen(examples, of, error)
        missed = math.comb(of - most, examples) / math.comb(of, examples)
        beyond = math.comb(of - most - 1, examples) / math.comb(of, examples)
        assert beyond < error  # one more, and the sample has one with probability 1 − error
        assert most == 0 or missed > error / 3


def test_confidences_out_of_range() -> None:
    check_confidence(0.999999, (0.0, 1.0))
    for confidence, bounds in ((0.0, None), (1.0, (0.0, 1.0)), (0.9999, None)):
        with pytest.raises(ValueError, match=r"(?s)0 < confidence < 1.*0\.99 is usual"):
            check_confidence(confidence, bounds)
