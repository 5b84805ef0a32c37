from __future__ import annotations

import random as python_random
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, POLICIES, Case, Tied, batches, classes, cnn, generator, mlp, random, rounding, seeded, variants
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import lerpscape as ls

VARIANTS = variants()
IDS = [name for name, _, _ in VARIANTS]


def measured(case: Case, policy: Any, **choices: Any) -> ls.Profile:
    start, end = case.ends()
    choices = {"alphas": 7, "loss": case.loss, "batch_norm": policy, "progress": False} | choices
    found = ls.profile(start, ls.Line(start, end), choices.pop("data", case.data()), **choices)
    assert choices["loss"] is not case.loss or not found.invalid  # NaN would agree with NaN below
    return found


# Closed forms -------------------------------------------------------------------------------------------------------


class Product(nn.Module):
    """y = w₁ · w₂ · … · w_depth, whatever the input."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(depth, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weights.prod().expand(len(inputs), 1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_deep_scalar_product_is_a_polynomial_of_degree_twice_the_depth(depth: int) -> None:
    model = Product(depth)
    line = ls.Line({"weights": torch.zeros(depth).double()}, {"weights": torch.ones(depth).double()})
    ones = torch.ones(3, 1, dtype=torch.float64)
    found = ls.profile(model, line, [(ones, ones)], loss="squared_error", alphas=np.linspace(-0.5, 1.5, 41))
    alphas = found.alphas
    np.testing.assert_allclose(found.loss, (alphas**depth - 1) ** 2, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        found.derivative, 2 * (alphas**depth - 1) * depth * alphas ** (depth - 1), rtol=1e-11, atol=1e-13
    )
    assert found.max_rise == 0


def test_the_plateau_of_a_product_grows_with_depth() -> None:
    plateaus = []
    for depth in (1, 2, 4, 8):
        line = ls.Line({"weights": torch.zeros(depth).double()}, {"weights": torch.ones(depth).double()})
        ones = torch.ones(2, 1, dtype=torch.float64)
        found = ls.profile(Product(depth), line, [(ones, ones)], loss="squared_error", alphas=501, derivative=False)
        # 1 − (1 − α^d)² = eps  at  α = (1 − √(1 − eps))^(1/d)
        assert found.plateau(0.05) == pytest.approx((1 - np.sqrt(0.95)) ** (1 / depth), abs=2e-3)
        plateaus.append(found.plateau(0.05))
    assert plateaus == sorted(plateaus)


@pytest.mark.parametrize(("overshoot", "monotone"), [(1.0, True), (0.8, True), (1.3, False)])
def test_quadratic_loss_rises_only_past_its_minimum(overshoot: float, monotone: bool) -> None:
    """A linear model under squared error: L is a parabola in α, falling to the minimiser and rising behind it."""
    x = random(30, 4, seed=0)
    y = x @ random(4, 1, seed=1) + 0.1 * random(30, 1, seed=2)
    minimiser = torch.linalg.lstsq(x, y).solution
    model = nn.Linear(4, 1, bias=False).double()
    start = random(1, 4, seed=3)
    end = start + overshoot * (minimiser.T - start)
    found = ls.profile(
        model, ls.Line({"weight": start}, {"weight": end}), batches(x, y, 7), loss="squared_error", alphas=101
    )
    residual, moved = (x @ start.T - y).squeeze(), (x @ (end - start).T).squeeze()
    alphas = torch.from_numpy(found.alphas)[:, None]
    np.testing.assert_allclose(found.loss, (residual + alphas * moved).square().mean(1), rtol=1e-12)
    np.testing.assert_allclose(
        found.derivative, 2 * ((residual + alphas * moved) * moved).mean(1), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(np.diff(found.derivative, 2), 0, atol=1e-10)  # L′ is linear
    assert found.is_monotonic(1e-12) == monotone
    if not monotone:
        assert found.rises[0].opens == pytest.approx(1 / overshoot, abs=0.01)
        assert found.rises[0].closes == 1 and not found.rises[0].returns


def test_bias_free_relu_networks_are_homogeneous() -> None:
    """f(cθ) = c^depth f(θ): on the line from zero, outputs at α are α³ times those at the end."""
    model = nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)
    ).double()
    end = seeded(lambda: deepcopy(model), 0).state_dict()
    line = ls.Line({name: torch.zeros_like(tensor) for name, tensor in end.items()}, end)
    x = random(9, 4, seed=0)
    with torch.no_grad():
        z = model(x)
    found = ls.profile(model, line, batches(x, torch.zeros(9, 2).double(), 4), loss="squared_error", alphas=11)
    np.testing.assert_allclose(found.loss, found.alphas**6 * float(z.square().sum(1).mean()), rtol=1e-12)


@pytest.mark.kernels
def test_two_layer_linear_network_from_small_balanced_aligned_weights_is_monotone() -> None:
    """W = U S Vᵀ learnt from balanced weights along its own singular vectors: every mode falls monotonically."""
    u, s, v = torch.linalg.svd(random(3, 4, seed=0), full_matrices=False)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)).double()

    def balanced(strength: Tensor) -> dict[str, Tensor]:
        return {"0.weight": torch.diag(strength.sqrt()) @ v, "1.weight": u @ torch.diag(strength.sqrt())}

    x = random(40, 4, seed=1)
    targets = x @ (u @ torch.diag(s) @ v).T
    line = ls.Line(balanced(torch.full((3,), 1e-4).double()), balanced(s))
    found = ls.profile(model, line, [(x, targets)], loss="squared_error", alphas=201)
    assert found.max_rise == 0 and found.hidden_rises == ()
    assert found.loss[-1] == pytest.approx(0, abs=1e-25)


# Derivatives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=IDS)
def test_derivative_against_central_differences(name: str, case: Case, policy: Any) -> None:
    step, where = 1e-5, np.array([0.13, 0.5, 0.87])
    grid = np.sort(np.concatenate([where - step, where, where + step]))
    found = measured(case, policy, alphas=grid)
    assert found.derivative is not None
    differences = (found.loss[2::3] - found.loss[::3]) / (2 * step)
    # Truncation h²L‴/6 with L‴ of a few hundred at most, rounding 1e-16/h: both under 1e-7.
    np.testing.assert_allclose(found.derivative[1::3], differences, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("case", [case for case in CASES if not case.batch_norm], ids=lambda case: case.name)
def test_derivative_is_the_gradient_along_the_direction(case: Case) -> None:
    """L′(α) = ⟨∇L(θ(α)), θ_T − θ₀⟩, the gradient by plain reverse mode, one batch of all examples."""
    start, end = case.ends()
    line = ls.Line(start, end)
    found = ls.profile(start, line, case.data(), loss=case.loss, alphas=[0.0, 0.3, 1.0])
    assert found.derivative is not None
    model = deepcopy(start)
    for position, alpha in enumerate(found.alphas):
        model.load_state_dict({name: line.at(alpha)[name] for name in model.state_dict()})
        total = torch.zeros((), dtype=torch.float64)
        for item in case.data():
            count = len(item["labels"] if isinstance(item, dict) else item[1])
            total = total + case.mean_loss(model.requires_grad_(True), item) * count / found.examples
        gradients = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
        direction = [b.detach() - a.detach() for a, b in zip(start.parameters(), end.parameters(), strict=True)]
        expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert found.derivative[position] == pytest.approx(expected, rel=1e-10, abs=1e-13)


class OneWay(torch.autograd.Function):
    """An operation that no mode differentiates."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values * 2


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return OneWay.apply(self.read(inputs))


