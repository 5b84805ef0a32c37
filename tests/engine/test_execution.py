from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import assert_same, batches, by_graph, by_module, by_plan, classes, ends, generator, random, seeded, variants
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine import planner
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.execution import GraphExecution, ModuleExecution, Objective
from lerpscape.engine.graph import EndpointOutputs, traced
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.planner import Sizes
from lerpscape.networks.batches import batch_of
from lerpscape.networks.channel_moments import moments
from lerpscape.networks.checksums import BLOCK, checksum
from lerpscape.networks.losses import LOSSES
from lerpscape.networks.undisturbed import undisturbed

DATA = batches(random(23, 2, 3, seed=1), classes(23, seed=2))


class Flat(nn.Module):
    """A forward() of its own: a look at the data, a shortcut, a scale among the buffers, tied layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.again = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        self.free = nn.Parameter(torch.ones(8))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.first((inputs * 2 - 1).view(inputs.size(0), -1)))
        hidden = torch.relu(self.again(hidden) + hidden * self.free)
        return self.last(F.relu(self.again(hidden) + hidden) * self.scale)


class Overwrites(nn.Module):
    """The shortcut is what an in-place activation left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        before = self.second(self.first(inputs.flatten(1)))
        return self.last(self.act(before) + before)


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


class Functions(nn.Module):
    """The first layer as a function of the module's tensors, its weights tied to the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.last = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(0.5 * inputs.flatten(1), self.weight, bias=self.bias))
        return self.last(torch.tanh(F.linear(hidden, self.weight)))


class Mixes(nn.Module):
    """Subtracts the batch's own mean: the answer depends on who else is there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs.flatten(1))
        return self.last(torch.relu(hidden - hidden.mean(0)))


class OneSize(Mixes):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(inputs.flatten(1))).view(5, 8))


class Branches(Mixes):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(inputs.flatten(1)) if inputs.sum() > -1e9 else inputs))


class Counts(Mixes):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.last(torch.relu(self.first(inputs.flatten(1))))


@pytest.mark.parametrize("rows", [1, pytest.param(7, marks=pytest.mark.kernels), 4096])
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("build", [plain, Flat, Overwrites, Functions])
def test_the_operations_measure_what_the_module_does(build: Any, derivative: bool, rows: int) -> None:
    start, end = ends(build)
    line = ls.Line(start, end)
    for data in (DATA, [tuple(torch.cat(parts) for parts in zip(*DATA, strict=True))]):
        seen: list[tuple[int, int]] = []
        asked = {"alphas": np.linspace(-0.1, 1.2, 14), "derivative": derivative}
        found = by_graph(
            rows, 2 * rows, start, line, data, progress=lambda *told, seen=seen: seen.append(told), **asked
        )
        assert_same(found, by_module(start, line, data, **asked))
        assert seen == sorted(seen) and seen[-1] == (14 * len(data),) * 2


WITH_BATCH_NORM = [each for each in variants() if each[1].batch_norm and each[0] != "cnn-batch"]


@pytest.mark.kernels
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize(("name", "case", "policy"), WITH_BATCH_NORM, ids=[each[0] for each in WITH_BATCH_NORM])
def test_convolutions_and_batch_norm_too(name: str, case: Any, policy: Any, derivative: bool) -> None:
    start, end = case.ends()
    asked = {"batch_norm": policy, "alphas": 6, "derivative": derivative}
    found = ls.profile(start, ls.Line(start, end), case.data(), **asked)
    assert "channels last" in found.how["plan"]
    assert ("losses in one pass" in found.how["plan"]) == (name == "cnn-recalibrate")
    assert_same(found, by_module(start, ls.Line(start, end), case.data(), **asked))


def test_exact_statistics_of_other_data_come_from_one_pass() -> None:
    case = WITH_BATCH_NORM[0][1]
    start, end = case.ends()
    policy = ls.Recalibrate(case.data()[1:])
    found = ls.profile(start, ls.Line(start, end), case.data(), batch_norm=policy, alphas=4)
    assert found.how["plan"].endswith("exact statistics in one pass")
    assert_same(found, by_module(start, ls.Line(start, end), case.data(), batch_norm=policy, alphas=4))


