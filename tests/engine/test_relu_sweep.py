"""Sweeps: a layer behind a ReLU kept up from one α to the next, against its products at every α."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import by_module, outputs_on_path
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine import relu_sweep
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.evaluate import evaluate_all
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.execution import GraphExecution, ModuleExecution, Objective
from lerpscape.engine.graph import traced
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.relu_sweep import NextLayer, ReLUSweep, may_sweep, worth_sweeping
from lerpscape.engine.shared_layers import EndpointOutputs
from lerpscape.networks import forward_ad
from lerpscape.networks.batches import batch_of
from lerpscape.networks.losses import LOSSES
from lerpscape.networks.undisturbed import undisturbed

FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}  # a few thousand sums of numbers around 1, 2.2e-16 each


def made(
    rows: int, units: int, outputs: int, seed: int, dtype: torch.dtype = torch.float64, biased: bool = True
) -> Any:
    """Pre-activations, a layer's weights and biases and how they move, and the layer."""
    drawn = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64).to(dtype)

    start, end = normal(rows, units), normal(rows, units)
    own = normal(outputs, units), normal(outputs, units), normal(outputs), normal(outputs)
    if not biased:
        own = (*own[:2], None, None)
    return start, end, own, NextLayer.of(*own)


def by_products(alpha: float, start: Tensor, end: Tensor, own: Any) -> list[Tensor]:
    """Value, slope and curvature by the product rule."""
    weight, moved, bias, shift = own
    value = torch.lerp(start, end, alpha)
    hidden, change = F.relu(value), (end - start) * (value > 0)
    weight, bias = weight + alpha * moved, None if bias is None else bias + alpha * shift
    return [
        F.linear(hidden, weight, bias),
        F.linear(change, weight) + F.linear(hidden, moved, shift),
        2 * F.linear(change, moved),
    ]


@pytest.mark.kernels
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize(
    "alphas", [np.linspace(0, 1, 50), np.linspace(-0.5, 1.5, 7), np.array([0.3, 0.31]), np.array([0.4])], ids=len
)
@pytest.mark.parametrize(("rows", "outputs"), [(1, 1), (5, 3), (23, 8), (24, 9)])
def test_it_is_the_product(
    rows: int, outputs: int, alphas: Any, moving: bool, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relu_sweep, "AHEAD", 3)
    start, end, own, layer = made(rows, 20, outputs, seed=rows, biased=biased)
    sweep = ReLUSweep(EndpointOutputs(start, end, end - start if moving else None), layer, alphas)
    assert sweep.shape == (rows, outputs)
    for alpha in alphas:
        for found, expected in zip(sweep.series(alpha, 2), by_products(alpha, start, end, own), strict=True):
            torch.testing.assert_close(found, expected, **FLOAT64)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=6),
    st.lists(st.integers(0, 64), min_size=1, max_size=8, unique=True),
)
def test_switches_on_the_grid_at_its_ends_and_units_that_rest_at_zero(pairs: Any, points: Any) -> None:
    start, end = torch.tensor(pairs, dtype=torch.float64).T[:, None]
    _, _, own, layer = made(1, len(pairs), 2, seed=3)
    alphas = np.array(sorted(points)) / 64
    sweep = ReLUSweep(EndpointOutputs(start, end, None), layer, alphas)
    for alpha in alphas:
        torch.testing.assert_close(sweep.series(alpha, 0)[0], by_products(alpha, start, end, own)[0], **FLOAT64)