def test_an_operation_without_a_derivative_leaves_the_loss_and_says_why() -> None:
    start, end = seeded(Doubled, 0).double(), seeded(Doubled, 1).double()
    data = batches(random(9, 4, seed=0), classes(9, seed=1))
    found = ls.profile(start, ls.Line(start, end), data, alphas=3)
    assert found.derivative is None
    assert "implement the jvp function for custom autograd.Function" in str(found.derivative_reason)
    assert "; an operation has no backward pass: " in str(found.derivative_reason)
    assert found.hidden_rises == ()
    with torch.no_grad():
        expected = F.cross_entropy(end(torch.cat([x for x, _ in data])), torch.cat([y for _, y in data]))
    assert found.loss[-1] == pytest.approx(float(expected), rel=1e-14)


def test_a_loss_outside_torch_has_no_derivative_instead_of_a_zero_one() -> None:
    case = CASES[1]
    found = measured(case, None, loss=lambda z, y: torch.from_numpy(((z - y) ** 2).sum(1).detach().numpy()))
    assert found.derivative is None and "detach" in str(found.derivative_reason)
    np.testing.assert_allclose(found.loss, measured(case, None).loss, rtol=1e-14)
    assert measured(case, None, derivative=False).derivative_reason == "not asked for"


@pytest.mark.kernels
def test_a_rise_between_the_points_is_seen_through_the_derivative() -> None:
    x = torch.ones(4, 1).double()
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.full((1, 1), 1 / 0.9, dtype=torch.float64)})
    found = ls.profile(nn.Linear(1, 1, bias=False).double(), line, [(x, x)], loss="squared_error", alphas=5)
    assert found.max_rise == 0 and found.is_monotonic(0)
    (hidden,) = found.hidden_rises
    assert (hidden.left, hidden.right) == (0.75, 1.0)
    assert hidden.estimate == pytest.approx((1 / 0.9 - 1) ** 2, rel=1e-9)
    assert "hidden between α = 0.75 and 1" in found.verdict(0)
    assert "Monotonic as far as the grid shows" in found.verdict(0.1)


