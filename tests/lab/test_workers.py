"""Workers: one process, two, a map, Ray and submitit give the same records."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_lab_store import MEASURES, TINY, contents

from lerpscape.lab.run_sweep import run_sweep
from lerpscape.lab.store import Store
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.workers import ATTEMPTS, WorkerDied, map_as_completed, map_with_submitit

SWEEP = Sweep.from_dict(
    {"seeds": [0, 1], "base": TINY, "grid": {"optimizer": {"lr": [0.1, 0.01]}}, "measure": MEASURES}
)


def die_once(marker: str) -> str:
    """Be killed the first time, as the kernel kills what takes too much memory; succeed the second."""
    if not os.path.exists(marker):
        Path(marker).write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die(_: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def refuse(number: int) -> int:
    if number == 2:
        raise ValueError("two is refused")
    return -number


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("alone")
    assert run_sweep(SWEEP, Store(place)).states["done"] == 4
    return contents(place)


@pytest.mark.parametrize("workers", [2, map], ids=["processes", "map"])
def test_records_do_not_depend_on_the_workers(alone: dict[str, bytes], tmp_path: Path, workers: Any) -> None:
    seen: list[tuple[int, int]] = []
    status = run_sweep(SWEEP, Store(tmp_path), workers=workers, progress=lambda *at: seen.append(at))
    assert status.states["done"] == 4 and seen == [(i, 4) for i in range(1, 5)]
    assert contents(tmp_path) == alone


def test_a_killed_worker_loses_only_time(tmp_path: Path) -> None:
    markers = [str(tmp_path / name) for name in ("a", "b")]
    assert dict(map_as_completed(die_once, markers, workers=2)) == dict.fromkeys(markers, "survived")


def test_an_item_that_kills_every_worker_is_abandoned() -> None:
    [(item, outcome)] = map_as_completed(die, ["x"], workers=2)
    assert isinstance(outcome, WorkerDied) and (item, outcome.attempts) == ("x", ATTEMPTS)
    assert f"died {ATTEMPTS} times" in outcome.reason


def test_a_run_that_kills_every_worker_is_recorded_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lerpscape.lab.run_sweep as sweeping

    def lose(task: Callable[..., Any], items: Any, *_: Any, **__: Any) -> Any:
        return ((item, WorkerDied(3, "its process died 3 times")) for item in items)

    monkeypatch.setattr(sweeping, "map_as_completed", lose)
    status = run_sweep(SWEEP, Store(tmp_path), workers=2)
    assert status.states["failed"] == 4 and status.failures[0][1] == "its process died 3 times"


@pytest.mark.parametrize("workers", [1, 2, map])
def test_an_exception_of_the_task_comes_through(workers: Any) -> None:
    with pytest.raises(ValueError, match="two is refused"):
        dict(map_as_completed(refuse, [1, 2, 3], workers=workers))


@pytest.mark.parametrize("workers", [0, -1, "rays", "2"])
def test_other_workers_are_refused(workers: Any) -> None:
    with pytest.raises(ValueError, match=r"expected: workers as a number of at least 1.*\ngot: "):
        map_as_completed(abs, [1], workers=workers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit does not wait for its child
def test_submitit_gives_the_same_records(alone: dict[str, bytes], tmp_path: Path) -> None:
    """submitit's executor of this machine: the same path as SLURM's, without a cluster."""
    submitit = pytest.importorskip("submitit", reason='needs pip install "lerpscape[slurm]"')
    executor = submitit.LocalExecutor(folder=tmp_path / "logs")
    executor.update_parameters(timeout_min=5)

    def through(task: Callable[..., Any], items: Any) -> Any:
        found = dict(map_with_submitit(task, items, executor))
        return [found[item] for item in items]

    two = SWEEP.first(2)
    run_sweep(two, Store(tmp_path / "store"), workers=through)
    assert contents(tmp_path / "store").items() <= alone.items()
    assert len([name for name in contents(tmp_path / "store") if name.endswith("trained.json")]) == 2


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    ray = pytest.importorskip("ray", reason='needs pip install "lerpscape[ray]"')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    monkeypatch.setenv("RAY_TQDM_PATCH_PRINT", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_records_and_survives_a_killed_worker(
    alone: dict[str, bytes], tmp_path: Path, local_ray: Any
) -> None:
    status = run_sweep(SWEEP, Store(tmp_path / "store"), workers="ray")
    assert status.states["done"] == 4
    assert contents(tmp_path / "store") == alone
    marker = str(tmp_path / "marker")
    assert list(map_as_completed(die_once, [marker], workers="ray")) == [(marker, "survived")]
    assert Path(marker).exists()
    with pytest.raises(ValueError, match="two is refused"):
        dict(map_as_completed(refuse, [1, 2], workers="ray"))
    [(_, outcome)] = map_as_completed(die, ["x"], workers="ray")
    assert isinstance(outcome, WorkerDied)
