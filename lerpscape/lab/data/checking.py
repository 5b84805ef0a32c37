"""The inventory of data sets on disk, and the check of a copy against the official counts and checksums."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lerpscape.base.errors import ConfigError
from lerpscape.base.names import unknown_name
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.lab.data import DATA_SETS
from lerpscape.lab.data._copies import (
    FOLDER_VARIABLE,
    Copy,
    checksum,
    closest_layout,
    data_folder,
    find_copy,
    how_to_get,
    missing_files,
)
from lerpscape.lab.data._images import channel_statistics
from lerpscape.lab.data.catalogue import ENTRIES, Entry
from lerpscape.lab.data.splits import DataSet

BUILT_IN = {
    "digits": ("handwritten digits, 8 × 8", "comes with scikit-learn"),
    "text": (
        "any folder of .txt files",
        'options: path = "folder below the data folder", split = "files" or "position"',
    ),
    "gaussian_blobs": ("two Gaussian classes with known Bayes error", "generated from a seed"),
    "teacher_classification": ("a linear teacher's classes", "generated from a seed"),
    "teacher_regression": ("a linear teacher's values, with noise", "generated from a seed"),
    "markov_chain": ("a language with known entropy", "generated from a seed"),
}


@dataclass(frozen=True)
class Presence:
    """Whether a data set is on disk: its folder, the missing files, and how to get them."""

    name: str
    title: str
    state: Literal["there", "incomplete", "missing", "built in"]
    where: str | None
    missing: tuple[str, ...]
    advice: str | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Finding:
    """One check: the expected value and the value found, as text; equal if the check passed."""

    data_set: str
    what: str
    expected: str
    found: str

    @property
    def good(self) -> bool:
        """Whether the check passed."""
        return self.expected == self.found

    def to_dict(self) -> dict[str, Any]:
        """The fields and `good`, as JSON types."""
        return {**asdict(self), "good": self.good}


def inventory(folder: str | Path | None = None) -> list[Presence]:
    """Whether and where each data set is on disk; without a data folder, all official files count as missing.

    >>> import tempfile
    >>> [data.state for data in inventory(tempfile.mkdtemp()) if data.name in ("mnist", "digits")]
    ['built in', 'missing']
    """
    root = data_folder(folder) if folder is not None or os.environ.get(FOLDER_VARIABLE) else None
    return [_presence(name, root) for name in DATA_SETS]


def check(name: str, folder: str | Path | None = None, progress: Progress = None) -> list[Finding]:
    """Compare a copy of an official data set with the official checksums, counts and pixel statistics.

    Raises `ConfigError` for a data set without official files, `FileNotFoundError` if there is no copy.
    """
    if name not in ENTRIES:
        raise ConfigError(unknown_name("a data set with official files", name, ENTRIES))
    copy = find_copy(name, folder, verify=False)
    findings = []
    with progress_bar(progress, len(copy.layout.files) + 1, f"checking {name}", unit="file") as count:
        for file, official in copy.layout.files.items():
            findings.append(Finding(name, f"checksum of {file}", official, _checksum(copy, file, official)))
            count(1)
        try:
            data = DATA_SETS[name](copy.root, verify=False)
        except ValueError as error:
            findings.append(Finding(name, "content", "readable", str(error).replace("\n", " ")))
        else:
            findings += [Finding(name, what, *values) for what, values in _content(data, ENTRIES[name]).items()]
        count(1)
    return findings


def _presence(name: str, root: Path | None) -> Presence:
    if name not in ENTRIES:
        title, advice = BUILT_IN[name]
        return Presence(name, title, "built in", None, (), advice)
    entry = ENTRIES[name]
    if root is None:
        return Presence(name, entry.title, "missing", None, tuple(entry.layouts[0].files), how_to_get(name))
    layout = closest_layout(name, root)
    missing = missing_files(layout, root)
    where = str(root / layout.folder)
    if not missing:
        return Presence(name, entry.title, "there", where, (), None)
    state: Literal["incomplete", "missing"] = "missing" if len(missing) == len(layout.files) else "incomplete"
    return Presence(name, entry.title, state, where, tuple(missing), how_to_get(name))


def _checksum(copy: Copy, file: str, official: str) -> str:
    try:
        return checksum(copy.read(file), official)
    except ValueError as error:  # a damaged .gz
        return str(error).splitlines()[1]


def _content(data: DataSet, entry: Entry) -> dict[str, tuple[str, str]]:
    """The expected value and the value found, as text, by the name of the check."""
    if data.task == "language":
        tokens = data.facts["tokens"]
        counts = {
            "tokens to train on": (entry.train, tokens["train"]),
            "tokens to test on": (entry.test, tokens["test"]),
            "tokens in the vocabulary": (entry.outputs, data.outputs),
        }
        return {what: (f"{expected:,}", f"{counted:,}") for what, (expected, counted) in counts.items()}
    checks = {
        "training images": (f"{entry.train:,}", f"{len(data.train):,}"),
        "test images": (f"{entry.test:,}", f"{len(data.test):,}"),
    }
    assert data.train.targets is not None
    per_class = tuple(data.train.targets.bincount(minlength=data.outputs).tolist())
    checks["training images of each class"] = (_counts(entry.per_class), _counts(per_class))
    if entry.mean and entry.std:
        mean, std = channel_statistics(data.train.inputs, data.train.max_pixel)
        checks["mean of training pixels"] = (_figures(entry.mean), _figures(mean.flatten().tolist()))
        checks["standard deviation"] = (_figures(entry.std), _figures(std.flatten().tolist()))
    return checks


def _counts(per_class: tuple[int, ...] | None) -> str:
    counts = per_class or ()
    return f"{len(counts)} × {counts[0]}" if len(set(counts)) == 1 else " ".join(map(str, counts))


def _figures(values: tuple[float, ...] | list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
