from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import CASES
from commands import command, refused

import lerpscape as ls
from lerpscape.cli.main import main

CASE = CASES[0]
CNN = CASES[3]


def test_json_is_the_profile(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("--held-out", "mine:held_out", "--alphas", "7", "--json", "--tolerance", "0.01", "--label", "run 3"))
    train, held_out = json.loads(capsys.readouterr().out)
    expected = ls.profile(CASE.ends()[0], ls.Line(*CASE.ends()), CASE.data(), alphas=7)
    assert train["loss"] == expected.loss.tolist()
    assert train["derivative"] == expected.derivative.tolist() if expected.derivative is not None else False
    assert (train["label"], held_out["label"], held_out["examples"]) == ("run 3 train", "run 3 held-out", 10)
    assert train["verdict"] == expected.verdict(0.01)


def test_metrics_by_name_and_of_ones_own(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command("--metrics", "accuracy,perplexity,mine:worst", "--alphas", "3")
    main([*words, "--json"])
    [shown] = json.loads(capsys.readouterr().out)
    assert list(shown["metrics"]) == ["accuracy", "perplexity", "worst"]
    assert shown["metrics"]["accuracy"]["values"] == shown["accuracy"]
    assert len(shown["metrics"]["worst"]["errors"]) == 3
    main(words)
    assert "perplexity at α = 1" in capsys.readouterr().out
    assert "a metric by name" in refused(command("--metrics", "acuracy"), capsys)


def test_files_and_table_are_written(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("--alphas=-0.25:1.25:13", "--out", "o/p.json", "--plot", "o/p.svg", "--report", "o/r.html"))
    out = capsys.readouterr().out
    found = ls.Profile.load("o/p.json")
    assert found.alphas.tolist()[2::8] == [0.0, 1.0]
    assert found.verdict(0) in out
    assert re.search(r"max_rise\s+0", out)
    assert sorted(file.name for file in Path("o").iterdir()) == ["p.json", "p.svg", "r.html"]
    assert all(f"wrote o/{name}" in out for name in ("p.json", "p.svg", "r.html"))
    main(["report", "o/p.json", "--out", "o/again.html", "--title", "again"])
    assert capsys.readouterr().out == "wrote o/again.html\n"
    assert "again</h1>" in Path("o/again.html").read_text()


def test_held_out_data_have_a_file_of_their_own(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("--held-out", "mine:held_out", "--alphas", "3", "--out", "o/p.json"))
    assert sorted(file.name for file in Path("o").iterdir()) == ["p-held-out.json", "p.json"]
    train, held_out = (ls.Profile.load(f"o/{name}.json") for name in ("p", "p-held-out"))
    assert (train.label, held_out.label) == ("train", "held-out")
    assert held_out.examples < train.examples
    assert "wrote o/p.json\nwrote o/p-held-out.json" in capsys.readouterr().out


def test_readings_on_request(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("--alphas", "7", "--readings", "--tolerance", "0.01"))
    out = capsys.readouterr().out
    expected = ls.profile(CASE.ends()[0], ls.Line(*CASE.ends()), CASE.data(), alphas=7).readings(0.01)
    assert all(each.name in out for each in expected)
    assert expected.sentences()[0] in out
    main(command("--alphas", "7", "--readings", "--tolerance", "0.01", "--json"))
    (found,) = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["value"] for row in found["readings"]["rows"]} == expected.values()


@pytest.mark.parametrize("policy", ["recalibrate", "pooled", "interpolate", "batch", "end"])
def test_batch_norm_policies_by_name(policy: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("--batch-norm", policy, "--alphas", "3", "--json", "--derivative", "none", name="normed"))
    (found,) = json.loads(capsys.readouterr().out)
    start, end = CNN.ends()
    chosen = {
        "recalibrate": ls.Recalibrate(CNN.data()),
        "pooled": ls.Recalibrate(CNN.data(), pooled=True),
        "interpolate": ls.InterpolateStatistics(),
        "batch": ls.BatchStatistics(),
        "end": ls.EndStatistics(),
    }[policy]
    expected = ls.profile(start, ls.Line(start, end), CNN.data(), alphas=3, batch_norm=chosen, derivative=False)
    assert found["loss"] == expected.loss.tolist()
    assert found["derivative"] is None


