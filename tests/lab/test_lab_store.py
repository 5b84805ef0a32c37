"""Runs in a store: a run killed after any write and resumed gives the same bytes as an uninterrupted one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lerpscape.base.errors import ConfigError, StoreConflict
from lerpscape.lab import store as stores
from lerpscape.lab.config import RunConfig
from lerpscape.lab.measure_config import Task
from lerpscape.lab.run_sweep import retry_failed, run_sweep, sweep_status
from lerpscape.lab.runs import WorkItem, check_items, perform
from lerpscape.lab.store import Store
from lerpscape.lab.sweep import Sweep
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile

TINY: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 60},
    "model": {"widths": [6]},
    "training": {"epochs": 3, "batch_size": 30, "snapshots": [2]},
    "optimizer": {"name": "adam", "lr": 0.01, "lookahead_steps": 3},
}
PROFILE: dict[str, Any] = {"what": "profile", "alphas": 4, "derivative": False}
MEASURES: list[dict[str, Any]] = [PROFILE, {"what": "linearity", "examples": 5, "alphas": 3}]
CONFIG = RunConfig.from_dict(TINY)
TASKS = Sweep.from_dict({"base": TINY, "measure": MEASURES}).tasks(CONFIG)


def item(store: str | Path, config: RunConfig = CONFIG, tasks: tuple[Task, ...] = TASKS) -> WorkItem:
    return WorkItem(config, str(store), tasks)


def contents(store: str | Path) -> dict[str, bytes]:
    """Every file below runs/ except seconds.json."""
    runs = Path(store) / "runs"
    files = {each.relative_to(runs).as_posix(): each.read_bytes() for each in sorted(runs.rglob("*")) if each.is_file()}
    return {name: content for name, content in files.items() if not name.endswith("seconds.json")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = str(tmp_path_factory.mktemp("whole") / "store")
    assert perform(item(store)) == "done"
    return contents(store)


def test_files_of_a_finished_run(uninterrupted: dict[str, bytes]) -> None:
    base = CONFIG.name
    assert set(uninterrupted) == {
        f"{base}/config.json",
        f"{base}/start.safetensors",
        f"{base}/epoch-0002.safetensors",
        f"{base}/end.safetensors",
        f"{base}/history.json",
        f"{base}/trained.json",
        *(f"{base}/{task.folder}/{name}.json" for task in TASKS for name in ("config", "result", "done")),
    }


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the package may catch it."""


def operations(monkeypatch: pytest.MonkeyPatch, allowed: int, after: bool) -> list[str]:
    """Die at the write, move or removal with this number, before or after it happens."""
    seen: list[str] = []
    for name in ("write_file", "move_file", "remove_file"):
        real = getattr(stores, name)

        def counted(*arguments: Any, real: Any = real, name: str = name) -> None:
            seen.append(name)
            if len(seen) == allowed and not after:
                raise Killed
            real(*arguments)
            if len(seen) == allowed and after:
                raise Killed

        monkeypatch.setattr(stores, name, counted)
    return seen


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_and_resumed_gives_the_same_files(
    uninterrupted: dict[str, bytes], tmp_path: Path, after: bool
) -> None:
    kills = 0
    for number in range(1, 60):
        store = str(tmp_path / f"store-{number}")
        with pytest.MonkeyPatch.context() as patch:
            operations(patch, number, after)
            try:
                perform(item(store))
            except Killed:
                kills += 1
            else:
                break
        assert perform(item(store)) == "done"
        assert contents(store) == uninterrupted, f"killed at operation {number}"
        shutil.rmtree(store)
    assert kills > 18  # three epochs, twelve files, two removals


