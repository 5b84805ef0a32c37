"""Sweeps that measure anything: each measurement and comparison is made once, has its own commit, and is resumed."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_lab_store import Killed, contents, operations

import lerpscape as ls
from lerpscape.base.errors import ConfigError
from lerpscape.lab import measurements
from lerpscape.lab.comparisons import COMPARISONS
from lerpscape.lab.data import load
from lerpscape.lab.measurements import MEASUREMENTS
from lerpscape.lab.run_sweep import comparisons, retry_failed, run_sweep, sweep_status
from lerpscape.lab.runs import perform
from lerpscape.lab.store import Store
from lerpscape.lab.subjects import open_run
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.tables.records import comparison_records, sweep_records
from lerpscape.lab.tables.table import Layout, tabulate

BASE: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 60},
    "model": {"widths": [8], "batch_norm": False},
    "training": {"epochs": 3, "batch_size": 10, "snapshots": [1, 2]},
}
WHERE = {"plain": {"model.batch_norm": False}, "normed": {"model.batch_norm": True}}
# What each measurement needs to be quick; `where` leaves out networks that its function refuses.
ASKED: dict[str, dict[str, Any]] = {
    "profile": {"on": ["train", "held-out"], "alphas": 5, "batch_norm": "recalibrate", "derivative": False},
    "certify": {"where": WHERE["plain"], "examples": 5, "budget": 20},
    "certify_angles": {"where": WHERE["plain"], "examples": 3, "intervals": 8},
    "sequential_verdict": {"tolerance": 0.01, "alphas": 5},
    "gauss_length": {"examples": 4, "precision": "none", "alphas": 5},
    "linearity": {"examples": 5, "alphas": 5},
    "output_paths": {"examples": 4, "alphas": 5},
    "example_curves": {"alphas": 5},
    "starts": {"fresh": 1, "noise": 1, "permuted": 1, "alphas": 5},
    "layerwise": {"rest": "end", "alphas": 5},
    "onset": {"tolerance": 1e-3, "alphas": 5},
    "trajectory": {},
    "plane": {"points": 3, "alphas": 5},
    "scale_invariance": {"alphas": 5},
    "plateau_ends": {"where": WHERE["plain"], "alphas": 11},
    "bias_study": {"where": WHERE["plain"], "alphas": 5},
    "batch_norm_sweep": {"where": WHERE["normed"], "alphas": 5, "between": [0.0, 1.0], "budget": 9},
    "layer_contributions": {"budget": 9, "precision": 1.0},
    "statistics_contributions": {"where": WHERE["normed"], "budget": 9, "precision": 1.0},
    "curvature": {"alphas": 2, "iterations": 2, "probes": 6, "examples": 10},
    "feature_linearity": {"alphas": 3},
    "feature_similarity": {},
}
POLICY = {"batch_norm": "interpolate"}


def table(what: str) -> dict[str, Any]:
    takes = "batch_norm" in MEASUREMENTS[what].parameters
    return {"what": what, **(POLICY if takes else {}), **ASKED[what]}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Store]:
    """One network without and one with batch norm, measured in every way but that of squared errors."""
    sweep = Sweep.from_dict(
        {"base": BASE, "grid": {"model": {"batch_norm": [False, True]}}, "measure": [table(what) for what in ASKED]}
    )
    store = Store(tmp_path_factory.mktemp("everything") / "store")
    status = run_sweep(sweep, store, progress=False)
    assert status.states["done"] == 2, status
    return sweep, store


def test_every_measurement_has_a_result_and_its_readings(everything: tuple[Sweep, Store]) -> None:
    plain, normed = sweep_records(*everything)
    assert {name for name, _ in (*plain.results, *normed.results)} == set(ASKED)
    assert set(ASKED) == set(MEASUREMENTS) - {"sufficient_condition"}
    may_be_nan = ("verdict", "monotonic", "onset", "peak", "relative_rise", "plateau", "predicted", "observed")
    for record in (plain, normed):
        for (name, part), result in record.results.items():
            assert isinstance(result, MEASUREMENTS[name].result)
            for reading in MEASUREMENTS[name].readings:
                value = record.reading(f"{name}.{reading}", part)
                assert value is not None
                if not any(word in reading for word in may_be_nan) and name != "plateau_ends":
                    assert not math.isnan(value), (name, reading)


def test_the_sufficient_condition_is_measured_where_the_loss_is_a_squared_error(tmp_path: Path) -> None:
    data = {"name": "digits", "train_size": 60, "reconstruct": True}
    base = {**BASE, "data": data, "model": {"name": "autoencoder", "widths": [8], "code": 3}}
    asked = {"what": "sufficient_condition", "examples": 3, "precision": "none", "alphas": 5}
    sweep = Sweep.from_dict({"base": base, "measure": [asked]})
    assert run_sweep(sweep, Store(tmp_path), progress=False).states["done"] == 1
    [record] = sweep_records(sweep, Store(tmp_path))
    assert record.reading("sufficient_condition.examples", "train") == 3


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_a_stored_result_is_that_of_the_public_function(everything: tuple[Sweep, Store], part: Any) -> None:
    """Statistics come from the whole training set, whichever part is measured."""
    sweep, store = everything
    normed = sweep_records(sweep, store)[1]
    subject = open_run(store.root / "runs" / normed.config.name)
    policy = ls.Recalibrate(subject.batches("train", batch_size=60))
    again = ls.profile(
        subject.model, subject.line, subject.batches(part), alphas=5, batch_norm=policy, derivative=False
    )
    stored = normed.profile(part)
    assert stored is not None and stored.examples == (60 if part == "train" else 360)
    # Other batches: equal to rounding of float32 losses averaged in float64.
    np.testing.assert_allclose(stored.loss, again.loss, rtol=1e-6)


def test_fresh_starts_come_from_the_factory_that_made_the_network(tmp_path: Path) -> None:
    """torch's own initialisation is ten times as large as this one."""
    base = {**BASE, "model": {"widths": [8], "init_scale": 0.1}}
    sweep = Sweep.from_dict({"base": base, "measure": [{"what": "starts", "fresh": 2, "noise": 0, "alphas": 3}]})
    run_sweep(sweep, Store(tmp_path), progress=False)
    subject = open_run(tmp_path / "runs" / sweep.runs[0].name)
    own = float(subject.start.tensors["1.weight"].norm())
    drawn = [float(torch.linalg.norm(subject.fresh(seed).state_dict()["1.weight"])) for seed in range(3)]
    assert len(set(drawn)) == 3
    np.testing.assert_allclose(drawn, own, rtol=0.2)  # norms of 512 uniform entries vary by about 2 %


