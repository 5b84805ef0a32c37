"""Theoretical models: closed forms against simulation, enumeration and measurement."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import lerpscape as ls
from lerpscape.papers.lucas2021.theory.linear_networks import Fourier, linear_model, two_layer
from lerpscape.papers.lucas2021.theory.noisy_quadratic import NoisyQuadratic, simulated_lines
from lerpscape.papers.lucas2021.theory.run_theory import run_theory
from lerpscape.papers.lucas2021.theory.width import (
    WidthRun,
    WidthStudy,
    gradient_descent,
    ntk_network,
    power_law,
    regression_data,
    t_quantile,
    width_study,
)

GRID = np.linspace(0, 1, 11)


def quadratic(**changes: Any) -> NoisyQuadratic:
    choices: dict[str, Any] = {
        "curvatures": [1.0, 0.3, 0.02],
        "start": [1.0, -2.0, 3.0],
        "learning_rate": 0.4,
        "noise": 0.5,
        "steps": 7,
    }
    return NoisyQuadratic(**(choices | changes))


# The noisy quadratic model


def enumerated(model: NoisyQuadratic) -> np.ndarray:
    """E L on the grid by running SGD with every sequence of noise of ±1: the same mean and variance as any other."""
    curvature, start = float(np.asarray(model.curvatures)[0]), float(np.asarray(model.start)[0])
    losses = []
    for signs in itertools.product((-1, 1), repeat=model.steps):
        position = start
        for sign in signs:
            position -= model.learning_rate * (curvature * position + model.noise * sign)
        losses.append(curvature / 2 * ((1 - GRID) * start + GRID * position) ** 2)
    return np.mean(losses, axis=0)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("curvature", [0.01, 0.5, 1.0, 2.0, 3.0, 3.99])  # η·h = 1 at 2, and nearly 2 at 3.99
def test_the_closed_form_is_the_mean_over_all_sequences_of_noise(curvature: float, steps: int) -> None:
    model = NoisyQuadratic([curvature], [1.3], learning_rate=0.5, noise=0.7, steps=steps)
    assert_allclose(model.expected_loss(GRID), enumerated(model), rtol=1e-12)  # float64, 128 terms


@pytest.mark.parametrize("rate", [0.1, 1.0, 1.9])
def test_the_simulation_agrees_within_its_monte_carlo_error(rate: float) -> None:
    model = quadratic(learning_rate=rate)
    found = model.simulate(4000, alphas=GRID, seed=3)
    away = (found.loss - model.expected_loss(GRID))[1:] / found.stderr[1:]
    assert np.abs(away).max() < 3.5  # standard errors; the points err together, so this is about one draw per rate
    assert found.loss[0] == pytest.approx(model.expected_loss([0.0])[0])
    assert found.stderr[0] < 1e-12
    assert found.stderr[-1] > 0


def test_the_simulation_has_the_variance_of_the_closed_form() -> None:
    """With no curvature in the way: from θ₀ = 0 the loss at the end is ½hV χ², of mean ½hV and variance ½(hV)²."""
    model = NoisyQuadratic([0.7], [0.0], learning_rate=0.9, noise=0.4, steps=30)
    found = model.simulate(20000, alphas=[0.0, 1.0], seed=1)
    expected = 0.7 * model.variance[0]
    assert abs(found.loss[1] - expected / 2) < 3.5 * found.stderr[1]
    assert found.stderr[1] * math.sqrt(found.runs) == pytest.approx(expected / math.sqrt(2), rel=0.05)


def test_a_simulation_depends_on_its_seed_alone_and_on_no_global_generator() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = quadratic().simulate(50, alphas=GRID, seed=5)
    assert_allclose(np.random.get_state()[1], before)
    assert_allclose(first.loss, quadratic().simulate(50, alphas=GRID, seed=5).loss, rtol=0)
    assert not np.array_equal(first.loss, quadratic().simulate(50, alphas=GRID, seed=6).loss)


def test_edges_of_the_variance() -> None:
    """η²σ² where η·h = 1; η²σ²T where h = 0, and towards η·h = 2."""
    step = (0.5 * 0.7) ** 2
    for steps in (1, 9):
        model = NoisyQuadratic([2.0, 0.0, 4 - 1e-9, 1e-9], [1.0] * 4, learning_rate=0.5, noise=0.7, steps=steps)
        assert_allclose(model.variance, step * np.array([1, steps, steps, steps]), rtol=1e-7)
        assert_allclose(model.shrinkage, [0, 1, (-1) ** steps, 1], atol=1e-7)


def test_tiny_rates_keep_their_digits() -> None:
    """After T = 1/(ηh) steps of η·h = 1e-12, r = 1/e and V = σ²η/(2h)·(1 − e⁻²), to rounding of 1 − ηh in r."""
    model = NoisyQuadratic([1e-12], [1.0], learning_rate=1.0, noise=1.0, steps=10**12)
    assert_allclose(model.variance, (1 - math.exp(-2)) / 2e-12, rtol=1e-9)
    short = NoisyQuadratic([1e-20], [1.0], learning_rate=1.0, noise=0.0, steps=1)
    assert short.vertex == pytest.approx(1e20)  # where 1 − r is 0 in float64, it would be infinite


@pytest.mark.parametrize(("rate", "message"), [(2.0, r"η·h = 2 in direction 0, where SGD diverges"), (3.0, "under 2")])
def test_rates_at_which_sgd_diverges_are_refused(rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quadratic(learning_rate=rate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": [1.0]}, "vectors of one length"),
        ({"curvatures": [1.0, -0.1, 0.2]}, "negative curvature"),
        ({"noise": -1.0}, "noise ≥ 0"),
        ({"noise": math.nan}, "finite numbers"),
        ({"learning_rate": 0.0}, "a learning rate > 0"),
        ({"steps": 0}, "at least one step"),
        ({"start": [0.0] * 3, "noise": 0.0}, "in which θ moves"),
        ({"curvatures": [0.0] * 3}, "positive curvature"),
    ],
)
def test_models_without_a_line_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quadratic(**changes)


def test_a_single_run_has_no_error() -> None:
    with pytest.raises(ValueError, match="at least two runs"):
        quadratic().simulate(1, alphas=GRID, seed=0)


directions = st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(-3, 3)), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(directions, st.floats(0.05, 1.99), st.floats(0.01, 2), st.integers(1, 60))
def test_the_condition_is_what_a_dense_grid_shows(
    pairs: list[tuple[float, float]], rate: float, noise: float, steps: int
) -> None:
    curvatures, start = (list(each) for each in zip(*pairs, strict=True))
    model = NoisyQuadratic(curvatures, start, learning_rate=rate, noise=noise, steps=steps)
    fine = np.linspace(0, 1, 2001)
    losses = model.expected_loss(fine)
    _, _, bend = model._coefficients
    # Between two points of the grid the parabola hides at most bend·(step/2)² of a rise.
    tolerance = bend * (fine[1] / 2) ** 2 + 1e-12 * losses.max()
    assert ls.max_rise(losses) <= model.max_rise + 1e-12 * losses.max()
    assert ls.max_rise(losses) >= model.max_rise - 2 * tolerance
    assert model.is_monotonic == (model.max_rise == 0) == (model.margin >= 0)
    if abs(model.margin) > 1e-9 * bend:
        assert model.is_monotonic == (model.vertex > 1)
    assert_allclose(np.gradient(losses, fine, edge_order=2), model.expected_slope(fine), atol=1e-9 * losses.max())
    assert model.margin == pytest.approx(-model.expected_slope([1.0])[0], abs=1e-9 * losses.max())
    assert fine[losses.argmin()] == pytest.approx(min(model.vertex, 1), abs=1e-3)


def test_without_noise_the_loss_falls_unless_steps_overshoot() -> None:
    assert quadratic(noise=0.0).max_rise == 0
    assert quadratic(noise=0.0, learning_rate=1.9, steps=1).max_rise > 0  # r = −0.9: past the minimum


def test_noise_alone_makes_the_converged_line_rise_to_second_order() -> None:
    """After forgetting, r = 0: the rise is v²/(2(S + v)) with S = Σ hθ₀² and v = Σ hV, four times less for σ²/2."""
    model = quadratic(steps=5000)
    weight = float(np.sum(np.asarray(model.curvatures) * np.asarray(model.start) ** 2))
    noise = float(np.sum(np.asarray(model.curvatures) * model.variance))
    assert not model.is_monotonic
    assert model.max_rise == pytest.approx(noise**2 / (2 * (weight + noise)))
    ratio = quadratic(steps=5000, noise=0.01).max_rise / quadratic(steps=5000, noise=0.01 / math.sqrt(2)).max_rise
    assert ratio == pytest.approx(4, rel=1e-3)


def test_rises_of_single_runs_are_those_of_their_lines() -> None:
    model = quadratic(noise=2.0, steps=40)
    generator = np.random.default_rng(0)
    ends = np.vstack([generator.standard_normal((20, 3)), 2 * np.asarray(model.start), np.asarray(model.start)])
    fine = np.linspace(0, 1, 4001)
    found = simulated_lines(model, ends, fine)
    lines = (1 - fine[:, None, None]) * np.asarray(model.start) + fine[:, None, None] * ends
    losses = 0.5 * np.sum(np.asarray(model.curvatures) * lines**2, axis=2)
    assert_allclose(found.lines(22, fine).T, losses, rtol=1e-12)
    assert_allclose(found.rises, [ls.max_rise(each) for each in losses.T], atol=1e-6)  # the grid misses the vertex
    assert found.rises[-1] == 0  # an end that did not move
    assert found.share_monotonic == np.mean([ls.max_rise(each) == 0 for each in losses.T])
    assert found.rises.mean() >= ls.max_rise(losses.mean(axis=1))  # a mean of maxima


# Models linear in their parameters


@pytest.mark.parametrize("overshoot", [0.5, 1.0, 1.4, 3.0])
def test_a_linear_model_is_a_parabola_and_does_not_turn(overshoot: float) -> None:
    found = linear_model(overshoot=overshoot)
    assert_allclose(found.profile.loss, found.expected_loss(found.profile.alphas), rtol=1e-11)
    # α steps by 0.02, so the grid misses the minimum by at most 0.01·c of the way there.
    missed = (0.01 * overshoot) ** 2 * (found.profile.loss[0] - found.best)
    assert found.expected_rise - missed - 1e-12 <= found.profile.max_rise <= found.expected_rise + 1e-12
    assert_allclose(found.gauss.per_example, 0, atol=1e-12)
    assert not found.gauss.degenerate.any()


def test_best_is_the_least_squares_loss() -> None:
    """Least squares by numpy, with the features written out."""
    found = linear_model(seed=4)
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    waves = [f(math.pi * k * x.numpy()) for f in (np.cos, np.sin) for k in (1, 2, 3)]
    assert_allclose(Fourier(3)(x), np.concatenate([np.ones((40, 1)), *waves], axis=1), atol=1e-15)
    assert found.profile.loss[-1] == pytest.approx(found.best, rel=1e-12)
    assert found.profile.derivative is not None
    assert abs(found.profile.derivative[-1]) < 1e-12 * found.profile.loss[0]


@pytest.mark.parametrize("changes", [{"overshoot": 0.0}, {"overshoot": math.inf}, {"examples": 7}])
def test_linear_models_without_a_parabola_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected: "):
        linear_model(**changes)


# Two linear layers


def test_two_layers_follow_the_recursion_of_their_modes() -> None:
    found = two_layer(first=0.3, second=-0.2, targets=(2.0, 1.0, 0.5), learning_rate=0.1, steps=50)
    a, b = np.full(3, 0.3), np.full(3, -0.2)
    for step in range(51):
        assert_allclose([found.first[step], found.second[step]], [a, b], rtol=1e-9, atol=1e-12)
        gap = found.targets - a * b
        a, b = a + 0.1 * gap * b, b + 0.1 * gap * a
    assert_allclose(found.profile.loss, found.expected_loss(found.profile.alphas), rtol=1e-9)


def test_small_steps_from_a_balanced_start_are_saxes_sigmoid() -> None:
    """p(t) = s / (1 + (s/p₀ − 1)e^{−2st}) of gradient flow, to the first order of the step."""
    found = two_layer(first=0.1, second=0.1, learning_rate=1e-3, steps=4000)
    time = 1e-3 * np.arange(4001)[:, None]
    flow = found.targets / (1 + (found.targets / 0.01 - 1) * np.exp(-2 * found.targets * time))
    assert_allclose(found.first * found.second, flow, atol=2e-3)


@pytest.mark.parametrize("steps", [20, 200, 3000])  # also while it is still on its way
@pytest.mark.parametrize(("first", "second"), [(0.01, 0.01), (0.1, 0.1), (-0.1, -0.1), (2.0, 2.0), (1.2, -0.9)])
def test_no_rise_from_any_start_with_steps_that_do_not_jump(first: float, second: float, steps: int) -> None:
    """Small balanced aligned weights, large ones, and ab of the wrong sign, which must cross one axis alone."""
    found = two_layer(first=first, second=second, targets=(2.0, 1.0), steps=steps)
    assert found.profile.max_rise <= 1e-14  # losses near 1e-28 are rounding
    assert not found.crosses_origin
    assert (found.profile.derivative <= 1e-12).all()


@pytest.mark.parametrize(("start", "jumps"), [(1.8, False), (1.9, True), (2.0, True)])
def test_a_start_beyond_s_plus_one_over_the_step_crosses_the_origin_and_rises(start: float, jumps: bool) -> None:
    """s = 1 and η = 0.4: the bound on a² is 3.5, so on a 1.87."""
    found = two_layer(first=start, second=start, targets=(1.0,), learning_rate=0.4, steps=300)
    assert found.profile.loss[-1] < 1e-20
    assert found.crosses_origin == jumps
    # On the way back over W₂W₁ = 0 the loss is s² = 1; the grid of 51 comes this near to it and to the first 0.
    assert found.profile.max_rise == pytest.approx(1.0 if jumps else 0.0, abs=0.01)


@pytest.mark.parametrize("changes", [{"targets": ()}, {"examples": 1}, {"steps": 0}])
def test_two_layers_that_cannot_be_trained_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="as many examples as targets"):
        two_layer(first=0.1, second=0.1, **changes)


# Width


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 2.0])
def test_an_exact_power_law_is_found_exactly(exponent: float) -> None:
    widths = np.array([16, 64, 128, 1024])
    law = power_law(widths.tolist(), np.outer(widths**exponent, [1.0, 2.0, 0.5]))
    assert [law.exponent, law.lower, law.upper] == pytest.approx([exponent] * 3, abs=1e-12)
    assert law.prefactor == pytest.approx(1.0)  # the geometric mean of the three
    assert_allclose(law.at(widths), widths**exponent)


def test_the_interval_covers_the_exponent_as_often_as_it_says() -> None:
    """Noise of 30 % on each of 7 widths × 5 seeds: 95 % of 2,000 intervals, to about half a per cent."""
    generator = np.random.default_rng(0)
    widths = [16 * 2**octave for octave in range(7)]
    covered = 0
    for _ in range(2000):
        noise = np.exp(0.3 * generator.standard_normal((7, 5)))
        law = power_law(widths, 3 * np.power(widths, -0.5)[:, None] * noise)
        covered += law.lower <= -0.5 <= law.upper
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_students_t() -> None:
    """Tables: 4.303 and 2.776 at 97.5 % for 2 and 4 degrees of freedom."""
    assert [round(t_quantile(0.975, freedom), 3) for freedom in (2, 4)] == [4.303, 2.776]


def test_a_zero_has_no_exponent_and_says_so() -> None:
    law = power_law([2, 4], [[1.0, 0.0], [0.0, 0.0]])
    assert math.isnan(law.exponent) and math.isnan(law.lower) and math.isnan(law.prefactor)
    assert law.reason == "3 of 4 values are 0, which has no logarithm"
    assert law.verdict().startswith("no exponent: 3 of 4")


@pytest.mark.parametrize(
    ("widths", "values", "message"),
    [
        ([2, 4], [[1.0], [1.0]], "one seed has no error"),
        ([2], [[1.0, 1.0]], "two different widths"),
        ([2, 2], [[1.0, 1.0]] * 2, "two different widths"),
        ([2, 4, 8], [[1.0, 1.0]] * 2, "two different widths"),
        ([2, 4], [[1.0, -1.0]] * 2, "finite values ≥ 0"),
        ([2, 4], [[1.0, math.nan]] * 2, "finite values ≥ 0"),
    ],
)
def test_values_that_cannot_be_fitted_are_refused(widths: list[int], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        power_law(widths, values)


def test_a_level_outside_of_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="0 < level < 1"):
        power_law([2, 4], [[1.0, 2.0]] * 2, level=1.0)


def test_networks_in_ntk_parametrisation_start_at_the_same_scale_at_every_width() -> None:
    """Outputs of variance 1/width Σ φ², here for ReLU ½‖x‖²/4: 0.625 at ‖x‖² = 5, to about 5 % over 200 networks."""
    x, _ = regression_data()
    for width in (64, 256):
        outputs = torch.stack([ntk_network(width, activation="relu", seed=s)(x).detach() for s in range(200)])
        assert float(outputs.square().mean()) == pytest.approx(5 / 8, rel=0.1)
    with pytest.raises(ValueError, match="relu, tanh"):
        ntk_network(8, activation="gelu", seed=0)


def test_a_wide_network_trains_as_its_linearisation_does() -> None:
    """The point of the parametrisation: at one learning rate, the outputs after training near those of the kernel."""
    x, y = regression_data()
    gaps = []
    for width in (64, 1024):
        model = ntk_network(width, activation="tanh", seed=0)
        before = model(x).detach().flatten()
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()), retain_graph=True)])
            for value in model(x).flatten()
        ]
        kernel = torch.stack(rows) @ torch.stack(rows).T
        expected, step = before.clone(), 2 * 0.2 / len(x)
        for _ in range(30):
            expected = expected - step * kernel @ (expected - y.flatten())
        gradient_descent(model, x, y, learning_rate=0.2, steps=30)
        gaps.append(float((model(x).detach().flatten() - expected).norm() / (expected - before).norm()))
    assert gaps[1] < 0.05
    assert gaps[1] < gaps[0] / 2


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_lines_straighten_and_shorten_with_width(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerpscape.papers.lucas2021.theory.width.INTEGRAL_POINTS", 5)  # not looked at here
    study = width_study(activation=activation, widths=(16, 256), seeds=range(5), budget=129, steps=100, progress=False)
    for name in ("gauss_length", "relative_distance"):
        law = study.fit(name)
        assert law.upper < 0, (name, law)
    assert -0.6 < study.fit("relative_distance").exponent < -0.4  # ‖θ₀‖ ∝ √width, ‖θ_T − θ₀‖ → constant
    assert (study.values("end_loss") < study.values("start_loss")).all()
    assert study.values("width")[:, 0].tolist() == [16, 256]


@pytest.mark.slow
def test_kinks_decide_the_exponent_of_relu_networks() -> None:
    """Smooth bending falls like 1/width; that of kinks, which only the turning sees, like 1/√width."""
    widths, seeds = (64, 128, 256, 512, 1024), (0, 1, 2, 3, 4)
    laws = {
        activation: width_study(activation=activation, widths=widths, seeds=seeds, progress=False)
        for activation in ("tanh", "relu")
    }
    smooth, kinks = (laws[activation].fit("gauss_length") for activation in ("tanh", "relu"))
    published = laws["relu"].fit("integral")
    assert smooth.upper < kinks.lower
    assert published.upper < kinks.lower


def test_training_that_diverges_is_refused() -> None:
    with pytest.raises(ValueError, match="at width 16 with seed 0"):
        width_study(widths=(16, 32), seeds=(0, 1), learning_rate=50.0, steps=5, progress=False)


def test_widest_restricts_the_fit() -> None:
    values = [[4.0, 4.0], [1.0, 1.0], [0.5, 0.5]]
    runs = tuple(
        WidthRun(w, s, 1, 0, v, 0, v, 1, 0) for w, row in zip((1, 2, 4), values, strict=True) for s, v in enumerate(row)
    )
    study = WidthStudy("tanh", 0.1, 1, (1, 2, 4), (0, 1), runs)
    assert study.fit("gauss_length", widest=2).exponent == pytest.approx(-1)
    assert study.fit("gauss_length").exponent == pytest.approx(-1.5)
    assert study.fit("max_rise").reason


def test_run_theory_draws_four_figures_and_prints_its_numbers(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = run_theory(
        tmp_path / "out",
        activations=("tanh",),
        widths=(8, 16),
        seeds=(0, 1),
        runs=50,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (4, 4)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "linear.png",
        "quadratic.png",
        "two-layer.png",
        "width.png",
    ]
    text = "\n".join(found.lines())
    for expected in (
        "50 runs",
        "exponent -",
        "no exponent: 4 of 4 values are 0",
        "crosses the origin",
        "rad",
        "2 seeds",
    ):
        assert expected in text
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="to be writable"):
        run_theory(tmp_path / "file")