def test_same_key_same_bits_whatever_the_caller_did_to_torch(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    torch.manual_seed(1234)
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        perform(item(tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path) == uninterrupted
    assert torch.equal(torch.random.get_rng_state(), before)
    perform(item(tmp_path, CONFIG.with_seed(1)))
    ends = [(tmp_path / "runs" / CONFIG.key / seed / "end.safetensors").read_bytes() for seed in ("0", "1")]
    assert ends[0] != ends[1]


def test_measuring_again_never_retrains(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    store = str(tmp_path)
    perform(item(store))
    trained = tmp_path / "runs" / CONFIG.name / "end.safetensors"
    stamp = trained.stat().st_mtime_ns
    [finer] = Sweep.from_dict({"base": TINY, "measure": [{**PROFILE, "alphas": 7}]}).tasks(CONFIG)
    assert Store(store).run(CONFIG).state([finer]) == "trained"
    assert perform(item(store, tasks=(*TASKS, finer))) == "done"
    assert trained.stat().st_mtime_ns == stamp
    now = contents(store)
    assert uninterrupted.items() <= now.items()
    assert len(json.loads(now[f"{CONFIG.name}/{finer.folder}/result.json"])["alphas"]) == 7


def test_the_stored_profile_is_that_of_the_stored_files(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    """Nothing between training and measuring changes a number."""
    from safetensors.torch import load

    from lerpscape.lab.data import load as load_data
    from lerpscape.lab.models import build

    start, end = (load(uninterrupted[f"{CONFIG.name}/{name}.safetensors"]) for name in ("start", "end"))
    data = load_data("digits", train_size=60)
    model = build("fully_connected", inputs=data.inputs, outputs=data.outputs, seed=99, widths=[6])
    again = profile(model, Line(start, end), data.train.batches(17), alphas=4, derivative=False)
    stored = json.loads(uninterrupted[f"{CONFIG.name}/{TASKS[0].folder}/result.json"])
    # Other batches: equal to rounding of float32 losses averaged in float64.
    torch.testing.assert_close(
        torch.tensor(stored["loss"], dtype=torch.float64), torch.tensor(again.loss), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_quarantined_and_the_run_starts_again(
    uninterrupted: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        operations(patch, 6, after=True)
        with pytest.raises(Killed):
            perform(item(tmp_path))
    resume = tmp_path / "runs" / CONFIG.name / "resume.safetensors"
    content = bytearray(resume.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
    resume.write_bytes({"truncated": content[:-10], "flipped": content, "empty": b""}[damage])
    assert perform(item(tmp_path)) == "done"
    assert contents(tmp_path) == uninterrupted
    said = capsys.readouterr()
    assert "resume.safetensors is damaged" in said.out + said.err and "the run starts again" in said.out + said.err
    aside = tmp_path / "quarantine" / f"{CONFIG.name}-1"
    assert (aside / "resume.safetensors").exists() and "damaged" in (aside / "reason.txt").read_text()


def test_a_changed_result_is_quarantined_and_computed_again(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    for name, aside in (
        ("end.safetensors", f"{CONFIG.name}-1"),
        (f"{TASKS[0].folder}/result.json", f"{CONFIG.name}/{TASKS[0].folder}-1"),
    ):
        perform(item(tmp_path))
        run = tmp_path / "runs" / CONFIG.name
        stamp = (run / "end.safetensors").stat().st_mtime_ns
        with (run / name).open("ab") as file:
            file.write(b" ")
        assert perform(item(tmp_path)) == "done"
        assert contents(tmp_path) == uninterrupted
        assert (tmp_path / "quarantine" / aside / "reason.txt").exists()
        # A damaged measurement costs that measurement alone.
        assert ((run / "end.safetensors").stat().st_mtime_ns == stamp) == name.startswith("measured")


def test_a_store_of_another_configuration_or_no_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "store" / "runs" / CONFIG.name).mkdir(parents=True)
    (tmp_path / "store" / "runs" / CONFIG.name / "config.json").write_text('{"seed": 0}')
    with pytest.raises(StoreConflict, match=r"(?s)to hold the run .*\"lr\": 0\.01.*got: \{\"seed\": 0\}"):
        store.run(CONFIG)
    with pytest.raises(
        StoreConflict, match=r"to be an empty folder or a lerpscape store 2\.\ngot: 1 other files, such as"
    ):
        Store(tmp_path)
    (tmp_path / "store" / "store.json").write_text('{"format": "lerpscape store 0"}')
    with pytest.raises(StoreConflict, match="got: format 'lerpscape store 0'"):
        Store(tmp_path / "store")
    (tmp_path / "store" / "store.json").write_text("nothing")
    with pytest.raises(StoreConflict, match=r"a store\.json that cannot be read"):
        Store(tmp_path / "store")


def test_a_diverged_run_is_recorded_with_its_epoch(tmp_path: Path) -> None:
    config = RunConfig.from_dict({**TINY, "optimizer": {"lr": 1e30}})
    assert perform(item(tmp_path, config)) == "diverged"
    folder = Store(tmp_path).run(config)
    assert folder.read_json("trained.json")["epochs"] == 1
    assert folder.read_json("history.json")[-1]["loss"] in ("nan", "inf")
    assert perform(item(tmp_path, config)) == "diverged"  # done, not repeated


def test_a_failure_is_recorded_and_retried_only_when_asked(tmp_path: Path) -> None:
    sweep = Sweep.from_dict({"base": {**TINY, "data": {"name": "digits", "train_size": 60, "crop": 1}}})
    wrong = Sweep.from_dict({"base": {**TINY, "data": {"name": "gaussian_blobs", "crop": 1}}})
    store = Store(tmp_path)
    assert run_sweep(sweep, store).states["done"] == 1
    status = run_sweep(wrong, store)
    assert status.states["failed"] == 1 and status.pending == 0 and "expected" in status.failures[0][1]
    trace = store.run(wrong.runs[0]).read_json("failed.json")["traceback"]
    assert "Traceback" in trace
    assert run_sweep(wrong, store).states["failed"] == 1
    assert retry_failed(wrong, store) == 1 and sweep_status(wrong, store).pending == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "fully_conected"}}, "Did you mean 'fully_connected'"),
        ({"model": {"width": [3]}}, "Did you mean 'widths'"),
        ({"data": {"name": "digit"}}, "Did you mean 'digits'"),
        (
            {"model": {"widths": [6], "batch_norm": True}},
            r"expected: batch_norm for profile of a model with batch norm",
        ),
    ],
)
def test_impossible_configurations_are_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_items([item(tmp_path, RunConfig.from_dict({**TINY, **changes}))])


def test_a_full_disk_stops_the_sweep_with_advice_and_loses_nothing(
    uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    real = Path.write_bytes
    written = []

    def full(self: Path, content: bytes) -> int:
        written.append(self)
        if len(written) > 5:
            real(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(
            OSError, match=r"(?s)expected: .* to be written.*No space left on device.*what is finished stays"
        ):
            perform(item(tmp_path))
    assert not list(tmp_path.rglob("*.draft"))
    assert perform(item(tmp_path)) == "done"
    assert contents(tmp_path) == uninterrupted


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = (
        "import sys; from lerpscape.lab.store import Store; from lerpscape.lab.config import RunConfig; import json\n"
        f"config = RunConfig.from_dict(json.loads({json.dumps(json.dumps(TINY))}))\n"
        f"store = Store({str(tmp_path)!r})\n"
        "with store.lock(store.run(config)) as ours:\n"
        "    print(ours, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdout.readline() == "True\n"
        assert perform(item(store.root)) == "busy"
        other.kill()  # a lock falls with its process
        other.wait()
    assert perform(item(store.root)) == "done"


@pytest.mark.parametrize("place", ["s3://bucket/results", "memory://store", "file:///results", Path("s3://bucket")])
def test_a_store_behind_an_url_is_refused(place: str | Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)got: the URL .* needs locks and atomic renames.*shared file system"):
        Store(place)


SWEEP = """
seeds = [0, 1]
[base]
data = {name = "digits", train_size = 300}
training = {epochs = 6, batch_size = 10}
[grid]
optimizer.lr = [0.1, 0.01]
[[measure]]
what = "profile"
alphas = 5
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_leaves_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    sweep = Sweep.load(tmp_path / "sweep.toml")
    run_sweep(sweep, Store(tmp_path / "whole"))
    command = [sys.executable, "-m", "lerpscape", "sweep", "run", str(tmp_path / "sweep.toml"), "--workers", "2"]
    command += ["--store", str(tmp_path / "killed")]
    for seconds in (3.5, 5.0, 6.5):
        child = subprocess.Popen(command, start_new_session=True)
        time.sleep(seconds)
        os.kill(child.pid, signal.SIGKILL)  # the parent alone: its workers must follow it
        child.wait()
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "4 done" in found.stdout
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_two_sweeps_share_one_store(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("epochs = 6", "epochs = 2"))
    sweep = Sweep.load(tmp_path / "sweep.toml")
    run_sweep(sweep, Store(tmp_path / "alone"))
    command = [sys.executable, "-m", "lerpscape", "sweep", "run", str(tmp_path / "sweep.toml")]
    command += ["--store", str(tmp_path / "shared")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert all("4 done" in child.communicate()[0] and child.returncode == 0 for child in both)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
