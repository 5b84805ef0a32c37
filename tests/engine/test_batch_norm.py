from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, batches, classes, random, seeded
from torch import Tensor, nn
from torch.func import functional_call

import lerpscape as ls
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.undisturbed import undisturbed

pytestmark = pytest.mark.kernels

CNN = next(case for case in CASES if case.batch_norm)


def statistics_at(model: nn.Module, line: ls.Line, policy: Any, alpha: float) -> dict[str, Tensor]:
    on_path = ModelOnPath(model, line, None, None)
    with undisturbed(model):
        state = BatchNormStatistics(on_path, policy).apply(on_path.at(alpha), alpha)
    return {name: tensor for name, tensor in state.items() if "running" in name}


@pytest.mark.parametrize("given", [None, "exact", ls.BatchStatistics])
def test_every_policy_is_listed_when_none_is_chosen(given: Any) -> None:
    start, end = CNN.ends()
    with pytest.raises(ValueError, match=rf"(?s)2 batch-norm layers.*got: {re.escape(repr(given))}\.") as caught:
        ls.profile(start, ls.Line(start, end), CNN.data(), batch_norm=given)
    for policy in ("Recalibrate(", "InterpolateStatistics()", "BatchStatistics()", "EndStatistics()"):
        assert policy in str(caught.value)


def test_variance_is_pooled_not_averaged_over_batches() -> None:
    """Class-sorted data: batches differ in their mean, which the average of batch variances does not see."""
    model = nn.Sequential(nn.BatchNorm1d(1)).double()
    x = torch.cat([random(50, 1, seed=i) * 0.2 + i for i in range(4)])
    line = ls.Line(model, {**model.state_dict(), "0.weight": torch.full((1,), 2.0).double()})
    data = batches(x, classes(200, seed=0), 50)
    averaged = np.mean([float(part.var()) for part, _ in data])
    pooled = float(x.var(correction=0))
    assert averaged < 0.06 < 1.1 < pooled
    for policy in (ls.Recalibrate(data), ls.Recalibrate(data, pooled=True)):
        found = statistics_at(model, line, policy, 0.5)
        assert float(found["0.running_var"]) == pytest.approx(pooled, rel=1e-13)
        assert float(found["0.running_mean"]) == pytest.approx(float(x.mean()), rel=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_exact_recalibration_is_one_training_pass_over_all_data(alpha: float) -> None:
    """Oracle: torch in training mode, dropout off, on the data as one batch; its statistics and its loss."""
    start, end = CNN.ends()
    line = ls.Line(start, end)
    whole = tuple(torch.cat([item[part] for item in CNN.data()]) for part in (0, 1))
    oracle = deepcopy(start).eval()
    for module in oracle.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    state = {name: tensor.clone() for name, tensor in line.at(alpha).items()}
    with torch.no_grad():
        outputs = functional_call(oracle, state, (whole[0],))
    expected_loss = float(F.cross_entropy(outputs, whole[1]))
    for data in ([whole], CNN.data()):
        found = statistics_at(start, line, ls.Recalibrate(data), alpha)
        for layer, count in (("1", 17 * 16), ("6", 17 * 4)):
            torch.testing.assert_close(found[f"{layer}.running_mean"], state[f"{layer}.running_mean"])
            biased = state[f"{layer}.running_var"] * (count - 1) / count
            torch.testing.assert_close(found[f"{layer}.running_var"], biased)
        profile = ls.profile(start, line, CNN.data(), batch_norm=ls.Recalibrate(data), alphas=[alpha, alpha + 0.1])
        assert profile.loss[0] == pytest.approx(expected_loss, rel=1e-12)


def test_momentum_is_torchs_own_running_average() -> None:
    start, end = CNN.ends()
    line = ls.Line(start, end)
    oracle = deepcopy(start).eval()
    state = {name: tensor.clone() for name, tensor in line.at(0.6).items()}
    for name, module in oracle.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 0.3
            state[f"{name}.running_mean"].zero_()
            state[f"{name}.running_var"].fill_(1)
    with torch.no_grad():
        for _ in range(2):
            for x, _ in CNN.data():
                functional_call(oracle, state, (x,))
    found = statistics_at(start, line, ls.Recalibrate(CNN.data(), momentum=0.3, passes=2), 0.6)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, state[name])


