"""A folder that keeps files whole: on this machine, or anywhere fsspec reaches (`s3://…`, `gs://…`, `memory://…`)."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from lerpscape.errors import three_parts


class Folder:
    """Files by relative name. A write is whole or not there at all: a draft is moved into place.

    Raises `OSError` in three parts where a file cannot be written; the draft is removed.

    >>> import tempfile
    >>> folder = Folder(tempfile.mkdtemp())
    >>> folder.write("runs/a.json", b"{}")
    >>> folder.read("runs/a.json"), list(folder.names("runs")), folder.exists("runs/b.json")
    (b'{}', ['runs/a.json'], False)
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self.local = "://" not in self.place
        self._root = str(Path(self.place).absolute()) if self.local else ""
        self._remote: Any = None
        if not self.local:
            from fsspec.core import url_to_fs

            self._remote, self._root = url_to_fs(self.place)

    def path(self, name: str) -> str:
        """Where a file is, for a message or another program."""
        return str(PurePosixPath(self._root, name)) if not self.local else str(Path(self._root, name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return os.path.exists(self.path(name)) if self.local else bool(self._remote.exists(self.path(name)))

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises `FileNotFoundError`."""
        if self.local:
            return Path(self.path(name)).read_bytes()
        found: bytes = self._remote.cat_file(self.path(name))
        return found

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place, whole."""
        if not self.local:
            # Object stores put a file whole; a remote disk gets it under another name first.
            self._remote.makedirs(str(PurePosixPath(self.path(name)).parent), exist_ok=True)
            self._remote.pipe_file(self.path(name), content)
            return
        target = Path(self.path(name))
        draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            os.replace(draft, target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                three_parts(
                    f"{target} to be written ({len(content):,} bytes).",
                    f"{error.strerror or error}.",
                    "Make room or choose another place, and give the same command again: what is finished stays.",
                ),
            ) from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.local:
            Path(self.path(name)).unlink(missing_ok=True)
        elif self._remote.exists(self.path(name)):
            self._remote.rm_file(self.path(name))

    def move(self, name: str, to: str) -> None:
        """Give a file or folder another name."""
        if self.local:
            Path(self.path(to)).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path(name), self.path(to))
        else:
            self._remote.mv(self.path(name), self.path(to), recursive=True)

    def entries(self, under: str = "") -> list[str]:
        """The names directly inside a folder, sorted; [] where there is no such folder."""
        if self.local:
            top = Path(self.path(under))
            return sorted(each.name for each in top.iterdir()) if top.is_dir() else []
        if not self._remote.exists(self.path(under)):
            return []
        return sorted(PurePosixPath(each).name for each in self._remote.ls(self.path(under), detail=False))

    def names(self, under: str = "") -> list[str]:
        """The files below a folder, sorted, drafts left out; [] where there is no such folder."""
        if self.local:
            root = Path(self._root)
            found = (each.relative_to(root).as_posix() for each in (root / under).rglob("*") if each.is_file())
        else:
            top = self.path(under)
            prefix = len(self._root.rstrip("/")) + 1
            found = (each[prefix:] for each in (self._remote.find(top) if self._remote.exists(top) else []))
        return sorted(name for name in found if not name.endswith(".draft"))
