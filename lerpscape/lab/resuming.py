"""What a run leaves after every epoch, in one safetensors file: a kill costs the epoch at hand and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lerpscape.lab.training import Epoch, Progress
from lerpscape.paths.checkpoints import digest


class Damaged(Exception):
    """A file of a store is not what was written into it."""


def weights(parameters: Mapping[str, Tensor]) -> bytes:
    """Parameters and buffers as the bytes of a safetensors file; tied tensors are written under each name.

    >>> import torch
    >>> load(weights({"a": torch.ones(2)}))
    {'a': tensor([1., 1.])}
    """
    return save({name: tensor.detach().clone().contiguous() for name, tensor in parameters.items()})


def pack(progress: Progress) -> bytes:
    """Progress as the bytes of a safetensors file, with its history and a SHA-256 in the header."""
    tensors = {f"parameters/{name}": tensor for name, tensor in progress.parameters.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in progress.optimizer.items()}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    history = json.dumps([asdict(epoch) for epoch in progress.history])
    # One entry: safetensors writes several in an order that differs from run to run.
    header = {"history": history, "sha256": _digest(tensors, history)}
    return save(tensors, metadata={"progress": json.dumps(header)})


def unpack(content: bytes) -> Progress:
    """Progress from the bytes that `pack` made.

    Raises `Damaged` for anything else, a flipped bit included.
    """
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["progress"]
        header = json.loads(header)
        if _digest(tensors, header["history"]) != header["sha256"]:
            raise Damaged("its SHA-256 differs from the one that was written with it")
        epochs = tuple(Epoch(**epoch) for epoch in json.loads(header["history"]))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error
    parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return Progress(parts["parameters"], parts["optimizer"], epochs)


def _digest(tensors: Mapping[str, Tensor], history: str) -> str:
    return hashlib.sha256(f"{digest(tensors)} {history}".encode()).hexdigest()
