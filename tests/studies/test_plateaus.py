"""Plateaus, what biases do to them, and scale: closed forms of homogeneous networks, and trained ones."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, batches, classes, generator, random, seeded
from commands import command, refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.cli.main import main

matplotlib.use("agg")


def homogeneous(depth: int, seed: int) -> tuple[nn.Module, ls.Line, list[tuple[Tensor, Tensor]]]:
    """Bias-free ReLU layers before a last one with biases, from zero: z_j(α) = α^depth s_j + α b_j exactly."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(6, 6, bias=False), nn.ReLU()]
    model = seeded(lambda: nn.Sequential(*layers, nn.Linear(6, 4)), seed).double()
    for parameter in model.parameters():
        parameter.data = 1.2 * torch.randn(parameter.shape, generator=generator(seed)).double()
    model[-1].bias.data *= 4
    end = model.state_dict()
    line = ls.Line({name: torch.zeros_like(tensor) for name, tensor in end.items()}, deepcopy(end))
    x, targets = random(60, 6, seed=seed), classes(60, seed=seed, count=4)
    with torch.no_grad():
        targets[:40] = model(x[:40]).argmax(1)  # right at the end; most of the others are wrong
    return model, line, batches(x, targets, size=23)


@pytest.mark.parametrize(("depth", "seed"), [(2, 0), (3, 1), (5, 4)])
def test_the_closed_form_is_exact_on_a_homogeneous_network(depth: int, seed: int) -> None:
    model, line, data = homogeneous(depth, seed)
    found = ls.studies.plateau_ends(model, line, data, alphas=201)
    assert found.degree == depth
    assert (np.isinf(found.predicted) == np.isinf(found.observed)).all()
    assert found.known.sum() > 10 and (found.predicted[found.known] > 0.1).any()
    # The margin is a polynomial of degree `depth` per cell: a straight line misses its zero by O(h), h = 1/200.
    assert found.observed[found.known] == pytest.approx(found.predicted[found.known], abs=1 / 200)
    assert found.mean_error < 1e-3
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in data]).numpy()
    assert found.signal + found.bias == pytest.approx(logits, rel=1e-12, abs=1e-12)


@given(
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.lists(st.floats(-4, 4), min_size=3, max_size=3),
    st.integers(0, 2),
    st.integers(2, 6),
)
def test_the_closed_form_against_brute_force(bias: list[float], signal: list[float], target: int, degree: int) -> None:
    b, s = np.round(bias, 2), np.round(signal, 2)
    (found,) = ls.studies.predicted_plateau_ends(b, s[None], np.array([target]), degree)
    grid = np.linspace(0, 1, 2001)[1:]
    z = grid[:, None] ** degree * s + grid[:, None] * b
    margin = z[:, target] - np.delete(z, target, axis=1).max(axis=1)
    if np.isinf(found):
        assert margin[-1] <= 1e-9
        return
    assert margin[-1] > -1e-12
    after = grid > found + 1e-9
    # Once right, right until the end; before the end of the plateau, wrong somewhere arbitrarily close.
    assert (margin[after] > -1e-12).all()
    before = grid[(grid < found - 1e-9) & (grid > found - 0.05)]
    if len(before):
        assert margin[np.searchsorted(grid, before[-1])] < 1e-12


