"""Saving results as JSON and loading exactly the same numbers; importing optional packages."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from lerpscape.base.errors import explain, missing_file

if TYPE_CHECKING:
    import pandas


def to_json(value: Any) -> Any:
    """A value in the types that JSON has; `from_json` restores it exactly.

    Arrays and tuples become lists, NaN and infinities strings, and dataclasses dictionaries of their fields, with their
    `FORMAT`, if they have one, under "format".

    >>> to_json({"a": np.array([0.1, np.nan]), "b": (float("inf"), None)})
    {'a': [0.1, 'NaN'], 'b': ['Infinity', None]}
    """
    if isinstance(value, np.ndarray):
        return [to_json(part) for part in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"format": value.FORMAT} if hasattr(value, "FORMAT") else {}
        return kind | {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(part) for part in value]
    return value


def from_json(value: Any, kind: Any) -> Any:
    """The value that `to_json` converted, given its type: array, tuple, dictionary, dataclass, number, string or None.

    Raises `ValueError` that names a field of a dataclass which is missing.

    >>> from numpy.typing import NDArray
    >>> from_json([["NaN", 1], None], tuple[NDArray[np.float64], str | None])
    (array([nan,  1.]), None)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # some type or None
        (kind,) = (part for part in parts if part is not NoneType)
        return None if value is None else from_json(value, kind)
    if origin is np.ndarray:
        return np.array(value, dtype=get_args(parts[1])[0])
    if origin is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(from_json(part, part_kind) for part, part_kind in zip(value, kinds, strict=True))
    if origin is dict and is_dataclass(parts[1]):
        return {name: from_json(part, parts[1]) for name, part in value.items()}
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return float(value) if kind is float else value
    names, hints = [field.name for field in fields(kind)], get_type_hints(kind)
    for name in names:
        if name not in value:
            got = f"one with {', '.join(value) or 'nothing'}."
            raise ValueError(explain(expected=f"a {kind.__name__} with {name}.", got=got, hint="Measure again."))
    return kind(**{name: from_json(value[name], hints[name]) for name in names})


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A draft to write in the place of a file: it replaces the file at the end of the block, or not at all.

    So a full disk, an exception or a kill leaves the old file as it was. A device or a pipe, such as /dev/stdout, is
    written directly.

    Raises `OSError` in three parts if the file cannot be written; the draft is removed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "runs" / "a.json"
    >>> with replacing(file) as draft:
    ...     count = draft.write_text("{}")
    >>> file.read_text(), [entry.name for entry in file.parent.iterdir()]
    ('{}', ['a.json'])
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path = path.resolve()  # where a link leads, so that the link stays
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    except OSError as error:
        refused = type(error)(
            explain(
                expected=f"{path} to be written.",
                got=f"{error.strerror or error}.",
                hint="Free some space or choose another folder, then repeat the command: what is finished stays.",
            )
        )
        refused.errno = error.errno
        raise refused from error
    finally:
        with suppress(OSError):  # where there is no folder, there is no draft
            draft.unlink()


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_json(saved: Mapping[str, Any], path: str | Path) -> None:
    """Write a dictionary in the types of JSON; floats are written so that reading gives the same ones.

    Raises `OSError` if the file cannot be written.
    """
    write_file(path, (json.dumps(saved, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: str | Path, kind: str) -> dict[str, Any]:
    """Read the fields of a result whose format is `kind`, such as "lerpscape profile 1".

    Raises `FileNotFoundError`, and `ValueError` for a file that is not JSON or has another format.
    """
    what = kind.removeprefix("lerpscape ").rstrip(" 0123456789")
    try:
        saved = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise missing_file(f"a saved {what}", path) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            explain(expected=f"{path} to be a {what} in JSON.", got=f"{error}.", hint="Write it with its save method.")
        ) from error
    saved_kind = saved.pop("format", None) if isinstance(saved, dict) else type(saved).__name__
    if saved_kind != kind:
        raise ValueError(
            explain(
                expected=f"{path} to be a saved {what}.",
                got=f"format {saved_kind!r}.",
                hint=f"This version reads {kind!r}: measure again.",
            )
        )
    by_name: dict[str, Any] = saved
    return by_name


def data_frame(columns: Any) -> pandas.DataFrame:
    """A pandas data frame of a dictionary of columns, or of a list of rows.

    Raises `ImportError` that says what to install.
    """
    frame: pandas.DataFrame = import_optional("pandas", "pandas").DataFrame(columns)
    return frame


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in ("lerpscape", "torch", "numpy")}


@cache
def _version(package: str) -> str:
    return version(package)  # cached: it reads files, which takes longer than a small measurement


def import_optional(package: str, extra: str) -> Any:
    """Import an optional package, which `pip install "lerpscape[extra]"` installs.

    Raises `ImportError` that says so.

    >>> import_optional("math", "none").pi
    3.141592653589793
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            explain(
                expected=f"the package {package}, which this needs.",
                got="that it is not installed.",
                hint=f'pip install "lerpscape[{extra}]"',
            )
        ) from error


def check_writable(path: str | Path) -> None:
    """Check that a file can be written, and create its folder; for use before a long measurement.

    Raises `OSError` with the reason.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise type(error)(
            explain(
                expected=f"{path} to be writable.",
                got=f"{error.strerror or error}.",
                hint="Choose another place, or change the permissions of the folder.",
            )
        ) from error
