"""`lerpscape gauss` and `lerpscape study condition` print what the library measures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import refused
from torch import nn

import lerpscape as ls
from lerpscape.cli.main import main

MODULE = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
def data():
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [(x[:8], x[:8, :3]), (x[8:], x[8:, :3])]
"""
ENDS = ["start.pt", "end.pt", "--model", "turned:build", "--data", "turned:data"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "turned", raising=False)
    (tmp_path / "turned.py").write_text(MODULE)
    for name, seed in (("start.pt", 1), ("end.pt", 2)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double().state_dict(), name)
    return tmp_path


def direct() -> tuple[nn.Module, ls.Line, list[tuple[torch.Tensor, torch.Tensor]]]:
    import turned  # type: ignore[import-not-found]

    return turned.build(), ls.Line("start.pt", "end.pt"), turned.data()


def test_gauss_prints_what_the_library_measures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["gauss", *ENDS, "--budget", "65", "--out", "g.json", "--plot", "g.svg"])
    printed = capsys.readouterr().out
    found = ls.gauss_length(*direct(), budget=65)
    loaded = ls.GaussLength.load("g.json")
    assert loaded.per_example.tolist() == found.per_example.tolist()
    assert found.summary in printed
    assert "<svg" in Path("g.svg").read_text()
    main(["gauss", *ENDS, "--method", "integral", "--alphas", "21", "--precision", "None", "--json"])
    printed_json = json.loads(capsys.readouterr().out)
    assert printed_json["method"] == "integral"
    assert printed_json["mean"] == ls.gauss_length(*direct(), method="integral", alphas=21, precision=None).mean


def test_condition_prints_the_counts(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", "condition", *ENDS, "--budget", "65", "--out", "c.json"])
    printed = capsys.readouterr().out
    found = ls.geometry.sufficient_condition(*direct(), budget=65)
    assert found.table() in printed
    assert found.summary in printed
    main(["study", "condition", *ENDS, "--budget", "65", "--json"])
    assert json.loads(capsys.readouterr().out)["max_angle"] == found.max_angle.tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gauss", *ENDS, "--budget", "5"], "a budget of at least"),
        (["study", "condition", *ENDS, "--loss", "cross_entropy"], "no finite z"),
    ],
)
def test_refusals(work: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in refused(words, capsys)
