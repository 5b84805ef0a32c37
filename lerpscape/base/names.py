"""Names that users write: objects called package.module:name, and the known name that a misspelt one resembles."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from lerpscape.base.errors import explain


def named(name: str) -> Any:
    """The object called package.module:name, looked for in the current folder first.

    Raises `ValueError` for a name of another form, a module that is not there and an object that it does not have.

    >>> named("math:sqrt")(4)
    2.0
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(
            explain(expected="package.module:name.", got=f"{name!r}.", hint="mypkg.nets:build, for example.")
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise ValueError(
            explain(
                expected=f"a module {module}, seen from {Path.cwd()}.",
                got=f"{error}.",
                hint="Run from the folder that holds it.",
            )
        ) from error
    if not hasattr(found, attribute):
        public = ", ".join(each for each in vars(found) if not each.startswith("_"))
        raise ValueError(
            explain(expected=f"{attribute!r} in {module}.", got="no such name.", hint=f"It has: {public}.")
        )
    return getattr(found, attribute)


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not among the known ones: it lists them and suggests the nearest.

    >>> print(unknown_name("a model", "resnt", ["lstm", "resnet"]))
    expected: a model: one of lstm, resnet.
    got: 'resnt'.
    try: Did you mean 'resnet'?
    """
    listed = list(known)
    nearest = difflib.get_close_matches(str(name), listed, n=1)
    advice = f"Did you mean {nearest[0]!r}?" if nearest else "Use one of these."
    return explain(
        expected=f"{what}: one of {', '.join(listed)}." if listed else f"{what}: there is none.",
        got=f"{name!r}.",
        hint=advice,
    )
