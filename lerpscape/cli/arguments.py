"""Types of single arguments, with their --help, and what the words that users write stand for."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from lerpscape.base.errors import explain
from lerpscape.base.names import import_object

LOSSES = "cross_entropy, squared_error, mean_squared_error, binary_cross_entropy"


def optional(metavar: str, help: str | None = None) -> Any:
    """An argument that may be left out; its default, nothing, is not printed."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint="")


UNLESS_RUN = "(required without --run)"
Start = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="START", help_behavior_hint=UNLESS_RUN)]
End = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="END", help_behavior_hint=UNLESS_RUN)]
Folder = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER", help_behavior_hint=UNLESS_RUN)]
Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…", help_behavior_hint=UNLESS_RUN)]
Name = Annotated[str | None, tyro.conf.arg(metavar="PACKAGE.MODULE:NAME", help_behavior_hint=UNLESS_RUN)]
OptionalName = Annotated[str | None, optional("PACKAGE.MODULE:NAME")]
OptionalFile = Annotated[Path | None, optional("FILE")]
OptionalFolder = Annotated[Path | None, optional("FOLDER")]
OptionalInt = Annotated[int | None, optional("INT")]
OptionalFloat = Annotated[float | None, optional("FLOAT")]
OptionalText = Annotated[str | None, optional("STR")]
OptionalAlphas = Annotated[str | None, optional("N|FIRST:LAST:N")]
Alphas = Annotated[str, tyro.conf.arg(metavar="N|FIRST:LAST:N")]
Between = Annotated[str | None, optional("A:B")]
Flag = Annotated[bool, optional("")]
Loss: TypeAlias = Annotated[
    str | None,
    optional(
        "LOSS",
        f"{LOSSES}, or package.module:name of your own; by default cross_entropy (--text: next_token).",
    ),
]
Metrics = Annotated[
    str | None,
    optional(
        "METRIC,…",
        "Other numbers in the same pass: accuracy, perplexity, a loss by name, package.module:name of your own.",
    ),
]
Workers = Annotated[
    str, tyro.conf.arg(metavar="N|ray|ray://…", help="Processes, one core each; ray starts Ray, or uses RAY_ADDRESS.")
]
BatchNorm: TypeAlias = Annotated[
    Literal["recalibrate", "pooled", "interpolate", "batch", "end"] | None,
    optional(
        "{recalibrate,pooled,interpolate,batch,end}",
        "Batch-norm statistics. Required if the model has batch norm. "
        "recalibrate and pooled estimate them from DATA at every α.",
    ),
]
Device = Annotated[str | None, optional("DEVICE", "cpu, cuda, cuda:1, mps; by default the model's.")]
Dtype: TypeAlias = Annotated[
    Literal["float32", "float64", "bfloat16"] | None,
    optional("{float32,float64,bfloat16}", "Type to compute in; by default that of the checkpoints."),
]
Progress = Annotated[
    bool | None, optional("{True,False}", "Progress bar; by default on a terminal, after two seconds.")
]
Label = Annotated[str, optional("TEXT", "Name of the result in pictures.")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="Print the numbers as JSON.", help_behavior_hint="")]


def called(name: str) -> Any:
    """The result of the function of this name, or the object itself where it is a module or data already."""
    value = import_object(name)
    is_model = "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module)
    return value() if callable(value) and not is_model else value


def loss_of(text: str) -> Any:
    """The name of a loss, or the user's own where it is package.module:name."""
    return import_object(text) if ":" in text else text


def metrics_of(text: str | None) -> dict[str, Any] | None:
    """Metrics by name, from names that commas divide; the user's own are called by the last part of their names."""
    if text is None:
        return None
    return {name.rpartition(":")[2]: loss_of(name) for name in text.split(",")}


def alphas_of(text: str) -> Any:
    """A number of points, or the values from first to last, as `ls.profile` takes them."""
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
    """A number of processes, or the name of another kind of workers."""
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


def device_of(name: str | None) -> str | None:
    """The name of a device, once torch can use it."""
    torch = import_module("torch")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            explain(
                expected="a device that torch can use.",
                got=f"{name!r}: {reason}.",
                hint="`lerpscape doctor` lists the devices of this machine.",
            )
        ) from error
    return name


def dtype_of(name: str | None) -> Any:
    """The torch type of a name."""
    return None if name is None else getattr(import_module("torch"), name)


def require_writable(*files: Path | None) -> None:
    """Refuse an output file that cannot be written before any work is done."""
    from lerpscape.base.saving import check_writable

    for file in files:
        if file is not None:
            check_writable(file)


def print_written(*files: Path | None) -> None:
    """Say where the output is."""
    for file in files:
        if file is not None:
            print(f"wrote {file}")