def test_examples_are_drawn_with_their_seed_and_subsets_with_that_of_the_run(tmp_path: Path) -> None:
    sweep = Sweep.from_dict({"base": BASE, "seeds": [0, 1], "measure": [{"what": "profile", "alphas": 2}]})
    run_sweep(sweep, Store(tmp_path), progress=False)
    whole = load("digits").train
    subjects = [open_run(tmp_path / "runs" / run.name) for run in sweep.runs]
    for seed, subject in enumerate(subjects):
        assert torch.equal(subject.split().inputs, whole.subset(60, seed).inputs)
        drawn = subject.batches("held-out", 7, seed=5).split
        assert torch.equal(drawn.inputs, load("digits").test.subset(7, 5).inputs)
    assert not torch.equal(subjects[0].split().inputs, subjects[1].split().inputs)
    fixed = Sweep.from_dict({"base": {**BASE, "data": {**BASE["data"], "subset_seed": 9}}, "seeds": [0, 1]})
    run_sweep(fixed, Store(tmp_path), progress=False)
    for run in fixed.runs:
        assert torch.equal(open_run(tmp_path / "runs" / run.name).split().inputs, whole.subset(60, 9).inputs)


@pytest.mark.parametrize("place", ["{store}/runs/{name}", "{store}/{name}"])
def test_open_run_by_either_path(everything: tuple[Sweep, Store], place: str) -> None:
    sweep, store = everything
    subject = open_run(place.format(store=store.root, name=sweep.runs[0].name))
    assert subject.config == sweep.runs[0] and subject.loss == "cross_entropy" and subject.epochs == 3
    assert list(subject.trajectory) == ["start", "epoch-0001", "epoch-0002", "end"]


