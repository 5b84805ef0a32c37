"""Running a sweep into a store, and saying how far it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lerpscape.base.progress import Progress, progress_bar
from lerpscape.lab.store import State, Store
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.workers import Lost, Workers, spread

if TYPE_CHECKING:
    from lerpscape.lab.runs import Item

SHOWN = 5  # failures that a status names


@dataclass(frozen=True)
class Status:
    """How many runs of a sweep are in which state, and the names and errors of those that failed."""

    sweep: str
    runs: int
    states: dict[State, int]
    failures: tuple[tuple[str, str], ...]

    @property
    def pending(self) -> int:
        """Runs that are not finished, in whatever way."""
        return self.runs - sum(self.states.get(state, 0) for state in ("done", "diverged", "failed"))

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items() if count)
        lines = [f"{self.sweep}: {self.runs} runs: {counts or 'none'}"]
        lines += [f"  failed {name}: {' '.join(error.split())}" for name, error in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"  and {len(self.failures) - SHOWN} more failed")
        return "\n".join(lines)


def sweep_status(sweep: Sweep, store: Store) -> Status:
    """Look into a store; needs no torch.

    >>> import tempfile
    >>> print(sweep_status(Sweep.from_dict({"seeds": [0, 1]}, name="two"), Store(tempfile.mkdtemp())))
    two: 2 runs: 2 pending
    """
    states: Counter[State] = Counter()
    failures = []
    for config in sweep.runs:
        folder = store.run(config)
        state = folder.state
        states[state] += 1
        if state == "failed":
            failures.append((config.name, str(folder.read_json("failed.json")["error"])))
    order: tuple[State, ...] = ("done", "diverged", "failed", "trained", "started", "pending")
    return Status(sweep.name, len(sweep.runs), {state: states[state] for state in order}, tuple(failures))


def run_sweep(
    sweep: Sweep,
    store: Store,
    *,
    data_folder: str | None = None,
    workers: Workers = 1,
    gpus: float = 0,
    progress: Progress = None,
) -> Status:
    """Do every run of a sweep that the store lacks, and say how the sweep then stands.

    A stop at any moment loses at most the epochs at hand: the same call goes on, to the same bits. Several processes
    may run the same sweep into one store; each run is done by one of them, and all return when all runs are there.
    Failed runs stay failed until `retry_failed`. See `spread` for `workers`.

    Raises `ConfigError` before anything is trained where a model does not exist, `OSError` for a full disk or data that
    are not there, `StoreConflict`.
    """
    from lerpscape.lab.runs import Item, perform, require

    items = [Item(config, store.place, data_folder) for config in sweep.runs]
    require(items)
    missing = [item for item in items if store.run(item.config).state not in ("done", "diverged", "failed")]
    busy: list[Item] = []
    counts: Counter[str] = Counter()
    with progress_bar(progress, len(missing), sweep.name, unit="run") as report:
        for item, outcome in spread(perform, missing, workers, gpus=gpus):
            if outcome == "busy":
                busy.append(item)
                continue
            counts[_settled(store, item, outcome)] += 1
            report(1, note=", ".join(f"{count} {state}" for state, count in counts.items()))
        for item in busy:  # another process has them: wait until they are there, or finish what it left
            counts[_settled(store, item, perform(replace(item, wait=True)))] += 1
            report(1)
    return sweep_status(sweep, store)


def retry_failed(sweep: Sweep, store: Store) -> int:
    """Forget that runs failed, so that the next `run_sweep` tries them again; gives how many."""
    failed = [store.run(config) for config in sweep.runs if store.run(config).state == "failed"]
    for folder in failed:
        folder.remove("failed.json")
    return len(failed)


def _settled(store: Store, item: Item, outcome: str | Lost) -> str:
    if isinstance(outcome, Lost):
        store.run(item.config).write_json("failed.json", {"error": outcome.reason, "traceback": ""})
        return "failed"
    return outcome
