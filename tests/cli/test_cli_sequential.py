"""`lerpscape study verdict` prints what `sequential_verdict` finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import CASES
from commands import command, refused

import lerpscape as ls
from lerpscape.cli.main import main


def words(*rest: str, name: str = "mine") -> list[str]:
    return ["study", "verdict", *command(*rest, name=name)[1:]]


@pytest.mark.usefixtures("work")
def test_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        words(
            "--tolerance", "0.1", "--alphas", "5", "--first", "4", "--seed", "2", "--out", "o/v.json", "--plot", "v.svg"
        )
    )
    out = capsys.readouterr().out
    start, end = CASES[0].ends()
    line = ls.Line(start, end)
    found = ls.sequential_verdict(start, line, CASES[0].data(), tolerance=0.1, alphas=5, first=4, seed=2)
    saved = ls.profiles.SequentialVerdict.load("o/v.json")
    assert saved.analyses == found.analyses and saved.verdict == found.verdict
    assert out == f"{found.summary}\nwrote o/v.json\nwrote v.svg\n"
    assert "examples measured" in Path("v.svg").read_text() and "<svg" in Path("v.svg").read_text()
    main(words("--tolerance", "0.1", "--alphas", "5", "--first", "4", "--budget", "8", "--confidence", "0.9", "--json"))
    printed = json.loads(capsys.readouterr().out)
    assert printed["confidence"] == 0.9 and printed["summary"] and printed["how"]["planned_analyses"] == [4, 8]
    main(words("--tolerance", "0.1", "--bounds", "0", "100", "--loss", "mine:worst", "--dtype", "float64", "--json"))
    assert json.loads(capsys.readouterr().out)["bounds"] == [0, 100]
    main(words("--tolerance", "0.1", "--alphas", "3", "--batch-norm", "recalibrate", "--json", name="normed"))
    assert json.loads(capsys.readouterr().out)["how"]["batch_norm"].startswith("exact statistics")


@pytest.mark.usefixtures("work")
def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a finite tolerance" in refused(words("--tolerance=-1"), capsys)
    assert "at most 0.999" in refused(words("--tolerance", "0", "--confidence", "0.99999"), capsys)
    assert "InterpolateStatistics()" in refused(words("--tolerance", "0", name="normed"), capsys)
    with pytest.raises(SystemExit) as stopped:
        main(words())
    assert stopped.value.code == 2 and "--tolerance" in capsys.readouterr().err
