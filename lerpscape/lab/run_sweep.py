"""Run a sweep and report its status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lerpscape.base.progress import Progress, progress_bar
from lerpscape.lab.config import RunConfig
from lerpscape.lab.measure_config import CompareConfig
from lerpscape.lab.store import FAILED, TRAINED, Comparison, Folder, State, Store
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.workers import WorkerDied, Workers, map_as_completed

SHOWN = 5  # failures listed in a status


SETTLED: tuple[State, ...] = ("done", "diverged", "failed")
ORDER: tuple[State, ...] = (*SETTLED, "damaged", "trained", "started", "pending")


@dataclass(frozen=True)
class Status:
    """The number of runs of a sweep in each state, and what is wrong with those that failed or are damaged, by name.

    `comparisons` counts those between runs that are known already: of the groups whose runs are all trained.
    """

    sweep: str
    runs: int
    states: dict[State, int]
    failures: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...] = ()
    comparisons: dict[State, int] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """The number of runs that are neither done nor diverged nor failed."""
        return self.runs - sum(self.states.get(state, 0) for state in SETTLED)

    def __str__(self) -> str:
        lines = [f"{self.sweep}: {self.runs} runs: {_counted(self.states)}"]
        if self.comparisons:
            lines.append(f"  {sum(self.comparisons.values())} comparisons: {_counted(self.comparisons)}")
        lines += [f"  failed {name}: {' '.join(error.split())}" for name, error in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"  and {len(self.failures) - SHOWN} more failed")
        lines += [f"  damaged {name}: {damage}; `sweep run` does it again" for name, damage in self.damaged]
        return "\n".join(lines)


def _counted(states: Mapping[State, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items() if count) or "none"


def sweep_status(sweep: Sweep, store: Store) -> Status:
    """Read the status of a sweep from a store.

    >>> import tempfile
    >>> print(sweep_status(Sweep.from_dict({"seeds": [0, 1]}, name="two"), Store(tempfile.mkdtemp())))
    two: 2 runs: 2 pending
    """
    states: Counter[State] = Counter()
    failures: list[tuple[str, str]] = []
    damaged: list[tuple[str, str]] = []
    for config in sweep.runs:
        folder, tasks = store.run(config), sweep.tasks(config)
        state = folder.state(tasks)
        states[state] += 1
        if state == "damaged":
            damaged += [(place.place.removeprefix("runs/"), damage) for place, damage in folder.damages(tasks)]
            continue
        places: dict[str, Folder] = {config.name: folder}
        places |= {f"{config.name}: {task.label}": folder.measurement(task) for task in tasks}
        failures += [(label, place.error()) for label, place in places.items() if place.exists(FAILED)]
    compared: Counter[State] = Counter()
    for comparison in comparisons(sweep, store):
        state = comparison.state()
        compared[state] += 1
        if state == "failed":
            failures.append((comparison.label, comparison.error()))
        if state == "damaged":
            damaged.append((comparison.label, comparison.damage("done.json")))
    return Status(
        sweep.name,
        len(sweep.runs),
        {state: states[state] for state in ORDER},
        tuple(failures),
        tuple(damaged),
        {state: compared[state] for state in ORDER if compared[state]},
    )


def comparisons(sweep: Sweep, store: Store) -> list[Comparison]:
    """The comparisons of a sweep's groups whose runs are all settled, among those that did not diverge or fail."""
    found = []
    for asked in sweep.comparisons:
        for group in asked.groups(sweep.runs):
            trained = _trained(store, group)
            if trained is not None and len(trained) > 1:
                found += [store.comparison(asked, members) for members in _members(asked, trained)]
    return found


def _trained(store: Store, group: Sequence[RunConfig]) -> list[RunConfig] | None:
    """The runs of a group that have a trained network; None while one of them is not settled."""
    folders = [store.run(config) for config in group]
    if not all(folder.exists(TRAINED) or folder.exists(FAILED) for folder in folders):
        return None
    return [folder.config for folder in folders if folder.outcome() == "finished"]


def _members(asked: CompareConfig, runs: Sequence[RunConfig]) -> list[tuple[RunConfig, ...]]:
    from lerpscape.lab.comparisons import COMPARISONS  # imports torch

    return COMPARISONS[asked.what].members(runs)


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
    from lerpscape.lab.runs import CompareItem, WorkItem, check_items, compare, perform

    root = str(store.root)
    items = [WorkItem(config, root, sweep.tasks(config), data_folder) for config in sweep.runs]
    check_items(items, sweep.comparisons)
    unfinished = [item for item in items if store.run(item.config).state(item.tasks) not in SETTLED]
    _work(perform, unfinished, sweep.name, "run", workers, gpus, progress, lambda item: store.run(item.config))
    pairs = [
        CompareItem(found.compare, found.members, root, data_folder)
        for found in comparisons(sweep, store)
        if found.state() not in SETTLED
    ]
    if pairs:
        _work(
            compare,
            pairs,
            f"{sweep.name}: compare",
            "comparison",
            workers,
            gpus,
            progress,
            lambda item: store.comparison(item.compare, item.members),
        )
    return sweep_status(sweep, store)


def _work(
    task: Callable[[Any], str],
    items: Sequence[Any],
    what: str,
    unit: str,
    workers: Workers,
    gpus: float,
    progress: Progress,
    folder_of: Callable[[Any], Folder],
) -> None:
    """Have every item done by the workers, or wait for the process that has it already."""
    busy: list[Any] = []
    counts: Counter[str] = Counter()

    def recorded(item: Any, outcome: str | WorkerDied) -> str:
        if not isinstance(outcome, WorkerDied):
            return outcome
        folder_of(item).fail(outcome.reason)
        return "failed"

    with progress_bar(progress, len(items), what, unit=unit) as report:
        for item, outcome in map_as_completed(task, items, workers, gpus=gpus):
            if outcome == "busy":
                busy.append(item)
                continue
            counts[recorded(item, outcome)] += 1
            report(1, note=", ".join(f"{count} {state}" for state, count in counts.items()))
        for item in busy:  # wait for the process that holds it, or finish what it left behind
            counts[recorded(item, task(replace(item, wait=True)))] += 1
            report(1)


def retry_failed(sweep: Sweep, store: Store) -> int:
    """Clear the failures, so that the next `run_sweep` tries these again; returns how many there were."""
    folders: list[Folder] = list(comparisons(sweep, store))
    for config in sweep.runs:
        run = store.run(config)
        folders += [run, *(run.measurement(task) for task in sweep.tasks(config))]
    failed = [folder for folder in folders if folder.exists(FAILED)]
    for folder in failed:
        folder.remove(FAILED)
    return len(failed)