def test_without_the_memory_for_all_data_at_once_statistics_come_layer_by_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = WITH_BATCH_NORM[0][1]
    start, end = case.ends()
    monkeypatch.setattr(planner, "free_bytes", lambda: 1000)
    found = ls.profile(start, ls.Line(start, end), case.data(), batch_norm=ls.Recalibrate(case.data()), alphas=4)
    assert "one pass" not in found.how["plan"]


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("build", [plain, Flat, Functions])
def test_the_ends_are_the_checkpoints_bit_for_bit(build: Any, derivative: bool, dtype: torch.dtype) -> None:
    start, end = ends(build, dtype)
    data = [(x.to(dtype), y) for x, y in DATA]
    found = ls.profile(start, ls.Line(start, end), data, alphas=9, derivative=derivative)
    assert "first layer" in found.how["plan"]
    for position, model in ((0, start), (-1, end)):
        with torch.no_grad():
            values = torch.cat([LOSSES["cross_entropy"].values(model(x), y) for x, y in data])
        assert found.loss[position] == float(values.double().numpy().mean())


class Turned(nn.Module):
    """A linear layer on positions that do not lie in order, as those of an LSTM with its batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(17, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(inputs.transpose(0, 1).contiguous().transpose(0, 1))


@pytest.mark.kernels
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("derivative", [False, True])
def test_the_kernels_are_those_of_the_network_itself(derivative: bool, trained: bool) -> None:
    """torch multiplies sequences that are not contiguous in another way where the weights require gradients."""
    start, end = ends(Turned, torch.float32)
    for model in (start, end):
        model.requires_grad_(trained)
    data = batches(random(40, 2, 17, seed=1).float(), classes(40, 2, seed=2, count=10), size=2)
    found = ls.profile(start, ls.Line(start, end), data, alphas=9, derivative=derivative)
    for position, model in ((0, start), (-1, end)):
        with torch.no_grad():
            values = torch.cat([LOSSES["cross_entropy"].values(model(x), y) for x, y in data])
        assert found.loss[position] == float(values.double().numpy().mean())
    assert all(each.requires_grad == trained for each in start.parameters())


@pytest.mark.kernels
def test_float32_differs_by_rounding_only() -> None:
    start, end = ends(plain, torch.float32)
    data = [(x.float(), y) for x, y in DATA]
    found = ls.profile(start, ls.Line(start, end), data)
    expected = by_module(start, ls.Line(start, end), data)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(found.derivative, expected.derivative, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (Mixes, "its loss is one of whole batches"),
        (OneSize, r"fails on batches of another size \(RuntimeError\)"),
        (Branches, r"torch.fx cannot trace it \(TraceError\)"),
    ],
)
def test_what_cannot_be_traced_or_disagrees_is_measured_by_the_module(build: Any, why: str) -> None:
    start, end = ends(build)
    before = deepcopy(start.state_dict())
    data = DATA[:4] if build is OneSize else DATA
    found = ls.profile(start, ls.Line(start, end), data, alphas=9)
    assert pytest.approx(found.loss, rel=1e-13) == [
        np.concatenate([each_loss(start, ls.Line(start, end).at(alpha), item) for item in data]).mean()
        for alpha in found.alphas
    ]
    assert re.search(why, found.how["plan"])
    assert all(torch.equal(before[name], tensor) for name, tensor in start.state_dict().items())


def each_loss(model: nn.Module, state: dict[str, Tensor], item: Any) -> Any:
    with torch.no_grad():
        outputs = torch.func.functional_call(model, {n: t.clone() for n, t in state.items()}, (item[0],))
        return F.cross_entropy(outputs, item[1], reduction="none").numpy()


def test_tracing_leaves_what_a_model_counts_alone() -> None:
    start, end = ends(Counts)
    found = ls.profile(start, ls.Line(start, end), DATA, alphas=9)
    assert "first layer" in found.how["plan"] and float(start.calls) == 0.0


def test_hooks_and_too_few_points_leave_the_module_as_it_is() -> None:
    start, end = ends(plain)
    line = ls.Line(start, end)
    assert "too few points" in ls.profile(start, line, DATA, alphas=4).how["plan"]
    handle = start[1].register_forward_hook(lambda module, inputs, output: output * 2)
    assert "'1' (Linear) has forward hooks" in ls.profile(start, line, DATA).how["plan"]
    handle.remove()


@pytest.mark.kernels
def test_a_plan_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = ends(plain)
    line = ls.Line(start, end)
    expected = by_module(start, line, DATA, derivative=False)
    monkeypatch.setattr(
        EndpointOutputs, "at", lambda shared, alpha, into: torch.lerp(shared.start, shared.end, 1.001 * alpha)
    )
    found = ls.profile(start, line, DATA, derivative=False)
    assert "differ from it (losses off by" in found.how["plan"]
    assert (found.loss == expected.loss).all()


def test_arithmetic_among_parameters_follows_alpha() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.last = nn.Parameter(torch.ones(8, 6)), nn.Linear(8, 3)
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(torch.tanh(F.linear(inputs.flatten(1), self.weight * (self.scale + 1))))

    graph = traced(seeded(Scaled, 0))
    assert not isinstance(graph, str)
    assert graph.needed() == {"weight", "scale", "last.weight", "last.bias"}


def test_a_resumed_measurement_keeps_its_plan(tmp_path: Path) -> None:
    start, end = ends(plain, torch.float32)
    line, data = ls.Line(start, end), [(x.float(), y) for x, y in DATA]
    whole = ls.profile(start, line, data, alphas=9)
    file = tmp_path / "kept"

    def stop(done: int, total: int) -> None:
        if done > 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ls.profile(start, line, data, alphas=9, partial=file, progress=stop)
    with mock.patch.object(planner, "plan", side_effect=AssertionError("a new plan")):
        resumed = ls.profile(start, line, data, alphas=9, partial=file)
    assert (resumed.loss == whole.loss).all() and (resumed.derivative == whole.derivative).all()
    assert resumed.how["plan"] == whole.how["plan"]


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(1, 1), (6, 5), (64, 3, 8, 8), (10, 2048), (4096, 1)])
def test_moments_are_those_of_float64(shape: tuple[int, ...]) -> None:
    values = 5 + torch.randn(shape, generator=generator(0))
    values = values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values
    variance, mean = moments(values)
    wanted = torch.var_mean(values.double(), dim=[0, *range(2, len(shape))], correction=0)
    # float32 sums over at most a few thousand values
    torch.testing.assert_close(variance, wanted[0], rtol=2e-6, atol=1e-12)
    torch.testing.assert_close(mean, wanted[1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("length", [1, 7, 8, 13, 8 * BLOCK, 16 * BLOCK + 5])
def test_checksums_see_every_bit(length: int) -> None:
    data = bytearray(np.random.default_rng(0).bytes(length))
    before = checksum(bytes(data))
    for place in {0, length // 2, length - 1, max(length - 8, 0)}:
        for bit in range(8):
            data[place] ^= 1 << bit
            assert checksum(bytes(data)) != before
            data[place] ^= 1 << bit
    assert checksum(bytes(data)) == before
    assert checksum(bytes(data) + b"\0") != before


def test_checksums_see_swaps_and_pairs_of_signs() -> None:
    values = np.random.default_rng(0).standard_normal(4 * BLOCK)
    before = checksum(values.tobytes())
    first, second, *rest = np.split(values, 4)
    swapped = np.concatenate([second, first, *rest])
    assert checksum(swapped.tobytes()) != before
    for dtype in (np.float32, np.float64):
        kept = values.astype(dtype)
        turned = kept.copy()
        turned[[3, 10]] *= -1
        assert checksum(kept.tobytes()) != checksum(turned.tobytes())


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("policy", [None, ls.InterpolateStatistics(), "exact", "pooled"])
def test_nothing_waits_for_the_device_between_two_alphas(
    policy: Any, derivative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On `meta` there are no values: whatever asks for one fails, as a transfer from a GPU would have to wait there."""
    case = WITH_BATCH_NORM[0][1]
    build, inputs = (plain, random(7, 2, 3, seed=1)) if policy is None else (case.build, random(7, 1, 4, 4, seed=1))
    start, end = ends(build)
    line = ls.Line(start, end)
    start = start.to("meta")
    data = [(inputs.to("meta"), classes(7, seed=2).to("meta"))]
    if isinstance(policy, str):
        policy = ls.Recalibrate(data, pooled=policy == "pooled")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "equal", lambda one, other: False)  # which tensors move cannot be seen on meta
        on_path = ModelOnPath(start, line, torch.device("meta"), None)
    statistics = BatchNormStatistics(on_path, policy)
    graph = traced(start)
    assert not isinstance(graph, str)
    objective = Objective(on_path, LOSSES["cross_entropy"], statistics, "forward" if derivative else None)
    plan = ExecutionPlan("graph", "as the test says", 7, policy is not None, 7)
    with undisturbed(start):
        module, execution = ModuleExecution(objective), GraphExecution(objective, graph, plan)
        batch = batch_of(data[0])
        prepared = [execution.prepare(batch)]
        for alpha in (0.2, 0.7):
            for losses in (module.at(alpha, [batch]), execution.at(alpha, prepared)):
                assert losses.losses.device.type == "meta" and losses.losses.shape == (7,)
                assert (losses.slopes is not None) == derivative and losses.right is not None