# Contracts ----------------------------------------------------------------------------------------------------------


# The other policies normalise by batch: their answer depends on the batches, as documented.
FREE_OF_BATCHES = [each for each in VARIANTS if each[0] not in ("cnn-batch", "cnn-pooled", "cnn-momentum")]


@pytest.mark.parametrize(("name", "case", "policy"), FREE_OF_BATCHES, ids=[each[0] for each in FREE_OF_BATCHES])
def test_the_same_average_for_any_batch_size_and_order(name: str, case: Case, policy: Any) -> None:
    items = case.data()
    if isinstance(items[0], dict):
        whole = {key: torch.cat([item[key] for item in items]) for key in items[0]}
        order = torch.randperm(len(whole["labels"]), generator=generator(5))
        other = [{key: value[part] for key, value in whole.items()} for part in order.split(3)]
    else:
        inputs, targets = (torch.cat([item[part] for item in items]) for part in (0, 1))
        order = torch.randperm(len(inputs), generator=generator(5))
        other = batches(inputs[order], targets[order], 3)
    if name == "cnn-recalibrate":
        policy_there = ls.Recalibrate(other)
        assert POLICIES["recalibrate"](other) == policy_there
    else:
        policy_there = policy
    here, there = measured(case, policy), measured(case, policy_there, data=other)
    assert here.examples == there.examples
    np.testing.assert_allclose(there.loss, here.loss, rtol=1e-12)
    np.testing.assert_allclose(there.derivative, here.derivative, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(there.covariance, here.covariance, rtol=1e-9, atol=1e-14)
    if here.accuracy is not None:
        np.testing.assert_allclose(there.accuracy, here.accuracy)


@pytest.mark.parametrize("chunk_bytes", [1, 700])
@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=IDS)
def test_chunks_of_the_data_give_the_same_profile(
    name: str, case: Case, policy: Any, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(case, policy)
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", chunk_bytes)
    parts = measured(case, policy)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-13)
    np.testing.assert_allclose(parts.derivative, whole.derivative, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-10, atol=1e-14)
    assert parts.how["data_digest"] == whole.how["data_digest"]


