"""Hessian numbers against exact small Hessians, and features against closed forms."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from cases import CASES, POLICIES, Case, batches, generator, random, seeded
from commands import command, refused
from torch import nn

import lerpscape as ls
from lerpscape.cli.main import main
from lerpscape.networks.losses import find_loss

matplotlib.use("agg")
pytest.importorskip("hessian_eigenthings")


def exact(case: Case, alpha: float, policy: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The Hessian of the mean loss as a matrix, and dθ/dα, at θ(α) with stored statistics interpolated."""
    start, end = case.ends()
    line = ls.Line(start, end)
    state = line.at(alpha)
    if isinstance(policy, ls.EndStatistics):
        state |= {name: tensor for name, tensor in line.at(1.0).items() if "running" in name}
    names = [name for name, _ in start.named_parameters()]
    sizes = [state[name].numel() for name in names]

    def mean(vector: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, torch.split(vector, sizes), strict=True))
        own = {name: tensor for name, tensor in state.items() if name != "read.weight"}  # tied: one name is enough
        tensors = own | {name: part.view(state[name].shape) for name, part in parts.items()}
        total, count = torch.zeros((), dtype=torch.float64), 0
        for item in case.data():
            inputs, targets = item
            outputs = torch.func.functional_call(start.eval(), tensors, (inputs,))
            values = find_loss(case.loss).values(outputs, targets)
            total, count = total + values.sum(), count + len(values)
        return total / count

    point = torch.cat([state[name].reshape(-1) for name in names])
    velocity = line.velocity(alpha)
    direction = torch.cat([velocity.get(name, torch.zeros_like(state[name])).reshape(-1) for name in names])
    return torch.autograd.functional.hessian(mean, point, vectorize=True), direction


@pytest.mark.parametrize(
    ("index", "policy"),
    [(0, None), (1, None), pytest.param(2, None, marks=pytest.mark.slow), (3, "interpolate"), (3, "end"), (6, None)],
)
def test_numbers_are_those_of_the_exact_hessian(index: int, policy: str | None) -> None:
    case = CASES[index]
    chosen = POLICIES[policy](case.data()) if policy else None
    start, end = case.ends()
    found = ls.curvature(
        start, ls.Line(start, end), case.data(), loss=case.loss, alphas=[0.3, 0.8], iterations=60, batch_norm=chosen
    )
    for i, alpha in enumerate((0.3, 0.8)):
        hessian, direction = exact(case, alpha, chosen)
        values = torch.linalg.eigvalsh(hessian)
        # Ritz values lie inside the spectrum, and an eigenvalue lies within the residual; 1e-9: rounding.
        scale = float(values.abs().max())
        assert found.top[i] <= values[-1] + 1e-9 * scale
        assert float((values - found.top[i]).abs().min()) <= found.top_error[i] + 1e-9 * scale
        assert found.top[i] == pytest.approx(float(values[-1]), rel=1e-3)
        assert found.bottom[i] == pytest.approx(float(values[0]), abs=2e-2 * scale)
        assert found.along[i] == pytest.approx(float(direction @ hessian @ direction), rel=1e-8, abs=1e-10)
        assert found.speed[i] == pytest.approx(float(direction.norm()), rel=1e-12)
        # Hutch++ is unbiased: within five standard errors (and rounding, where its sketch spans all).
        assert abs(found.trace[i] - float(torch.trace(hessian))) <= 5 * found.trace_error[i] + 1e-8 * scale
        assert found.trace_error[i] > 0
    assert found.parameters == len(hessian)


def test_dhd_is_the_second_derivative_of_the_profile() -> None:
    case = CASES[7]  # a dictionary of inputs, smooth
    start, end = case.ends()
    line, h = ls.Line(start, end), 1e-4
    found = ls.curvature(start, line, case.data(), alphas=[0.4, 0.6], iterations=2, probes=6)
    profile = ls.profile(start, line, case.data(), alphas=[0.4 - h, 0.4 + h, 0.6 - h, 0.6 + h])
    slopes = profile.derivative
    assert slopes is not None
    assert found.along == pytest.approx((slopes[1::2] - slopes[::2]) / (2 * h), rel=1e-6)  # O(h²)
    assert (found.bottom <= found.rayleigh + 1e-12).all() or found.how["iterations"] == 2


