"""Official files from where they are published, when asked for and only then."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.base.saving import import_optional
from lerpscape.lab.data.catalogue import ENTRIES, Download
from lerpscape.lab.data.copies import data_folder, find_copy, how_to_get, missing_files


def get(name: str, folder: str | Path | None = None, progress: bool | None = None) -> tuple[Path, bool]:
    """Download an official data set below the data folder; the folder it is in, and whether anything was downloaded.

    A copy that is there already and has the right checksums is not fetched again; a wrong one is never overwritten, it
    has to be moved away. Every download is held against its published checksum before it
    is unpacked. Needs pooch (`pip install "lerpscape[lab]"`) and a network.

    Raises `ConfigError` for a data set that is not published as a download, `OSError` where the network does not give
    it, `ValueError` for a download, or a file in its place, with another checksum.
    """
    published = [each for each, entry in ENTRIES.items() if entry.downloads]
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
    wanted = all(missing_files(layout, root) for layout in entry.layouts)
    for download in entry.downloads if wanted else ():
        _fetch(download, root / entry.into, name, progress)
    copy = find_copy(name, root)
    for file in copy.layout.files:
        copy.read(file)
    return copy.path, wanted


def _fetch(download: Download, target: Path, name: str, progress: bool | None) -> None:
    pooch = import_optional("pooch", "lab")
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
                explain(
                    expected=f"{download.url} to have the checksum {download.checksum}.",
                    got=f"{error}.",
                    hint=how_to_get(name),
                )
            ) from error
        except OSError as error:  # the errors of requests are among them
            raise OSError(
                explain(
                    expected=f"{download.url} to answer.", got=f"{error}.", hint=f"Try later, or: {how_to_get(name)}"
                )
            ) from error
        fetched = Path(workshop) / file
        if file.endswith(".zip"):
            shutil.unpack_archive(fetched, target)
        elif file.endswith(".tar.gz"):
            shutil.unpack_archive(fetched, target, filter="data")
        else:
            fetched.replace(target / file)