@pytest.mark.kernels
@pytest.mark.parametrize("case", [case for case in CASES if not case.batch_norm], ids=lambda case: case.name)
def test_both_ends_are_the_losses_of_the_two_checkpoints(case: Case) -> None:
    start, end = case.ends()
    found = ls.profile(start, ls.Line(start, end), case.data(), loss=case.loss, alphas=5, derivative=False)
    for position, model in ((0, start), (-1, end)):
        assert found.loss[position] == pytest.approx(plain_loss(model, case), rel=0, abs=rounding(model))


@pytest.mark.kernels
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_at_both_ends_the_module_has_the_tensors_of_the_checkpoints_bit_for_bit(case: Case) -> None:
    start, end = case.ends()
    checkpoints = [floating(model) for model in (start, end)]
    line, seen = ls.Line(start, end), []
    start.register_forward_pre_hook(lambda module, inputs: seen.append(floating(module)))
    policy = ls.InterpolateStatistics() if case.batch_norm else None
    ls.profile(
        start, line, case.data(), loss=case.loss, alphas=2, batch_norm=policy, derivative=False, self_check=False
    )
    ends_seen = [
        [all(torch.equal(tensor, checkpoint[name]) for name, tensor in state.items()) for checkpoint in checkpoints]
        for state in seen
    ]
    at_end = [end for one, end in ends_seen if one or end]  # probes lie between
    assert at_end == sorted(at_end)  # the start for all batches, then the end
    assert min(at_end.count(False), at_end.count(True)) >= len(case.data())


def floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items() if each.is_floating_point()}


def plain_loss(model: nn.Module, case: Case) -> float:
    """The loop everybody writes, in evaluation mode, one loss per example, averaged in float64."""
    values = []
    with torch.no_grad():
        for item in case.data():
            if isinstance(item, dict):
                outputs = model(input_ids=item["input_ids"], attention_mask=item["attention_mask"])["logits"]
                values.append(F.cross_entropy(outputs, item["labels"], reduction="none"))
            elif case.loss == "cross_entropy":
                flat = model(item[0]).flatten(0, -2), item[1].flatten()
                each = F.cross_entropy(*flat, reduction="none").view(item[1].shape)
                values.append(each.flatten(1).mean(1) if each.dim() > 1 else each)
            elif case.loss == "squared_error":
                values.append((model(item[0]) - item[1]).square().sum(1))
            else:
                values.append(case.loss(model(item[0]), item[1]))
    return float(torch.cat(values).double().numpy().mean())


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("derivative", [False, True])
def test_interpolated_statistics_give_the_trained_network(dtype: torch.dtype, derivative: bool) -> None:
    start, end = (model.to(dtype) for model in CASES[3].ends())
    data = [(x.to(dtype), y) for x, y in CASES[3].data()]
    found = ls.profile(
        start, ls.Line(start, end), data, alphas=5, batch_norm=ls.InterpolateStatistics(), derivative=derivative
    )
    with torch.no_grad():
        for position, model in ((0, start), (-1, end)):
            values = torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in data])
            expected = float(values.double().numpy().mean())
            assert found.loss[position] == pytest.approx(expected, rel=0, abs=rounding(model, dtype))


def test_alpha_zero_is_included_and_alphas_may_go_beyond() -> None:
    case = CASES[0]
    found = measured(case, None, alphas=np.linspace(-0.25, 1.25, 61))
    assert found.alphas[10] == 0.0 and found.alphas[50] == 1.0
    inside = measured(case, None, alphas=found.alphas[10:51])
    assert found.loss[10] == inside.loss[0] and found.loss[50] == inside.loss[-1]
    assert found.max_rise == inside.max_rise  # readings are of [0, 1]
    assert found.readings() == inside.readings()


@pytest.mark.parametrize("alphas", [0, 1, -3, [0.5], [0.0, 0.0], [1.0, 0.0], [0.0, float("nan")], [[0.0, 1.0]]])
def test_bad_alphas_are_refused(alphas: Any) -> None:
    with pytest.raises(ValueError, match="count of at least 2"):
        measured(CASES[0], None, alphas=alphas)