def test_channels_go_last_where_results_outweigh_the_weights() -> None:
    def choice(channels: int, side: int) -> str:
        def build() -> nn.Module:
            convolution = nn.Conv2d(channels, channels, 3, padding=1)
            return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(channels * side**2, 3))

        start, end = ends(build)
        data = [(random(16, channels, side, side, seed=1), classes(16, seed=2))]
        return ls.profile(start, ls.Line(start, end), data, alphas=3).how["plan"]

    assert "channels last" in choice(4, 16)  # 144 weights against 16 · 2048 results
    assert "channels last" not in choice(32, 2)  # 9,216 weights against 16 · 256


def test_a_network_with_nothing_to_gain_goes_by_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Tanh(), nn.Conv2d(32, 32, 3, padding=1), nn.Flatten(), nn.Linear(128, 3))

    start, end = ends(build)
    line, images, labels = ls.Line(start, end), random(96, 32, 2, 2, seed=1), classes(96, seed=2)
    monkeypatch.setattr(planner, "LARGEST_BATCH", 32)
    plans = {}
    for size in (4, 8, 64, 96):
        found = ls.profile(start, line, batches(images, labels, size=size), alphas=4)
        plans[size] = found.how["plan"]
        assert_same(found, by_module(start, line, batches(images, labels, size=size), alphas=4))
    assert plans[8] == "the module batch by batch: there is nothing to share, and its batches and layout are good"
    assert plans[8] == plans[64]  # on average 48
    assert plans[4] == plans[96] == "traced operations, 32 examples at a time"