@pytest.mark.kernels
def test_results_ahead_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end, _, layer = made(40, 30, 7, seed=0, dtype=torch.float32)
    grid, found = np.linspace(0, 1, 11), []
    for most in (1, 3, relu_sweep.AHEAD):
        monkeypatch.setattr(relu_sweep, "AHEAD_BYTES", most * 4 * 2 * 40 * 7)
        sweep = ReLUSweep(EndpointOutputs(start, end, None), layer, grid)
        found.append([[each.clone() for each in sweep.series(alpha, 1)] for alpha in grid])
        assert sweep._results.shape == (2, most, 40, 7)
        assert sweep.elements == 2 * 40 * 30 + (3 + min(2 * most, relu_sweep.AHEAD)) * 40 * 7 + 40 * 30
    for rows in zip(*found, strict=True):
        for parts in zip(*rows, strict=True):
            assert all(torch.equal(part, parts[0]) for part in parts)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end, _, layer = made(40, 30, 7, seed=0)
    found = []
    for threads in (1, 3, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        sweep = ReLUSweep(EndpointOutputs(start, end, None), layer, np.linspace(0, 1, 11))
        found.append(torch.stack([torch.stack(sweep.series(alpha, 1)) for alpha in np.linspace(0, 1, 11)]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.kernels
def test_the_same_bits_whatever_was_asked_for_before() -> None:
    start, end, _, layer = made(40, 30, 7, seed=0, dtype=torch.float32)
    grid = np.linspace(0, 1, 11)

    def fresh() -> ReLUSweep:
        return ReLUSweep(EndpointOutputs(start, end, None), layer, grid)

    everything = fresh()
    rows = [everything.at(alpha).clone() for alpha in grid]  # what is given is written over
    for place in (3, 10):
        assert torch.equal(fresh().at(grid[place]), rows[place])
    assert torch.equal(everything.at(grid[2]), rows[2])  # back again
    everything.at(grid[3]).zero_()  # as an operation that writes over its input does
    assert torch.equal(everything.at(grid[3]), rows[3])
    value, slope = everything.series(grid[4], 1)  # derivatives are asked for from now on
    assert torch.equal(value, rows[4]) and torch.equal(slope, fresh().series(grid[4], 1)[1])


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("harm", ["nan", "inf", "weight", "shrinks", "none"])
def test_sums_are_kept_only_where_they_are_safe(harm: str, moving: bool) -> None:
    start, end, own, _ = made(6, 20, 4, seed=5)
    if harm in ("nan", "inf"):
        end[2, 3] = float(harm)
    if harm == "weight":
        own[1][0, 0] = float("inf")
    if harm == "shrinks":
        end /= 1e3
    sweep = ReLUSweep(
        EndpointOutputs(start, end, end - start if moving else None), NextLayer.of(*own), np.linspace(0, 1, 5)
    )
    assert sweep.is_safe() == (harm == "none")
    with forward_ad.level():
        value, slope = forward_ad.split(sweep.at(0.75))
        expected = by_products(0.75, start, end, own)
        torch.testing.assert_close(value, expected[0], equal_nan=True, **FLOAT64)
        assert (slope is not None) == moving
        if slope is not None and harm != "nan":
            finite = expected[1].isfinite()
            torch.testing.assert_close(slope[finite], expected[1][finite], **FLOAT64)


@pytest.mark.kernels
def test_many_switches_cost_float32_sixteen_roundings() -> None:
    """Half of 512 units switch one after the other, and the sums are rounded 256 times.

    Roundings of random signs add up as √256 = 16 of them, each of at most 2⁻²⁴ of the sums that are kept: the three
    coefficients of the quadratic in α. How exact products are depends on the processor, so they are no measure.
    """
    start, end, own, layer = made(64, 512, 32, seed=7, dtype=torch.float32)
    alphas = np.linspace(0, 1, 200)
    sweep = ReLUSweep(EndpointOutputs(start, end, None), layer, alphas)
    exact = [each.double() for each in own]
    errors, sums = 0.0, 0.0
    for alpha in alphas:
        value, slope, curvature = by_products(alpha, start.double(), end.double(), exact)
        errors += float((sweep.at(alpha) - value).square().sum())
        quadratic = curvature / 2, slope - alpha * curvature, value - alpha * slope + alpha**2 * curvature / 2
        sums += sum(
            float((alpha**power * each).square().sum()) for power, each in zip((2, 1, 0), quadratic, strict=True)
        )
    assert errors < (16 * 2**-24) ** 2 * sums


def test_it_pays_where_few_units_switch_between_many_alphas() -> None:
    def asked(units: int, outputs: int, points: int, derivative: bool = False, examples: int = 60_000) -> bool:
        drawn = torch.Generator().manual_seed(0)
        start, end = (torch.randn(16, units, generator=drawn) for _ in range(2))
        nearly = start + 0.5 * end
        return worth_sweeping(EndpointOutputs(start, nearly, None), outputs, points, examples, derivative=derivative)

    assert asked(1024, 1024, 24) and not asked(1024, 1024, 12)
    assert asked(1024, 1024, 8, derivative=True) and not asked(1024, 1024, 4, derivative=True)
    assert asked(256, 256, 48) and not asked(256, 256, 12)
    assert not asked(1024, 10, 48) and not asked(128, 128, 48)
    assert not asked(1024, 1024, 24, examples=100)  # the compiler would have to be loaded


def network() -> nn.Sequential:
    """With a hinge, dropout on both sides of the ReLU."""
    first = [nn.Flatten(), nn.Linear(6, 40), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*first, nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))


def shallow() -> nn.Sequential:
    """The layer behind the hinge gives the output."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))


class Function(nn.Module):
    """With a hinge written in forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.next, self.last = nn.Linear(6, 40), nn.Linear(40, 30, bias=False), nn.Linear(30, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs.flatten(1)))
        return self.last(torch.tanh(self.next(hidden)))


class Skips(Function):
    """The first layer's result is used twice."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs.flatten(1))
        return self.last(self.next(torch.relu(hidden))) + hidden[:, :3]


class Straight(Function):
    """A linear layer stands before the ReLU."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.next(self.first(inputs.flatten(1)))))


class Smooth(Function):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.next(torch.tanh(self.first(inputs.flatten(1)))))


