"""`lerpscape gate` decides by its exit code, and `lerpscape write` writes what Python would."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused
from safetensors.torch import save_file

import lerpscape as ls
from lerpscape.cli.main import main

# Targets 0.75 with a spread: the loss is (α − 0.75)² + c, which rises by 1/16 from α = 0.75 to 1. It is steepest in α
# for targets below: the rise of an example is (1 − t)² − (0.75 − t)² = 0.4375 − 0.5 t.
MODULE = """
import torch
from torch import nn
def build():
    return nn.Linear(1, 1, bias=False).double()
def data(spread=0.2, count=400):
    targets = 0.75 + spread * torch.linspace(-1, 1, count).double()[:, None]
    return [(torch.ones(count, 1).double(), targets)]
def few():
    return data(count=9)
def broken():
    return [(torch.full((40, 1), float("nan")).double(), torch.ones(40, 1).double())]
"""


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quadratic.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "quadratic", raising=False)
    for name, value in (("start", 0.0), ("end", 1.0)):
        save_file({"weight": torch.full((1, 1), value).double()}, f"{name}.safetensors")
    return tmp_path


def words(most: str, data: str = "data", *more: str) -> list[str]:
    network = ["--model", "quadratic:build", "--data", f"quadratic:{data}", "--loss", "squared_error"]
    return ["gate", "start.safetensors", "end.safetensors", *network, "--alphas", "21", "--max-rise", most, *more]


@pytest.mark.parametrize(
    ("most", "data", "more", "code", "said"),
    [
        ("0.09", "data", [], 0, "passes: the loss rises by 0.0625 (0.0"),
        ("0.03", "data", [], 1, "fails: the loss rises by 0.0625"),
        ("0.063", "data", [], 2, "undecided: the loss rises by 0.0625"),
        ("0.063", "data", ["--whole"], 0, "n = 400, all that matter"),
        ("0.062", "data", ["--whole"], 1, "fails"),
        ("0.0625", "data", ["--whole"], 2, "measure in a wider dtype"),
        ("0.9", "few", [], 2, "9 examples, too few to tell for others"),
        ("0.9", "few", ["--whole"], 0, "passes"),
        ("0.9", "broken", [], 2, "undecided: No verdict: the loss is NaN"),
    ],
)
def test_the_exit_code_is_the_verdict(
    most: str, data: str, more: list[str], code: int, said: str, gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if code:
        with pytest.raises(SystemExit) as stopped:
            main(words(most, data, *more))
        assert stopped.value.code == code
    else:
        main(words(most, data, *more))
    shown = capsys.readouterr().out
    assert said in shown and shown.count("\n") == 1


def test_the_verdict_as_json_and_wrong_requests(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(words("0.09", "data", "--json"))
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"] == "passes" and shown["lower"] < shown["rise"] < shown["upper"] <= 0.09
    assert "a largest rise ≥ 0" in refused(words("-1"), capsys)


def test_a_rise_that_only_the_derivative_shows_is_undecided() -> None:
    """Between two of three α the loss dips and rises again; the derivative at its end says so."""
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    targets = torch.full((40, 1), 0.6).double()
    found = ls.profile(
        torch.nn.Linear(1, 1, bias=False).double(),
        line,
        [(torch.ones(40, 1).double(), targets)],
        loss="squared_error",
        alphas=2,
    )
    decided = ls.profiles.gate(found, 0.05)
    assert decided.verdict == "undecided" and "the derivative shows a rise of about 0.16" in decided.reason


@pytest.mark.parametrize("seed", range(3))
def test_the_gate_is_rarely_wrong_at_the_border(seed: int) -> None:
    """Where the expected rise is just above what is allowed, few samples pass."""
    generator = np.random.default_rng(seed)
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    model, passed = torch.nn.Linear(1, 1, bias=False).double(), 0
    for _ in range(40):
        targets = torch.tensor(generator.normal(0.75, 0.3, (64, 1)))
        data = [(torch.ones(64, 1).double(), targets)]
        found = ls.profile(model, line, data, loss="squared_error", alphas=9, derivative=False, progress=False)
        passed += ls.profiles.gate(found, 0.062).passes  # the expected loss rises by 0.0625
    # at most 2.5 % of one-sided errors: more than 5 of 40 have a probability below 1e-3
    assert passed <= 5


def test_a_point_is_written(gated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["write", "start.safetensors", "end.safetensors", "--alpha", "0.4", "--out", "point.safetensors"])
    assert capsys.readouterr().out == "wrote point.safetensors\n"
    found = ls.checkpoint("point.safetensors").tensors["weight"]
    assert found.equal(ls.Line("start.safetensors", "end.safetensors").at(0.4)["weight"])
    again = ["write", "start.safetensors", "end.safetensors", "--alpha", "0.4", "--out", "point.safetensors"]
    assert "a new place to write to" in refused(again, capsys)
    main(["write", "start.safetensors", "end.safetensors", "--alpha", "1.5", "--out", "far.safetensors", "--json"])
    assert json.loads(capsys.readouterr().out)["out"] == "far.safetensors"