def test_the_batches_of_a_group_are_as_equal_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    prepare = GraphExecution.prepare

    def counted(execution: GraphExecution, batch: Any, *captured: Any) -> Any:
        sizes.append(len(batch.inputs))
        return prepare(execution, batch, *captured)

    monkeypatch.setattr(GraphExecution, "prepare", counted)
    start, end = ends(plain)
    by_graph(11, 23, start, ls.Line(start, end), DATA, alphas=9, derivative=False)
    assert sizes == [8, 8, 7]


def test_weights_that_outweigh_results_want_larger_batches() -> None:
    sizes = Sizes(largest=1 << 20, held=1 << 21, total=1 << 20, shared=1)
    rows = {}
    for width in (8, 2048):
        graph = traced(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(width, width)))
        assert not isinstance(graph, str)
        rows[width] = planner.sized(graph, sizes, 4, 4096).batch_size
    assert rows == {8: planner.SMALLEST_BATCH, 2048: 2 * 4 * (2048**2 + 2048 + 20) // (1 << 20)}


@pytest.mark.parametrize("build", [plain, lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3))])
def test_a_loss_that_is_a_part_of_the_output_is_kept(build: Any) -> None:
    """Results of linear layers are written over those of the batch before."""
    start, end = ends(build)
    asked = {"loss": lambda outputs, targets: outputs[:, 0], "alphas": 9, "derivative": False}
    found = by_graph(4, 23, start, ls.Line(start, end), DATA, **asked)
    assert_same(found, by_module(start, ls.Line(start, end), DATA, **asked))


