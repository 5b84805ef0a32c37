"""Files of a store: each is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from lerpscape.base.errors import explain


def write(path: Path, content: bytes) -> None:
    """Put a file in place, whole: a draft beside it is renamed.

    Raises `OSError` in three parts where it cannot be written; the draft is removed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write(folder / "runs" / "a.json", b"{}")
    >>> entries(folder / "runs"), entries(folder / "nowhere")
    (['a.json'], [])
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            explain(
                expected=f"{path} to be written ({len(content):,} bytes).",
                got=f"{error.strerror or error}.",
                hint="Make room or choose another place, and give the same command again: what is finished stays.",
            ),
        ) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def move(path: Path, to: Path) -> None:
    """Give a file or folder another name."""
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, to)


def entries(folder: Path) -> list[str]:
    """The names directly inside a folder, sorted; [] where there is no such folder."""
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
