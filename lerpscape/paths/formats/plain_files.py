"""Formats that hold named arrays and nothing else: safetensors and numpy's `.npz`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lerpscape.paths.formats.refusals import damaged
from lerpscape.paths.formats.stored import left_in_safetensors


def read_safetensors(path: Path, *, leave: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file; with `leave` they stay there until they are asked for."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return left_in_safetensors(path) if leave else load_file(path)
    except SafetensorError as error:
        raise damaged(path, "a safetensors file", error) from error


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a file written by `numpy.savez`, without pickled ones."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path, "a file of numeric arrays written by numpy.savez", error) from error