class Named(nn.Module):
    """Takes its inputs by name; what is not masked weighs the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(features * (mask / mask.sum(1)[:, None]))))


@pytest.mark.parametrize("derivative", [False, True])
def test_dict_batches_are_shared_too_and_keep_their_ends(derivative: bool) -> None:
    start, end = ends(Named)
    features, mask, labels = random(11, 6, seed=1), random(11, 6, seed=2).abs(), classes(11, seed=3)
    parts = zip(features.split(4), mask.split(4), labels.split(4), strict=True)
    data = [{"features": x, "mask": m, "labels": y} for x, m, y in parts]
    line = ls.Line(start, end)
    found = ls.profile(start, line, data, derivative=derivative)
    assert "first layer shared by all α" in found.how["plan"]
    plain = by_module(start, line, data, derivative=derivative)
    assert_same(found, plain)
    assert (found.loss[[0, -1]] == plain.loss[[0, -1]]).all()


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 3)

    def forward(self, inputs: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.read(inputs if scale is None else inputs * scale)


def test_an_input_left_out_or_without_a_row_for_each_example_leaves_the_module_as_it_is() -> None:
    start, end = ends(Optional)
    line, x, y = ls.Line(start, end), random(8, 6, seed=1), classes(8, seed=2)
    for inputs, why in (
        ({"inputs": x}, "it takes other inputs than the batches have"),
        ((x,), "it takes other inputs than the batches have"),
        (x, "it takes other inputs than the batches have"),
        ((x, torch.ones(6, dtype=torch.float64)), "the batches are not tensors with a row of one kind"),
        ({"inputs": x, "scale": None}, "the batches are not tensors with a row of one kind"),
    ):
        found = ls.profile(start, line, [(inputs, y)], derivative=False)
        assert why in found.how["plan"]
        with torch.no_grad():
            expected = F.cross_entropy(start(**inputs) if isinstance(inputs, dict) else start(x), y)
        np.testing.assert_allclose(found.loss[0], float(expected), rtol=1e-14)
    both = ls.profile(start, line, [({"scale": torch.full((8, 1), 2.0).double(), "inputs": x}, y)])
    assert "first layer shared" in both.how["plan"]


def test_few_points_share_where_there_is_much_to_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point between the ends saves a product with the first layer's weights; the module makes the ends'."""
    start, end = ends(lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 100)))
    line, images = ls.Line(start, end), [(random(23, 30, seed=1), classes(23, seed=2))]
    for saved, points, shared in (
        (3 * 23 * 240, 5, True),
        (3 * 23 * 240 + 1, 5, False),
        (3 * 23 * 240 + 1, 6, True),
        (1, 2, False),
        (23 * 240, [0.2, 0.4, 0.6], True),  # those at the ends come on top
        (23 * 240 + 1, [0.2, 0.4, 0.6], False),
        (1, [0.2, 0.4], False),
    ):
        monkeypatch.setattr(planner, "WORTH_TRACING", saved)
        found = ls.profile(start, line, images, alphas=points)
        assert ("first layer shared" in found.how["plan"]) == shared, points
        assert ("too few points" in found.how["plan"]) == (not shared)
        assert_same(found, by_module(start, line, images, alphas=points))


class Unforeseen(Exception):
    pass


def test_a_defect_of_the_planner_is_told_and_the_module_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In these tests every warning is an error: such a defect cannot hide behind slowness."""

    def broken(*_: Any) -> Any:
        raise Unforeseen("a defect")

    monkeypatch.setattr(planner, "_sizes", broken)
    start, end = ends(plain)
    line = ls.Line(start, end)
    with pytest.warns(UserWarning, match=r"planning failed with Unforeseen: a defect; the module computes every α"):
        found = ls.profile(start, line, DATA, alphas=9)
    assert found.how["plan"] == "the module batch by batch: planning failed with Unforeseen: a defect"
    assert (found.loss == by_module(start, line, DATA, alphas=9).loss).all()


def test_a_plan_for_the_graph_of_a_model_that_cannot_be_traced_is_refused() -> None:
    start, end = ends(Branches)
    plan = ExecutionPlan("graph", "as the test says", 8, group_size=8)
    with pytest.raises(ValueError, match=r"(?s)a model that can be traced.*Branches: torch.fx cannot trace it"):
        by_plan(plan, start, ls.Line(start, end), DATA, alphas=9)
    with pytest.raises(ValueError, match="a batch size and a group size of at least 1"):
        ExecutionPlan("graph", "as the test says")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("estimation", ["module", "exact", "exact with losses"])
def test_every_plan_for_statistics_gives_the_same_profile(estimation: Any, workers: int) -> None:
    case = WITH_BATCH_NORM[0][1]
    start, end = case.ends()
    line, policy = ls.Line(start, end), ls.Recalibrate(case.data())
    plan = ExecutionPlan("graph", "as the test says", 4, True, 8, estimation)
    found = by_plan(plan, start, line, case.data(), batch_norm=policy, alphas=4, workers=workers)
    assert_same(found, by_module(start, line, case.data(), batch_norm=policy, alphas=4))
