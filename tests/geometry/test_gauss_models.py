"""Gauss length of the networks people have: every kind of model, batch norm and batch, against slow oracles."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import outputs_on_path
from numpy.testing import assert_allclose
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks.batches import batch_of
from lerpscape.networks.undisturbed import undisturbed

DOUBLE = torch.float64
POINTS = 17


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.out = nn.Linear(5, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(tokens))[0])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight  # tied

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.out(self.block(self.embed(input_ids)))}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 5), nn.BatchNorm1d(5)
    )


def moved(build: Any, seed: int = 0) -> tuple[nn.Module, ls.Line]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double()
        other = copy.deepcopy(model)
        with torch.no_grad():
            for tensor in [*other.parameters(), *other.buffers()]:
                if tensor.is_floating_point():
                    tensor.add_(0.5 * torch.rand_like(tensor))
    return model, ls.Line(model, other)


def tokens() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(11, (5, 6), generator=generator)
    labels = ids.roll(-1, 1)
    labels[:, -1] = -100
    labels[1, 3:] = -100
    return [
        {"input_ids": ids[part], "mask": torch.ones(part.stop - part.start, 6), "labels": labels[part]}
        for part in (slice(0, 2), slice(2, 4), slice(4, 5))
    ]


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 1, 6, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))


def oracle(model: nn.Module, line: ls.Line, call: Any, points: int = POINTS) -> np.ndarray:
    """Turning from velocities by central differences of whole copies of the network."""
    step = 1e-5

    def outputs(alpha: float) -> np.ndarray:
        at = copy.deepcopy(model).eval()
        at.load_state_dict(line.at(alpha))
        with torch.no_grad():
            return call(at).numpy()

    velocities = np.stack([(outputs(a + step) - outputs(a - step)) / (2 * step) for a in np.linspace(0, 1, points)])
    units = velocities / np.linalg.norm(velocities, axis=-1, keepdims=True)
    return 2 * np.arcsin(np.linalg.norm(np.diff(units, axis=0), axis=-1) / 2).sum(axis=0)


def measured(model: nn.Module, line: ls.Line, data: Any, **choices: Any) -> ls.GaussLength:
    return ls.gauss_length(model, line, data, **{"alphas": POINTS, "precision": None, **choices})


def test_a_feedforward_network() -> None:
    model, line = moved(mlp)
    x = torch.randn(7, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = measured(model, line, [(part, torch.zeros(len(part))) for part in x.split(3)])
    assert_allclose(found.per_example, oracle(model, line, lambda at: at(x)), atol=1e-6)


def test_a_recurrent_network_gives_one_length_per_example_and_position() -> None:
    model, line = moved(Recurrent)
    batches = [(batch["input_ids"], batch["labels"]) for batch in tokens()]
    found = measured(model, line, batches)
    ids, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = oracle(model, line, lambda at: at(ids))
    counted = (labels != -100).numpy()
    assert_allclose(found.per_example, expected[counted], atol=1e-6)
    assert found.example.tolist() == np.nonzero(counted)[0].tolist()
    assert found.position is not None
    assert found.position.tolist() == np.nonzero(counted)[1].tolist()
    assert_allclose(found.by_example[1], expected[1, :3].mean(), atol=1e-6)
    groups = [expected[i][counted[i]] - found.mean for i in range(5)]
    clustered = math.sqrt(5 / 4 * sum(g.sum() ** 2 for g in groups)) / counted.sum()
    assert_allclose(found.stderr, clustered, rtol=1e-5)
    whole = measured(model, line, batches, per="example")
    assert_allclose(whole.per_example, oracle(model, line, lambda at: at(ids).flatten(1)), atol=1e-6)
    assert "positions" in found.summary
    assert "position" in found.to_pandas()


def test_attention_tied_weights_and_dict_batches() -> None:
    model, line = moved(Attending)
    found = measured(model, line, tokens())
    ids = torch.cat([batch["input_ids"] for batch in tokens()])
    counted = (torch.cat([batch["labels"] for batch in tokens()]) != -100).numpy()
    expected = oracle(model, line, lambda at: at(ids)["logits"])
    assert_allclose(found.per_example, expected[counted], atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
    integral = measured(model, line, tokens(), method="integral", alphas=33)
    assert_allclose(integral.per_example, measured(model, line, tokens(), alphas=129).per_example, rtol=0.05)


def test_positions_of_images_only_when_asked_for() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 1)).double()
        other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 1)).double()
    line, data = ls.Line(model, other), [(images(), torch.zeros(6))]
    assert len(measured(model, line, data).per_example) == 6
    assert len(measured(model, line, data, per="position").per_example) == 18


@pytest.mark.parametrize("policy", ["interpolate", "end", "batch", "recalibrate", "pooled", "momentum"])
def test_batch_norm_follows_the_path_whose_loss_is_plotted(policy: str) -> None:
    model, line = moved(convolutional)
    x = images()
    recalibration = [(images(8), torch.zeros(8))]
    chosen = {
        "interpolate": ls.InterpolateStatistics(),
        "end": ls.EndStatistics(),
        "batch": ls.BatchStatistics(),
        "recalibrate": ls.Recalibrate(recalibration),
        "pooled": ls.Recalibrate([(part, torch.zeros(4)) for part in images(8).split(4)], pooled=True),
        "momentum": ls.Recalibrate(recalibration, momentum=0.3),
    }[policy]
    data = [(x, torch.zeros(6, 5, dtype=DOUBLE))]
    found = measured(model, line, data, batch_norm=chosen)
    assert found.how["batch_norm"] == chosen.describe()
    with undisturbed(model):
        on_path = {
            order: outputs_on_path(model, line, batch_of(data[0]), order=order, batch_norm=chosen) for order in (0, 1)
        }
        for alpha in (0.0, 0.3, 1.0):
            (after,), (before,) = (on_path[0].at(alpha + step, [batch_of(data[0])]) for step in (1e-5, -1e-5))
            (stack,) = on_path[1].at(alpha, [batch_of(data[0])])
            assert_allclose(stack[1], (after - before)[0] / 2e-5, rtol=1e-5, atol=1e-6)
    if policy in ("end", "batch"):
        integral = measured(model, line, data, batch_norm=chosen, method="integral", alphas=65)
        turning = measured(model, line, data, batch_norm=chosen, alphas=129)
        assert_allclose(integral.per_example, turning.per_example, atol=0.03)
    else:
        with pytest.raises(ValueError, match="do not move with α by themselves, for a second derivative"):
            measured(model, line, data, batch_norm=chosen, method="integral")


def test_batch_norm_without_a_policy_is_refused() -> None:
    model, line = moved(convolutional)
    with pytest.raises(ValueError, match="batch_norm="):
        measured(model, line, [(images(), torch.zeros(6))])


def test_interpolated_statistics_against_whole_copies_of_the_network() -> None:
    model, line = moved(convolutional)
    x = images()
    found = measured(model, line, [(x, torch.zeros(6))], batch_norm=ls.InterpolateStatistics())
    assert_allclose(found.per_example, oracle(model, line, lambda at: at(x)), atol=1e-5)


@pytest.mark.parametrize("method", ["turning", "polygon", "integral"])
def test_half_precision_models_are_measured(method: Any) -> None:
    model, line = moved(mlp)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    exact = measured(model, line, [(x.double(), torch.zeros(4))], method=method)
    found = measured(model, line, [(x, torch.zeros(4))], method=method, dtype=torch.float32)
    assert_allclose(found.per_example, exact.per_example, atol=2e-3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(9),
        nn.Sequential(nn.Unflatten(1, (3, 3)), nn.InstanceNorm1d(3, affine=True), nn.Flatten()),
        nn.SiLU(),
        nn.Mish(),
        pytest.param(nn.Sequential(nn.Unflatten(1, (3, 3)), nn.GroupNorm(1, 3), nn.Flatten()), marks=pytest.mark.slow),
        pytest.param(nn.GELU(), marks=pytest.mark.slow),
        pytest.param(nn.RMSNorm(9), marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_of_layers_that_torch_gets_wrong(layer: nn.Module) -> None:
    model, line = moved(lambda: nn.Sequential(nn.Linear(6, 9), copy.deepcopy(layer), nn.Linear(9, 4)))
    x = torch.randn(5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.zeros(5))]
    integral = measured(model, line, data, method="integral", alphas=129)
    assert_allclose(integral.per_example, measured(model, line, data, alphas=129).per_example, rtol=5e-3)


def test_a_wrong_second_derivative_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, line = moved(lambda: nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 4)))
    x = torch.randn(5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("lerpscape.networks.second_derivatives._REPLACEMENTS", {})
    for dtype in (torch.float64, torch.float32):
        with pytest.raises(ValueError, match="wrongly the second time"):
            measured(model, line, [(x, torch.zeros(5))], method="integral", dtype=dtype)
