"""Checkpoints, the named tensors of a network that paths interpolate: from a module, a mapping or a file.

Files are read by safetensors or by `torch.load(weights_only=True)`, neither of which runs code from the file.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lerpscape.base.errors import explain, missing_file
from lerpscape.networks.checksums import tensor_bytes

Params: TypeAlias = dict[str, Tensor]
Source: TypeAlias = "nn.Module | Mapping[str, Tensor] | str | Path | Checkpoint"

# Prefixes that DataParallel and DistributedDataParallel, torch.compile and Lightning modules put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
# Keys under which training scripts save the state dict.
STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "params")
# Names of the buffers of batch-norm layers.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
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


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a network by name, both parameters and buffers, and the names of its parameters.

    `parameters` has one name for each tied weight; distances are over these. For a file or a mapping, all
    floating-point tensors are parameters except the running statistics of batch norm, which their names show.
    `source` says where the checkpoint comes from.
    """

    tensors: Params
    parameters: tuple[str, ...]
    source: str

    def digest(self) -> str:
        """First 12 hex digits of a sha256 over the names, dtypes, shapes and bytes of the tensors."""
        return digest(self.tensors)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
        """The checkpoint on a device, with its floating-point tensors in `dtype` unless that is None.

        Tied tensors stay tied.
        """
        moved: dict[Hashable, Tensor] = {}
        tensors = {}
        for name, tensor in self.tensors.items():
            key = tie_key(tensor)
            if key not in moved:
                moved[key] = tensor.to(device, dtype if tensor.is_floating_point() else None)
            tensors[name] = moved[key]
        return Checkpoint(tensors, self.parameters, self.source)