def test_interpolated_and_end_statistics_are_those_of_the_checkpoints() -> None:
    start, end = CNN.ends()
    line = ls.Line(start, end)
    between = statistics_at(start, line, ls.InterpolateStatistics(), 0.25)
    kept = statistics_at(start, line, ls.EndStatistics(), 0.25)
    for name, tensor in between.items():
        a, b = start.state_dict()[name], end.state_dict()[name]
        torch.testing.assert_close(tensor, 0.75 * a + 0.25 * b)
        assert torch.equal(kept[name], b)


def test_dropout_stays_off_while_recalibrating() -> None:
    """torch's update_bn leaves it on: statistics behind a dropout layer would be random and too wide."""
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).double()
    x = random(40, 3, seed=0)
    line = ls.Line(model, {**model.state_dict(), "1.weight": torch.zeros(3).double()})
    for choices in ({}, {"pooled": True}, {"momentum": 1.0}):
        found = statistics_at(model.train(), line, ls.Recalibrate([(x, x)], **choices), 0.5)
        torch.testing.assert_close(found["1.running_mean"], x.mean(0))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.unused = nn.BatchNorm1d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.norm(inputs) + 1)


def test_a_layer_called_twice_cannot_be_recalibrated_exactly() -> None:
    start, end = seeded(Twice, 0).double(), seeded(Twice, 0).double()
    with torch.no_grad():
        end.norm.weight.add_(1)
    x = random(12, 3, seed=0)
    data = batches(x, classes(12, seed=1))
    with pytest.raises(ValueError, match=r"(?s)'norm', called 2 times.*pooled=True"):
        ls.profile(start, ls.Line(start, end), data, batch_norm=ls.Recalibrate(data), alphas=2)
    found = ls.profile(start, ls.Line(start, end), data, batch_norm=ls.Recalibrate(data, pooled=True), alphas=2)
    assert np.isfinite(found.loss).all()


def test_layers_without_running_statistics_need_batch_statistics() -> None:
    start = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    end = deepcopy(start)
    with torch.no_grad():
        end[0].weight.add_(1)
    x, y = random(12, 3, seed=0), classes(12, seed=1)
    line = ls.Line(start, end)
    with pytest.raises(ValueError, match=r"'1' with track_running_stats=False"):
        ls.profile(start, line, [(x, y)], batch_norm=ls.InterpolateStatistics(), alphas=2)
    found = ls.profile(start, line, [(x, y)], batch_norm=ls.BatchStatistics(), alphas=2)
    with torch.no_grad():
        assert found.loss[-1] == pytest.approx(float(F.cross_entropy(end(x), y)), rel=1e-14)


def test_recalibration_data_must_repeat() -> None:
    start, end = CNN.ends()
    line = ls.Line(start, end)
    with pytest.raises(TypeError, match="the data of Recalibrate that can be read more than once"):
        ls.profile(start, line, CNN.data(), batch_norm=ls.Recalibrate(iter(CNN.data())))


@pytest.mark.parametrize("choices", [{"pooled": True, "momentum": 0.1}, {"passes": 0}, {"passes": 2}])
def test_recalibrations_that_make_no_sense_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected: "):
        ls.Recalibrate(CNN.data(), **choices)


def test_the_policy_is_part_of_the_result() -> None:
    start, end = CNN.ends()
    line = ls.Line(start, end)
    found = ls.profile(start, line, CNN.data(), batch_norm=ls.Recalibrate(CNN.data(), momentum=0.1), alphas=2)
    assert found.how["batch_norm"].startswith("exponential average of batch statistics at every α (momentum 0.1")
    assert found.how["largest_batch"] == 5


def test_torch_still_drops_the_derivative_of_running_statistics() -> None:
    """The reason for the hook; should this fail, torch has learnt it and the hook must go."""
    from lerpscape.networks import forward_ad

    model = nn.BatchNorm1d(2).double().eval()
    x = random(4, 2, seed=0)
    with forward_ad.level(), torch.no_grad():
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state["running_mean"] = forward_ad.dual(state["running_mean"], torch.ones(2).double())
        assert forward_ad.split(functional_call(model, state, (x,)))[1] is None


def test_statistics_of_an_alpha_are_estimated_once_for_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = CNN.ends()
    line = ls.Line(start, end)
    passes: list[float] = []
    original = BatchNormStatistics._recalibrated

    def counted(self: BatchNormStatistics, state: Any, policy: Any, alpha: float) -> Any:
        passes.append(alpha)
        return original(self, state, policy, alpha)

    monkeypatch.setattr(BatchNormStatistics, "_recalibrated", counted)
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 1)
    ls.profile(start, line, CNN.data(), batch_norm=ls.Recalibrate(CNN.data()), alphas=3)
    assert [alpha for alpha in passes if alpha in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]  # others are probes
