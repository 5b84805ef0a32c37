"""Arguments that commands share: their types, and what the words that users write stand for."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from lerpscape.base.errors import explain
from lerpscape.base.names import import_object

# How arguments are called in --help.
Start = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="START")]
End = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="END")]
Name = Annotated[str, tyro.conf.arg(metavar="PACKAGE.MODULE:NAME")]
OptionalName = Annotated[str | None, tyro.conf.arg(metavar="PACKAGE.MODULE:NAME")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Switch = Annotated[bool | None, tyro.conf.arg(metavar="{True,False}")]
Device = Annotated[str | None, tyro.conf.arg(metavar="DEVICE")]
Dtype: TypeAlias = Literal["float32", "float64", "bfloat16"] | None
BatchNorm: TypeAlias = Literal["recalibrate", "pooled", "interpolate", "batch", "end"] | None
Workers = Annotated[str, tyro.conf.arg(metavar="N|ray|ray://…")]
Json = Annotated[bool, tyro.conf.arg(name="json")]


def called(name: str) -> Any:
    """The result of the function of this name, or the object itself where it is a module or data already."""
    found = import_object(name)
    is_model = "torch" in sys.modules and isinstance(found, sys.modules["torch"].nn.Module)
    return found() if callable(found) and not is_model else found


def loss_of(text: str) -> Any:
    """The name of a loss, or the user's own where it is package.module:name."""
    return import_object(text) if ":" in text else text


def alphas_of(text: str) -> Any:
    """A count of points, or the values from first to last, as `ls.profile` takes them."""
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return int(text)
        first, last, count = parts
        return import_module("numpy").linspace(float(first), float(last), int(count))
    except ValueError as error:
        raise ValueError(
            explain(
                expected="a number of points, or first:last:count.", got=f"{text!r}.", hint="--alphas -0.25:1.25:61"
            )
        ) from error


def workers_of(text: str) -> int | str:
    """A number of processes, or the word for another kind of workers."""
    return int(text) if text.isdigit() else text


def between_of(text: str | None) -> tuple[float, float] | None:
    """Two values of α written a:b; None for none."""
    if text is None:
        return None
    try:
        left, right = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise ValueError(explain(expected="two values of α, a:b.", got=f"{text!r}.", hint="--between 0:1")) from error
    return left, right


def dtype_of(name: str | None) -> Any:
    """The torch type of a name."""
    return None if name is None else getattr(import_module("torch"), name)


def require_writable(*files: Path | None) -> None:
    """Find out before the work whether the files that are asked for can be written."""
    from lerpscape.base.saving import check_writable

    for file in files:
        if file is not None:
            check_writable(file)


def print_written(*files: Path | None) -> None:
    """Say where the output went."""
    for file in files:
        if file is not None:
            print(f"wrote {file}")
