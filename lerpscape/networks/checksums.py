"""A fast checksum, to recognise data that has changed by accident; it does not protect against forgery."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

# Words in a block; the random weights of a block are the same in every version of the library.
BLOCK = 1 << 16
_WEIGHTS = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 63, BLOCK, dtype=np.uint64, endpoint=False) * 2 + 1


def checksum(data: memoryview | bytes) -> bytes:
    """A checksum of 32 bytes; two different inputs have the same one with a probability of about 2⁻³².

    Each block of 64-bit words is summed with odd random weights modulo 2⁶⁴, once starting at byte 0 and once at byte 4,
    because the upper half of a word affects few bits of a product. The checksum is the sha256 of the sums.

    >>> checksum(b"data") == checksum(bytes(b"data")), checksum(b"data") == checksum(b"date")
    (True, False)
    """
    array = np.frombuffer(data, dtype=np.uint8)
    hasher = hashlib.sha256(len(array).to_bytes(8, "little"))
    for offset in (0, 4):
        whole = max(len(array) - offset, 0) // 8 * 8
        words = array[offset : offset + whole].view(np.uint64)
        blocks = (words[first : first + BLOCK] for first in range(0, len(words), BLOCK))
        sums = [np.dot(block, _WEIGHTS[: len(block)]) for block in blocks]
        hasher.update(np.array(sums, dtype=np.uint64).tobytes())
        hasher.update(array[offset + whole :].tobytes())
    return hasher.digest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a strided tensor of any dtype, on any device, in row-major order; none on `meta`."""
    if tensor.is_meta:
        return memoryview(b"")
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    flat = flat.as_strided(flat.shape, (1,))  # a single element may keep any stride, which `view` refuses
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def strided_parts(tensor: Tensor) -> list[Tensor]:
    """The strided tensors that a tensor of any layout is made of.

    >>> [part.tolist() for part in strided_parts(torch.eye(2).to_sparse())]
    [[[0, 1], [0, 1]], [1.0, 1.0]]
    """
    tensor = tensor.detach()
    if tensor.is_nested:
        return [part for one in tensor.unbind() for part in strided_parts(one)]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.is_quantized:
        return [tensor.int_repr(), tensor.dequantize()]
    return [tensor if tensor.layout is torch.strided else tensor.to_dense()]