def test_readings_that_need_both_ends_say_so() -> None:
    found = measured(CASES[0], None, alphas=[0.2, 0.5, 0.8])
    known = {name for name, value in found.readings().values().items() if value is not None}
    assert known == {
        *("max_rise", "max_step", "rises", "widest_rise", "hidden_rise", "local_convexity"),
        *("monotonic_0", "monotonic_0.001", "monotonic_0.01"),
    }
    for reading in (lambda: found.area, lambda: found.relative_rise, lambda: found.barrier("max")):
        with pytest.raises(ValueError, match="both ends"):
            reading()


class Explodes(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        self.inner(inputs)
        raise RuntimeError("as planned")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=IDS)
def test_nothing_of_the_caller_changes(name: str, case: Case, policy: Any, fails: bool) -> None:
    start, end = case.ends()
    start.train()
    next(start.modules()).training = False
    some = next(start.parameters())
    some.requires_grad_(False)
    line = ls.Line(start, end)
    before = {n: t.clone() for n, t in start.state_dict().items()}
    ends = [{n: t.clone() for n, t in side.tensors.items()} for side in (line.start, line.end)]
    modes = [module.training for module in start.modules()]
    tracking = [getattr(module, "track_running_stats", None) for module in start.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in start.modules()]
    torch.manual_seed(5)
    np.random.seed(5)
    python_random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate()

    def loss(outputs: Any, targets: Any) -> Tensor:
        torch.rand(1)
        np.random.rand()
        python_random.random()
        if fails:
            raise RuntimeError("as planned")
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        return logits.flatten(1).square().sum(1)

    try:
        ls.profile(start, line, case.data(), loss=loss, alphas=3, batch_norm=policy)
        assert not fails
    except RuntimeError as error:
        assert fails and str(error.__cause__) == "as planned"
    assert all(torch.equal(before[n], t) for n, t in start.state_dict().items())
    for kept, side in zip(ends, (line.start, line.end), strict=True):
        assert all(torch.equal(kept[n], t) for n, t in side.tensors.items())
    assert [module.training for module in start.modules()] == modes
    assert [getattr(module, "track_running_stats", None) for module in start.modules()] == tracking
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in start.modules()] == hooks
    assert not some.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and python_random.getstate() == states[2]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.mkldnn.flags
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.kernels
def test_dropout_is_off_and_repeats_agree() -> None:
    here, there = measured(CASES[0], None), measured(CASES[0], None)
    assert (here.loss == there.loss).all() and (here.derivative == there.derivative).all()


class Noisy(nn.Module):
    """Draws noise in evaluation mode too, as variational models do."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.read(inputs + torch.randn_like(inputs))


@pytest.mark.kernels
def test_random_models_draw_the_same_numbers_at_every_alpha_and_every_time() -> None:
    start, end = seeded(Noisy, 0).double(), seeded(Noisy, 1).double()
    data = batches(random(9, 4, seed=0), classes(9, seed=1))
    line = ls.Line(start, end)
    first, second = (ls.profile(start, line, data, alphas=[0.0, 1e-9, 1.0]) for _ in range(2))
    assert (first.loss == second.loss).all()
    assert abs(first.loss[1] - first.loss[0]) < 1e-7


def test_covariance_and_errors_are_of_the_examples() -> None:
    case = CASES[0]
    start, end = case.ends()
    line = ls.Line(start, end)
    found = ls.profile(start, line, case.data(), alphas=4)
    rows = []
    for alpha in found.alphas:
        with torch.no_grad():
            rows.append(
                torch.cat(
                    [
                        F.cross_entropy(functional_call(start, line.at(alpha), (x,)), y, reduction="none")
                        for x, y in case.data()
                    ]
                ).numpy()
            )
    np.testing.assert_allclose(found.covariance, np.cov(np.stack(rows)), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.loss_error, np.std(rows, axis=1, ddof=1) / np.sqrt(17), rtol=1e-10)
    assert found.rise_interval().lower <= found.max_rise <= found.rise_interval().upper


class OnlyBuffers(nn.Module):
    """Multiplies by a buffer; it has no parameter."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", value)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_a_model_without_parameters_is_measured_by_its_buffers_or_refused() -> None:
    x = torch.ones(20, 1).double()
    start, end = (OnlyBuffers(torch.tensor([value]).double()) for value in (0.0, 1.0))
    found = ls.profile(start, ls.Line(start, end), [(x, x)], loss="squared_error", alphas=3)
    assert found.loss.tolist() == [1.0, 0.25, 0.0] and found.derivative.tolist() == [-2.0, -1.0, 0.0]
    whole = OnlyBuffers(torch.tensor([1]))
    with pytest.raises(ls.EndpointMismatch, match="equal in all 0 tensors that could move"):
        ls.Line(whole, OnlyBuffers(torch.tensor([2])))
    with pytest.raises(ls.EndpointMismatch, match="expected"):
        ls.profile(nn.Flatten(), ls.Line(start, end), [(x, x)], loss="squared_error", alphas=3)


