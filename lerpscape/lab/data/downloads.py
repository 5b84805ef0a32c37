"""Downloads of official files; the only module that uses the network, and only when `get` is called."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.base.saving import import_optional
from lerpscape.lab.data._copies import data_folder, find_copy, how_to_get, missing_files
from lerpscape.lab.data.catalogue import ENTRIES, Download


def get(name: str, folder: str | Path | None = None, progress: bool | None = None) -> tuple[Path, bool]:
    """Download an official data set below the data folder; returns its folder and whether anything was downloaded.

    An existing copy with the right checksums is not downloaded again; one with wrong checksums is never overwritten and
    must be moved away. Every download is compared with its published checksum before it is unpacked. Needs pooch (`pip
    install "lerpscape[lab]"`) and a network.

    Raises `ConfigError` for a data set that has no download, `OSError` if the network fails, and `ValueError` for a
    download or an existing file with a wrong checksum.
    """
    published = [key for key, entry in ENTRIES.items() if entry.downloads]
    if name in ENTRIES and name not in published:
        raise ConfigError(
            explain(
                expected=f"a data set to download: one of {', '.join(published)}.",
                got=f"{name!r}.",
                hint=how_to_get(name),
            )
        )
    if name not in published:
        raise ConfigError(unknown_name("a data set to download", name, published))
    if folder is not None:
        Path(folder).expanduser().mkdir(parents=True, exist_ok=True)
    root = data_folder(folder)
    entry = ENTRIES[name]
    absent = all(missing_files(layout, root) for layout in entry.layouts)
    for download in entry.downloads if absent else ():
        _fetch(download, root / entry.into, name, progress)
    copy = find_copy(name, root)
    for file in copy.layout.files:
        copy.read(file)
    return copy.path, absent


def _fetch(download: Download, target: Path, name: str, progress: bool | None) -> None:
    pooch = import_optional("pooch", "lab")
    file = download.url.rpartition("/")[2]
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".download-") as scratch:
        try:
            pooch.retrieve(
                download.url,
                download.checksum,
                fname=file,
                path=scratch,
                progressbar=sys.stderr.isatty() if progress is None else progress,
            )
        except ValueError as error:  # pooch compares checksums
            raise ValueError(
                explain(
                    expected=f"{download.url} to have the checksum {download.checksum}.",
                    got=f"{error}.",
                    hint=how_to_get(name),
                )
            ) from error
        except OSError as error:  # includes the errors of requests
            raise OSError(
                explain(
                    expected=f"{download.url} to answer the request.",
                    got=f"{error}.",
                    hint=f"Try later, or: {how_to_get(name)}",
                )
            ) from error
        downloaded = Path(scratch) / file
        if file.endswith(".zip"):
            shutil.unpack_archive(downloaded, target)
        elif file.endswith(".tar.gz"):
            shutil.unpack_archive(downloaded, target, filter="data")
        else:
            downloaded.replace(target / file)
