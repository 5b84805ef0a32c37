"""The idx format of MNIST: two zero bytes, a type, the number of dimensions, the sizes, the values."""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

from lerpscape.base.errors import explain

UNSIGNED_BYTES = 8
ADVICE = "Get the file again; its official copy is one array of unsigned bytes."


def parse_idx(content: bytes, dimensions: int, name: str) -> Tensor:
    """The uint8 array of an idx file's content.

    Raises `ValueError` for other bytes than that: another magic number, more or fewer values than the header says.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]), 1, "labels")
    tensor([5, 7], dtype=torch.uint8)
    """
    magic = bytes([0, 0, UNSIGNED_BYTES, dimensions])
    if content[:4] != magic:
        raise ValueError(
            explain(
                expected=f"{name} to start with the magic number {magic.hex(' ')}: unsigned bytes in "
                f"{dimensions} dimensions.",
                got=f"{content[:4].hex(' ') or 'an empty file'}.",
                hint=ADVICE,
            )
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise ValueError(
            explain(
                expected=f"{name} to have a header of {header} bytes.", got=f"{len(content)} bytes in all.", hint=ADVICE
            )
        )
    sizes = struct.unpack(f">{dimensions}I", content[4:header])
    values = len(content) - header
    if values != math.prod(sizes):
        shape = " × ".join(map(str, sizes))
        raise ValueError(
            explain(
                expected=f"{name} to hold the {shape} = {math.prod(sizes)} values of its header.",
                got=f"{values} values: the file is {'cut off' if values < math.prod(sizes) else 'too long'}.",
                hint=ADVICE,
            )
        )
    if not values:
        return torch.zeros(sizes, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(sizes)
