"""Checkpoints, the named tensors of a network that paths interpolate: from a module, a mapping or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.errors import explain
from lerpscape.networks.checksums import checksum, tensor_bytes
from lerpscape.networks.deferred import Deferred, converted
from lerpscape.paths.formats.reading import read_weights
from lerpscape.paths.formats.state_dicts import EXTRA_STATE

Params: TypeAlias = dict[str, Tensor]
Source: TypeAlias = "nn.Module | Mapping[str, Tensor] | str | Path | Checkpoint"

# Prefixes that DataParallel and DistributedDataParallel, and torch.compile put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# Names of the buffers of batch-norm layers.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a network by name, both parameters and buffers, and the names of its parameters.

    `parameters` has one name for each tied weight; distances are over these. For a file or a mapping, these
    are all tensors of real or complex numbers but the running statistics of batch norm, which their names show.
    `source` says where the checkpoint comes from.
    """

    tensors: Params
    parameters: tuple[str, ...]
    source: str

    def digest(self) -> str:
        """First 12 hex digits of a sha256 over the names, dtypes, shapes and checksums of the tensors."""
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
                moved[key] = converted(tensor, device, in_dtype(tensor, dtype))
            tensors[name] = moved[key]
        return Checkpoint(tensors, self.parameters, self.source)


def checkpoint(source: Source, key: str | None = None, prefix: str | None = None) -> Checkpoint:
    """Copy the tensors of a module or a mapping, or read them from a file or a folder.

    Formats: safetensors, `torch.save` (`.pt`, `.pth`, `.bin`, Lightning's `.ckpt`, DeepSpeed), TorchScript, `.npz`;
    shards with or without an index; folders of transformers, diffusers and `torch.distributed.checkpoint`. Nothing in
    a file is run.

    * `key`: which state dict of a file to take, such as `"ema_state_dict"`; keys of nested dictionaries are joined by
      dots. Needed where a file holds several.
    * `prefix`: take only the tensors whose names start with it, such as `"model."`, and take it off.

    A prefix that a wrapper has put before every name (`module.`, `_orig_mod.`) is taken off. `source` in the result
    says which key was read and which prefix was taken off.

    Raises `FileNotFoundError`, `TypeError` for a source without named tensors, and `ValueError` for a file that is
    damaged, needs pickle, is of another framework, or holds several networks; and for quantised tensors.

    >>> checkpoint(nn.Linear(2, 1)).parameters
    ('weight', 'bias')
    >>> checkpoint(nn.Sequential(nn.Linear(2, 1)), prefix="0.").tensors.keys()
    dict_keys(['weight', 'bias'])
    """
    if key is not None and not isinstance(source, (str, Path)):
        raise ValueError(
            explain(
                expected="a file, for key=.",
                got=f"key={key!r} with {type(source).__name__}.",
                hint=f"Pass the part itself: saved[{key!r}]",
            )
        )
    parameters: Iterable[str] | None = None
    if isinstance(source, Checkpoint):
        tensors, parameters, words = source.tensors, source.parameters, source.source
        if prefix is None:
            return source
    elif isinstance(source, nn.Module):
        tensors, words = _snapshots(_module_state(source)), f"module {type(source).__name__}"
        parameters = [name for name, _ in source.named_parameters()]
    elif isinstance(source, Mapping):
        tensors, words = _snapshots(source), "a state dict"
    elif isinstance(source, (str, Path)):
        tensors, found = read_weights(Path(source), key)
        tensors, words = _snapshots(tensors, copy=False), f"{source}[{found}]" if found else str(source)
    else:
        raise TypeError(
            explain(
                expected="a torch module, a mapping of names to tensors, or the path of a checkpoint file.",
                got=f"{type(source).__name__}.",
                hint="Pass the module itself, or its state_dict().",
            )
        )
    if parameters is None:
        parameters = _guessed_parameters(tensors)
    if prefix is not None:
        prefix = f"{prefix.rstrip('.')}."
        if not any(name.startswith(prefix) for name in tensors):
            firsts = dict.fromkeys(name.partition(".")[0] for name in tensors)
            raise ValueError(
                explain(
                    expected=f"names that start with {prefix!r} in {words}.",
                    got=f"{', '.join(list(firsts)[:8])}, ….",
                    hint="Choose one of these, or leave the prefix out.",
                )
            )
        words += f", its {prefix}*"
    else:
        prefix = _wrapper_prefix(tensors)
        # A file's names are the caller's to know; a wrapped module is one in every way.
        words += f", without the prefix {prefix!r}" if prefix and not isinstance(source, nn.Module) else ""
    return Checkpoint(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)},
        tuple(name.removeprefix(prefix) for name in parameters if name.startswith(prefix)),
        words,
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """First 12 hex digits of a sha256 over the names, dtypes, shapes and checksums of tensors.

    >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}), len(digest({}))
    (True, 12)
    """
    return joined_digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})


