from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from cases import CASES, Case, variants

import lerpscape as ls
from lerpscape.base.saving import check_writable
from lerpscape.engine.fingerprint import Fingerprint
from lerpscape.engine.groups import Group
from lerpscape.engine.resume import Partial

VARIANTS = variants()
FINGERPRINT = Fingerprint({"loss": "a"}, np.ones(2), 1e-12)


class Stop(Exception):
    pass


def measured(case: Case, policy: Any, file: Path | None, stop_after: int | None = None, **choices: Any) -> ls.Profile:
    start, end = case.ends()

    def progress(done: int, total: int) -> None:
        if stop_after is not None and done > stop_after:
            raise Stop

    choices = {"alphas": 4, "loss": case.loss, "batch_norm": policy, "partial": file} | choices
    return ls.profile(start, ls.Line(start, end), choices.pop("data", case.data()), progress=progress, **choices)


def same(one: ls.Profile, other: ls.Profile) -> bool:
    a, b = one.to_dict(), other.to_dict()
    for each in (a, b):
        each["how"] = {name: value for name, value in each["how"].items() if name != "seconds"}
    return a == b


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=[name for name, _, _ in VARIANTS])
def test_stopped_anywhere_and_resumed_is_the_same_bit_for_bit(
    name: str, case: Case, policy: Any, chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", chunk_bytes)
    whole = measured(case, policy, None)
    file = tmp_path / "work.partial"
    for stop_after in (0, 3, 5, 8):
        with pytest.raises(Stop):
            measured(case, policy, file, stop_after)
    assert file.exists()
    resumed = measured(case, policy, file)
    assert same(resumed, whole)
    with mock.patch.object(Group, "at", side_effect=AssertionError("a finished measurement is only read")):
        assert same(measured(case, policy, file), whole)


@pytest.mark.parametrize(
    "other", [{"alphas": 5}, {"loss": "mean_squared_error"}, {"dtype": torch.float32}, {"data": CASES[1].data()[:2]}]
)
def test_the_file_of_another_measurement_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    case, file = CASES[1], tmp_path / "work.partial"
    with pytest.raises(Stop):
        measured(case, None, file, stop_after=5)
    before = file.read_bytes()
    data = other.pop("data", case.data())
    if other.get("dtype"):
        data = [(x.float(), y.float()) for x, y in data]
    with pytest.raises(ls.PartialMismatch, match=r"(?s)partial result of this measurement.*one of another.*delete"):
        measured(case, None, file, data=data, **other)
    assert file.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "work.partial"
    file.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ls.PartialMismatch, match="to hold a partial result"):
        measured(CASES[0], None, file)


def test_an_unwritable_place_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"(?s)to be writable.*Choose another place"):
        measured(CASES[0], None, tmp_path / "file" / "work.partial", loss=None)  # before even a look at the loss
    with pytest.raises(OSError, match="to be writable"):
        check_writable(tmp_path / "file" / "report.html")
    check_writable(tmp_path / "new" / "folder" / "out.json")
    assert not (tmp_path / "new" / "folder" / "out.json").exists()


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Partial(tmp_path / "a", FINGERPRINT)
    kept.save({"x": np.arange(3)})

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        kept.save({"x": np.arange(4)})
    found = Partial(tmp_path / "a", FINGERPRINT).load()
    assert found is not None
    assert found["x"].tolist() == [0, 1, 2]


STOPPING = """
import os, signal, sys, torch, lerpscape as ls
from torch import nn
import lerpscape.engine.resume
lerpscape.engine.resume.INTERVAL = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start background work with Ctrl-C ignored
calls = []

def loss(outputs, targets):
    if len(targets) == 10:  # not a probe of a few examples
        calls.append(1)
        print("batch", flush=True)
        if len(calls) == int(sys.argv[1]):
            os.kill(os.getpid(), int(sys.argv[2]))
    return (outputs - targets).square().sum(1)

torch.manual_seed(0)
start, end = (nn.Sequential(nn.Tanh(), nn.Linear(3, 2)) for _ in range(2))  # nothing that all α share
x = torch.randn(40, 3)
data = [(part, part[:, :2]) for part in x.split(10)]
found = ls.profile(start, ls.Line(start, end), data, loss=loss, alphas=12, partial="work.partial", self_check=False)
found.save("done.json")
"""


# Ctrl-C on the command line is among the quick tests: test_cli.py.
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_process_loses_at_most_one_alpha(how: signal.Signals, tmp_path: Path) -> None:
    def run(stop_at: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", STOPPING, str(stop_at), str(int(how))]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    whole = run(0)
    assert whole.returncode == 0, whole.stderr
    extra = whole.stdout.count("batch") - 12 * 4  # calls that look whether a call depends on those before it
    assert 0 <= extra <= 4
    expected = ls.Profile.load(tmp_path / "done.json")
    for file in tmp_path.iterdir():
        file.unlink()

    assert run(27).returncode != 0  # in the seventh α
    assert not (tmp_path / "done.json").exists()
    rest = run(0)
    assert rest.returncode == 0, rest.stderr
    assert 6 * 4 <= rest.stdout.count("batch") <= 6 * 4 + extra
    assert same(ls.Profile.load(tmp_path / "done.json"), expected)
