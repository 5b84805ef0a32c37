"""Records: what a store holds about each run or comparison, the input of tables, figures and exports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from lerpscape.base.results import Result
from lerpscape.base.saving import import_optional, replacing
from lerpscape.lab.comparisons import COMPARISONS
from lerpscape.lab.config import RunConfig
from lerpscape.lab.measure_config import Part, Task
from lerpscape.lab.measurements import MEASUREMENTS, reading
from lerpscape.lab.run_sweep import comparisons
from lerpscape.lab.store import DONE, FAILED, TRAINED, Folder, RunFolder, State, Store
from lerpscape.lab.sweep import Sweep
from lerpscape.profiles.results import Profile

Found = tuple[str, Part]  # the name of a measurement, and the part of the data


@dataclass(frozen=True)
class Record:
    """One run: its configuration, its state, and its results by measurement and part of the data.

    A result is None where it is undefined, as outputs or losses are not finite; measurements that were not asked for,
    or are not finished, are not in `results`. `epochs` is the number of epochs trained (fewer than configured if
    training stopped early or diverged) and `training_loss` the mean training loss of the last one, both None for
    untrained runs. The record of a comparison has the configuration of its first run, and `members` names all of them.
    """

    config: RunConfig
    state: State
    results: Mapping[Found, Result | None] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    epochs: int | None = None
    training_loss: float | None = None
    error: str = ""
    members: tuple[str, ...] = ()

    def profile(self, part: str = "train") -> Profile | None:
        """The first profile of a part of the data; None where there is none."""
        found = (one for (_, on), one in self.results.items() if on == part and isinstance(one, Profile))
        return next(found, None)

    @property
    def final_loss(self) -> float | None:
        """The trained network's training loss: L(1) of its first profile of these data, else that of its last epoch."""
        profile = self.profile()
        return self.training_loss if profile is None else float(profile.loss[-1])

    def reading(self, name: str, part: str) -> float | None:
        """A reading `measurement.reading`; None where the measurement is not there, NaN where it is undefined."""
        measurement, _, wanted = name.partition(".")
        for (found, on), result in self.results.items():
            if (found, on) == (measurement, part):
                what = self.kinds[measurement]
                readings = (COMPARISONS[what] if self.members else MEASUREMENTS[what]).readings
                return float("nan") if result is None else reading(readings[wanted], result)
        return None

    def row(self, part: str) -> dict[str, Any]:
        """Configuration and readings of one part by column name, as one row of a data frame."""
        row: dict[str, Any] = {"run": self.config.name, "part": part}
        row |= {name: _column_value(value) for name, value in self.config.flat().items()}
        row |= {
            "state": self.state,
            "epochs": self.epochs,
            "training_loss": self.training_loss,
            "error": self.error or None,
        }
        for (name, on), result in self.results.items():
            if on != part:
                continue
            for one in MEASUREMENTS[self.kinds[name]].readings:
                value = self.reading(f"{name}.{one}", on)
                row[f"{name}.{one}"] = value if value is not None and value == value else None
            if isinstance(result, Profile):
                row |= {f"{name}.unit": result.unit, f"{name}.invalid_points": len(result.invalid)}
                row |= {f"{name}.alpha": result.alphas.tolist(), f"{name}.loss": result.loss.tolist()}
                row[f"{name}.accuracy"] = None if result.accuracy is None else result.accuracy.tolist()
        return row


def sweep_records(sweep: Sweep, store: Store) -> list[Record]:
    """One record for each run of a sweep, in the sweep's order, finished or not."""
    return [read_record(store.run(config), sweep.tasks(config)) for config in sweep.runs]


def comparison_records(sweep: Sweep, store: Store) -> list[Record]:
    """One record for each comparison of a sweep whose runs are settled."""
    records = []
    for folder in comparisons(sweep, store):
        state, compare = folder.state(), folder.compare
        kinds, names = {compare.name: compare.what}, tuple(member.name for member in folder.members)
        results = {(compare.name, compare.on): _result(folder, COMPARISONS[compare.what].result)}
        records.append(
            Record(
                folder.members[0],
                state,
                results if state == "done" else {},
                kinds,
                error=folder.error() if state == "failed" else "",
                members=names,
            )
        )
    return records


def read_record(folder: RunFolder, tasks: Iterable[Task]) -> Record:
    """The record of one run and of these measurements of it."""
    tasks = tuple(tasks)
    kinds = {task.measure.name: task.measure.what for task in tasks}
    damages = folder.damages(tasks)
    error = "; ".join(damage for _, damage in damages)
    if any(place is folder for place, _ in damages) or folder.outcome() == "":
        state = "damaged" if damages else folder.stage(tasks)
        return Record(folder.config, state, kinds=kinds, error=error or folder.error())
    state = "damaged" if damages else folder.stage(tasks)
    damaged = {place.place for place, _ in damages}
    results: dict[Found, Result | None] = {}
    for task in tasks:
        place = folder.measurement(task)
        if place.exists(DONE) and place.place not in damaged:
            results[task.measure.name, task.part] = _result(place, MEASUREMENTS[task.measure.what].result)
        elif place.exists(FAILED) and not error:
            error = f"{task.label}: {place.error()}"
    epochs = folder.read_json(TRAINED)["epochs"]
    loss = float(folder.read_json("history.json")[-1]["loss"])
    return Record(folder.config, state, results, kinds, epochs, loss, error)


def _result(folder: Folder, kind: type[Result]) -> Result | None:
    """A finished result; None where it is undefined."""
    if not folder.exists("result.json"):
        return None
    content = folder.read_json("result.json")
    return None if "undefined" in content else kind.from_dict(content)


def store_records(store: Store) -> list[Record]:
    """One record for each run in a store, from whichever sweep; see also `Store.unreadable`.

    A measurement has the name of its function; where a store has it with several settings, `-` and the first digits of
    its key are added.
    """
    folders = [store.run(config) for config in store.configs()]
    found = {folder.place: [task for task in folder.tasks().values() if task is not None] for folder in folders}
    settings: dict[str, dict[str, str]] = {}
    for task in chain.from_iterable(found.values()):
        settings.setdefault(task.measure.what, {}).setdefault(_setting(task), task.key[:6])
    records = []
    for folder in folders:
        named = []
        for task in found[folder.place]:
            what, several = task.measure.what, settings[task.measure.what]
            name = what if len(several) == 1 else f"{what}-{several[_setting(task)]}"
            named.append(Task.from_dict(task.to_dict(), name))
        records.append(read_record(folder, named))
    return records


def _setting(task: Task) -> str:
    """What a measurement asks for, whatever the part of the data."""
    return json.dumps({name: value for name, value in task.to_dict().items() if name != "part"}, sort_keys=True)


def export(records: Iterable[Record], path: str | Path) -> int:
    """Write one row for each run and part to a Parquet file, with curves as list columns; returns the number of rows.

    polars, pandas and DuckDB can read the file. Needs polars (`pip install "lerpscape[lab]"`).
    """
    polars = import_optional("polars", "lab")
    rows = []
    for record in records:
        parts = sorted({part for _, part in record.results}, reverse=True) or ["train"]  # train before held-out
        rows += [record.row(part) for part in parts]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    frame = polars.DataFrame({name: [row.get(name) for row in rows] for name in columns}, strict=False)
    with replacing(path) as draft:
        frame.write_parquet(draft)
    return len(rows)


def _column_value(value: Any) -> Any:
    """A value for a data frame, whose columns have one type each: lists and tables become JSON."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value