def tensor_digest(tensor: Tensor) -> bytes:
    """The dtype, the shape and a checksum of a tensor."""
    return f"{tensor.dtype}|{tuple(tensor.shape)}|".encode() + checksum(tensor_bytes(tensor))


def joined_digest(digests: Mapping[str, bytes]) -> str:
    """First 12 hex digits of a sha256 over the `tensor_digest` of tensors by name."""
    hasher = hashlib.sha256()
    for name in sorted(digests):
        hasher.update(f"{name}|".encode() + digests[name])
    return hasher.hexdigest()[:12]


def ends_digest(kind: str, **ends: Checkpoint) -> str:
    """First 12 hex digits of a sha256 over the kind of a path and the checkpoints that define it, by their roles."""
    tensors = {f"{role}:{name}": tensor for role, end in ends.items() for name, tensor in end.tensors.items()}
    return digest({**tensors, f"kind:{kind}": torch.empty(0, dtype=torch.float32)})


def continuous(tensor: Tensor) -> bool:
    """Whether a tensor is a point of a vector space: of real or complex numbers, not of integers.

    >>> continuous(torch.ones(1, dtype=torch.complex64)), continuous(torch.ones(1, dtype=torch.int8))
    (True, False)
    """
    return tensor.is_floating_point() or tensor.is_complex()


def as_vector(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as one real float64 vector; complex ones as real and imaginary parts.

    >>> as_vector(torch.tensor([1 + 2j]))
    tensor([1., 2.], dtype=torch.float64)
    """
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1).double()


def in_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of a tensor where real numbers are to be `dtype`: complex numbers get parts of it, integers stay."""
    if dtype is None or not continuous(tensor):
        return tensor.dtype
    return dtype.to_complex() if tensor.is_complex() else dtype


def tie_key(tensor: Tensor) -> Hashable:
    """A key that is equal for two names of the same tied tensor: memory address, shape, strides and dtype."""
    if isinstance(tensor, Deferred):
        return tensor.place
    return (
        tensor.data_ptr() if tensor.numel() else id(tensor),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
    )


def _wrapper_prefix(names: Iterable[str]) -> str:
    """The prefix that wrappers such as DistributedDataParallel have put before every one of the names, or ""."""
    prefix, names = "", list(names)
    while names:
        next_part = next((p for p in WRAPPER_PREFIXES if all(n.startswith(prefix + p) for n in names)), None)
        if next_part is None:
            break
        prefix += next_part
    return prefix


def _guessed_parameters(tensors: Params) -> list[str]:
    parameters: dict[Hashable, str] = {}
    for name, tensor in tensors.items():
        if continuous(tensor) and name.rpartition(".")[2] not in STATISTICS:
            parameters.setdefault(tie_key(tensor), name)  # tied names are one parameter
    return list(parameters.values())


def _module_state(module: nn.Module) -> dict[str, Any]:
    """What a module saves, without the extra state that is no tensor."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if not name.endswith(EXTRA_STATE)}


def _snapshots(tensors: Mapping[str, Any], copy: bool = True) -> Params:
    """The tensors, as copies that share memory exactly where the originals do, or as they are.

    Raises `TypeError` for what is no tensor, `ValueError` for tensors whose numbers cannot be interpolated as they lie.
    """
    copies: dict[Hashable, Tensor] = {}
    found: Params = {}
    for name, value in tensors.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(
                explain(
                    expected="a mapping from names to tensors.",
                    got=f"{type(value).__name__} under {name!r}.",
                    hint='Pass the part of the checkpoint that holds the weights, such as saved["state_dict"]; '
                    "of a quantised network, the one it was made from.",
                )
            )
        if nn.parameter.is_lazy(value):
            raise ValueError(
                explain(
                    expected="a module whose parameters have shapes.",
                    got=f"{name!r}, which is not initialised yet.",
                    hint="Call the module once with a batch.",
                )
            )
        plain = value.detach()
        plain_type = type(plain) in (Tensor, Deferred)
        if not plain_type or plain.is_quantized or plain.layout is not torch.strided:
            kind = type(plain).__name__ if not plain_type else f"{plain.dtype}, {plain.layout}"
            raise ValueError(
                explain(
                    expected="plain tensors of numbers, on which a line has a meaning.",
                    got=f"{name!r}, a tensor of another kind ({kind}).",
                    hint="Give a plain one: .dequantize(), .to_dense() or .full_tensor() make it.",
                )
            )
        tie = tie_key(plain)
        if tie not in copies:
            copies[tie] = plain.clone() if copy else plain
        found[name] = copies[tie]
    return found
