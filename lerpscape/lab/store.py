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
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lerpscape.base.errors import ConfigError, StoreConflict, explain
from lerpscape.lab import files
from lerpscape.lab.config import RunConfig

FORMAT = "lerpscape store 1"
State: TypeAlias = Literal["done", "diverged", "failed", "trained", "started", "pending"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run in the store whose folder is `root`."""

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
        """Write one of the run's files, whole."""
        files.write(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the run's JSON files, whole."""
        self.write(name, (json.dumps(content, indent=1, allow_nan=False, sort_keys=True) + "\n").encode())

    def remove(self, name: str) -> None:
        """Remove one of the run's files, if it is there."""
        files.remove(self.path / name)

    def commit(self, name: str, written: list[str], **facts: Any) -> None:
        """Write the file that says that these files are complete, with their SHA-256."""
        digests = {each: hashlib.sha256(self.read(each)).hexdigest() for each in written}
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
        number = 1
        while (aside := self.root / "quarantine" / f"{self.config.name}-{number}").exists():
            number += 1
        files.move(self.path, aside)
        files.write(aside / "reason.txt", f"{reason}\n".encode())
        said(f"runs/{self.config.name}: {reason}; moved to {aside}, the run starts again")


class Store:
    """A folder of runs on a local or shared file system, used by any number of processes at once.

    Raises `StoreConflict` where the folder holds something that is no store, or one of another format, and
    `ConfigError` for a URL.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.run(RunConfig()).state, store.names()
    ('pending', [])
    """

    def __init__(self, place: str | Path) -> None:
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(place), re.IGNORECASE):
            raise ConfigError(
                explain(
                    expected="a folder for the store.",
                    got=f"the URL {place}; a store needs locks and atomic renames, which object storage lacks.",
                    hint="Use a folder on a local or shared file system.",
                )
            )
        self.place = str(place)
        self.root = Path(place).absolute()
        if not (self.root / "store.json").exists():
            foreign = [name for name in files.entries(self.root) if name != "locks" and not name.endswith(".draft")]
            if foreign:
                raise self._conflict(f"{len(foreign)} other files, such as {foreign[0]}")
            files.write(self.root / "store.json", (json.dumps({"format": FORMAT}) + "\n").encode())
            return
        try:
            found = json.loads((self.root / "store.json").read_bytes())["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._conflict(f"a store.json that cannot be read ({error})") from error
        if found != FORMAT:
            raise self._conflict(f"format {found!r}")

    def _conflict(self, found: str) -> StoreConflict:
        return StoreConflict(
            explain(
                expected=f"{self.place} to be an empty folder or a {FORMAT}.",
                got=f"{found}.",
                hint="Choose another --store.",
            )
        )

    def run(self, config: RunConfig) -> RunFolder:
        """The folder of a run.

        Raises `StoreConflict` where it was written for another configuration.
        """
        folder = RunFolder(self.root, config)
        if folder.exists("config.json"):
            wanted = trained_part(config)
            try:
                found = folder.read_json("config.json")
            except ValueError:
                found = None
            if found != wanted:
                raise StoreConflict(
                    explain(
                        expected=f"{folder.path} to hold the run {json.dumps(wanted, sort_keys=True)}.",
                        got=f"{json.dumps(found, sort_keys=True)}.",
                        hint="Move that folder away, or use another --store.",
                    )
                )
        return folder

    def names(self) -> list[str]:
        """The runs that have a folder, as key/seed."""
        runs = self.root / "runs"
        return [f"{key}/{seed}" for key in files.entries(runs) for seed in files.entries(runs / key)]

    @contextmanager
    def lock(self, config: RunConfig, wait: bool = False) -> Iterator[bool]:
        """Hold a run: True while it is ours, False where another process has it and we do not wait.

        The lock falls with its process, also by `kill -9`.
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


def trained_part(config: RunConfig) -> Mapping[str, Any]:
    """What of a configuration decides the trained network, its seed too."""
    table = config.to_dict()
    table.pop("measure", None)
    return {"seed": 0, **table}
