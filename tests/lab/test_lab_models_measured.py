"""Every network of the laboratory, trained for an epoch on a tiny subset, under every kind of measurement."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import batches, generator
from test_lab_models import SMALL, small
from torch import Tensor, fx, nn

import lerpscape as ls
from lerpscape.networks.losses import LOSSES

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "fully connected": ("fully_connected", {}),
    "fully connected, tanh, batch norm": ("fully_connected", {"activation": "tanh", "batch_norm": True}),
    "fully connected, gelu, NTK": ("fully_connected", {"activation": "gelu", "parametrization": "ntk"}),
    "fully connected, sigmoid, last bias": ("fully_connected", {"activation": "sigmoid", "biases": "last"}),
    "fully connected, groupsort, no bias": ("fully_connected", {"activation": "groupsort", "biases": "none"}),
    "autoencoder": ("autoencoder", {}),
    "linear autoencoder": ("linear_autoencoder", {}),
    "lenet": ("lenet", {}),
    "lenet, batch norm": ("lenet", {"batch_norm": True}),
    "alexnet": ("alexnet", {}),
    "vgg": ("vgg", {}),
    "vgg, batch norm": ("vgg", {"batch_norm": True}),
    "resnet, batch norm": ("resnet", {"norm": "batch_norm"}),
    "resnet, identity": ("resnet", {"norm": "identity"}),
    "resnet, residual scale": ("resnet", {"norm": "residual_scale"}),
    "resnet, fixup": ("resnet", {"norm": "fixup"}),
    "lstm": ("lstm", {}),
    "transformer": ("transformer", {}),
}
NO_PROOF = {"fully connected, groupsort, no bias": "'unflatten'", "lstm": "'embedding'", "transformer": "'ones_like'"}
Data = list[tuple[Tensor, Tensor]]


def loss_name(name: str) -> str:
    return "squared_error" if "autoencoder" in name else "cross_entropy"


@cache
def data_of(name: str) -> Data:
    """Twelve examples in float64 that can be learnt: noisy prototypes of each class, or sequences that count."""
    shape, outputs = SMALL[NETWORKS[name][0]]["inputs"], SMALL[NETWORKS[name][0]]["outputs"]
    labels = torch.randint(0, outputs, (12,), generator=generator(1))
    if shape == ():
        tokens = (labels[:, None] + torch.arange(7)) % outputs
        return batches(tokens[:, :-1], tokens[:, 1:], 4)
    prototypes = torch.randn(outputs, *shape, generator=generator(2), dtype=torch.float64)
    images = prototypes[labels] + 0.3 * torch.randn(12, *shape, generator=generator(3), dtype=torch.float64)
    return batches(images, images.flatten(1) if "autoencoder" in name else labels, 4)


@cache
def ends(name: str) -> tuple[nn.Module, nn.Module]:
    """A fresh network, and the same after one epoch."""
    model, options = NETWORKS[name]
    start = small(model, **options).double()
    end = deepcopy(start)
    optimizer = torch.optim.SGD(end.parameters(), lr=0.02)
    for inputs, targets in data_of(name):
        loss = LOSSES[loss_name(name)].values(end(inputs), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return start.eval(), end.eval()


def batch_norms(name: str) -> bool:
    model, options = NETWORKS[name]
    return any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in small(model, **options).modules())


def policies(name: str) -> dict[str, Any]:
    if not batch_norms(name):
        return {"none": None}
    return {"interpolate": ls.InterpolateStatistics(), "recalibrate": ls.Recalibrate(data_of(name))}


VARIANTS = [(name, policy) for name in NETWORKS for policy in policies(name)]
IDS = [f"{name}-{policy}" for name, policy in VARIANTS]


def measured(name: str, policy: str, measure: Callable[..., Any] = ls.profile, **choices: Any) -> Any:
    start, end = ends(name)
    data = choices.pop("data", data_of(name))
    chosen = policies(name)[policy]
    if policy == "recalibrate":
        chosen = ls.Recalibrate(data)
    choices = {"batch_norm": chosen, "progress": False} | choices
    return measure(start, ls.Line(start, end), data, **choices)


def profiled(name: str, policy: str, **choices: Any) -> ls.Profile:
    found = measured(name, policy, loss=loss_name(name), **{"alphas": 5} | choices)
    assert not found.invalid
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_an_epoch_lowers_the_loss(name: str) -> None:
    policy = "recalibrate" if batch_norms(name) else "none"
    found = profiled(name, policy, derivative=False)
    assert found.loss[-1] < found.loss[0]
    assert found.relative_distance > 1e-4
    assert (found.accuracy is None) == ("autoencoder" in name)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_the_two_networks_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    start, end = (deepcopy(each).to(dtype) for each in ends(name))
    data = [tuple(each.to(dtype) if each.is_floating_point() else each for each in batch) for batch in data_of(name)]
    before = torch.get_rng_state(), deepcopy(start.state_dict())
    policy = ls.InterpolateStatistics() if batch_norms(name) else None
    found = ls.profile(start, ls.Line(start, end), data, loss=loss_name(name), alphas=3, batch_norm=policy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(kept, before[1][key]) for key, kept in start.state_dict().items())
    assert found.derivative is not None and np.isfinite(found.derivative).all()
    # Without the fused LSTM, which has no derivative, the last bit may differ.
    rtol = 4 * torch.finfo(dtype).eps if name == "lstm" else 0
    with torch.no_grad():
        for position, model in ((0, start), (-1, end)):
            values, right = [], []
            for inputs, targets in data:
                outputs = model(inputs)
                values.append(LOSSES[loss_name(name)].values(outputs, targets))
                if found.accuracy is not None:
                    right.append((outputs.argmax(-1) == targets).double().flatten(1 - targets.dim()).mean(-1))
            expected = float(torch.cat(values).double().numpy().mean())
            np.testing.assert_allclose(found.loss[position], expected, rtol=rtol, atol=0)
            if found.accuracy is not None:
                share = np.mean([float(each) for batch in right for each in batch.flatten()])
                assert found.accuracy[position] == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize(("name", "policy"), VARIANTS, ids=IDS)
def test_derivative_against_central_differences(name: str, policy: str) -> None:
    step, where = 1e-6, np.array([0.13, 0.5, 0.87])  # few of the kinks of ReLU and maxima lie within so short a step
    found = profiled(name, policy, alphas=np.sort(np.concatenate([where - step, where, where + step])))
    assert found.derivative is not None
    differences = (found.loss[2::3] - found.loss[::3]) / (2 * step)
    # Rounding, a few 1e-16 · L / h, is under 1e-8 at losses up to 10; truncation h² L‴ / 6.
    np.testing.assert_allclose(found.derivative[1::3], differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "policy"), VARIANTS, ids=IDS)
def test_the_same_average_for_other_batches_and_chunks(name: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = profiled(name, policy, alphas=3)
    inputs, targets = (torch.cat(parts) for parts in zip(*data_of(name), strict=True))
    order = torch.randperm(12, generator=generator(5))
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 700)
    there = profiled(name, policy, alphas=3, data=batches(inputs[order], targets[order], 5))
    np.testing.assert_allclose(there.loss, here.loss, rtol=1e-11)
    np.testing.assert_allclose(there.derivative, here.derivative, rtol=1e-8, atol=1e-11)
    if here.accuracy is not None:
        np.testing.assert_allclose(there.accuracy, here.accuracy)


@pytest.mark.parametrize("name", NETWORKS)
def test_output_paths_turn(name: str) -> None:
    policy = "interpolate" if batch_norms(name) else "none"
    found = measured(name, policy, ls.gauss_length, alphas=9, precision=None)
    assert np.isfinite(found.per_example).all() and found.mean > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_fx_traces_it(name: str) -> None:
    start, _ = ends(name)
    for inputs, _ in data_of(name):
        assert torch.equal(fx.symbolic_trace(start)(inputs), start(inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_certificate_holds_at_every_point_of_a_grid(name: str) -> None:
    policy = "interpolate" if batch_norms(name) else "none"
    if name in NO_PROOF:
        with pytest.raises(TypeError, match=NO_PROOF[name]):
            measured(name, policy, ls.certify, loss=loss_name(name))
        return
    few = data_of(name)[:1]
    proof = measured(name, policy, ls.certify, loss=loss_name(name), budget=8, data=few)
    grid = profiled(name, policy, alphas=proof.edges, data=few)
    fine = profiled(name, policy, alphas=65, derivative=False, data=few)
    assert fine.max_rise <= proof.upper + 1e-12
    room = 1e-11 * np.abs(grid.loss)  # the profile's own rounding
    assert (proof.loss_low <= grid.loss + room).all() and (grid.loss - room <= proof.loss_high).all()
    left, right = proof.slope_low[1:, 0], proof.slope_high[1:, 0]
    assert grid.derivative is not None
    inner = grid.derivative[1:-1]
    assert (left <= inner + 1e-9).all() and (inner - 1e-9 <= right).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, on first use
def test_language_models_under_torchs_own_forward_mode() -> None:
    """torch differentiates the Transformer directly, and raises an error for its fused LSTM."""
    tokens = torch.zeros(2, 3, dtype=torch.long)
    for name in ("transformer", "lstm"):
        model = small(name)
        weights = {key: value.detach() for key, value in model.named_parameters()}

        def call(state: dict[str, Tensor], model: nn.Module = model) -> Any:
            return torch.func.functional_call(model, state, (tokens,))

        if name == "transformer":
            _, moved = torch.func.jvp(call, (weights,), (weights,))
            ahead, back = (call({key: (1 + h) * value for key, value in weights.items()}) for h in (1e-3, -1e-3))
            torch.testing.assert_close(moved, (ahead - back) / 2e-3, rtol=1e-2, atol=1e-3)
        elif torch.backends.mkldnn.is_available():
            with pytest.raises(NotImplementedError, match="forward AD with mkldnn_rnn_layer"):
                torch.func.jvp(call, (weights,), (weights,))


def test_cross_entropy_of_sequences_is_what_training_minimises() -> None:
    start, _ = ends("transformer")
    (tokens, following), *_ = data_of("transformer")
    by_example = LOSSES["cross_entropy"].values(start(tokens), following)
    assert torch.allclose(by_example.mean(), F.cross_entropy(start(tokens).flatten(0, 1), following.flatten()))
