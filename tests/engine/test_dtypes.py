"""The type of the computation is the model's, whatever the checkpoints are stored in; halves are lerped in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import classes, random, seeded
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.model_on_path import ModelOnPath

X, Y = random(64, 6, seed=0).float(), classes(64, seed=1)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def ends(dtype: torch.dtype) -> list[dict[str, Tensor]]:
    return [{name: each.to(dtype) for name, each in seeded(net, seed).state_dict().items()} for seed in (0, 1)]


STORED = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]


@pytest.mark.parametrize("stored", STORED)
def test_a_float32_model_is_measured_in_float32(stored: torch.dtype) -> None:
    start, end = ends(stored)
    found = ls.profile(seeded(net, 2), ls.Line(start, end), [(X, Y)], alphas=5)
    probe, losses = net().double(), []
    for alpha in found.alphas:
        probe.load_state_dict({name: torch.lerp(start[name].double(), end[name].double(), alpha) for name in start})
        with torch.no_grad():
            losses.append(float(F.cross_entropy(probe(X.double()), Y)))
    assert found.how["dtype"] == "float32"
    assert found.loss == pytest.approx(losses, rel=1e-5)  # float32, three layers


@pytest.mark.parametrize("model_dtype", [torch.bfloat16, torch.float16])
def test_a_half_model_gets_tensors_that_were_rounded_once(model_dtype: torch.dtype) -> None:
    for stored in (torch.bfloat16, torch.float32):
        start, end = ends(stored)
        on_path = ModelOnPath(net().to(model_dtype), ls.Line(start, end), None, None)
        for alpha in (0.0, 0.3, 0.7, 1.0):
            for name, tensor in on_path.at(alpha).items():
                wanted = torch.lerp(start[name].float(), end[name].float(), alpha).to(model_dtype)
                assert tensor.dtype == model_dtype
                # equal but for the last bit of float32, which can tip one rounding
                assert (tensor.float() - wanted.float()).abs().max() <= torch.finfo(model_dtype).eps


def test_each_tensor_has_the_type_of_the_models_own() -> None:
    model = nn.Sequential(nn.Linear(6, 16).bfloat16(), nn.LayerNorm(16), nn.Linear(16, 3).double())
    state = {name: tensor + 0.5 for name, tensor in model.state_dict().items()}
    on_path = ModelOnPath(model, ls.Line(model, state), None, None)
    for tensors in (on_path.at(0.3), on_path.velocity(0.3), *on_path.ends()):
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {n: t.dtype for n, t in state.items()}
    asked = ModelOnPath(model, ls.Line(model, state), None, torch.float32)
    assert {tensor.dtype for tensor in asked.at(0.3).values()} == {torch.float32}


def test_a_rise_below_the_rounding_has_no_verdict() -> None:
    """In bfloat16 the loss is a multiple of 2⁻⁸ between ½ and 1; the true rise is smaller."""

    class Level(nn.Module):
        def __init__(self, height: float) -> None:
            super().__init__()
            self.height = nn.Parameter(torch.tensor([height]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.height

    data = [(torch.ones(4, 1, dtype=torch.bfloat16), torch.zeros(4))]
    model = Level(0.0).bfloat16()

    def measured(first: float, last: float, dtype: torch.dtype) -> ls.Profile:
        line = ls.Line({"height": torch.tensor([first])}, {"height": torch.tensor([last])})
        batches = [(x.to(dtype), y) for x, y in data]
        return ls.profile(model, line, batches, loss=lambda o, _: o[:, 0], alphas=9, dtype=dtype)

    near, far = (measured(0.703, last, torch.bfloat16) for last in (0.7068, 0.9))
    assert near.how["noise_floor"] == pytest.approx(2**-7 * near.loss.max(), rel=1e-12)
    assert near.verdict(0).startswith("Undecided: the loss rises by 0.003906") and "bfloat16" in near.verdict(0)
    assert far.verdict(0).startswith("Not monotonic")
    assert measured(0.703, 0.7068, torch.float32).verdict(0).startswith("Not monotonic")
    falling = measured(0.9, 0.7, torch.bfloat16)
    assert falling.verdict(0).startswith("Monotonic as far as the grid shows")
    assert falling.verdict(1e-3).startswith("Undecided") and falling.verdict(0.01).startswith("Monotonic as far")
