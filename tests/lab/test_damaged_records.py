"""Damaged records: each spoils itself only, is counted and named, and is done again by the next run of the sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lerpscape.base.saving import write_file
from lerpscape.lab.run_sweep import run_sweep, sweep_status
from lerpscape.lab.store import Store
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.tables.records import store_records, sweep_records
from lerpscape.lab.tables.table import Layout, tabulate

TINY: dict[str, Any] = {
    "data": {"name": "gaussian_blobs", "examples": 30},
    "model": {"widths": [3]},
    "training": {"epochs": 1},
}
MEASURES = [{"what": "profile", "alphas": 3, "derivative": False}]
SWEEP = Sweep.from_dict({"base": TINY, "seeds": [0, 1], "measure": MEASURES})
SPOILT = SWEEP.runs[0]
[TASK] = SWEEP.tasks(SPOILT)
MEASURED = TASK.folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "store"
    assert run_sweep(SWEEP, Store(folder), progress=False).states["done"] == 2
    return folder


def altered(content: bytes) -> bytes:
    """The same JSON with one loss changed, as a hand would do it."""
    record = json.loads(content)
    record["loss"][-1] = 99.98
    return json.dumps(record).encode()


DAMAGES: dict[str, tuple[str, Any]] = {
    "altered profile": (f"{MEASURED}/result.json", altered),
    "empty training commit": ("trained.json", lambda _: b""),
    "half a training commit": ("trained.json", lambda content: content[: len(content) // 2]),
    "training commit of nothing": ("trained.json", lambda _: b'{"files": {}, "outcome": "finished", "epochs": 1}'),
    "training commit that is a list": ("trained.json", lambda _: b"[]"),
    "empty measurement commit": (f"{MEASURED}/done.json", lambda _: b""),
    "measurement commit of nothing": (f"{MEASURED}/done.json", lambda _: b'{"files": {}}'),
    "altered history": ("history.json", lambda content: content.replace(b"1", b"2")),
    "empty history": ("history.json", lambda _: b""),
    "altered weights": ("end.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    "no weights": ("start.safetensors", None),
    "empty configuration": ("config.json", lambda _: b""),
    "empty failure": ("failed.json", lambda _: b""),
    "binary commit": ("trained.json", lambda _: b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_spoils_itself_only_and_is_done_again(finished: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(finished, tmp_path / "store")
    store = Store(tmp_path / "store")
    name, change = DAMAGES[damage]
    file = store.run(SPOILT).path / name
    if change is None:
        file.unlink()
    else:
        write_file(file, change(file.read_bytes() if file.exists() else b""))
    status = sweep_status(SWEEP, store)
    assert (status.states["damaged"], status.states["done"]) == (1, 1)
    assert f"damaged {SPOILT.name}" in str(status) and Path(name).name in str(status)
    table = tabulate(sweep_records(SWEEP, store), Layout(kind="reading", reading="profile.final_loss"))
    assert "1 of 2 runs" in table.notes[0] and table.notes[0].endswith("1 damaged.")
    assert SPOILT.name in table.notes[-1]
    assert all(cell.n == 1 and cell.value < 50 for cell in table.cells.values())
    exported = store_records(store)
    whole = [record for record in exported if record.state == "done"]
    assert [record.config for record in whole] == [SWEEP.runs[1]]
    assert len(exported) + len(store.unreadable()) == 2
    assert run_sweep(SWEEP, store, progress=False).states["done"] == 2
    for each in finished.rglob("result.json"):
        assert (store.root / each.relative_to(finished)).read_bytes() == each.read_bytes()
    [reason] = (store.root / "quarantine" / SPOILT.key).rglob("reason.txt")
    aside = SPOILT.name if not name.startswith("measured") else f"{SPOILT.name}/{MEASURED}"
    assert reason.parent == store.root / "quarantine" / f"{aside}-1"


def test_other_folders_do_not_stop_a_store_from_being_read(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "store")
    store = Store(tmp_path / "store")
    shutil.copytree(store.run(SPOILT).path, store.root / "runs" / "moved" / "7")  # another name's configuration
    (store.root / "runs" / "notes.txt").write_text("mine")
    (store.run(SPOILT).path / "measured" / "half").mkdir()
    (store.run(SPOILT).path / "seconds.json").write_text("")
    assert store.unreadable() == [f"{SPOILT.name}/measured/half", "moved/7"]
    assert len(store_records(store)) == 2
    sharing = Sweep.from_dict({"base": TINY, "seeds": [0, 1], "measure": [{**MEASURES[0], "alphas": 4}]})
    assert run_sweep(sharing, store, progress=False).states["done"] == 2  # unreadable seconds cost nothing
    assert sweep_status(SWEEP, store).states["done"] == 2


def test_reading_makes_no_store(tmp_path: Path) -> None:
    for folder in (tmp_path / "typo", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a store.*\ngot: .*does not exist"):
            Store.existing(folder)
    assert list(tmp_path.iterdir()) == []


def test_noise_that_was_never_trained_on_is_not_measured(tmp_path: Path) -> None:
    noisy = {**TINY["data"], "label_noise": 1.0, "label_noise_from": 2}
    plain = {**TINY, "training": {"epochs": 3, "stop_below": 1e9}}
    losses = []
    for number, table in enumerate((plain, {**plain, "data": noisy})):
        store = Store(tmp_path / str(number))
        run_sweep(Sweep.from_dict({"base": table}), store, progress=False)
        [record] = store_records(store)
        assert record.epochs == 1
        losses.append(record.profile().loss.tolist())
    assert losses[0] == losses[1]  # the same training, and the same labels: those of the only epoch


@pytest.mark.parametrize("seed", [0, 2**31 - 2, 2**31 - 1])
def test_every_allowed_seed_trains(tmp_path: Path, seed: int) -> None:
    status = run_sweep(Sweep.from_dict({"base": TINY, "seeds": [seed]}), Store(tmp_path), progress=False)
    assert status.states["done"] == 1, status
