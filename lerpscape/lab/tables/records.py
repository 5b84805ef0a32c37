"""What a store holds about each run of a sweep, as one row; tables, figures and exports start here. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerpscape.base.saving import import_optional
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.lab.config import RunConfig
from lerpscape.lab.files import entries
from lerpscape.lab.store import RunFolder, State, Store
from lerpscape.lab.sweep import Sweep
from lerpscape.profiles.results import Profile


@dataclass(frozen=True)
class Record:
    """One run: its configuration, its state, and what was measured, by part ("train", "held-out").

    `epochs` were trained (fewer than asked for where training stopped early or diverged), `training_loss` is the mean
    loss of the last one as training saw it, None for runs that are not trained. `gauss` is None where it was not asked
    for, and where the outputs overflow.
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
        """Training loss of the trained network, L(1) of the measured line; None where there is none."""
        found = self.profiles.get("train")
        return None if found is None else float(found.loss[-1])

    def row(self, part: str) -> dict[str, Any]:
        """Configuration and readings of one part under plain names, for a data frame."""
        found: dict[str, Any] = {"run": self.config.name, "measure": self.config.measure_key, "part": part}
        found |= {name: _cell(value) for name, value in self.config.flat().items()}
        found |= {
            "state": self.state,
            "epochs": self.epochs,
            "training_loss": self.training_loss,
            "error": self.error or None,
        }
        profile = self.profiles.get(part)
        if profile is None:
            return found
        found |= {"examples": profile.examples, "unit": profile.unit, "invalid_points": len(profile.invalid)}
        found |= {"initial_loss": float(profile.loss[0]), "final_loss": float(profile.loss[-1])}
        if profile.accuracy is not None:
            found["final_accuracy"] = float(profile.accuracy[-1])
        if not profile.invalid:
            found |= profile.readings().values()
            found |= {"distance": profile.distance, "relative_distance": profile.relative_distance}
        if part == "train" and self.gauss is not None:
            found |= {"gauss_length": float(self.gauss.mean), "gauss_examples": len(self.gauss.per_example)}
        found |= {"alpha": profile.alphas.tolist(), "loss": profile.loss.tolist()}
        found["accuracy"] = None if profile.accuracy is None else profile.accuracy.tolist()
        return found


def records(sweep: Sweep, store: Store) -> list[Record]:
    """One record for each run of a sweep, in its order, whatever state it is in."""
    return [read_record(store.run(config)) for config in sweep.runs]


def read_record(folder: RunFolder) -> Record:
    """What a store holds about one run."""
    state = folder.state
    if state == "failed":
        return Record(folder.config, state, {}, error=str(folder.read_json("failed.json")["error"]))
    if state not in ("done", "diverged", "trained"):
        return Record(folder.config, state, {})
    epochs = folder.read_json("trained.json")["epochs"]
    loss = float(folder.read_json("history.json")[-1]["loss"])
    if state != "done":
        return Record(folder.config, state, {}, epochs=epochs, training_loss=loss)
    profiles = {}
    for part in ("train", "held-out"):
        if folder.exists(f"{folder.measured}/{part}.json"):
            profiles[part] = Profile.from_dict(folder.read_json(f"{folder.measured}/{part}.json"))
    gauss = None
    if folder.exists(f"{folder.measured}/gauss.json"):
        turning = folder.read_json(f"{folder.measured}/gauss.json")
        gauss = None if "undefined" in turning else GaussLength.from_dict(turning)
    return Record(folder.config, state, profiles, gauss, epochs, loss)


def stored(store: Store) -> list[Record]:
    """One record for each measurement of each run in a store, whichever sweep it came from."""
    found = []
    for name in store.names():
        run = store.root / "runs" / name
        if not (run / "config.json").exists():
            continue
        trained = json.loads((run / "config.json").read_bytes())
        measures: list[dict[str, Any]] = [
            json.loads((run / "measured" / key / "config.json").read_bytes()) for key in entries(run / "measured")
        ]
        for measure in measures or [{}]:
            found.append(read_record(store.run(RunConfig.from_dict({**trained, "measure": measure}))))
    return found


def export(found: Iterable[Record], path: str | Path) -> int:
    """Write one row for each run and part to a Parquet file, curves as list columns; gives the number of rows.

    polars, pandas and DuckDB read it. Needs polars (`pip install "lerpscape[lab]"`).
    """
    polars = import_optional("polars", "lab")
    rows = [record.row(part) for record in found for part in (record.profiles or ("train",))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    frame = polars.DataFrame({name: [row.get(name) for row in rows] for name in columns}, strict=False)
    frame.write_parquet(path)
    return len(rows)


def count_states(found: Iterable[Record]) -> Counter[State]:
    """How many records are in which state."""
    return Counter(record.state for record in found)


def _cell(value: Any) -> Any:
    """Values of a column have one type: lists and tables are written as JSON."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value
