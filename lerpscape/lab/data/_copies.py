"""The user's copies of official files, found below the data folder and compared with their checksums."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from lerpscape.base.errors import explain
from lerpscape.lab.data.catalogue import ENTRIES, TEXT_FILES, Layout

FOLDER_VARIABLE = "LERPSCAPE_DATA"
MAX_BYTES = 1 << 30  # larger than any official file; bounds what a small malicious .gz unpacks to


def data_folder(folder: str | Path | None = None) -> Path:
    """The folder of all data sets: `folder`, or that of the environment variable `LERPSCAPE_DATA`.

    Raises `FileNotFoundError` if neither is given, or if it is not a folder.

    >>> data_folder(".")
    PosixPath('.')
    """
    chosen = folder if folder is not None else os.environ.get(FOLDER_VARIABLE)
    if not chosen:
        raise FileNotFoundError(
            explain(
                expected=f"a folder of data sets, from folder=…, --data-dir or the variable {FOLDER_VARIABLE}.",
                got="none of them.",
                hint=f"export {FOLDER_VARIABLE}=~/data; `lerpscape data list` then shows what is missing there.",
            )
        )
    path = Path(chosen).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            explain(
                expected="a folder of data sets.",
                got=f"{path}, which is not a folder.",
                hint="Create it, or check the spelling.",
            )
        )
    return path


@dataclass(frozen=True)
class Copy:
    """One copy of a data set on disk; with `verify`, a file without its official checksum is refused."""

    name: str
    layout: Layout
    root: Path
    verify: bool = True

    @property
    def path(self) -> Path:
        """The folder with the files, below the data folder `root`."""
        return self.root / self.layout.folder

    def read(self, file: str, *, pickled: bool = False) -> bytes:
        """The uncompressed bytes of a file, after its checksum is verified.

        Raises `ValueError` for a damaged .gz file and for a wrong checksum. Without `verify` the checksum is ignored,
        except for a pickle, which can run code.
        """
        content = self._content(file)
        official = self.layout.files[file]
        if (self.verify or pickled) and checksum(content, official) != official:
            advice = (
                "Even verify=False does not read an unknown pickle."
                if pickled
                else "verify=False reads a copy that differs on purpose."
            )
            raise ValueError(
                explain(
                    expected=f"{self.path / file} to be the official file, {official}.",
                    got=f"{checksum(content, official)}, {len(content)} bytes.",
                    hint=f"Move it away. {how_to_get(self.name)} {advice}",
                )
            )
        return content

    def _content(self, file: str) -> bytes:
        if file == TEXT_FILES:
            return b"".join(f"{path.name}\n".encode() + path.read_bytes() for path in text_files(self.path))
        plain, packed = self.path / file, self.path / f"{file}.gz"
        if plain.is_file():
            return plain.read_bytes()
        try:
            with gzip.open(packed) as unpacked:
                content = unpacked.read(MAX_BYTES + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                explain(expected=f"{packed} to be a whole gzip file.", got=f"{error}.", hint=how_to_get(self.name))
            ) from error
        if len(content) > MAX_BYTES:
            raise ValueError(
                explain(
                    expected=f"{packed} to unpack to at most {MAX_BYTES} bytes.",
                    got="more bytes.",
                    hint=how_to_get(self.name),
                )
            )
        return content


def find_copy(name: str, folder: str | Path | None = None, verify: bool = True) -> Copy:
    """The copy of an official data set below the data folder, in the first complete layout.

    Raises `FileNotFoundError`, which lists the missing files and how to get them, if no layout is complete.
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
    return min(ENTRIES[name].layouts, key=lambda layout: len(missing_files(layout, root)) / len(layout.files))


def missing_files(layout: Layout, root: Path) -> list[str]:
    """The files of a layout that exist neither plain nor gzipped."""
    path = root / layout.folder

    def exists(file: str) -> bool:
        if file == TEXT_FILES:
            return bool(text_files(path))
        return (path / file).is_file() or (path / f"{file}.gz").is_file()

    return [file for file in layout.files if not exists(file)]


def text_files(folder: Path) -> list[Path]:
    """The .txt files of a folder, in sorted order."""
    return sorted(path for path in folder.glob(TEXT_FILES) if path.is_file())


def how_to_get(name: str) -> str:
    """Advice for an official data set that is missing or damaged."""
    entry = ENTRIES[name]
    if not entry.downloads:
        return f"Put the files into the folder {entry.layouts[0].folder} below the data folder."
    urls = ", ".join(download.url for download in entry.downloads)
    return f"Run `lerpscape data get {name}`, or without a network copy the files there from {urls}."


def checksum(content: bytes, like: str) -> str:
    """The checksum of `content`, by the algorithm of the checksum `like`.

    >>> checksum(b"", "md5:")
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}"
