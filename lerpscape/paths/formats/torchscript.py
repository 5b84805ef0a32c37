"""Archives of `torch.jit.save`: their tensors, without compiling or running the program beside them."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.paths.formats.inert_pickle import Record, unpickled
from lerpscape.paths.formats.refusals import damaged
from lerpscape.paths.formats.torch_files import DAMAGED

_SCRIPT = "__torch__"
# The head of a class in the archive, which lists what it registers.
_CLASS = r"class {}\(Module\):\s*__parameters__ = \[(.*?)\]\s*__buffers__ = \[(.*?)\]"
# Storages, by the names that archives have for them.
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _ScriptObject(Record):
    """A module of the archive, of the class `path`."""

    path = ""


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a scripted or traced module, by name.

    Raises `ValueError` for a damaged archive, and for one with quantised weights or objects of its own.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except pickle.UnpicklingError as error:
        raise ValueError(
            explain(
                expected=f"{path} to be a TorchScript archive of modules and plain tensors.",
                got=f"{error}.",
                hint='If you trust the file: torch.save(torch.jit.load(file).state_dict(), "weights.pt")',
            )
        ) from error
    except (zipfile.BadZipFile, *DAMAGED) as error:
        raise damaged(path, "a TorchScript archive", error) from error


def _read(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    root = pickled.removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise pickle.UnpicklingError("numbers in big-endian order")

    def storage(key: Any) -> Tensor:
        kind, dtype, name = key[0], key[1], key[2]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a reference to {kind!r}")
        data = archive.read(f"{root}data/{name}")
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)

    module = unpickled(archive.read(pickled), _find, storage)
    tensors: dict[str, Tensor] = {}
    _collect(archive, root, module, "", tensors)
    return tensors


def _find(module: str, name: str) -> Any:
    if module.split(".")[0] == _SCRIPT:
        return type("ScriptObject", (_ScriptObject,), {"path": f"{module}.{name}"})
    if module == "torch._utils" and name == "_rebuild_tensor_v2":
        return _strided
    if module == "torch" and name in _DTYPES:
        return _DTYPES[name]
    if (module, name) == ("collections", "OrderedDict"):
        return dict
    if module == "torch.jit._pickle":
        return Record  # lists and dictionaries of numbers, which are no weights
    raise pickle.UnpicklingError(f"{module}.{name}")


def _strided(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _collect(archive: zipfile.ZipFile, root: str, module: Any, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Put the parameters and buffers of a module and of those inside it into `tensors`."""
    if not isinstance(module, _ScriptObject) or not isinstance(module.state, dict):
        raise pickle.UnpicklingError(f"{prefix or 'the module'} in a form of its own")
    file, _, name = module.path.rpartition(".")
    source = archive.read(f"{root}code/{file.replace('.', '/')}.py").decode()
    head = re.search(_CLASS.format(re.escape(name)), source, re.DOTALL)
    registered = re.findall(r'"([^"]*)"', "".join(head.groups())) if head else []
    for own, value in module.state.items():
        if own in registered and isinstance(value, Tensor):
            tensors[prefix + own] = value
        elif isinstance(value, _ScriptObject):
            _collect(archive, root, value, f"{prefix}{own}.", tensors)