def checkpoint(source: Source) -> Checkpoint:
    """Copy the tensors of a module or a mapping, or read a checkpoint file.

    Files are `.safetensors`, a `.safetensors.index.json` of shards, a folder with either of these, or anything that
    `torch.load(weights_only=True)` accepts; a dictionary may hold the state dict under `state_dict`,
    `model_state_dict`, `model`, `net` or `params`. If every name starts with the prefix of a wrapper (`module.`,
    `_orig_mod.`, `model.`), the prefix is removed.

    Raises `FileNotFoundError`, `TypeError` for a source without named tensors, and `ValueError` for a file that is
    damaged or needs pickle.

    >>> checkpoint(nn.Linear(2, 1)).parameters
    ('weight', 'bias')
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, nn.Module):
        state = source.state_dict(keep_vars=True)
        tensors = _snapshots({name: value for name, value in state.items() if isinstance(value, Tensor)})
        parameters = tuple(name for name, _ in source.named_parameters())
        prefix = wrapper_prefix(tensors)
        return Checkpoint(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
            tuple(name.removeprefix(prefix) for name in parameters),
            f"module {type(source).__name__}",
        )
    if isinstance(source, Mapping):
        return _from_mapping(_snapshots(source), "a state dict")
    if isinstance(source, (str, Path)):
        return _from_mapping(_read(Path(source)), str(source))
    raise TypeError(
        explain(
            expected="a torch module, a mapping of names to tensors, or the path of a checkpoint file.",
            got=f"{type(source).__name__}.",
            hint="Pass the module itself, or its state_dict().",
        )
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """First 12 hex digits of a sha256 over the names, dtypes, shapes and bytes of tensors.

    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}), len(digest({}))
    (True, 12)
    """
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor_bytes(tensor))
    return hasher.hexdigest()[:12]


def ends_digest(kind: str, **ends: Checkpoint) -> str:
    """First 12 hex digits of a sha256 over the kind of a path and the checkpoints that define it, by their roles."""
    tensors = {f"{role}:{name}": tensor for role, end in ends.items() for name, tensor in end.tensors.items()}
    return digest({**tensors, f"kind:{kind}": torch.empty(0, dtype=torch.float32)})


def wrapper_prefix(names: Iterable[str]) -> str:
    """The prefix that wrappers such as DistributedDataParallel have put before every one of the names, or "".

    >>> wrapper_prefix(["module._orig_mod.weight", "module._orig_mod.bias"]), wrapper_prefix(["weight"])
    ('module._orig_mod.', '')
    """
    prefix, names = "", list(names)
    while names:
        next_part = next((p for p in WRAPPER_PREFIXES if all(n.startswith(prefix + p) for n in names)), None)
        if next_part is None:
            break
        prefix += next_part
    return prefix


def tie_key(tensor: Tensor) -> Hashable:
    """A key that is equal for two names of the same tied tensor: memory address, shape, strides and dtype."""
    return (
        tensor.data_ptr() if tensor.numel() else id(tensor),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
    )


def _from_mapping(tensors: Params, source: str) -> Checkpoint:
    prefix = wrapper_prefix(tensors)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    parameters: dict[Hashable, str] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and name.rpartition(".")[2] not in STATISTICS:
            parameters.setdefault(tie_key(tensor), name)  # tied names are one parameter
    return Checkpoint(tensors, tuple(parameters.values()), source)


def _snapshots(tensors: Mapping[str, Tensor]) -> Params:
    """Copies that share memory exactly where the originals do."""
    copies: dict[Hashable, Tensor] = {}
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(
                explain(
                    expected="a mapping from names to tensors.",
                    got=f"{type(value).__name__} under {name!r}.",
                    hint='Pass the part of the checkpoint that holds the weights, such as saved["state_dict"].',
                )
            )
        if tie_key(value) not in copies:
            copies[tie_key(value)] = value.detach().clone()
    return {name: copies[tie_key(value)] for name, value in tensors.items()}


def _read(path: Path) -> Params:
    if path.is_dir():
        choices = [
            path / "model.safetensors.index.json",
            path / "model.safetensors",
            *sorted(path.glob("*.safetensors")),
        ]
        file = next((choice for choice in choices if choice.exists()), None)
        if file is None:
            raise FileNotFoundError(
                explain(
                    expected="a folder with model.safetensors or model.safetensors.index.json.",
                    got=f"{path} without either.",
                    hint="Name the checkpoint file itself.",
                )
            )
        path = file
    if not path.exists():
        raise missing_file("a checkpoint", path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _read_shards(index: Path) -> Params:
    """Each tensor from the shard that the index names for it; what else a shard holds is left out."""
    try:
        shard_of: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            explain(
                expected=f"{index} to be JSON with a weight_map from names of tensors to files.",
                got=f"{type(error).__name__}: {error}.",
                hint="Copy it again from where the checkpoint was saved.",
            )
        ) from error
    tensors: Params = {}
    for shard in sorted(set(shard_of.values()), key=str):
        beside = isinstance(shard, str) and Path(shard).name == shard and not (index.parent / shard).is_dir()
        if not beside or shard.endswith(".index.json"):
            raise ValueError(
                explain(
                    expected=f"the shards of {index} to be files beside it.",
                    got=f"{shard!r}.",
                    hint="Put all shards into the folder of the index, under the names it gives.",
                )
            )
        inside = _read(index.parent / shard)
        names = [name for name, file in shard_of.items() if file == shard]
        missing = [name for name in names if name not in inside]
        if missing:
            raise ValueError(
                explain(
                    expected=f"{shard} to hold {missing[0]!r}, as {index.name} says.",
                    got=f"{len(inside)} tensors without it ({len(missing)} are missing).",
                    hint="Index and shards may be of different checkpoints: copy all of them again.",
                )
            )
        tensors |= {name: inside[name] for name in names}
    return tensors


def _read_safetensors(path: Path) -> Params:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            explain(
                expected=f"{path} to be a safetensors file.",
                got=f"{error}.",
                hint="Copy it again: it may be cut short.",
            )
        ) from error


def _read_torch(path: Path) -> Params:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            explain(
                expected=f"{path} to hold tensors only; other pickled objects can run code and are never loaded.",
                got=f"{reason}",
                hint='If you trust the file, save its weights alone: torch.save(model.state_dict(), "weights.pt").',
            )
        ) from error
    except DAMAGED as error:
        raise ValueError(
            explain(
                expected=f"{path} to be a file written by torch.save.",
                got=f"{type(error).__name__}: {(str(error) or 'no more to read').splitlines()[0]}",
                hint="Copy it again: it may be cut short or of another kind.",
            )
        ) from error
    for key in STATE_KEYS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    if not isinstance(saved, Mapping) or not saved:
        raise ValueError(
            explain(
                expected=f"{path} to hold a state dict, bare or under one of {', '.join(STATE_KEYS)}.",
                got=f"{type(saved).__name__}.",
                hint='Save it with torch.save(model.state_dict(), "weights.pt").',
            )
        )
    for name, value in saved.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                explain(
                    expected=f"{path} to map names to tensors.",
                    got=f"{type(value).__name__} under {name!r}.",
                    hint=f"Keep the state dict under one of {', '.join(STATE_KEYS)}.",
                )
            )
    return {name: value.detach() for name, value in saved.items()}
