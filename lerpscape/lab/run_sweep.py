"""Run a sweep and report its status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lerpscape.base.progress import Progress, progress_bar
from lerpscape.lab.store import State, Store
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.workers import WorkerDied, Workers, map_as_completed

if TYPE_CHECKING:
    from lerpscape.lab.runs import WorkItem

SHOWN = 5  # failures listed in a status


@dataclass(frozen=True)
class Status:
    """The number of runs of a sweep in each state, and what is wrong with those that failed or are damaged, by name."""

    sweep: str
    runs: int
    states: dict[State, int]
    failures: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...] = ()

    @property
    def pending(self) -> int:
        """The number of runs that are neither done nor diverged nor failed."""
        return self.runs - sum(self.states.get(state, 0) for state in ("done", "diverged", "failed"))

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items() if count)
        lines = [f"{self.sweep}: {self.runs} runs: {counts or 'none'}"]
        lines += [f"  failed {name}: {' '.join(error.split())}" for name, error in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"  and {len(self.failures) - SHOWN} more failed")
        lines += [f"  damaged {name}: {damage}; `sweep run` does it again" for name, damage in self.damaged]
        return "\n".join(lines)


def sweep_status(sweep: Sweep, store: Store) -> Status:
    """Read the status of a sweep from a store; does not import torch.

    >>> import tempfile
    >>> print(sweep_status(Sweep.from_dict({"seeds": [0, 1]}, name="two"), Store(tempfile.mkdtemp())))
    two: 2 runs: 2 pending
    """
    states: Counter[State] = Counter()
    failures, damaged = [], []
    for config in sweep.runs:
        folder = store.run(config)
        state = folder.state
        states[state] += 1
        if state == "failed":
            failures.append((config.name, str(folder.read_json("failed.json")["error"])))
        if state == "damaged":
            damaged.append((config.name, folder.damage()))
    order: tuple[State, ...] = ("done", "diverged", "failed", "damaged", "trained", "started", "pending")
    return Status(
        sweep.name, len(sweep.runs), {state: states[state] for state in order}, tuple(failures), tuple(damaged)
    )


def run_sweep(
    sweep: Sweep,
    store: Store,
    *,
    data_folder: str | None = None,
    workers: Workers = 1,
    gpus: float = 0,
    progress: Progress = None,
) -> Status:
    """Train and measure every run of a sweep that the store lacks, and return the status of the sweep.

    An interrupted call loses at most the epoch in progress of each run; the same call then continues, with the same
    bits as an uninterrupted one. Several processes may run the same sweep into one store: each run is done by one of
    them, and every call returns when all runs are finished. Failed runs are skipped until `retry_failed`. `workers` and
    `gpus` are those of `map_as_completed`.

    Raises `ConfigError`, before anything is trained, for a model or data set that does not exist, `OSError` for a full
    disk or missing data, and `StoreConflict`.
    """
    from lerpscape.lab.runs import WorkItem, check_items, perform

    items = [WorkItem(config, str(store.root), data_folder) for config in sweep.runs]
    check_items(items)
    unfinished = [item for item in items if store.run(item.config).state not in ("done", "diverged", "failed")]
    busy: list[WorkItem] = []
    counts: Counter[str] = Counter()
    with progress_bar(progress, len(unfinished), sweep.name, unit="run") as report:
        for item, outcome in map_as_completed(perform, unfinished, workers, gpus=gpus):
            if outcome == "busy":
                busy.append(item)
                continue
            counts[_recorded(store, item, outcome)] += 1
            report(1, note=", ".join(f"{count} {state}" for state, count in counts.items()))
        for item in busy:  # wait for the process that holds the run, or finish what it left behind
            counts[_recorded(store, item, perform(replace(item, wait=True)))] += 1
            report(1)
    return sweep_status(sweep, store)


def retry_failed(sweep: Sweep, store: Store) -> int:
    """Clear the failures, so that the next `run_sweep` tries these runs again; returns how many there were."""
    failed = [folder for folder in map(store.run, sweep.runs) if folder.state == "failed"]
    for folder in failed:
        folder.remove("failed.json")
    return len(failed)


def _recorded(store: Store, item: WorkItem, outcome: str | WorkerDied) -> str:
    """The state of a run, after a worker's death is recorded in the store as a failure."""
    if isinstance(outcome, WorkerDied):
        store.run(item.config).write_json("failed.json", {"error": outcome.reason, "traceback": ""})
        return "failed"
    return outcome
