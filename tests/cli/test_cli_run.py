"""`--run`: every command that measures takes a network of a sweep in place of ends, model and data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused

import lerpscape as ls
from lerpscape.cli.main import main
from lerpscape.lab.run_sweep import run_sweep
from lerpscape.lab.store import Store
from lerpscape.lab.subjects import open_run
from lerpscape.lab.sweep import Sweep

BASE: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 40},
    "model": {"widths": [6], "batch_norm": False},
    "training": {"epochs": 2, "batch_size": 10, "snapshots": [1]},
}
NETWORKS = Sweep.from_dict({"base": BASE, "grid": {"model": {"batch_norm": [False, True]}}})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "store"
    grid = {"model": {"batch_norm": [False, True]}}
    measure = [{"what": "profile", "alphas": 2, "batch_norm": "end", "derivative": False}]
    sweep = Sweep.from_dict({"base": BASE, "grid": grid, "measure": measure})
    assert run_sweep(sweep, Store(folder), progress=False).states["done"] == 2
    return folder


@pytest.mark.parametrize("part", ["train", "held-out"])
@pytest.mark.parametrize("normed", [0, 1])
def test_a_profile_of_a_run_is_that_of_its_subject(
    store: Path, part: Any, normed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batch-norm statistics are those of all its training data, whatever is measured."""
    place = store / NETWORKS.runs[normed].name
    words = ["profile", "--run", str(place), "--part", part, "--examples", "9", "--examples-seed", "4", "--alphas", "5"]
    main([*words, "--json", *(["--batch-norm", "recalibrate"] if normed else [])])
    [found] = json.loads(capsys.readouterr().out)
    subject = open_run(place)
    data, policy = subject.batches(part, 9, seed=4), ls.Recalibrate(subject.batches()) if normed else None
    mine = ls.profile(subject.model, subject.line, data, alphas=5, batch_norm=policy)
    assert found["examples"] == 9
    np.testing.assert_array_equal(found["loss"], mine.loss)


WORDS = [
    "certify --examples 5 --budget 9",
    "gauss --examples 3 --alphas 5 --precision None",
    "study starts --fresh 1 --noise 0 --permuted 1 --alphas 3",
    "study onset --tolerance 1e-3 --alphas 3",
    "study trajectory",
    "study pairwise --alphas 3",
    "study plane --points 3 --alphas 3",
    "study layerwise --rest end --alphas 3",
    "study connect --out {out}/control.safetensors --epochs 1",
    "study verdict --tolerance 0.1 --alphas 3",
    "study examples --alphas 3",
    "study attribute --between 0:1 --alphas 3",
    "study plateaus --alphas 5",
    "study scale --alphas 3",
    "study curvature --alphas 2 --iterations 2 --probes 6 --examples 5",
    "study similarity --alphas 3",
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.split(" --")[0])
def test_every_command_takes_a_run(store: Path, tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*words.format(out=tmp_path).split(), "--run", str(store / "runs" / NETWORKS.runs[0].name), "--json"])
    assert json.loads(capsys.readouterr().out)


def test_ends_of_other_runs_with_the_network_of_one(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = store / "runs" / NETWORKS.runs[0].name
    ends = [str(run / "epoch-0001.safetensors"), str(run / "end.safetensors")]
    main(["profile", *ends, "--run", str(run), "--alphas", "3", "--json"])
    [found] = json.loads(capsys.readouterr().out)
    subject = open_run(run)
    line = ls.Line(*ends)
    np.testing.assert_array_equal(found["loss"], ls.profile(subject.model, line, subject.batches(), alphas=3).loss)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("profile", "START and END, or --run|--model and --data, or --run"),
        ("profile a.pt b.pt --model nets:build", r"--model and --data, or --run.*\ngot: --model"),
        ("profile --run {run} --model nets:build", r"--model and --data, or --run.*\ngot: --model and --run"),
        ("profile --run {run} --data nets:build", r"got: --data and --run"),
        ("profile a.pt --run {run}", r"START and END, or --run"),
        ("profile a b --run {run} --text notes.txt", r"got: a and b with --text and --run"),
        ("profile --run {run}0", r"a run STORE/runs/KEY/SEED of a store"),
        ("study onset --tolerance 0 --model nets:build --data nets:data", "FOLDER, or --run|a module nets"),
        ("study plane --points 3 a.pt --run {run}", "START, OTHER and END, or --run"),
    ],
)
def test_half_of_either_is_refused(store: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(words.format(run=store / NETWORKS.runs[0].name).split(), capsys)
    assert re.search(message, said), said
