"""The store: one folder per run, in which the data files are written first and a commit file last.

The layout::

    STORE/runs/<key>/<seed>/config.json          the training configuration
                            resume.safetensors   while training: the state after the last epoch
                            start, end, epoch-NNNN.safetensors, history.json
                            trained.json         commit: the outcome, and the SHA-256 of each of these files
                            measured/<key>/config.json, result.json, done.json: one folder for each measurement
                            failed.json          here or in a measurement: the error, until `sweep retry` removes it
                            seconds.json         durations: the only file that differs between two identical runs
    STORE/comparisons/<members>/<key>/config.json, result.json, done.json
    STORE/locks/, STORE/quarantine/
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lerpscape.base.errors import ConfigError, StoreConflict, explain, missing_file
from lerpscape.base.saving import write_file
from lerpscape.lab.config import RunConfig, key_of
from lerpscape.lab.measure_config import CompareConfig, Task

FORMAT = "lerpscape store 2"
URL = r"[a-z][a-z0-9+.-]+:/"
State: TypeAlias = Literal["done", "diverged", "failed", "damaged", "trained", "started", "pending"]
TRAINED, DONE, FAILED = "trained.json", "done.json", "failed.json"
# What every commit file lists; whether there are snapshots depends on the configuration.
LISTED = {
    TRAINED: {"config.json", "start.safetensors", "end.safetensors", "history.json"},
    DONE: {"config.json", "result.json"},
}


@dataclass(frozen=True)
class Folder:
    """Files of which a commit file, written last, lists the SHA-256; `place` is relative to the store, `root`."""

    root: Path
    place: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.root / self.place

    def inside(self, name: str) -> Folder:
        """A folder in this one."""
        return Folder(self.root, f"{self.place}/{name}")

    def exists(self, name: str) -> bool:
        """Whether there is this file."""
        return (self.path / name).exists()

    def read(self, name: str) -> bytes:
        """The bytes of one of the files."""
        return (self.path / name).read_bytes()

    def read_json(self, name: str) -> Any:
        """One of the JSON files."""
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> None:
        """Write one of the files atomically."""
        write_file(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the JSON files atomically."""
        self.write(name, (json.dumps(content, indent=1, allow_nan=False, sort_keys=True) + "\n").encode())

    def remove(self, name: str) -> None:
        """Remove one of the files, if it is there."""
        remove_file(self.path / name)

    def commit(self, name: str, files: Sequence[str], **facts: Any) -> None:
        """Write a commit file: it states that `files` are complete, with the SHA-256 of each."""
        digests = {file: hashlib.sha256(self.read(file)).hexdigest() for file in files}
        self.write_json(name, {"files": digests, **facts})

    def intact(self, name: str) -> bool:
        """Whether the commit file exists and every file that it lists still has its SHA-256."""
        return self.exists(name) and not self.damage(name)

    def damage(self, commit: str) -> str:
        """What differs from what was committed or recorded as failed, in words; "" if nothing does, or nothing was."""
        try:
            if self.exists(FAILED):
                self.error()
        except (ValueError, KeyError, TypeError):
            return f"{FAILED} cannot be read"
        if not self.exists(commit):
            return ""
        try:
            content = self.read_json(commit)
            digests = dict(content["files"])
            lacking = LISTED[commit] - digests.keys()
            if lacking or (commit == TRAINED and content["outcome"] not in ("finished", "diverged")):
                return f"{commit} is incomplete"
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return f"{commit} cannot be read"
        for file, digest in digests.items():
            if not self.exists(file) or hashlib.sha256(self.read(file)).hexdigest() != digest:
                return f"files listed in {commit} are missing or changed: {file}"
        return ""

    def error(self) -> str:
        """The error that was recorded here; "" if there was none."""
        if not self.exists(FAILED):
            return ""
        error = self.read_json(FAILED)["error"]
        if not isinstance(error, str):
            raise TypeError(f"{FAILED} without an error in words")
        return error

    def fail(self, error: str, traceback: str = "") -> None:
        """Record an error."""
        self.write_json(FAILED, {"error": error, "traceback": traceback})

    def quarantine(self, reason: str, then: str) -> None:
        """Move the folder to quarantine/, write the reason beside it, and print a message."""
        within = self.place.split("/", 1)[1]
        number = 1
        while (aside := self.root / "quarantine" / f"{within}-{number}").exists():
            number += 1
        move_file(self.path, aside)
        write_file(aside / "reason.txt", f"{reason}\n".encode())
        print(f"{self.place}: {reason}; moved to {aside}, {then}")  # noqa: T201