def test_one_example_has_no_standard_error() -> None:
    start, end = CASES[0].ends()
    single = [(x[:1], y[:1]) for x, y in CASES[0].data()[:1]]
    found = ls.profile(start, ls.Line(start, end), single, alphas=3)
    assert np.isnan(found.loss_error).all() and np.isnan(found.derivative_error).all()
    with pytest.raises(ValueError, match="at least 16 examples"):
        found.rise_interval()


def test_accuracy_is_the_share_of_right_predictions() -> None:
    case = CASES[0]
    _, end = case.ends()
    found = measured(case, None)
    inputs, labels = (torch.cat([item[part] for item in case.data()]) for part in (0, 1))
    with torch.no_grad():
        assert found.accuracy is not None
        assert found.accuracy[-1] == float((end(inputs).argmax(1) == labels).double().mean())
    assert measured(CASES[1], None).accuracy is None


@pytest.mark.parametrize("derivative", [True, False])
def test_nan_is_marked_and_has_no_verdict(derivative: bool) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": torch.ones(1, 1).double()}, {"weight": -torch.ones(1, 1).double()})
    x = torch.tensor([[1.0], [-2.0], [3.0], [-4.0]]).double()
    found = ls.profile(
        model,
        line,
        batches(x, x, 2),
        loss=lambda z, y: (z * y).log().squeeze(1),
        alphas=5,
        derivative=derivative,
        label="train",
    )
    assert [(point.alpha, point.examples, point.first) for point in found.invalid] == [
        (a, 4, 0) for a in (0.5, 0.75, 1.0)
    ]
    for reading in ("max_rise", "rises", "area", "local_convexity"):
        with pytest.raises(
            ls.NonFiniteLoss, match=r"4 of 4 examples NaN or infinite at α = 0\.5, the first is number 0"
        ):
            getattr(found, reading)
    with pytest.raises(ls.NonFiniteLoss):
        found.is_monotonic(0)
    assert found.verdict(0).startswith("No verdict: the loss is NaN or infinite at 3 of 5 points, first at α = 0.5")


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
def test_the_first_invalid_example_is_counted_over_batches_and_chunks(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", chunk_bytes)
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": torch.ones(1, 1).double()}, {"weight": 2 * torch.ones(1, 1).double()})
    x = torch.tensor([[1.0], [1.0], [1.0], [float("inf")], [1.0]]).double()
    found = ls.profile(model, line, batches(x, torch.zeros(5, 1).double(), 2), loss="squared_error", alphas=2)
    assert [(point.examples, point.first) for point in found.invalid] == [(1, 3), (1, 3)]


def test_nan_beyond_the_line_does_not_touch_the_verdict() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": torch.ones(1, 1).double()}, {"weight": 2 * torch.ones(1, 1).double()})
    x = torch.ones(3, 1).double()
    found = ls.profile(model, line, [(x, x)], loss=lambda z, y: -z.log().squeeze(1), alphas=[-2.0, 0.0, 0.5, 1.0])
    assert [point.alpha for point in found.invalid] == [-2.0]
    assert found.max_rise == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_the_one_asked_for(dtype: torch.dtype) -> None:
    start, end = (model.float() for model in CASES[0].ends())
    data = [(x.float(), y) for x, y in CASES[0].data()]
    found = ls.profile(start, ls.Line(start, end), data, alphas=3, dtype=dtype)
    assert found.how["dtype"] == str(dtype).removeprefix("torch.")
    exact = ls.profile(start.double(), ls.Line(start, end.double()), CASES[0].data(), alphas=3)
    np.testing.assert_allclose(found.loss, exact.loss, rtol=1e-5)
    assert next(start.parameters()).dtype == torch.float64  # as the caller left it


def test_a_module_on_meta_is_plan_enough() -> None:
    case = CASES[0]
    start, end = case.ends()
    with torch.device("meta"):
        plan = mlp()
    found = ls.profile(plan, ls.Line(start, end), case.data(), alphas=3)
    assert (found.loss == measured(case, None, alphas=3).loss).all()


def test_wrapped_models_and_wrapped_checkpoints_fit() -> None:
    case = CASES[0]
    start, end = case.ends()
    expected = measured(case, None, alphas=3).loss
    wrapped = {f"module.{name}": tensor for name, tensor in end.state_dict().items()}
    assert (ls.profile(start, ls.Line(start, wrapped), case.data(), alphas=3).loss == expected).all()
    outer = nn.Module()
    outer.module = start  # type: ignore[assignment]
    outer.forward = lambda inputs: start(inputs)  # type: ignore[method-assign]
    assert (ls.profile(outer, ls.Line(start, end), case.data(), alphas=3).loss == expected).all()


def test_a_path_of_another_model_is_refused() -> None:
    start, end = CASES[0].ends()
    line = ls.Line(start, end)
    with pytest.raises(ls.EndpointMismatch, match=r"missing from the checkpoints and .* unknown to the model"):
        ls.profile(cnn(), line, CASES[3].data())
    wider = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 3))
    with pytest.raises(ls.EndpointMismatch, match=r"'0\.weight' of shape \(9, 4\).*\n.*\(8, 4\)"):
        ls.profile(wider, line, CASES[0].data())
    untied = {**seeded(Tied, 0).state_dict(), "read.weight": torch.zeros(7, 6)}
    with pytest.raises(ls.EndpointMismatch, match="which the model ties"):
        ls.profile(Tied(), ls.Line(untied, {**untied, "mix.bias": torch.ones(6)}), CASES[6].data())


def test_a_loss_that_averages_is_refused() -> None:
    with pytest.raises(TypeError, match="one value per example"):
        measured(CASES[0], None, loss=F.cross_entropy)


def test_progress_is_told_once_per_batch_and_alpha() -> None:
    seen: list[tuple[int, int]] = []
    measured(CASES[0], None, alphas=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]  # four batches at three α


def test_a_data_loader_measures_like_a_list() -> None:
    case = CASES[0]
    inputs, labels = (torch.cat([item[part] for item in case.data()]) for part in (0, 1))
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=5)
    assert (measured(case, None, data=loader).loss == measured(case, None).loss).all()
    with pytest.raises(ls.NotRepeatable):
        measured(case, None, data=DataLoader(TensorDataset(inputs, labels), batch_size=5, shuffle=True))


def test_a_data_frame_has_a_row_per_alpha() -> None:
    found = measured(CASES[0], None)
    frame = found.to_pandas()
    assert list(frame.columns) == ["alpha", "loss", "loss_error", "accuracy", "derivative", "derivative_error"]
    np.testing.assert_array_equal(frame["loss"], found.loss)
    assert measured(CASES[1], None, derivative=False).to_pandas()[["accuracy", "derivative"]].isna().all().all()
