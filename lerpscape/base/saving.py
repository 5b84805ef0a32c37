"""Results in JSON and back, number for number; optional packages, or advice on how to get them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from lerpscape.base.errors import explain

if TYPE_CHECKING:
    import pandas


def plain(value: Any) -> Any:
    """Arrays as lists, numbers JSON does not know as their names, dataclasses as their fields under their `FORMAT`.

    `restored` reads it back exactly.

    >>> plain({"a": np.array([0.1, np.nan]), "b": (float("inf"), None)})
    {'a': [0.1, 'NaN'], 'b': ['Infinity', None]}
    """
    if isinstance(value, np.ndarray):
        return [plain(part) for part in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"format": value.FORMAT} if hasattr(value, "FORMAT") else {}
        return kind | {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return value


def restored(value: Any, kind: Any) -> Any:
    """What `plain` made this value of, which was of this type: an array, a tuple, a dataclass, None or a plain one.

    Raises `ValueError` that names a field which a dataclass needs and the value lacks.

    >>> from numpy.typing import NDArray
    >>> restored([["NaN", 1], None], tuple[NDArray[np.float64], str | None])
    (array([nan,  1.]), None)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # something or None
        (kind,) = (each for each in parts if each is not NoneType)
        return None if value is None else restored(value, kind)
    if origin is np.ndarray:
        return np.array(value, dtype=get_args(parts[1])[0])
    if origin is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(restored(*each) for each in zip(value, kinds, strict=True))
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return float(value) if kind is float else value
    names, hints = [each.name for each in fields(kind)], get_type_hints(kind)
    for name in names:
        if name not in value:
            came = f"one with {', '.join(value) or 'nothing'}."
            raise ValueError(explain(expected=f"a {kind.__name__} with {name}.", got=came, hint="Measure again."))
    return kind(**{name: restored(value[name], hints[name]) for name in names})


def write_json(saved: Mapping[str, Any], path: str | Path) -> None:
    """Write what `plain` made, whose numbers come back exactly.

    Raises `OSError` where the file cannot be written.
    """
    check_writable(path)
    Path(path).write_text(json.dumps(saved, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, kind: str) -> dict[str, Any]:
    """The fields of a result of this format.

    Raises `FileNotFoundError`, and `ValueError` for a file of another kind.
    """
    what = kind.removeprefix("lerpscape ").rstrip(" 0123456789")
    try:
        saved = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            explain(
                expected=f"the path of a saved {what}.",
                got=f"{path}, which does not exist.",
                hint="Check the spelling.",
            )
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            explain(expected=f"{path} to be a {what} in JSON.", got=f"{error}.", hint="Write it with its save method.")
        ) from error
    found = saved.pop("format", None) if isinstance(saved, dict) else type(saved).__name__
    if found != kind:
        raise ValueError(
            explain(
                expected=f"{path} to be a saved {what}.",
                got=f"format {found!r}.",
                hint=f"This version reads {kind!r}: measure again.",
            )
        )
    fields_of: dict[str, Any] = saved
    return fields_of


def data_frame(columns: Any) -> pandas.DataFrame:
    """Columns or rows as a pandas frame.

    Raises `ImportError` that says what to install.
    """
    frame: pandas.DataFrame = optional("pandas", "pandas").DataFrame(columns)
    return frame


def versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in ("lerpscape", "torch", "numpy")}


@cache
def _version(package: str) -> str:
    return version(package)  # reads files: longer than a small measurement


def optional(package: str, extra: str) -> Any:
    """An optional package, imported.

    Raises `ImportError` that says what to install.

    >>> optional("math", "none").pi
    3.141592653589793
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            explain(
                expected=f"{package}, for this.", got="no such package here.", hint=f'pip install "lerpscape[{extra}]"'
            )
        ) from error


def check_writable(path: str | Path) -> None:
    """Make sure that a file can be written, creating its folder; called before the work and not after it.

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
