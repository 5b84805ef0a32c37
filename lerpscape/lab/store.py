"""Where runs live: one folder per run, weights and profiles first, a commit file last.

The layout::

    STORE/runs/<key>/<seed>/config.json          what is trained
                            resume.safetensors   while it trains: everything needed to go on
                            start, end, epoch-NNNN.safetensors, history.json
                            trained.json         commit: outcome, and the SHA-256 of each of these files
                            measured/<measure key>/config.json, train.json, held-out.json, gauss.json, done.json
                            failed.json          what went wrong, until `sweep retry`
                            seconds.json         times: the only file that differs between two identical runs
    STORE/locks/, STORE/quarantine/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lerpscape.errors import StoreConflict, three_parts
from lerpscape.lab.config import RunConfig
from lerpscape.lab.folders import Folder

FORMAT = "lerpscape store 1"
State: TypeAlias = Literal["done", "diverged", "failed", "trained", "started", "pending"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    folder: Folder
    config: RunConfig

    @property
    def base(self) -> str:
        """The run's folder inside the store."""
        return f"runs/{self.config.name}"

    @property
    def measured(self) -> str:
        """The folder of this measurement, relative to the run."""
        return f"measured/{self.config.measure_key}"

    def exists(self, name: str) -> bool:
        """Whether the run has this file."""
        return self.folder.exists(f"{self.base}/{name}")

    def read(self, name: str) -> bytes:
        """The bytes of one of the run's files."""
        return self.folder.read(f"{self.base}/{name}")

    def read_json(self, name: str) -> Any:
        """One of the run's JSON files."""
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> None:
        """Write one of the run's files, whole."""
        self.folder.write(f"{self.base}/{name}", content)

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the run's JSON files, whole."""
        self.write(name, (json.dumps(content, indent=1, allow_nan=False, sort_keys=True) + "\n").encode())

    def remove(self, name: str) -> None:
        """Remove one of the run's files, if it is there."""
        self.folder.remove(f"{self.base}/{name}")

    def commit(self, name: str, files: list[str], **facts: Any) -> None:
        """Write the file that says that these files are complete, with their SHA-256."""
        digests = {each: hashlib.sha256(self.read(each)).hexdigest() for each in files}
        self.write_json(name, {"files": digests, **facts})

    def intact(self, name: str) -> bool:
        """Whether a commit file is there and every file that it names still has its SHA-256."""
        if not self.exists(name):
            return False
        try:
            digests = self.read_json(name)["files"]
            return all(hashlib.sha256(self.read(each)).hexdigest() == found for each, found in digests.items())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    @property
    def state(self) -> State:
        """What the commit files say."""
        if self.exists("failed.json"):
            return "failed"
        if self.exists("trained.json"):
            if self.read_json("trained.json")["outcome"] == "diverged":
                return "diverged"
            return "done" if self.exists(f"{self.measured}/done.json") else "trained"
        return "started" if self.exists("resume.safetensors") else "pending"

    def add_seconds(self, **seconds: float) -> None:
        """Note how long something took, beside what was noted before."""
        before = self.read_json("seconds.json") if self.exists("seconds.json") else {}
        total = {name: round(before.get(name, 0) + spent, 3) for name, spent in seconds.items()}
        self.write_json("seconds.json", before | total)

    def quarantine(self, reason: str, said: Any = print) -> None:
        """Move the run's folder aside, keep the reason beside it, and say so."""
        aside = f"quarantine/{self.config.name}"
        number = 1
        while self.folder.exists(f"{aside}-{number}"):
            number += 1
        self.folder.move(self.base, f"{aside}-{number}")
        self.folder.write(f"{aside}-{number}/reason.txt", f"{reason}\n".encode())
        said(f"{self.base}: {reason}; moved to {self.folder.path(f'{aside}-{number}')}, the run starts again")


class Store:
    """A folder of runs, shared by any number of processes; `place` is a path or an fsspec URL.

    Raises `StoreConflict` where the place holds something that is no store, or one of another format.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.run(RunConfig()).state, store.names()
    ('pending', [])
    """

    def __init__(self, place: str | Path) -> None:
        self.folder = Folder(place)
        self.place = str(place)
        if not self.folder.exists("store.json"):
            foreign = [name for name in self.folder.entries() if name != "locks" and not name.endswith(".draft")]
            if foreign:
                raise self._conflict(f"{len(foreign)} other files, such as {foreign[0]}")
            self._mark()
            return
        try:
            found = json.loads(self.folder.read("store.json"))["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._conflict(f"a store.json that cannot be read ({error})") from error
        if found != FORMAT:
            raise self._conflict(f"format {found!r}")

    def _mark(self) -> None:
        self.folder.write("store.json", (json.dumps({"format": FORMAT}) + "\n").encode())

    def _conflict(self, found: str) -> StoreConflict:
        return StoreConflict(
            three_parts(f"{self.place} to be an empty folder or a {FORMAT}.", f"{found}.", "Choose another --store.")
        )

    def run(self, config: RunConfig) -> RunFolder:
        """The folder of a run.

        Raises `StoreConflict` where it was written for another configuration.
        """
        folder = RunFolder(self.folder, config)
        if folder.exists("config.json"):
            wanted = trained_part(config)
            try:
                found = folder.read_json("config.json")
            except ValueError:
                found = None
            if found != wanted:
                raise StoreConflict(
                    three_parts(
                        f"{self.folder.path(folder.base)} to hold the run {json.dumps(wanted, sort_keys=True)}.",
                        f"{json.dumps(found, sort_keys=True)}.",
                        "Move that folder away, or use another --store.",
                    )
                )
        return folder

    def names(self) -> list[str]:
        """The runs that have a folder, as key/seed."""
        return [f"{key}/{seed}" for key in self.folder.entries("runs") for seed in self.folder.entries(f"runs/{key}")]

    @contextmanager
    def lock(self, config: RunConfig, wait: bool = False) -> Iterator[bool]:
        """Hold a run: True while it is ours, False where another process has it and we do not wait.

        The lock falls with its process, also by `kill -9`. Stores on object storage have none: there one sweep at a
        time may write, which its workers share by being given different runs.
        """
        if not self.folder.local:
            yield True
            return
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder.path(f"locks/{config.key}-{config.seed}.lock"))
        Path(self.folder.path("locks")).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def trained_part(config: RunConfig) -> Mapping[str, Any]:
    """What of a configuration decides the trained network, its seed too."""
    table = config.to_dict()
    table.pop("measure", None)
    return {"seed": 0, **table}
