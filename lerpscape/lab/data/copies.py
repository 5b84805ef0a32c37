"""The user's copies of official files: found below the data folder, read whole, held against their checksums."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from lerpscape.base.errors import explain
from lerpscape.lab.data.catalogue import ENTRIES, TEXT_FILES, Layout

VARIABLE = "LERPSCAPE_DATA"
LARGEST = 1 << 30  # bytes; no official file is as large, and a small .gz may unpack to anything


def data_folder(folder: str | Path | None = None) -> Path:
    """The folder that data sets lie below: the one given, or that of `LERPSCAPE_DATA`.

    Raises `FileNotFoundError` where neither is given, or it is no folder.

    >>> data_folder(".")
    PosixPath('.')
    """
    named = folder if folder is not None else os.environ.get(VARIABLE)
    if not named:
        raise FileNotFoundError(
            explain(
                expected=f"a folder of data sets: folder=…, --data-dir, or the variable {VARIABLE}.",
                got="none of them.",
                hint=f"export {VARIABLE}=~/data, then `lerpscape data list` says what is missing there.",
            )
        )
    path = Path(named).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            explain(
                expected="a folder of data sets.",
                got=f"{path}, which is no folder.",
                hint="Create it, or check the spelling.",
            )
        )
    return path


@dataclass(frozen=True)
class Copy:
    """One copy of a data set on disk; `verify` refuses files with another checksum than the official one's."""

    name: str
    layout: Layout
    root: Path
    verify: bool = True

    @property
    def path(self) -> Path:
        """The folder with the files, below the data folder `root`."""
        return self.root / self.layout.folder

    def read(self, file: str, *, pickled: bool = False) -> bytes:
        """The bytes of a file, plain or gunzipped, once they have the right checksum.

        Raises `ValueError` for a damaged .gz file and for a wrong checksum, unless told not to `verify`; a pickle,
        which can run code, is verified in any case.
        """
        content = self._content(file)
        official = self.layout.files[file]
        if (self.verify or pickled) and checksum(content, official) != official:
            own = (
                "verify=False reads no unknown pickle."
                if pickled
                else "For a copy that differs on purpose: verify=False."
            )
            raise ValueError(
                explain(
                    expected=f"{self.path / file} to be the official file, {official}.",
                    got=f"{checksum(content, official)}, {len(content)} bytes.",
                    hint=f"Move it away. {how_to_get(self.name)} {own}",
                )
            )
        return content

    def _content(self, file: str) -> bytes:
        if file == TEXT_FILES:
            return b"".join(f"{each.name}\n".encode() + each.read_bytes() for each in text_files(self.path))
        plain, packed = self.path / file, self.path / f"{file}.gz"
        if plain.is_file():
            return plain.read_bytes()
        try:
            with gzip.open(packed) as unpacked:
                content = unpacked.read(LARGEST + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                explain(expected=f"{packed} to be a whole gzip file.", got=f"{error}.", hint=how_to_get(self.name))
            ) from error
        if len(content) > LARGEST:
            raise ValueError(
                explain(
                    expected=f"{packed} to unpack to at most {LARGEST} bytes.", got="more.", hint=how_to_get(self.name)
                )
            )
        return content


def find_copy(name: str, folder: str | Path | None = None, verify: bool = True) -> Copy:
    """The copy of an official data set below the data folder, in the first layout of which every file is there.

    Raises `FileNotFoundError` that says what is missing and how to get it.
    """
    root = data_folder(folder)
    layout = closest_layout(name, root)
    missing = missing_files(layout, root)
    if not missing:
        return Copy(name, layout, root, verify)
    raise FileNotFoundError(
        explain(
            expected=" or ".join(f"{', '.join(each.files)} in {root / each.folder}" for each in ENTRIES[name].layouts)
            + ".",
            got=f"no {', '.join(missing)} in {root / layout.folder}.",
            hint=how_to_get(name),
        )
    )


def closest_layout(name: str, root: Path) -> Layout:
    """The first layout with the smallest share of files missing."""
    return min(ENTRIES[name].layouts, key=lambda each: len(missing_files(each, root)) / len(each.files))


def missing_files(layout: Layout, root: Path) -> list[str]:
    """The files of a layout that are there neither plain nor as .gz."""
    path = root / layout.folder

    def there(file: str) -> bool:
        if file == TEXT_FILES:
            return bool(text_files(path))
        return (path / file).is_file() or (path / f"{file}.gz").is_file()

    return [file for file in layout.files if not there(file)]


def text_files(folder: Path) -> list[Path]:
    """The .txt files of a folder, in sorted order."""
    return sorted(each for each in folder.glob(TEXT_FILES) if each.is_file())


def how_to_get(name: str) -> str:
    """What to do where an official data set is missing or damaged."""
    entry = ENTRIES[name]
    if not entry.downloads:
        return f"Put the files into {entry.layouts[0].folder} below the data folder."
    urls = ", ".join(each.url for each in entry.downloads)
    return f"`lerpscape data get {name}` where there is a network, or put it there yourself from {urls}."


def checksum(content: bytes, like: str) -> str:
    """The checksum of some bytes by the algorithm that another one names.

    >>> checksum(b"", "md5:")
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}"