def drawn(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, 3, generator=generator)
    targets = torch.randint(0, 3, (count,), generator=generator)
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def seeded(build: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


DATA = drawn(50, seed=0)


def is_swept(found: ls.Profile) -> bool:
    return "the next one updated from α to α" in found.how["plan"]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweep wherever it is possible, few α ahead."""
    monkeypatch.setattr(relu_sweep, "worth_sweeping", lambda *sizes, **options: True)
    monkeypatch.setattr(relu_sweep, "AHEAD", 3)


@pytest.mark.kernels
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("derivative", [True, False])
@pytest.mark.parametrize("alphas", [12, np.linspace(-0.25, 1.25, 13)], ids=["inside", "beyond"])
@pytest.mark.parametrize("build", [network, Function, shallow])
def test_profiles_are_those_of_the_module(build: Any, alphas: Any, derivative: bool) -> None:
    start, end = seeded(build, 0), seeded(build, 1)
    asked = {"alphas": alphas, "derivative": derivative}
    found = ls.profile(start, ls.Line(start, end), DATA, **asked)
    expected = by_module(start, ls.Line(start, end), DATA, **asked)
    assert is_swept(found)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-6)  # float32
    assert found.loss[found.alphas == 0] == expected.loss[expected.alphas == 0]
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-4, atol=1e-8)
    if derivative:
        np.testing.assert_allclose(found.derivative, expected.derivative, rtol=1e-4, atol=1e-5)
    assert (found.accuracy == expected.accuracy).all()


@pytest.mark.usefixtures("eager")
def test_a_loss_may_give_a_part_of_the_swept_output_as_it_is() -> None:
    """It lies in memory that later α are written to."""
    start, end = seeded(shallow, 0), seeded(shallow, 1)
    asked = {"alphas": 12, "loss": lambda outputs, targets: outputs[:, 0], "derivative": False}
    found = ls.profile(start, ls.Line(start, end), DATA, **asked)
    expected = by_module(start, ls.Line(start, end), DATA, **asked)
    assert is_swept(found)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4, atol=1e-6)  # float32, around 0


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("build", [Skips, Smooth, Straight])
def test_without_a_hinge_there_is_no_sweep(build: Any) -> None:
    start, end = seeded(build, 0), seeded(build, 1)
    assert not is_swept(ls.profile(start, ls.Line(start, end), DATA, alphas=12))
    graph = traced(start)
    assert not isinstance(graph, str) and graph.linear_relu_linear is None and graph.shared


@pytest.mark.kernels
@pytest.mark.usefixtures("eager")
def test_adaptive_points_that_are_known_before_are_swept() -> None:
    start, end = seeded(network, 0), seeded(network, 1)
    line = ls.Line(start, end)
    found, shared = (ls.profile(start, line, DATA, alphas="adaptive", workers=workers) for workers in (1, 2))
    expected = ls.profile(start, line, DATA, alphas=found.alphas, dtype=torch.float64)
    assert is_swept(found) and (shared.loss == found.loss).all() and (shared.alphas == found.alphas).all()
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-6)  # float32


@pytest.mark.usefixtures("eager")
def test_float64_is_swept_too() -> None:
    start, end = seeded(network, 0), seeded(network, 1)
    asked = {"alphas": 12, "dtype": torch.float64}
    found = ls.profile(start, ls.Line(start, end), DATA, **asked)
    expected = by_module(start, ls.Line(start, end), DATA, **asked)
    assert is_swept(found)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-13)
    np.testing.assert_allclose(found.derivative, expected.derivative, rtol=1e-11)


@pytest.mark.usefixtures("eager")
def test_without_a_compiler_the_plan_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = seeded(network, 0), seeded(network, 1)
    found = {}
    for there in (True, False):
        monkeypatch.setattr(relu_sweep, "find_spec", lambda name, there=there: there or None)
        found[there] = ls.profile(start, ls.Line(start, end), DATA, alphas=12)
        ls.gauss_length(start, ls.Line(start, end), DATA, alphas=5, precision=0.5)
    assert is_swept(found[True]) and not is_swept(found[False])
    assert found[False].how["plan"].startswith("first layer shared by all α (faster with lerpscape[fast]), ")
    np.testing.assert_allclose(found[False].loss, found[True].loss, rtol=2e-6)  # float32


@pytest.mark.kernels
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("examples", [20, 50])
def test_workers_and_resumed_measurements_give_the_same_bits(
    examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = seeded(network, 0), seeded(network, 1)
    line, data = ls.Line(start, end), drawn(examples, seed=3)
    whole = ls.profile(start, line, data, alphas=12)
    assert is_swept(whole)
    shared = ls.profile(start, line, data, alphas=12, workers=2)  # one group: they divide α
    assert (shared.loss == whole.loss).all() and (shared.derivative == whole.derivative).all()

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    file = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        ls.profile(start, line, data, alphas=12, partial=file, progress=stop)
    monkeypatch.setattr(relu_sweep, "worth_sweeping", lambda *sizes, **options: False)
    resumed = ls.profile(start, line, data, alphas=12, partial=file)
    assert is_swept(resumed)
    assert (resumed.loss == whole.loss).all() and (resumed.derivative == whole.derivative).all()


@pytest.mark.usefixtures("eager")
def test_a_sweep_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = seeded(network, 0), seeded(network, 1)
    right = ReLUSweep.series
    monkeypatch.setattr(ReLUSweep, "series", lambda *asked: [2 * each for each in right(*asked)])
    found = ls.profile(start, ls.Line(start, end), DATA, alphas=12)
    assert not is_swept(found) and "first layer shared" in found.how["plan"]


def test_the_tensors_of_a_swept_layer_are_not_needed() -> None:
    graph = traced(seeded(network, 0))
    assert not isinstance(graph, str)
    assert graph.needed() - graph.needed(sweeping=True) == {"5.weight", "5.bias"}


@pytest.mark.parametrize("method", ["turning", "integral"])
@pytest.mark.parametrize("build", [network, shallow])
def test_turning_angles_come_from_sweeps_too(build: Any, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = seeded(build, 0), seeded(build, 1)
    line = ls.Line(start, end)
    asked = {"alphas": 17, "precision": 0.05, "budget": 129, "method": method}
    swept = []
    monkeypatch.setattr(relu_sweep, "worth_sweeping", lambda *sizes, **options: swept.append(sizes) or True)
    monkeypatch.setattr(relu_sweep, "AHEAD", 3)
    found = ls.gauss_length(start, line, DATA, **asked)
    assert {points for _, _, points, _ in swept} >= {17, 16}  # the first grid, then its middles
    monkeypatch.setattr(relu_sweep, "worth_sweeping", lambda *sizes, **options: False)
    expected = ls.gauss_length(start, line, DATA, **asked)
    np.testing.assert_array_equal(found.points, expected.points)
    # Directions in float32 are off by some 1e-6 rad, at up to 129 points.
    np.testing.assert_allclose(found.per_example, expected.per_example, atol=2e-4)
    exact = ls.gauss_length(start, line, DATA, dtype=torch.float64, **asked)
    np.testing.assert_allclose(np.median(np.abs(found.per_example - exact.per_example)), 0, atol=2e-4)


def test_a_stack_whose_outputs_vanish_is_not_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the end, what is left of sums over the large start would have few digits."""
    monkeypatch.setattr(relu_sweep, "worth_sweeping", lambda *sizes, **options: True)
    start, end = seeded(network, 0), seeded(network, 1)
    with torch.no_grad():
        for tensor in (start[1].weight, start[1].bias, start[5].weight, start[5].bias):
            tensor *= 300
    batch, alphas = batch_of(DATA[0]), np.array([0.0, 0.3, 0.6, 0.999])
    with undisturbed(start):
        outputs, expecting = (outputs_on_path(start, ls.Line(start, end), batch, order=1) for _ in range(2))
        expecting.expect(alphas, 1)
        for alpha in alphas:
            assert torch.equal(outputs.at(float(alpha), [batch])[0], expecting.at(float(alpha), [batch])[0])


def test_unexpected_alphas_are_measured_without_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = seeded(network, 0), seeded(network, 1)
    monkeypatch.setattr(relu_sweep, "worth_sweeping", lambda *sizes, **options: True)
    batch = batch_of(DATA[0])
    with undisturbed(start):
        outputs = outputs_on_path(start, ls.Line(start, end), batch, order=2)
        alphas = np.linspace(0, 1, 9)
        outputs.expect(alphas[::2], 1)
        for alpha in alphas:
            (found,) = outputs.at(float(alpha), [batch])
            (expected,) = outputs_on_path(start, ls.Line(start, end), batch, order=2).at(float(alpha), [batch])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32


def objective_on(line: ls.Line, model: nn.Module) -> Objective:
    on_path = ModelOnPath(model, line, None, None)
    return Objective(on_path, LOSSES["cross_entropy"], BatchNormStatistics(on_path, None))


@pytest.mark.kernels
@pytest.mark.parametrize("workers", [1, 2])
def test_one_alpha_alone_is_measured_by_the_module(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of the first layer would serve a single α: more than the module makes."""
    by_graph, right = [], GraphExecution.at

    def at(execution: GraphExecution, alpha: float, prepared: Any) -> Any:
        by_graph.append(alpha)
        return right(execution, alpha, prepared)

    monkeypatch.setattr(GraphExecution, "at", at)
    start, end = seeded(network, 0), seeded(network, 1)
    line, grid, chunk = ls.Line(start, end), [0.2, 0.4, 0.7], [batch_of(item) for item in DATA]
    with undisturbed(start):
        objective = objective_on(line, start)
        evaluator = Evaluator(objective, ExecutionPlan("graph", "as the test says", 16, group_size=64))
        alone = [evaluate_all(evaluator, np.array([alpha]), [chunk], workers=workers)[0].losses for alpha in grid]
        assert not by_graph
        module = ModuleExecution(objective)
        for alpha, losses in zip(grid, alone, strict=True):
            assert (losses == module.at(alpha, chunk).losses).all()
        evaluate_all(evaluator, np.array(grid), [chunk], workers=workers)
        assert bool(by_graph) == (workers == 1)  # else it is the forked processes that called it


@pytest.mark.kernels
@pytest.mark.parametrize("sweeps", [False, True])
def test_a_plan_holds_for_few_alphas_too(sweeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tasks elsewhere, which see the α of one pass alone, give the same bits."""
    by_graph, at = [], GraphExecution.at

    def noted(execution: GraphExecution, alpha: float, prepared: Any) -> Any:
        by_graph.append(alpha)
        return at(execution, alpha, prepared)

    monkeypatch.setattr(GraphExecution, "at", noted)
    start, end = seeded(network, 0), seeded(network, 1)
    few, chunk = np.array([0.25, 0.4, 0.75]), [batch_of(item) for item in DATA]
    sweep_alphas = tuple(np.linspace(0, 1, 9).tolist()) if sweeps else ()
    plan = ExecutionPlan("graph", "as the test says", 16, group_size=64, sweep_alphas=sweep_alphas)
    with undisturbed(start):
        objective = objective_on(ls.Line(start, end), start)
        matrices = []
        for each in (plan, ExecutionPlan.from_json(plan.to_json())):
            matrices.append(evaluate_all(Evaluator(objective, each), few, [chunk]))
            assert set(by_graph) == ({0.25, 0.75} if sweeps else set(few))  # a sweep gives nothing beside its α
            by_graph.clear()
    assert all(torch.equal(matrices[0][place].losses, matrices[1][place].losses) for place in range(3))


def test_sweeps_are_for_vectors_on_the_cpu() -> None:
    still = torch.ones(1, 512)
    assert may_sweep(EndpointOutputs(still, still, None), 512, 50, 60_000, derivative=False)
    for other in (torch.ones(1, 512, 2), still.to("meta"), still.half()):
        assert not may_sweep(EndpointOutputs(other, other, None), 512, 50, 60_000, derivative=False)
