"""The header of a safetensors file: what it says of every tensor, and where their numbers begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def header_of(file: Path) -> tuple[dict[str, Any], int]:
    """The header, `__metadata__` included, and the place of the first byte behind it; nothing is checked.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "one.safetensors"
    >>> save_file({"w": torch.zeros(2)}, file)
    >>> header_of(file)[0]
    {'w': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}
    """
    with file.open("rb", buffering=0) as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
        return header, opened.tell()


def dtypes_by_code() -> dict[str, torch.dtype]:
    """The dtypes of torch by the names that headers have for them.

    >>> dtypes_by_code()["BF16"]
    torch.bfloat16
    """
    from safetensors.torch import _TYPES

    return {name: dtype for name, dtype in _TYPES.items() if isinstance(dtype, torch.dtype)}