def test_the_mean_is_over_examples_not_over_batches() -> None:
    case = CASES[0]
    start, end = case.ends()
    inputs, targets = (torch.cat(parts) for parts in zip(*case.data(), strict=True))
    line = ls.Line(start, end)
    whole, ragged = (
        ls.curvature(start, line, batches(inputs, targets, size), alphas=2, iterations=10, probes=6) for size in (17, 6)
    )
    assert ragged.top == pytest.approx(whole.top, rel=1e-10)
    assert ragged.trace == pytest.approx(whole.trace, rel=1e-10)


def test_a_loss_without_curvature_and_one_parameter() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    x = torch.ones(4, 1).double()
    flat = ls.curvature(model, line, [(x, x)], loss=lambda z, y: z[:, 0], alphas=2)
    assert flat.top.tolist() == flat.along.tolist() == [0.0, 0.0]
    bent = ls.curvature(model, line, [(x, x)], loss=lambda z, y: 3 * z[:, 0] ** 2, alphas=2)
    assert bent.top == pytest.approx([6, 6]) and bent.bottom == pytest.approx([6, 6])
    assert bent.trace == pytest.approx([6, 6])


def test_refusals_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    x = torch.ones(4, 1).double()
    with pytest.raises(ValueError, match="2 iterations and 6 probes"):
        ls.curvature(model, line, [(x, x)], loss="squared_error", probes=3)
    with pytest.raises(ls.NonFiniteLoss, match="product with it at α = 0"):
        ls.curvature(model, line, [(x, x)], loss=lambda z, y: z.log()[:, 0], alphas=2)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("hessian_eigenthings"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr("lerpscape.base.saving.import_module", lambda name: without(name))
    with pytest.raises(ImportError, match=r'pip install "lerpscape\[curvature\]"'):
        ls.curvature(model, line, [(x, x)], loss="squared_error")


def test_words_and_a_frame() -> None:
    case = CASES[0]
    start, end = case.ends()
    found = ls.curvature(start, ls.Line(start, end), case.data(), alphas=3, iterations=8, probes=9)
    assert found.to_pandas()["alpha"].tolist() == [0, 0.5, 1]
    assert "bends downwards at" in found.summary


def linear_pair() -> tuple[nn.Module, list[Any]]:
    x = random(12, 3, seed=5)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    return model, [(x[:7], x[:7]), (x[7:], x[7:])]


def test_cka_against_its_formula_and_its_invariances() -> None:
    model, data = linear_pair()
    a, b = random(4, 3, seed=6), random(4, 3, seed=7)
    read = random(2, 4, seed=8)
    line = ls.Line({"0.weight": a, "1.weight": read}, {"0.weight": b, "1.weight": read})
    found = ls.geometry.feature_similarity(model, line, data)
    assert found.layers == ("0", "1")
    x = torch.cat([inputs for inputs, _ in data])
    one, two = ((x - x.mean(0)) @ weight.T for weight in (a, b))
    top = (one.T @ two).square().sum()
    assert found.cka[0, 0] == pytest.approx(float(top / ((one.T @ one).norm() * (two.T @ two).norm())), rel=1e-12)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator(2), dtype=torch.float64))[0]
    same = ls.geometry.feature_similarity(
        model, ls.Line({"0.weight": a, "1.weight": read}, {"0.weight": 3 * turn @ a, "1.weight": read}), data
    )
    assert same.cka[0, 0] == pytest.approx(1, rel=1e-12)
    assert same.same_layer["0"] == same.cka[0, 0]