def test_examples_that_are_always_right_or_never() -> None:
    bias, signal = np.array([0.0, 0.0]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert ls.studies.predicted_plateau_ends(bias, signal, np.array([0, 0, 0]), 3).tolist() == [0.0, np.inf, np.inf]
    with pytest.raises(ValueError, match="degree of at least 2"):
        ls.studies.predicted_plateau_ends(bias, signal, np.array([0, 0, 0]), 1)


def test_refusals() -> None:
    model, line, data = homogeneous(2, 0)
    with pytest.raises(ValueError, match="class numbers as targets"):
        ls.studies.plateau_ends(model, line, [(x, x) for x, _ in data])
    with pytest.raises(ValueError, match="bias for each of the 4 classes"):
        ls.studies.plateau_ends(model, line, data, last_layer="0", degree=2)
    with pytest.raises(ValueError, match="alphas up to 1"):
        ls.studies.plateau_ends(model, line, data, alphas=[0.0, 0.5])
    bare = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    line = ls.Line({"0.weight": torch.zeros(4, 6).double()}, {"0.weight": torch.ones(4, 6).double()})
    with pytest.raises(ValueError, match="a network without one"):
        ls.studies.plateau_ends(bare, line, data)
    with pytest.raises(ValueError, match="a model with biases"):
        ls.studies.bias_study(bare, line, data)
    cnn = CASES[3]
    with pytest.raises(TypeError, match="takes away the scale"):
        ls.studies.plateau_ends(cnn.ends()[0], ls.Line(*cnn.ends()), cnn.data(), batch_norm=ls.EndStatistics())


def test_homogeneous_biases_end_a_plateau_at_once_in_closed_form() -> None:
    model, line, data = homogeneous(4, 3)
    found = ls.studies.bias_study(model, line, data, alphas=41)
    with torch.no_grad():
        right = np.mean([float(y) for x, t in data for y in (model(x).argmax(1) == t)])
    # Everything scales by α⁴: the same answers at every α but 0.
    homogeneous_accuracy = found["homogeneous"].profile.accuracy
    assert homogeneous_accuracy is not None
    assert homogeneous_accuracy[1:] == pytest.approx(np.full(40, right))
    assert found["last homogeneous"].profile.loss == pytest.approx(found["homogeneous"].profile.loss)  # the only biases
    assert found["no biases"].profile.loss == pytest.approx(found["no last bias"].profile.loss)
    assert found["straight"].profile.loss == pytest.approx(ls.profile(model, line, data, alphas=41).loss)


def trained(seed: int) -> tuple[nn.Module, ls.Line, list[tuple[Tensor, Tensor]]]:
    """Six ReLU layers on digits by plain SGD from a small initialisation without biases."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:600] / 16).float(), torch.tensor(labels[:600])
    draw = generator(seed)
    layers = [part for _ in range(5) for part in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for name, parameter in model.named_parameters():
        size = 0.6 * (2 / 64) ** 0.5 if name.endswith("weight") else 0.0
        parameter.data = size * torch.randn(parameter.shape, generator=draw)
    start = deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(30):
        for rows in torch.randperm(600, generator=draw).split(10):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model, ls.Line(start, model), [(x, y)]


@pytest.mark.parametrize("seed", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_homogeneous_biases_shorten_the_error_plateau_of_a_trained_deep_network(seed: int) -> None:
    """At 10 % of the drop, and in the mean over examples; at 5 % single examples that come right early may decide."""
    model, line, data = trained(seed)
    study = ls.studies.bias_study(model, line, data, alphas=51, eps=0.1)
    straight, homogeneous_line = study["straight"], study["homogeneous"]
    assert straight.profile.accuracy is not None and straight.profile.accuracy[-1] > 0.8
    assert homogeneous_line.profile.loss[-1] == straight.profile.loss[-1]  # the same ends
    assert homogeneous_line.error_plateau < straight.error_plateau - 0.04  # two grid steps of 1/50
    ends = [ls.studies.plateau_ends(model, path, data, alphas=51) for path in (line, line.homogeneous_biases(model))]
    means = [float(each.observed[each.known].mean()) for each in ends]
    assert means[1] < means[0] - 0.04
    assert "with homogeneous biases" in study.summary
    assert study.to_pandas()["variant"].tolist()[1] == "homogeneous"
    assert len(study.plot().get_lines()) >= 5
    matplotlib.pyplot.close("all")


def test_tables_and_pictures() -> None:
    model, line, data = homogeneous(3, 1)
    found = ls.studies.plateau_ends(model, line, data)
    assert sum(row["examples"] for row in found.by_class()) == 60
    assert found.to_pandas()["observed"].tolist() == found.observed.tolist()
    assert "degree 3" in found.summary
    assert found.plot().get_xlabel().startswith("predicted")
    matplotlib.pyplot.close("all")


def test_a_homogeneous_network_bears_any_scale() -> None:
    """Bias-free: f(αθ) = α³f(θ), so predictions and directions stay and logits fade with α³."""
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 7, bias=False), nn.ReLU(), nn.Linear(7, 4, bias=False)
    ).double()
    start, end = seeded(build, 1), seeded(build, 2)
    data = batches(random(40, 5, seed=3), classes(40, seed=4, count=4), size=16)
    found = ls.studies.scale_invariance(start, start, end, data, alphas=10)
    zero = found["zero"]
    assert zero.agreement.tolist() == [1.0] * 10
    assert zero.cosine == pytest.approx(np.ones(10))
    assert zero.error.tolist() == [zero.error[-1]] * 10
    with torch.no_grad():
        losses = [
            float(torch.cat([F.cross_entropy(a**3 * end(x), y, reduction="none") for x, y in data]).mean())
            for a in found.alphas
        ]
        # (1−α)ε + αθ_T = α(θ_T + κε): the error at α is that of θ_T + κε, at any scale.
        kappa = (1 - found.alphas[3]) / found.alphas[3]
        moved = deepcopy(end)
        for mine, theirs in zip(moved.parameters(), start.parameters(), strict=True):
            mine.data += kappa * theirs
        wrong = torch.cat([moved(x).argmax(1) != y for x, y in data]).double().mean()
    assert zero.loss == pytest.approx(losses)
    assert found["own"].error[3] == pytest.approx(float(wrong))
    lengths = [float(torch.cat([p.flatten() for p in each.parameters()]).norm().detach()) for each in (start, end)]
    assert found["own"].ratio[3] == pytest.approx(kappa * lengths[0] / lengths[1])
    assert found["noise"].norm == pytest.approx(lengths[0])
    assert (zero.norm, zero.ratio.tolist()) == (0.0, found["own"].ratio.tolist())
    assert "predicts as f(θ_T) for 100 %" in found.summary


def test_biases_break_scale_invariance_and_it_is_seen() -> None:
    model, line, data = homogeneous(4, 3)
    found = ls.studies.scale_invariance(
        model, {n: 0.1 * t for n, t in line.end.tensors.items()}, line.end, data, alphas=5
    )
    assert found["zero"].agreement[0] < 1


def test_scale_refusals() -> None:
    case = CASES[0]
    start, end = case.ends()
    with pytest.raises(ValueError, match=r"alphas in \(0, 1\]"):
        ls.studies.scale_invariance(start, start, end, case.data(), alphas=[0.0, 1.0])
    with pytest.raises(ValueError, match="own, noise and zero are taken"):
        ls.studies.scale_invariance(start, start, end, case.data(), others={"zero": end})
    with pytest.raises(ValueError, match="right answers"):
        ls.studies.scale_invariance(start, *CASES[1].ends(), CASES[1].data(), loss="squared_error")
    found = ls.studies.scale_invariance(
        start, start, end, case.data(), alphas=4, others={"other": ls.paths.fresh_init(start, 7)}
    )
    assert [each.name for each in found] == ["own", "noise", "zero", "other"]
    assert len(found.to_pandas()) == 16
    profile = ls.profile(start, ls.Line(start, end), case.data(), alphas=found.alphas, derivative=False)
    assert found["own"].loss.tolist() == profile.loss.tolist()


@pytest.mark.usefixtures("work")
def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    words = command()[1:]
    main(["study", "plateaus", *words, "--alphas", "21", "--plot", "p.svg", "--out", "p.json"])
    out = capsys.readouterr().out
    start, end = CASES[0].ends()
    line, data = ls.Line(start, end), CASES[0].data()
    found = ls.studies.plateau_ends(start, line, data, alphas=21)
    assert found.summary in out
    assert ls.studies.bias_study(start, line, data, alphas=21).summary in out
    assert ls.studies.Plateaus.load("p.json").observed.tolist() == found.observed.tolist()
    main(["study", "plateaus", *words, "--alphas", "21", "--degree", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["predicted"] == json.loads(Path("p.json").read_text())["predicted"]
    main(["study", "scale", *words, "--alphas", "4", "--json", "--plot", "s.svg"])
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["curves"][0]["loss"]
        == ls.studies.scale_invariance(start, start, end, data, alphas=4)["own"].loss.tolist()
    )
    assert all("<svg" in Path(name).read_text() for name in ("p.svg", "s.svg"))
    assert "alphas up to 1" in refused(["study", "plateaus", *words, "--alphas", "0:0.5:3"], capsys)