def test_a_loss_of_ones_own_a_ready_model_and_ready_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = ["mine-start.safetensors", "mine-end.pt"]
    words = ["--model", "mine:ready", "--data", "mine:items", "--loss", "mine:worst", "--json", "--dtype", "float64"]
    main(["profile", *ends, *words, "--alphas", "3"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["loss_name"] == "worst"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (command("--loss", "mse"), "cross_entropy, squared_error"),
        (command("--alphas", "many"), "first:last:count"),
        (command("--alphas", "1"), "count of at least 2"),
        (command("--device", "gpu"), "a device that torch can use.\ngot: 'gpu': "),
        (command("--device", "cuda:99"), "`lerpscape doctor` lists"),
        (command("--held-out", "mine:nothing"), "a name in mine: one of"),
        (command("--held-out", "mine"), "package.module:name"),
        (command("--held-out", "nowhere:data"), "a module nowhere that can be imported from"),
        (command("--out", "mine.py/p.json"), "to be writable"),
        (command("--report", "mine.py/r.html"), "to be writable"),
        (command(name="normed"), "InterpolateStatistics()"),
        (["profile", "gone.pt", "mine-end.pt", "--model", "mine:build", "--data", "mine:data"], "does not exist"),
        (
            ["profile", "mine-start.safetensors", "normed-end.pt", "--model", "mine:build", "--data", "mine:data"],
            "only in",
        ),
        (
            ["profile", "mine-start.safetensors", "mine-end.pt", "--model", "mine:build", "--data", "mine:shuffled"],
            "shuffles or augments",
        ),
        (
            ["profile", "mine-start.safetensors", "mine-end.pt", "--model", "mine:number", "--data", "mine:data"],
            "a torch module",
        ),
        (["report", "mine.py"], "to be a profile in JSON"),
        (["report", "gone.json"], "does not exist"),
    ],
)
def test_refusals_have_three_parts_and_code_2(
    words: list[str], message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words, capsys)
    assert not list(work.glob("*.partial"))


def test_a_reader_that_has_gone_is_no_error() -> None:
    words = f"{sys.executable} -m lerpscape profile --help | head -1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.stdout.startswith("usage: lerpscape profile")
    assert done.stderr == ""


STOPPING = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start background work with Ctrl-C ignored
calls = []
def stopping(outputs, targets):
    calls.append(1)
    print("batch", flush=True)
    if len(calls) == int(os.environ["STOP_AT"]):
        os.kill(os.getpid(), signal.SIGINT)
    return outputs.square().sum(1)
"""


def test_interrupted_and_repeated_goes_on(work: Path) -> None:
    """Ctrl-C before three fifths of the work, again and again: the same command finishes all the same."""
    (work / "mine.py").write_text((work / "mine.py").read_text() + STOPPING)
    choices = ["--loss", "mine:stopping", "--alphas", "40", "--held-out", "mine:held_out"]

    def run(stop_at: int, out: str) -> subprocess.CompletedProcess[str]:
        folders = [str(Path(__file__).parents[up]) for up in (1, 2)]  # with the package that is tested
        settings = {**os.environ, "STOP_AT": str(stop_at), "PYTHONPATH": os.pathsep.join(folders)}
        words = [sys.executable, "-m", "lerpscape", *command(*choices, "--out", out)]
        return subprocess.run(words, capture_output=True, text=True, env=settings)

    whole = run(0, "whole.json")
    assert whole.returncode == 0, whole.stderr
    calls = whole.stdout.count("batch\n")
    stops = 0
    while stops < 5:
        last = run(3 * calls // 5, "p.json")
        if last.returncode == 0:
            break
        stops += 1
        assert last.returncode == 130
        assert "the same command continues" in last.stderr
        assert {file.name for file in work.glob("p.json*")} <= {"p.json.train.partial", "p.json.held-out.partial"}
    assert last.returncode == 0 and stops > 0, last.stderr
    assert {file.name for file in work.glob("p*.json*")} == {
        file.name.replace("whole", "p") for file in work.glob("whole*")
    }
    for file in work.glob("whole*.json"):
        other = file.with_name(file.name.replace("whole", "p"))
        assert json.loads(other.read_text())["loss"] == json.loads(file.read_text())["loss"]  # the same code path


def test_certify_proves_and_writes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["certify", *command()[1:], "--budget", "60", "--tolerance", "10"]
    main([*words, "--out", "o/c.json", "--plot", "o/c.svg"])
    out = capsys.readouterr().out
    found = ls.Certificate.load("o/c.json")
    start, end = CASE.ends()
    same = ls.certify(start, ls.Line(start, end), CASE.data(), budget=60, tolerance=10)
    assert (found.lower, found.upper, found.verdict) == (same.lower, same.upper, "monotonic")
    assert found.summary in out
    assert "proved" in Path("o/c.svg").read_text()
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["upper"] == found.upper


def test_certify_refuses_what_it_cannot_prove(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(name="normed")[1:]
    assert "EndStatistics()" in refused(["certify", *words], capsys)
