"""The training state as one safetensors file, saved after every epoch: a kill costs only the epoch in progress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lerpscape.lab.training import Epoch, TrainingState
from lerpscape.paths.checkpoints import digest


class DamagedFile(Exception):
    """A file of a store differs from what was written."""


def weights(parameters: Mapping[str, Tensor]) -> bytes:
    """Parameters and buffers as the bytes of a safetensors file; a tied tensor is written under each of its names.

    >>> import torch
    >>> load(weights({"a": torch.ones(2)}))
    {'a': tensor([1., 1.])}
    """
    return save({name: tensor.detach().clone().contiguous() for name, tensor in parameters.items()})


def pack(state: TrainingState) -> bytes:
    """A training state as the bytes of a safetensors file, with its history and a SHA-256 in the header."""
    tensors = {f"parameters/{name}": tensor for name, tensor in state.parameters.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    history = json.dumps([asdict(epoch) for epoch in state.history])
    # One entry only: safetensors writes several entries in an order that differs from run to run.
    header = {"history": history, "sha256": _digest(tensors, history)}
    return save(tensors, metadata={"progress": json.dumps(header)})


def unpack(content: bytes) -> TrainingState:
    """Read a training state from the bytes that `pack` returned.

    Raises `DamagedFile` for any other bytes, even if only one bit differs.
    """
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["progress"]
        header = json.loads(header)
        if _digest(tensors, header["history"]) != header["sha256"]:
            raise DamagedFile("its SHA-256 differs from the one that was written with it")
        epochs = tuple(Epoch(**epoch) for epoch in json.loads(header["history"]))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedFile(f"{type(error).__name__}: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return TrainingState(parts["parameters"], parts["optimizer"], epochs)


def _digest(tensors: Mapping[str, Tensor], history: str) -> str:
    return hashlib.sha256(f"{digest(tensors)} {history}".encode()).hexdigest()