@dataclass(frozen=True)
class RunFolder(Folder):
    """The files of one run."""

    config: RunConfig

    def measurement(self, task: Task) -> Folder:
        """The folder of one measurement of this run."""
        return self.inside(task.folder)

    def damages(self, tasks: Sequence[Task] = ()) -> list[tuple[Folder, str]]:
        """The folders, of the run and of these measurements, that differ from what was committed, each with how.

        Reads every committed file.
        """
        damage = self.damage(TRAINED)
        if not damage and self.exists("config.json"):
            try:
                self.read_json("config.json")
            except ValueError:
                damage = "config.json cannot be read"
        if damage:
            return [(self, damage)]
        measured = [self.measurement(task) for task in tasks]
        return [(folder, damage) for folder in measured if (damage := folder.damage(DONE))]

    def state(self, tasks: Sequence[Task] = ()) -> State:
        """The state of the run and of these measurements, by their commit files.

        "damaged" if a committed file was changed, "trained" while measurements are missing; "failed" if training
        failed or, once the others are there, a measurement did.
        """
        return "damaged" if self.damages(tasks) else self.stage(tasks)

    def stage(self, tasks: Sequence[Task] = ()) -> State:
        """The state by the names of the files alone, for a folder that was compared with what was committed."""
        if self.exists(FAILED):
            return "failed"
        if not self.exists(TRAINED):
            return "started" if self.exists("resume.safetensors") else "pending"
        if self.outcome() == "diverged":
            return "diverged"
        measured = [self.measurement(task) for task in tasks]
        if not tasks or any(not folder.exists(DONE) and not folder.exists(FAILED) for folder in measured):
            return "trained"
        return "failed" if any(folder.exists(FAILED) for folder in measured) else "done"

    def outcome(self) -> str:
        """How training ended, "finished" or "diverged"; "" before, and where it failed or its commit is damaged."""
        try:
            return "" if self.exists(FAILED) else str(self.read_json(TRAINED)["outcome"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return ""

    def add_seconds(self, **seconds: float) -> None:
        """Add durations, by name, to those in seconds.json; an unreadable one is begun anew."""
        try:
            before = dict(self.read_json("seconds.json"))
        except (FileNotFoundError, ValueError, TypeError):
            before = {}
        total = {name: round(before.get(name, 0) + spent, 3) for name, spent in seconds.items()}
        self.write_json("seconds.json", before | total)

    def tasks(self) -> dict[str, Task | None]:
        """Every measurement that was begun, by its folder; None where its config.json cannot be read."""
        found: dict[str, Task | None] = {}
        for key in folder_entries(self.path / "measured"):
            place = f"measured/{key}"
            try:
                task = Task.from_dict(self.read_json(f"{place}/config.json"))
            except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
                found[place] = None
                continue
            found[place] = task if task.key == key else None
        return found


@dataclass(frozen=True)
class Comparison(Folder):
    """The files of one comparison of some runs of a store."""

    compare: CompareConfig
    members: tuple[RunConfig, ...]

    @property
    def label(self) -> str:
        """What is compared, for messages."""
        return f"{self.compare.name} of {', '.join(member.name for member in self.members)}"

    def state(self) -> State:
        """The state of the comparison, by its commit file."""
        if self.damage(DONE):
            return "damaged"
        return "done" if self.exists(DONE) else "failed" if self.exists(FAILED) else "pending"


class Store:
    """A folder of runs on a local or shared file system, used by any number of processes at once.

    Raises `StoreConflict` if the folder holds other files or a store of another format, and `ConfigError` for a URL.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.run(RunConfig()).state(), store.names()
    ('pending', [])
    """

    def __init__(self, folder: str | Path) -> None:
        if re.match(URL, str(folder), re.IGNORECASE):
            raise ConfigError(
                explain(
                    expected="a folder for the store.",
                    got=f"the URL {folder}; a store needs locks and atomic renames, which object storage lacks.",
                    hint="Use a folder on a local or shared file system.",
                )
            )
        self.root = Path(folder).absolute()
        if not (self.root / "store.json").exists():
            foreign = [name for name in folder_entries(self.root) if name != "locks" and not name.endswith(".draft")]
            if foreign:
                raise self._conflict(f"{len(foreign)} other files, such as {foreign[0]}")
            write_file(self.root / "store.json", (json.dumps({"format": FORMAT}) + "\n").encode())
            return
        try:
            stored_format = json.loads((self.root / "store.json").read_bytes())["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._conflict(f"a store.json that cannot be read ({error})") from error
        if stored_format != FORMAT:
            raise self._conflict(f"format {stored_format!r}")

    def _conflict(self, contents: str) -> StoreConflict:
        return StoreConflict(
            explain(
                expected=f"{self.root} to be an empty folder or a {FORMAT}.",
                got=f"{contents}.",
                hint="Choose another folder for --store.",
            )
        )

    def run(self, config: RunConfig) -> RunFolder:
        """The folder of a run.

        Raises `StoreConflict` if that folder was written for another configuration.
        """
        folder = RunFolder(self.root, f"runs/{config.name}", config)
        if folder.exists("config.json"):
            wanted = training_config(config)
            try:
                stored = folder.read_json("config.json")
            except ValueError:
                return folder  # damaged, and so is its state
            if stored != wanted:
                raise StoreConflict(
                    explain(
                        expected=f"{folder.path} to hold the run {json.dumps(wanted, sort_keys=True)}.",
                        got=f"{json.dumps(stored, sort_keys=True)}.",
                        hint="Move that folder away, or choose another folder for --store.",
                    )
                )
        return folder

    def names(self) -> list[str]:
        """The runs that have a folder, as key/seed."""
        runs = self.root / "runs"
        return [f"{key}/{seed}" for key in folder_entries(runs) for seed in folder_entries(runs / key)]

    def comparison(self, compare: CompareConfig, members: Sequence[RunConfig]) -> Comparison:
        """The folder of a comparison of these runs."""
        names = key_of({"runs": [member.name for member in members]})
        return Comparison(self.root, f"comparisons/{names}/{compare.key}", compare, tuple(members))

    def configs(self) -> list[RunConfig]:
        """The configuration of each run whose config.json can be read."""
        return [config for _, config in self._configurations() if config is not None]

    def unreadable(self) -> list[str]:
        """The folders below runs/ whose config.json cannot be read, or is not that of their name."""
        places = []
        for place, config in self._configurations():
            if config is None:
                places.append(place)
            else:
                places += [f"{place}/{folder}" for folder, task in self.run(config).tasks().items() if task is None]
        return places

    def _configurations(self) -> Iterator[tuple[str, RunConfig | None]]:
        """The folder below runs/ of each run, and its configuration; None where that is damaged."""
        for name in self.names():
            file = self.root / "runs" / name / "config.json"
            if not file.exists():
                continue
            try:
                config = RunConfig.from_dict(json.loads(file.read_bytes()))
            except (ValueError, TypeError, ConfigError):
                yield name, None
                continue
            yield name, config if config.name == name else None

    @classmethod
    def existing(cls, folder: str | Path) -> Store:
        """The store in a folder, for reading; unlike `Store`, creates none.

        Raises `FileNotFoundError` where there is no store, and what `Store` raises.
        """
        if not re.match(URL, str(folder), re.IGNORECASE) and not (Path(folder) / "store.json").exists():
            raise missing_file("a store, which `lerpscape sweep run` writes", folder)
        return cls(folder)

    @contextmanager
    def lock(self, folder: Folder, wait: bool = False) -> Iterator[bool]:
        """Lock a folder: yields True while this process holds the lock, False if another does and `wait` is false.

        The lock is released when its process ends, even by `kill -9`.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "locks" / f"{folder.place.replace('/', '-')}.lock")
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def training_config(config: RunConfig) -> Mapping[str, Any]:
    """A configuration as its folder states it, always with its seed."""
    return {"seed": 0, **config.to_dict()}


def remove_file(path: Path) -> None:
    """Remove a file, if it exists."""
    path.unlink(missing_ok=True)


def move_file(path: Path, to: Path) -> None:
    """Rename a file or folder."""
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, to)


def folder_entries(folder: Path) -> list[str]:
    """The names directly inside a folder, sorted; [] if there is no such folder."""
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
