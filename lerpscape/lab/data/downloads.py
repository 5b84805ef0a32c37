"""Official files from where they are published, when asked for and only then."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from lerpscape.errors import ConfigError, three_parts
from lerpscape.lab.data.catalogue import ENTRIES, Download
from lerpscape.lab.data.copies import data_folder, find_copy, how_to_get, missing_files
from lerpscape.saving import optional


def get(name: str, folder: str | Path | None = None, progress: bool | None = None) -> tuple[Path, bool]:
    """Download an official data set below the data folder; the folder it is in, and whether anything was downloaded.

    Files that are there already are not fetched again. Every download is held against its published checksum before it
    is unpacked. Needs pooch (`pip install "lerpscape[lab]"`) and a network.

    Raises `ConfigError` for a data set that is not published as a download, `OSError` where the network does not give
    it, `ValueError` for a download with another checksum.
    """
    if name not in ENTRIES or not ENTRIES[name].downloads:
        known = [each for each, entry in ENTRIES.items() if entry.downloads]
        advice = how_to_get(name) if name in ENTRIES else "Choose one of them; `lerpscape data list` shows the others."
        raise ConfigError(three_parts(f"a data set to download: {', '.join(known)}.", f"{name!r}.", advice))
    if folder is not None:
        Path(folder).expanduser().mkdir(parents=True, exist_ok=True)
    root = data_folder(folder)
    entry = ENTRIES[name]
    if all(missing_files(layout, root) for layout in entry.layouts):
        for download in entry.downloads:
            _fetch(download, root / entry.into, name, progress)
        return find_copy(name, root).path, True
    return find_copy(name, root).path, False


def _fetch(download: Download, target: Path, name: str, progress: bool | None) -> None:
    pooch = optional("pooch", "lab")
    file = download.url.rpartition("/")[2]
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".download-") as workshop:
        try:
            pooch.retrieve(
                download.url,
                download.checksum,
                fname=file,
                path=workshop,
                progressbar=sys.stderr.isatty() if progress is None else progress,
            )
        except ValueError as error:  # pooch compares checksums
            raise ValueError(
                three_parts(f"{download.url} to have the checksum {download.checksum}.", f"{error}.", how_to_get(name))
            ) from error
        except OSError as error:  # the errors of requests are among them
            raise OSError(
                three_parts(f"{download.url} to answer.", f"{error}.", f"Try later, or: {how_to_get(name)}")
            ) from error
        fetched = Path(workshop) / file
        if file.endswith(".zip"):
            shutil.unpack_archive(fetched, target)
        elif file.endswith(".tar.gz"):
            shutil.unpack_archive(fetched, target, filter="data")
        else:
            fetched.replace(target / file)