def test_linear_layers_are_linear_and_opposite_features_are_not() -> None:
    model, data = linear_pair()
    a, read = random(4, 3, seed=6), random(2, 4, seed=8)
    start = {"0.weight": a, "1.weight": read}
    # Both layers change sign and grow: layer 1 of the line is (1−α)a − 2αa, whose sign turns at α = 1/3; the mixture of
    # outputs is (1−α)ra + 4αra and never turns, the path's own output is (1−3α)²ra. Everything stays parallel.
    found = ls.geometry.feature_linearity(
        model, ls.Line(start, {name: -2 * w for name, w in start.items()}), data, alphas=5
    )
    assert found.cosine[:, 0] == pytest.approx(1)
    assert found.coefficient[:, 0] == pytest.approx(1)
    assert found.cosine[:, 1] == pytest.approx(1)
    assert found.coefficient[:, 1] == pytest.approx([(1 - 3 * t) ** 2 / (1 + 3 * t) for t in found.alphas])
    # One layer only changes sign: output (1−α)·(1−2α)… the product turns where the mixture has not.
    signs = {"0.weight": -a, "1.weight": 3 * read}
    found = ls.geometry.feature_linearity(model, ls.Line(start, signs), data, alphas=[0.0, 0.4, 1.0])
    # At 0.4: the product is (1−0.8)(1+0.8) > 0, the mixture 0.6 − 1.2 < 0: anti-parallel.
    assert found.cosine[:, 1] == pytest.approx([1, -1, 1])
    assert found.opposite[1].tolist() == [0.0, 1.0]


def test_silent_features_are_counted_and_shared_layers_numbered() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.two(self.relu(self.one(x))))

    model = seeded(Twice, 0).double()
    dead = {"one.weight": -torch.eye(2).double(), "two.weight": torch.eye(2).double()}
    alive = {name: torch.eye(2).double() for name in dead}
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]]).double()
    found = ls.geometry.feature_linearity(model, ls.Line(dead, alive), [(x, x)], alphas=[0.0, 1.0])
    assert found.layers == ("one", "relu", "two", "relu#2")
    assert found.silent.tolist() == [[0, 3, 3, 3], [0, 0, 0, 0]]
    assert np.isnan(found.cosine[0, 1:]).all()
    assert found.cosine[1].tolist() == pytest.approx([1, 1, 1, 1])
    assert np.isnan(ls.geometry.feature_similarity(model, ls.Line(dead, alive), [(x, x)]).same_layer["relu"])


@pytest.mark.parametrize("policy", ["interpolate", "end", "recalibrate", "batch"])
def test_features_follow_the_batch_norm_policy(policy: str) -> None:
    case = CASES[3]
    start, end = case.ends()
    found = ls.geometry.feature_linearity(
        start, ls.Line(start, end), case.data(), alphas=3, layers=["1", "9"], batch_norm=POLICIES[policy](case.data())
    )
    assert found.layers == ("1", "9")
    assert found.cosine[[0, -1]] == pytest.approx(np.ones((2, 2)))
    assert (found.cosine[1] < 1).all()


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    start, end = CASES[0].ends()
    with pytest.raises(ValueError, match=r"'layer7'.\ntry: Nearest names"):
        ls.geometry.feature_similarity(start, ls.Line(start, end), CASES[0].data(), layers=["layer7"])
    x = torch.full((3, 4), float("inf")).double()
    with pytest.raises(ls.NonFiniteOutput, match="layer '0'"):
        ls.geometry.feature_similarity(start, ls.Line(start, end), [(x, torch.zeros(3).long())])


@pytest.mark.usefixtures("work")
def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    words = command()[1:]
    main(
        [
            "study",
            "curvature",
            *words,
            "--alphas",
            "3",
            "--iterations",
            "5",
            "--probes",
            "6",
            "--plot",
            "c.svg",
            "--out",
            "c.json",
        ]
    )
    found = ls.geometry.Curvature.load("c.json")
    assert found.summary in capsys.readouterr().out
    start, end = CASES[0].ends()
    line, data = ls.Line(start, end), CASES[0].data()
    assert found.top.tolist() == ls.curvature(start, line, data, alphas=3, iterations=5, probes=6).top.tolist()
    main(["study", "similarity", *words, "--alphas", "3", "--json", "--plot", "s.svg"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["cka"]["cka"] == ls.geometry.feature_similarity(start, line, data).cka.tolist()
    assert printed["linearity"]["cosine"] == ls.geometry.feature_linearity(start, line, data, alphas=3).cosine.tolist()
    assert all("<svg" in Path(name).read_text() for name in ("c.svg", "s.svg"))
    main(["study", "similarity", *words, "--alphas", "3", "--layers", "0", "5"])
    assert capsys.readouterr().out.count("\n") == 3
    assert "Nearest names" in refused(["study", "similarity", *words, "--layers", "nothing"], capsys)
