"""Files written by `torch.save`."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from lerpscape.base.errors import explain
from lerpscape.paths.formats.refusals import damaged
from lerpscape.paths.formats.stored import left_in_archive

# What torch.load raises for a damaged file or one of another kind: a text file, read as a pickle, gives a KeyError.
DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def is_torchscript(path: Path) -> bool:
    """Whether `torch.jit.save` wrote the file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torch(path: Path, *, leave: bool = False) -> Any:
    """What `torch.save` wrote, by `torch.load(weights_only=True)`.

    Objects beside the tensors, such as the hyper-parameters in a Lightning checkpoint, become inert stand-ins: nothing
    of the file is imported or called. With `leave`, tensors stay there until they are asked for.

    Raises `ValueError` for a damaged file, and for one whose objects could not be stood in for, by their names.
    """
    if leave:
        with suppress(*DAMAGED):  # whatever is wrong shows again
            left = left_in_archive(path, _read(path, "meta"))
            if left is not None:
                return left
    return _read(path, "cpu")


def _read(path: Path, device: str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        names = _other_objects(path, error)
        try:
            with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
                return torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, *DAMAGED) as again:
            raise ValueError(
                explain(
                    expected=f"{path} to hold tensors only; other pickled objects can run code and are never loaded.",
                    got=f"{', '.join(names) or type(again).__name__} in the file.",
                    hint='If you trust the file, save its weights alone: torch.save(model.state_dict(), "weights.pt").',
                )
            ) from again
    except DAMAGED as error:
        raise damaged(path, "a file written by torch.save", error) from error


def tensor_of(data: bytes) -> Any:
    """What `torch.save` wrote into these bytes, tensors only."""
    return torch.load(BytesIO(data), map_location="cpu", weights_only=True)


def _other_objects(path: Path, error: Exception) -> list[str]:
    """The names of what the file holds beside tensors, as modules and classes."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (pickle.UnpicklingError, *DAMAGED):  # the format from before torch 1.6
        return re.findall(r"GLOBAL (\S+)", str(error))[:1]


def _stand_in(name: str) -> type:
    """A class for objects of this name, which do nothing; `words` say what they stand for."""

    def made(cls: type, *_args: Any, **_named: Any) -> Any:
        return object.__new__(cls)

    def nothing(*_args: Any) -> None:
        return None

    return type("StandIn", (), {"__new__": made, "__init__": nothing, "__setstate__": nothing, "words": f"a {name}"})
