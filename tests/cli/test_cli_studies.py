"""Paths, studies and curves from the command line: the numbers of the library, files, and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from cases import CASES, seeded
from commands import MODULE, refused
from safetensors.torch import save_file

import lerpscape as ls
from lerpscape.cli.main import main

CASE, CNN = CASES[0], CASES[3]
ENDS = ["start.safetensors", "end.pt"]
BUILT = ["--model", "mine:build", "--data", "mine:data"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    start, end = CASE.ends()
    save_file(start.state_dict(), ENDS[0])
    torch.save(end.state_dict(), ENDS[1])
    torch.save(other().state_dict(), "other.pt")
    (tmp_path / "run").mkdir()
    for step, alpha in ((0, 0.0), (5, 0.3), (10, 1.0)):
        torch.save(ls.Line(start, end).at(alpha), f"run/step{step}.pt")
    helpers = "\ndef cubed(alpha):\n    return alpha**3\n"
    (tmp_path / "mine.py").write_text(MODULE.format(index=0) + helpers)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def other() -> torch.nn.Module:
    return seeded(CASE.build, 7).double()


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> object:
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "0", "kind:biases", "--rest", "start"], lambda line: line.only("0", "kind:biases", rest="start")),
        (
            ["--schedule", "*.bias=2", "3.weight=mine:cubed"],
            lambda line: line.schedule({"*.bias": torch.square, "3.weight": lambda a: a**3}),
        ),
        (["--homogeneous-biases", "--reversed"], lambda line: line.homogeneous_biases(other()).reversed()),
        (["--via", "other.pt"], lambda line: ls.Polyline(line.start, other(), line.end)),
        (["--control", "other.pt"], lambda line: ls.Bezier(line.start, other(), line.end)),
        (["--spherical"], lambda line: ls.SphericalLine(line.start, line.end)),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_profile_takes_every_path(
    words: list[str], expected: object, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = printed(["profile", *ENDS, *BUILT, "--alphas", "5", *words], capsys)  # type: ignore[misc]
    path = expected(ls.Line(*CASE.ends()))  # type: ignore[operator]
    same = ls.profile(other(), path, CASE.data(), alphas=5)
    assert found["loss"] == pytest.approx(same.loss.tolist(), rel=1e-14)
    assert found["derivative"] == pytest.approx(same.derivative.tolist(), rel=1e-12, abs=1e-15)  # type: ignore[union-attr]
    straight = ls.profile(other(), ls.Line(*CASE.ends()), CASE.data(), alphas=5)
    assert found["loss"] != straight.loss.tolist()


def test_keys_and_prefixes_choose_the_weights_of_a_file(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, end = (module.state_dict() for module in CASE.ends())
    averaged = {f"net.{name}": tensor for name, tensor in end.items()} | {"n_averaged": torch.tensor(3)}
    torch.save({"state_dict": start, "ema": averaged}, "run.ckpt")
    torch.save({"model": end}, "other.ckpt")
    straight = ls.profile(other(), ls.Line(*CASE.ends()), CASE.data(), alphas=3).loss.tolist()
    for words in (
        ["run.ckpt", "run.ckpt", "--key", "state_dict", "ema", "--prefix", "", "net."],
        ["run.ckpt", "other.ckpt", "--key", "state_dict", ""],
    ):
        (found,) = printed(["profile", *words, *BUILT, "--alphas", "3"], capsys)  # type: ignore[misc]
        assert found["loss"] == pytest.approx(straight, rel=1e-14)
    assert "--key state_dict" in refused(["profile", "run.ckpt", "run.ckpt", *BUILT], capsys)
    three = ["profile", "run.ckpt", "run.ckpt", *BUILT, "--key", "a", "b", "c"]
    assert "one --key for all checkpoints, or one for each of 2" in refused(three, capsys)


def test_gauss_and_certify_take_paths_or_say_why_not(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gauss", *ENDS, *BUILT, "--alphas", "5", "--precision", "None"]
    found = printed([*words, "--control", "other.pt"], capsys)
    start, end = CASE.ends()
    same = ls.gauss_length(start, ls.Bezier(start, other(), end), CASE.data(), alphas=5, precision=None)
    assert found["mean"] == pytest.approx(same.mean, rel=1e-12)  # type: ignore[index, call-overload]
    assert "a straight line" in refused([*words, "--control", "other.pt", "--method", "integral"], capsys)
    assert "linear in α" in refused(["certify", *ENDS, *BUILT, "--schedule", "*.bias=2"], capsys)
    main(["certify", *ENDS, *BUILT, "--only", "0", "--budget", "20"])
    assert capsys.readouterr().out


STUDIES = {
    "starts": (
        ["study", "starts", *ENDS, "--fresh", "2", "--noise", "1", "--seed", "8", "--alphas", "5"],
        lambda: ls.studies.starts(
            other(),
            *CASE.ends(),
            CASE.data(),
            fresh=2,
            noise=1,
            seed=8,
            alphas=5,
            factory=lambda: CASE.build().double(),
        ),
    ),
    "onset": (
        ["study", "onset", "run", "--tolerance", "0.01", "--alphas", "5"],
        lambda: ls.studies.onset(other(), "run", CASE.data(), tolerance=0.01, alphas=5),
    ),
    "pairwise": (
        ["study", "pairwise", *ENDS, "other.pt", "--group", "*=init", "end=opt", "--alphas", "5", "--kind", "chord"],
        lambda: ls.studies.pairwise(
            other(),
            {"start": CASE.ends()[0], "end": CASE.ends()[1], "other": other()},
            CASE.data(),
            groups={"start": "init", "end": "opt", "other": "init"},
            kind="chord",
            alphas=5,
        ),
    ),
    "layerwise": (
        ["study", "layerwise", *ENDS, "--rest", "end", "--alphas", "5"],
        lambda: ls.studies.layerwise(other(), *CASE.ends(), CASE.data(), rest="end", alphas=5),
    ),
    "plane": (
        ["study", "plane", ENDS[0], "other.pt", ENDS[1], "--trajectory", "run", "--points", "4", "--alphas", "5"],
        lambda: ls.studies.plane(
            other(), CASE.ends()[0], other(), CASE.ends()[1], CASE.data(), trajectory="run", points=4, alphas=5
        ),
    ),
    "landscape": (
        ["study", "landscape", ENDS[1], "--points", "3", "--seed", "2", "--radius", "0.5"],
        lambda: ls.studies.landscape(other(), ENDS[1], CASE.data(), points=3, seed=2, radius=0.5),
    ),
    "trajectory": (["study", "trajectory", "run"], lambda: ls.studies.trajectory(other(), "run", CASE.data())),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_prints_what_the_library_finds(name: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, library = STUDIES[name]
    found = printed([*words, *BUILT, "--plot", "o/study.svg", "--out", "o/study.json"], capsys)
    expected = library()

    def same(one: object, another: object) -> bool:
        if isinstance(one, list) and isinstance(another, list):
            return len(one) == len(another) and all(map(same, one, another))
        if isinstance(one, float) and isinstance(another, (int, float)):
            return one == pytest.approx(another, rel=1e-12, abs=1e-13)
        return one == another

    for key, value in expected.to_dict().items():
        if key not in ("how", "names", "end"):  # sources: a module here, a file there
            assert same(found[key], value), key  # type: ignore[index, call-overload]
    saved = type(expected).load("o/study.json")
    assert Path("o/study.svg").read_text().startswith("<?xml")
    main([*words, *BUILT])
    assert saved.summary in capsys.readouterr().out


def test_connect_writes_a_control_point_that_profile_measures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "connect", *ENDS, *BUILT, "--out", "o/control.safetensors", "--epochs", "2", "--plot", "o/c.svg"]
    curve, line = printed(words, capsys)  # type: ignore[misc]
    start, end = CASE.ends()
    same = ls.studies.connect(start, start, end, CASE.data(), epochs=2)
    assert curve["loss"] == pytest.approx(ls.profile(start, same, CASE.data()).loss.tolist(), rel=1e-10)
    assert line["loss"] == pytest.approx(ls.profile(start, ls.Line(start, end), CASE.data()).loss.tolist(), rel=1e-12)
    (again,) = printed(["profile", *ENDS, *BUILT, "--control", "o/control.safetensors"], capsys)  # type: ignore[misc]
    assert again["loss"] == curve["loss"]
    main([*words[:-2], "--learning-rate", "0.01"])
    assert "wrote o/control.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["profile", *ENDS, "--only", "layer9"], "'layer9', which matches none"),
        (["profile", *ENDS, "--schedule", "*.bias"], "PATTERN=POWER"),
        (["profile", *ENDS, "--schedule", "*.bias=fast"], "PATTERN=POWER"),
        (["profile", *ENDS, "--schedule", "*.bias=0.5"], "power of at least 1"),
        (["profile", *ENDS, "--rest", "end"], "--only with --rest"),
        (["profile", *ENDS, "--spherical", "--via", "other.pt"], "--via and --spherical"),
        (["profile", *ENDS, "--schedule", "*.bias=mine:nothing"], "a name in mine"),
        (["study", "plane", ENDS[0], ENDS[1], ENDS[1]], "collinear"),
        (["study", "onset", "nowhere", "--tolerance", "0"], "a folder of checkpoints"),
        (["study", "pairwise", *ENDS, "odd.pt"], "checkpoint 'odd' to fit 'start': "),
        (["study", "pairwise", *ENDS, "run/step0.pt", "--group", "zzz=init"], "a glob that matches"),
        (["study", "layerwise", *ENDS, "--rest", "end", "--loss", "mse"], "cross_entropy, squared_error"),
        (["study", "trajectory", "run", "--plot", "mine.py/x.svg"], "to be writable"),
        (["study", "connect", *ENDS, "--out", "c.safetensors", "--learning-rate", "1e6"], "falls in training"),
        (["study", "starts", *ENDS, "--fresh", "0", "--noise", "0", "--no-zero"], "at least one control"),
    ],
)
def test_refusals(words: list[str], message: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.zeros(1)}, "odd.pt")
    assert message in refused([*words, *BUILT], capsys)
