"""The best α under limits: closed forms on quadratic losses, and the coverage of its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.profiles import ExampleCurves

LINE = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})


def curves_of(targets: Any, alphas: Any = 11, weights: Any = None) -> ExampleCurves:
    """Losses w (α − t)² of examples with targets t."""
    targets = torch.as_tensor(targets, dtype=torch.float64)[:, None]
    loss: Any = "squared_error"
    if weights is not None:
        targets = torch.cat([targets, torch.as_tensor(weights, dtype=torch.float64)[:, None]], 1)
        loss = ls.Loss("weighed", lambda z, y: (z[:, 0] - y[:, 0]).square(), weights=lambda y: y[:, 1])
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(len(targets), 1).double(), targets)]
    return ls.profiles.example_curves(model, LINE, data, loss=loss, alphas=alphas)


def spread(mean: float, count: int = 40) -> Tensor:
    noise = torch.linspace(-0.3, 0.3, count, dtype=torch.float64)
    return mean + noise


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(0.16, 0.4), (1.0, 0.72), (0.0, 0.0), (0.0049, 0.07), (-0.01, np.nan), (np.inf, 0.72)],
)
def test_a_quadratic_has_its_known_optimum_under_a_limit(limit: float, expected: float) -> None:
    """L_legal = (α − 0.72)² + c and L_news = α² + c: the limit x on news is met for α ≤ √x."""
    curves = {"legal": curves_of(spread(0.72)), "news": curves_of(spread(0.0))}
    spot = ls.studies.sweet_spot(curves, "legal", {"news": limit}, draws=200)
    # places lie 0.1 / 50 apart; a cubic spline is exact on a quadratic
    assert spot.alpha == pytest.approx(expected, abs=0.0021, nan_ok=True)
    if np.isnan(expected):
        assert spot.summary.startswith("No α from 0 to 1 where news rises by at most -0.01")
        assert all(np.isnan(each.value) for each in spot.changes)
    else:
        assert spot.low <= spot.alpha <= spot.high
        changes = {each.name: each.value for each in spot.changes}
        assert changes["news"] == pytest.approx(spot.alpha**2, abs=1e-12)
        assert changes["legal"] == pytest.approx((spot.alpha - 0.72) ** 2 - 0.72**2, abs=1e-12)


def test_rises_count_from_the_end_that_is_named_and_beyond_it() -> None:
    """From α = 1, news = (α − 1.2)² may rise by 0.05: (α − 1.2)² ≤ 0.09, α ≥ 0.9; legal is lowest at 0.3."""
    alphas = np.linspace(0, 1.6, 17)
    curves = {"legal": curves_of(spread(0.3), alphas), "news": curves_of(spread(1.2), alphas)}
    spot = ls.studies.sweet_spot(curves, "legal", {"news": 0.05}, rise_from=1.0, draws=100)
    assert spot.alpha == pytest.approx(0.9, abs=0.0021)
    beyond = ls.studies.sweet_spot({"far": curves_of(spread(1.33), alphas)}, "far", draws=100)
    assert beyond.alpha == pytest.approx(1.33, abs=0.0021) and not beyond.at_edge
    edge = ls.studies.sweet_spot({"far": curves_of(spread(1.33))}, "far", draws=100)
    assert edge.alpha == 1 and edge.at_edge and "a better α may lie beyond" in edge.summary


def test_weights_count_in_the_mean_and_in_the_bootstrap() -> None:
    """Examples of weight 0 count nowhere; a weight of 3 is that of three."""
    targets, weights = (
        torch.cat([spread(0.2, 20), spread(0.8, 20), spread(9.0, 5)]),
        [1.0] * 20 + [3.0] * 20 + [0.0] * 5,
    )
    spot = ls.studies.sweet_spot({"a": curves_of(targets, weights=weights)}, "a")
    assert spot.alpha == pytest.approx((0.2 + 3 * 0.8) / 4, abs=0.0021)
    assert spot.examples == (40,) and spot.low > 0.4 and spot.high < 0.9


def test_the_interval_covers_the_true_optimum_as_often_as_it_says() -> None:
    """The optimum is the mean of normal targets, or √x where the limit binds: both regular cases."""
    generator = np.random.default_rng(3)
    alphas, n, hits, bound_hits, trials = np.linspace(-0.5, 1.5, 9), 60, 0, 0, 200
    how = {"path_digest": "a", "data_digest": "b"}

    def drawn(mean: float, digest: str) -> ExampleCurves:
        targets = generator.normal(mean, 0.5, n)
        losses = np.square(alphas[:, None] - targets)
        return ExampleCurves(alphas, losses, None, "", "square", "", how | {"data_digest": digest})

    for seed in range(trials):
        legal, news = drawn(0.6, "legal"), drawn(0.0, "news")
        free = ls.studies.sweet_spot({"legal": legal}, "legal", draws=300, seed=seed)
        hits += free.low <= 0.6 <= free.high
        # news = E(α − t)² = α² + 0.25 rises by 0.09 up to α = 0.3
        bound = ls.studies.sweet_spot({"legal": legal, "news": news}, "legal", {"news": 0.09}, draws=300, seed=seed)
        bound_hits += bound.low <= 0.3 <= bound.high
    # 95 % of 200 trials: four standard deviations are 0.062; the percentile bootstrap at n = 60 loses up to 0.02
    assert 0.87 <= hits / trials <= 0.995
    assert 0.87 <= bound_hits / trials <= 1.0


def test_two_numbers_of_the_same_examples_are_resampled_together() -> None:
    """The rise of a curve is compared with itself: paired, its interval is that of the difference alone."""
    same = curves_of(spread(0.5, 30))
    spot = ls.studies.sweet_spot({"one": same, "other": same}, "one", {"other": 1.0})
    one, other = spot.changes
    assert (one.low, one.high) == (other.low, other.high)
    alone = ls.studies.sweet_spot({"one": same}, "one")
    assert (alone.low, alone.high) == (spot.low, spot.high)


def test_curves_that_do_not_belong_together_are_refused() -> None:
    curves = {"a": curves_of(spread(0.5)), "b": curves_of(spread(0.5), alphas=12)}
    with pytest.raises(ValueError, match=r"names among the curves: a, b.\ngot: 'c'"):
        ls.studies.sweet_spot(curves, "c")
    with pytest.raises(ValueError, match=r"one path, at the same α.\ngot: 'b'"):
        ls.studies.sweet_spot(curves, "a")
    with pytest.raises(ValueError, match=r"at least four α, among them rise_from = 0\.55"):
        ls.studies.sweet_spot({"a": curves["a"]}, "a", rise_from=0.55)
    with pytest.raises(ValueError, match="at least four α"):
        ls.studies.sweet_spot({"a": curves_of(spread(0.5), alphas=3)}, "a")
    broken = curves_of(spread(0.5))
    broken.losses[2, 1] = np.nan
    with pytest.raises(ls.NonFiniteLoss, match=r"'a' at α = 0\.2"):
        ls.studies.sweet_spot({"a": broken}, "a")


def test_few_examples_have_no_interval() -> None:
    spot = ls.studies.sweet_spot({"a": curves_of(spread(0.5, 5))}, "a")
    assert spot.alpha == pytest.approx(0.5, abs=0.0021) and np.isnan([spot.low, spot.high, spot.met]).all()
