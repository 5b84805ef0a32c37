"""`lerpscape study attribute`, `examples` and `batch-norm` print what the library measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import CASES
from commands import command, refused

import lerpscape as ls
from lerpscape.cli.main import main

CASE, CNN = CASES[0], CASES[3]


def words(word: str, *rest: str, name: str = "mine") -> list[str]:
    return ["study", word, *command(*rest, name=name)[1:]]


@pytest.mark.usefixtures("work")
def test_attribute(capsys: pytest.CaptureFixture[str]) -> None:
    main(words("attribute", "--between", "0:1", "--out", "o/c.json", "--plot", "o/c.svg"))
    out = capsys.readouterr().out
    found = ls.studies.layer_contributions(CASE.ends()[0], ls.Line(*CASE.ends()), CASE.data(), between=(0, 1))
    assert ls.studies.Contributions.load("o/c.json").parts.tolist() == found.parts.tolist()
    assert found.summary in out
    assert "<svg" in Path("o/c.svg").read_text()
    main(words("attribute", "--between", "0:1", "--by", "tensor", "--json"))
    assert json.loads(capsys.readouterr().out)["names"][0] == "0.weight"
    assert "two values of α, a:b" in refused(words("attribute", "--between", "1"), capsys)


@pytest.mark.usefixtures("work")
def test_examples(capsys: pytest.CaptureFixture[str]) -> None:
    main(words("examples", "--alphas", "5", "--tolerance", "0.01", "--most", "2", "--plot", "e.svg", "--out", "e.json"))
    out = capsys.readouterr().out
    found = ls.profiles.example_curves(CASE.ends()[0], ls.Line(*CASE.ends()), CASE.data(), alphas=5)
    assert found.verdict(0.01) in out
    assert out.count("\nexample ") == 2
    assert out.count("class ") >= 3
    assert ls.profiles.ExampleCurves.load("e.json").losses.tolist() == found.losses.tolist()
    assert "<svg" in Path("e.svg").read_text()
    main(words("examples", "--alphas", "5", "--json"))
    assert json.loads(capsys.readouterr().out)["losses"] == found.losses.tolist()


@pytest.mark.usefixtures("work")
def test_batch_norm(capsys: pytest.CaptureFixture[str]) -> None:
    main(words("batch-norm", "--alphas", "5", "--budget", "9", "--plot", "p.svg", "--out", "p.json", name="normed"))
    out = capsys.readouterr().out
    found = ls.studies.PolicySweep.load("p.json")
    assert found.summary in out
    assert "recalibrate" in out
    assert "<svg" in Path("p.svg").read_text()
    main(words("batch-norm", "--alphas", "5", "--budget", "9", "--json", name="normed"))
    printed = json.loads(capsys.readouterr().out)
    start, end = CNN.ends()
    pooled = ls.Recalibrate(CNN.data(), pooled=True)
    alone = ls.profile(start, ls.Line(start, end), CNN.data(), alphas=5, batch_norm=pooled)
    assert "this study measures every kind" in refused(
        words("batch-norm", "--batch-norm", "end", name="normed"), capsys
    )
    assert printed["pooled"]["profile"]["loss"] == alone.loss.tolist() == found.policies[-1].profile.loss.tolist()
