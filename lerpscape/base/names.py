"""Names that users write: importing the object of `package.module:name`, and suggestions for a misspelt name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from lerpscape.base.errors import explain


def import_object(name: str) -> Any:
    """The object of a `package.module:name`; modules are searched for in the current folder first.

    Raises `ValueError` for a name of another form, and for a module or an object that does not exist.

    >>> import_object("math:sqrt")(4)
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
        imported = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but something that it imports does not
        raise ValueError(
            explain(
                expected=f"a module {module} that can be imported from {Path.cwd()}.",
                got=f"{error}.",
                hint="Run from the folder that holds it.",
            )
        ) from error
    if not hasattr(imported, attribute):
        public = [name for name in vars(imported) if not name.startswith("_")]
        raise ValueError(unknown_name(f"a name in {module}", attribute, public))
    return getattr(imported, attribute)


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """An error message for a name that is not among the known ones: it lists them and suggests the most similar one.

    >>> print(unknown_name("a model", "resnt", ["lstm", "resnet"]))
    expected: a model: one of lstm, resnet.
    got: 'resnt'.
    try: Did you mean 'resnet'?
    """
    names = list(known)
    similar = difflib.get_close_matches(str(name), names, n=1)
    return explain(
        expected=f"{what}: one of {', '.join(names)}." if names else f"{what}: there is none.",
        got=f"{name!r}.",
        hint=f"Did you mean {similar[0]!r}?" if similar else "Use one of these.",
    )
