"""Results in JSON and back, number for number; optional packages, or advice on how to get them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lerpscape.errors import three_parts
from lerpscape.partial import check_writable


def as_dict(result: Any, kind: str) -> dict[str, Any]:
    """The fields of a dataclass as plain numbers, lists and strings, under the name of their format."""
    return {"format": kind, **{each.name: plain(getattr(result, each.name)) for each in fields(result)}}


def plain(value: Any) -> Any:
    """Arrays as lists, numbers JSON does not know as their names; everything that `float()` reads back exactly.

    >>> plain({"a": np.array([0.1, np.nan]), "b": (float("inf"), None)})
    {'a': [0.1, 'NaN'], 'b': ['Infinity', None]}
    """
    if isinstance(value, np.ndarray):
        return [plain(part) for part in value.tolist()]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(part) for name, part in asdict(value).items()}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return value


def write_json(saved: Mapping[str, Any], path: str | Path) -> None:
    """Write a result made by `as_dict`, whose numbers come back exactly.

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
            three_parts(f"the path of a saved {what}.", f"{path}, which does not exist.", "Check the spelling.")
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            three_parts(f"{path} to be a {what} in JSON.", f"{error}.", "Write it with its save method.")
        ) from error
    found = saved.pop("format", None) if isinstance(saved, dict) else type(saved).__name__
    if found != kind:
        raise ValueError(
            three_parts(
                f"{path} to be a saved {what}.", f"format {found!r}.", f"This version reads {kind!r}: measure again."
            )
        )
    fields_of: dict[str, Any] = saved
    return fields_of


def array(values: Any) -> Any:
    """A float64 array of what `plain` made of one; None stays None."""
    return None if values is None else np.array(values, dtype=np.float64)


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
            three_parts(f"{package}, for this.", "no such package here.", f'pip install "lerpscape[{extra}]"')
        ) from error