@pytest.mark.parametrize("place", ["{store}/runs/{name}0", "{store}", "nowhere", "."])
def test_open_run_refuses_what_is_no_run(everything: tuple[Sweep, Store], place: str) -> None:
    sweep, store = everything
    with pytest.raises(FileNotFoundError, match=r"a run STORE/runs/KEY/SEED of a store"):
        open_run(place.format(store=store.root, name=sweep.runs[0].name))


def test_open_run_refuses_a_diverged_and_a_damaged_run(tmp_path: Path) -> None:
    sweep = Sweep.from_dict({"base": BASE, "grid": {"optimizer": {"lr": [1e30, 0.1]}}})
    run_sweep(sweep, Store(tmp_path), progress=False)
    diverged, good = (tmp_path / "runs" / run.name for run in sweep.runs)
    with pytest.raises(ConfigError, match=r"to be a trained network\.\ngot: a run that is diverged"):
        open_run(diverged)
    with (good / "end.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ConfigError, match="a run that is damaged"):
        open_run(good)


SMALL: dict[str, Any] = {
    "seeds": [0, 1],
    "base": {
        "data": {"name": "gaussian_blobs", "examples": 40},
        "model": {"widths": [4]},
        "training": {"epochs": 2, "batch_size": 10},
    },
    "measure": [
        {"what": "profile", "on": ["train", "held-out"], "alphas": 3, "derivative": False},
        {"what": "linearity", "examples": 5, "alphas": 3},
        {"what": "starts", "fresh": 1, "noise": 0, "zero": False, "alphas": 3},
    ],
    "compare": [{"what": "pairwise", "alphas": 3}, {"what": "feature_similarity"}],
}


def stamps(store: str | Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in Path(store).rglob("*.json") if file.name != "seconds.json"}


def everything_in(store: str | Path) -> dict[str, bytes]:
    """Every file of runs and comparisons but the durations."""
    root = Path(store)
    files = {f"{each.relative_to(root)}": each.read_bytes() for each in root.glob("comparisons/**/*") if each.is_file()}
    return files | contents(store)


def test_killed_at_random_writes_and_resumed_is_the_same_store(tmp_path: Path) -> None:
    sweep = Sweep.from_dict(SMALL)
    status = run_sweep(sweep, Store(tmp_path / "whole"), progress=False)
    assert status.states["done"] == 2 and status.comparisons == {"done": 2}
    whole = everything_in(tmp_path / "whole")
    assert sum(name.endswith("done.json") for name in whole) == 2 * 4 + 2
    draw = random.Random(7)
    kills = 0
    for _ in range(12):  # one store, killed again and again
        with pytest.MonkeyPatch.context() as patch:
            operations(patch, draw.randint(1, 12), after=draw.random() < 0.5)
            try:
                run_sweep(sweep, Store(tmp_path / "killed"), progress=False)
            except Killed:
                kills += 1
            else:
                break
    assert kills > 3
    run_sweep(sweep, Store(tmp_path / "killed"), progress=False)
    assert everything_in(tmp_path / "killed") == whole


def test_one_more_measurement_measures_nothing_else_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_sweep(Sweep.from_dict(SMALL), store, progress=False)
    before = stamps(tmp_path)
    more = {**SMALL, "measure": [*SMALL["measure"], {"what": "trajectory"}]}
    more["compare"] = [*SMALL["compare"], {"what": "connect", "epochs": 1, "alphas": 3}]
    status = run_sweep(Sweep.from_dict(more), store, progress=False)
    assert status.states["done"] == 2 and status.comparisons == {"done": 3}
    after = stamps(tmp_path)
    assert before.items() <= after.items() and len(after) == len(before) + 3 * (2 + 1)


def test_a_measurement_that_fails_spoils_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, store = Sweep.from_dict(SMALL), Store(tmp_path)

    def broken(model: Any, path: Any, data: Any, *, alphas: int) -> Any:
        raise RuntimeError("no such luck")

    kind = MEASUREMENTS["linearity"]
    with monkeypatch.context() as patch:
        patch.setitem(measurements.MEASUREMENTS, "linearity", kind.__class__(broken, kind.result, kind.readings))
        status = run_sweep(sweep, store, progress=False)
    assert status.states["failed"] == 2 and status.comparisons == {"done": 2}
    assert status.failures[0] == (f"{sweep.runs[0].name}: linearity on train", "no such luck")
    records = sweep_records(sweep, store)
    share, value = (
        tabulate(records, Layout(kind="reading", reading=name)) for name in ("profile.max_rise", "linearity.value")
    )
    assert "2 of 2 runs" in share.notes[0] and "0 of 2 runs" in value.notes[0] and "2 failed" in value.notes[0]
    before = stamps(tmp_path)
    assert run_sweep(sweep, store, progress=False).states["failed"] == 2  # not tried again by itself
    assert retry_failed(sweep, store) == 2
    assert run_sweep(sweep, store, progress=False).states["done"] == 2
    kept = {name: stamp for name, stamp in before.items() if not name.endswith("failed.json")}
    changed = [name for name, stamp in kept.items() if stamps(tmp_path)[name] != stamp]
    assert {Path(name).name for name in changed} == {"config.json"} and len(changed) == 2


def test_comparisons_of_groups_leave_out_what_diverged(tmp_path: Path) -> None:
    grid = {"optimizer": {"lr": [0.1, 1e30]}}
    alike = {"what": "feature_similarity", "name": "alike", "group": ["optimizer.name"]}
    sweep = Sweep.from_dict({**SMALL, "grid": grid, "seeds": [0, 1, 2], "compare": [*SMALL["compare"], alike]})
    store = Store(tmp_path)
    assert comparisons(sweep, store) == []  # nothing is trained yet
    perform_first = run_sweep(sweep.first(2), store, progress=False)
    assert perform_first.comparisons  # of the first two alone
    status = run_sweep(sweep, store, progress=False)
    assert (status.states["done"], status.states["diverged"]) == (3, 3)
    assert status.comparisons == {"done": 1 + 3 + 3}
    records = comparison_records(sweep, store)
    assert all(math.isfinite(float(run.split("/")[1])) for record in records for run in record.members)
    layout = Layout(kind="reading", reading="feature_similarity.mean_cka")
    found = tabulate([*sweep_records(sweep, store), *records], layout)
    assert found.notes[0].startswith("3 of 3 comparisons") and [cell.n for cell in found.cells.values()] == [3]
    pairs = next(record for record in records if "pairwise" in record.kinds)
    assert len(pairs.members) == 3 and pairs.reading("pairwise.init_opt_rise", "train") is not None


def test_a_connection_lowers_the_barrier_of_the_line(tmp_path: Path) -> None:
    connect = {"what": "connect", "epochs": 30, "alphas": 9}
    longer = {**SMALL["base"], "data": BASE["data"], "training": {"epochs": 20, "batch_size": 10}}
    sweep = Sweep.from_dict({**SMALL, "base": longer, "measure": [{"what": "profile"}], "compare": [connect]})
    run_sweep(sweep, Store(tmp_path), progress=False)
    [record] = comparison_records(sweep, Store(tmp_path))
    curve, line = (record.reading(f"connect.{path}_barrier", "train") for path in ("curve", "line"))
    assert curve is not None and line is not None and curve < line
    assert list(Path(tmp_path).glob("comparisons/*/*/control.safetensors"))
    assert set(COMPARISONS["connect"].readings) == {
        "curve_barrier", "line_barrier", "curve_rise", "line_rise", "distance"
    }  # fmt: skip


def test_a_damaged_comparison_is_made_again(tmp_path: Path) -> None:
    sweep, store = Sweep.from_dict(SMALL), Store(tmp_path)
    run_sweep(sweep, store, progress=False)
    whole = everything_in(tmp_path)
    result = comparisons(sweep, store)[0].path / "result.json"
    result.write_bytes(result.read_bytes() + b" ")
    assert sweep_status(sweep, store).comparisons == {"done": 1, "damaged": 1}
    assert run_sweep(sweep, store, progress=False).comparisons == {"done": 2}
    assert everything_in(tmp_path) == whole


def test_a_network_that_starts_from_another_run(tmp_path: Path) -> None:
    """Trained on random labels first: its start is the end of that run, which two runs share."""
    first = {"data": {"label_noise": 1.0}, "training": {"epochs": 2}}
    grid = {"optimizer": {"lr": [0.1]}, "cases": {"start": [{}, {"start": first}]}}
    measure = [{"what": "profile", "alphas": 3, "derivative": False}]
    sweep, store = Sweep.from_dict({"base": BASE, "grid": grid, "measure": measure}), Store(tmp_path)
    status = run_sweep(sweep, store, progress=False)
    assert status.states["done"] == 2, status
    plain, after = (open_run(tmp_path / "runs" / run.name) for run in sweep.runs)
    before = sweep.runs[1].before()
    assert before is not None and before.key not in {run.key for run in sweep.runs}
    pretrained = open_run(tmp_path / "runs" / before.name)
    assert pretrained.epochs == 2
    for name, tensor in pretrained.end.tensors.items():
        assert torch.equal(after.start.tensors[name], tensor)
        assert torch.equal(pretrained.start.tensors[name], plain.start.tensors[name])
    with pytest.raises(ConfigError, match="a network that started from its initialisation"):
        after.fresh(0)
    again = Store(tmp_path / "again")
    run_sweep(Sweep.from_dict({"base": {**BASE, "start": first}, "measure": measure}), again, progress=False)
    ours = f"{sweep.runs[1].name}/end.safetensors"
    assert contents(again.root)[ours] == contents(tmp_path)[ours]


def test_a_start_that_diverges_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    sweep = Sweep.from_dict({"base": {**BASE, "start": {"optimizer": {"lr": 1e30}}}})
    status = run_sweep(sweep, Store(tmp_path), progress=False)
    assert status.states["failed"] == 1 and "one that is diverged" in status.failures[0][1]


TWELVE = """
seeds = [0, 1, 2]
[base]
data = { name = "digits", train_size = 200 }
model.widths = [8]
training = { epochs = 3, batch_size = 10, snapshots = [1, 2] }
[grid]
optimizer.lr = [0.1, 0.03]
model.batch_norm = [false, true]
[[compare]]
what = "pairwise"
alphas = 5
batch_norm = "interpolate"
[[compare]]
what = "connect"
epochs = 2
alphas = 5
batch_norm = "recalibrate"
"""
EIGHT = ("profile", "certify", "gauss_length", "starts", "layerwise", "onset", "trajectory", "plateau_ends")


@pytest.mark.slow
def test_twelve_runs_killed_at_random_moments_leave_the_same_store(tmp_path: Path) -> None:
    words = TWELVE
    for what in EIGHT:
        asked = {**table(what)}
        where = asked.pop("where", None)
        lines = [f"{name} = {json.dumps(value)}" for name, value in asked.items()]
        lines += ['where = { "model.batch_norm" = false }'] if where else []
        words += "\n".join(["[[measure]]", *lines, ""])
    file = tmp_path / "twelve.toml"
    file.write_text(words)
    command = [sys.executable, "-m", "lerpscape", "sweep", "run", str(file), "--workers", "2", "--store"]
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    whole = time.monotonic() - began
    draw = random.Random(11)
    for _ in range(5):
        child = subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True)
        time.sleep(whole * draw.uniform(0.2, 0.6))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    found = subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True, text=True)
    assert "12 runs: 12 done" in found.stdout and "16 comparisons: 16 done" in found.stdout
    assert everything_in(tmp_path / "killed") == everything_in(tmp_path / "whole")


def test_a_finished_run_is_returned_without_work(everything: tuple[Sweep, Store]) -> None:
    from test_lab_store import item

    sweep, store = everything
    before = stamps(store.root)
    assert perform(item(store.root, sweep.runs[0], sweep.tasks(sweep.runs[0]))) == "done"
    assert stamps(store.root) == before
