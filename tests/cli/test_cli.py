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
    main(command("--batch-norm", policy, "--alphas", "3", "--json", "--no-derivative", name="normed"))
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
    calls.append(len(targets))
    if len(targets) != 8:  # the size of a probe
        print("batch", flush=True)
        if sum(size != 8 for size in calls) == int(os.environ["STOP_AT"]):
            os.kill(os.getpid(), signal.SIGINT)
    return outputs.square().sum(1)
"""


def test_interrupted_and_repeated_goes_on(work: Path) -> None:
    """Ctrl-C in the training data, then in the held-out data: neither costs what was measured before."""
    (work / "mine.py").write_text((work / "mine.py").read_text() + STOPPING)
    choices = ["--loss", "mine:stopping", "--alphas", "10", "--held-out", "mine:held_out", "--out", "p.json"]

    def run(stop_at: int) -> subprocess.CompletedProcess[str]:
        folders = [str(Path(__file__).parents[up]) for up in (1, 2)]  # with the package that is tested
        settings = {**os.environ, "STOP_AT": str(stop_at), "PYTHONPATH": os.pathsep.join(folders)}
        words = [sys.executable, "-m", "lerpscape", *command(*choices)]
        return subprocess.run(words, capture_output=True, text=True, env=settings)

    # Calls but for those with 8 examples, the probes: 7 to check the plan; all batches at both ends (4 of training, 2
    # of held-out data) for what the points share, which is not kept on disk; one piece of all at each of 10 points.
    first = run(25)  # 7 + 8 + 9, and the last point in vain
    assert first.returncode == 130
    assert "the same command continues" in first.stderr
    assert [file.name for file in work.glob("p.json*")] == ["p.json.train.partial"]
    second = run(25)
    assert second.returncode == 130
    assert second.stdout.count("batch\n") == 25  # 8 + 1 of training, 7 + 4 + 4 of held-out data, one in vain
    third = run(0)
    assert third.returncode == 0, third.stderr
    assert third.stdout.count("batch\n") == 10  # 0 and 4 + 6: both ends and six points
    assert [file.name for file in work.glob("p.json*")] == ["p.json"]


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
