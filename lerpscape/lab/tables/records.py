"""Records: what a store holds about each run, the input of tables, figures and exports. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerpscape.base.saving import import_optional, replacing
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.lab.config import RunConfig
from lerpscape.lab.store import RunFolder, State, Store
from lerpscape.lab.sweep import Sweep
from lerpscape.profiles.results import Profile


@dataclass(frozen=True)
class Record:
    """One run: its configuration, its state, and its profiles by part of the data ("train", "held-out").

    `epochs` is the number of epochs trained (fewer than configured if training stopped early or diverged) and
    `training_loss` the mean training loss of the last one, both None for untrained runs. `gauss` is None if it was not
    measured, or if the outputs overflow.
    """

    config: RunConfig
    state: State
    profiles: dict[str, Profile]
    gauss: GaussLength | None = None
    epochs: int | None = None
    training_loss: float | None = None
    error: str = ""

    @property
    def final_loss(self) -> float | None:
        """Training loss of the trained network, L(1) on the measured line; None if it was not measured."""
        profile = self.profiles.get("train")
        return None if profile is None else float(profile.loss[-1])

    def row(self, part: str) -> dict[str, Any]:
        """Configuration and readings of one part by column name, as one row of a data frame."""
        row: dict[str, Any] = {"run": self.config.name, "measure": self.config.measure_key, "part": part}
        row |= {name: _column_value(value) for name, value in self.config.flat().items()}
        row |= {
            "state": self.state,
            "epochs": self.epochs,
            "training_loss": self.training_loss,
            "error": self.error or None,
        }
        profile = self.profiles.get(part)
        if profile is None:
            return row
        row |= {"examples": profile.examples, "unit": profile.unit, "invalid_points": len(profile.invalid)}
        row |= {"initial_loss": float(profile.loss[0]), "final_loss": float(profile.loss[-1])}
        if profile.accuracy is not None:
            row["final_accuracy"] = float(profile.accuracy[-1])
        if not profile.invalid:
            row |= profile.readings().values()
            row |= {"distance": profile.distance, "relative_distance": profile.relative_distance}
        if part == "train" and self.gauss is not None:
            row |= {"gauss_length": float(self.gauss.mean), "gauss_examples": len(self.gauss.per_example)}
        row |= {"alpha": profile.alphas.tolist(), "loss": profile.loss.tolist()}
        row["accuracy"] = None if profile.accuracy is None else profile.accuracy.tolist()
        return row


def sweep_records(sweep: Sweep, store: Store) -> list[Record]:
    """One record for each run of a sweep, in the sweep's order, finished or not."""
    return [read_record(store.run(config)) for config in sweep.runs]


def read_record(folder: RunFolder) -> Record:
    """The record of one run."""
    state = folder.state
    if state == "damaged":
        return Record(folder.config, state, {}, error=folder.damage())
    if state == "failed":
        return Record(folder.config, state, {}, error=str(folder.read_json("failed.json")["error"]))
    if state not in ("done", "diverged", "trained"):
        return Record(folder.config, state, {})
    epochs = folder.read_json("trained.json")["epochs"]
    loss = float(folder.read_json("history.json")[-1]["loss"])
    if state != "done":
        return Record(folder.config, state, {}, epochs=epochs, training_loss=loss)
    profiles = {}
    committed = folder.read_json(f"{folder.measured}/done.json")["files"]
    for part in ("train", "held-out"):
        if f"{folder.measured}/{part}.json" in committed:
            profiles[part] = Profile.from_dict(folder.read_json(f"{folder.measured}/{part}.json"))
    gauss = None
    if f"{folder.measured}/gauss.json" in committed:
        turning = folder.read_json(f"{folder.measured}/gauss.json")
        gauss = None if "undefined" in turning else GaussLength.from_dict(turning)
    return Record(folder.config, state, profiles, gauss, epochs, loss)


def store_records(store: Store) -> list[Record]:
    """One record for each measurement of each run in a store, from whichever sweep; see also `Store.unreadable`."""
    return [read_record(store.run(config)) for config in store.configs()]


def export(records: Iterable[Record], path: str | Path) -> int:
    """Write one row for each run and part to a Parquet file, with curves as list columns; returns the number of rows.

    polars, pandas and DuckDB can read the file. Needs polars (`pip install "lerpscape[lab]"`).
    """
    polars = import_optional("polars", "lab")
    rows = [record.row(part) for record in records for part in (record.profiles or ("train",))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    frame = polars.DataFrame({name: [row.get(name) for row in rows] for name in columns}, strict=False)
    with replacing(path) as draft:
        frame.write_parquet(draft)
    return len(rows)


def _column_value(value: Any) -> Any:
    """A value for a data frame, whose columns have one type each: lists and tables become JSON."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value
