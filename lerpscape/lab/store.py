"""The store: one folder per run, in which the data files are written first and a commit file last.

The layout::

    STORE/runs/<key>/<seed>/config.json          the training configuration
                            resume.safetensors   while training: the state after the last epoch
                            start, end, epoch-NNNN.safetensors, history.json
                            trained.json         commit: the outcome, and the SHA-256 of each of these files
                            measured/<measure key>/config.json, train.json, held-out.json, gauss.json, done.json
                            failed.json          the error, until `sweep retry` removes it
                            seconds.json         durations: the only file that differs between two identical runs
    STORE/locks/, STORE/quarantine/
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lerpscape.base.errors import ConfigError, StoreConflict, explain, missing_file
from lerpscape.base.saving import write_file
from lerpscape.lab.config import RunConfig

FORMAT = "lerpscape store 1"
URL = r"[a-z][a-z0-9+.-]+:/"
State: TypeAlias = Literal["done", "diverged", "failed", "damaged", "trained", "started", "pending"]
# What every commit file lists; the files of snapshots, held-out data and Gauss lengths depend on the configuration.
TRAINED_FILES = {"config.json", "start.safetensors", "end.safetensors", "history.json"}


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, in the store whose folder is `root`."""

    root: Path
    config: RunConfig

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.root / "runs" / self.config.name

    @property
    def measured(self) -> str:
        """The folder of this measurement, relative to the run."""
        return f"measured/{self.config.measure_key}"

    def exists(self, name: str) -> bool:
        """Whether the run has this file."""
        return (self.path / name).exists()

    def read(self, name: str) -> bytes:
        """The bytes of one of the run's files."""
        return (self.path / name).read_bytes()

    def read_json(self, name: str) -> Any:
        """One of the run's JSON files."""
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> None:
        """Write one of the run's files atomically."""
        write_file(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the run's JSON files atomically."""
        self.write(name, (json.dumps(content, indent=1, allow_nan=False, sort_keys=True) + "\n").encode())

    def remove(self, name: str) -> None:
        """Remove one of the run's files, if it is there."""
        remove_file(self.path / name)

    def commit(self, name: str, files: list[str], **facts: Any) -> None:
        """Write a commit file: it states that `files` are complete, with the SHA-256 of each."""
        digests = {file: hashlib.sha256(self.read(file)).hexdigest() for file in files}
        self.write_json(name, {"files": digests, **facts})

    def intact(self, name: str) -> bool:
        """Whether the commit file exists and every file that it lists still has its SHA-256."""
        return self.exists(name) and not self._damage(name)

    def damage(self) -> str:
        """What differs from what was committed, in words; "" if nothing does. Reads every committed file."""
        commits = ("failed.json", "config.json", "trained.json", f"{self.measured}/done.json")
        return next((found for name in commits if self.exists(name) and (found := self._damage(name))), "")

    def _damage(self, name: str) -> str:
        try:
            content = self.read_json(name)
            if name == "failed.json":
                return "" if isinstance(content["error"], str) else "failed.json cannot be read"
            if name == "config.json":
                return ""
            digests = dict(content["files"])
            measured = {f"{self.measured}/{part}.json" for part in ("config", "train")}
            lacking = (TRAINED_FILES if name == "trained.json" else measured) - digests.keys()
            if lacking or (name == "trained.json" and content["outcome"] not in ("finished", "diverged")):
                return f"{name} is incomplete"
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return f"{name} cannot be read"
        for file, digest in digests.items():
            if not self.exists(file) or hashlib.sha256(self.read(file)).hexdigest() != digest:
                return f"files listed in {name} are missing or changed: {file}"
        return ""

    @property
    def state(self) -> State:
        """The state of the run, from its commit files; "damaged" if one of the files that they list was changed."""
        if self.damage():
            return "damaged"
        if self.exists("failed.json"):
            return "failed"
        if self.exists("trained.json"):
            if self.read_json("trained.json")["outcome"] == "diverged":
                return "diverged"
            return "done" if self.exists(f"{self.measured}/done.json") else "trained"
        return "started" if self.exists("resume.safetensors") else "pending"

    def add_seconds(self, **seconds: float) -> None:
        """Add durations, by name, to those in seconds.json; an unreadable one is begun anew."""
        try:
            before = dict(self.read_json("seconds.json"))
        except (FileNotFoundError, ValueError, TypeError):
            before = {}
        total = {name: round(before.get(name, 0) + spent, 3) for name, spent in seconds.items()}
        self.write_json("seconds.json", before | total)

    def quarantine(self, reason: str) -> None:
        """Move the run's folder to quarantine/, write the reason beside it, and print a message."""
        number = 1
        while (aside := self.root / "quarantine" / f"{self.config.name}-{number}").exists():
            number += 1
        move_file(self.path, aside)
        write_file(aside / "reason.txt", f"{reason}\n".encode())
        print(f"runs/{self.config.name}: {reason}; moved to {aside}, the run starts again")  # noqa: T201


class Store:
    """A folder of runs on a local or shared file system, used by any number of processes at once.

    Raises `StoreConflict` if the folder holds other files or a store of another format, and `ConfigError` for a URL.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.run(RunConfig()).state, store.names()
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
        folder = RunFolder(self.root, config)
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

    def configs(self) -> list[RunConfig]:
        """One configuration for each measurement of each run; for a run without any, the default measurement."""
        return [config for _, config in self._configurations() if config is not None]

    def unreadable(self) -> list[str]:
        """The folders below runs/ whose config.json cannot be read, or is not that of their name."""
        return [place for place, config in self._configurations() if config is None]

    def _configurations(self) -> Iterator[tuple[str, RunConfig | None]]:
        """The folder below runs/ of each measurement, and its configuration; None where that is damaged."""
        for name in self.names():
            run = self.root / "runs" / name
            if not (run / "config.json").exists():
                continue
            for key in folder_entries(run / "measured") or [""]:
                place = f"{name}/measured/{key}" if key else name
                try:
                    trained = json.loads((run / "config.json").read_bytes())
                    measure = json.loads((run / "measured" / key / "config.json").read_bytes()) if key else {}
                    config = RunConfig.from_dict({**trained, "measure": measure})
                except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, ConfigError):
                    yield place, None
                    continue
                right = config.name == name and key in ("", config.measure_key)
                yield place, config if right else None

    @classmethod
    def existing(cls, folder: str | Path) -> Store:
        """The store in a folder, for reading; unlike `Store`, creates none.

        Raises `FileNotFoundError` where there is no store, and what `Store` raises.
        """
        if not re.match(URL, str(folder), re.IGNORECASE) and not (Path(folder) / "store.json").exists():
            raise missing_file("a store, which `lerpscape sweep run` writes", folder)
        return cls(folder)

    @contextmanager
    def lock(self, config: RunConfig, wait: bool = False) -> Iterator[bool]:
        """Lock a run: yields True while this process holds the lock, False if another does and `wait` is false.

        The lock is released when its process ends, even by `kill -9`.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "locks" / f"{config.key}-{config.seed}.lock")
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
    """The part of a configuration that determines the trained network, including its seed."""
    table = config.to_dict()
    table.pop("measure", None)
    return {"seed": 0, **table}


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
