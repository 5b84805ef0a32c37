"""Tensors of large files, left where they are: read one at a time, when an operation asks for them."""

from __future__ import annotations

import mmap
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lerpscape.base.errors import explain
from lerpscape.networks.deferred import Deferred
from lerpscape.paths.formats.safetensors_headers import dtypes_by_code, header_of

# Files with fewer bytes are read into memory at once: a second copy of them matters less than reading them again.
IN_MEMORY = 1 << 28
# Tensors of so many bytes are read into pages of their own.
SEPARATE = 1 << 18


@dataclass(frozen=True)
class Span:
    """Where in a file the numbers of a tensor begin, and how they lie there; `state` is the file's size and time."""

    file: Path
    begin: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    state: tuple[int, int]

    def read(self) -> Tensor:
        """The tensor, in memory of its own: a mapped file would stay in memory as well.

        Raises `ValueError` where the file is another one than when it was opened.
        """
        reach = sum((length - 1) * step for length, step in zip(self.shape, self.stride, strict=True)) + 1
        flat = _own_memory(0 if 0 in self.shape else reach * self.dtype.itemsize).view(self.dtype)
        with self.file.open("rb", buffering=0) as opened:
            if _state(opened.fileno()) != self.state:
                raise _altered(self.file)
            rest = flat.view(torch.uint8).numpy().data
            opened.seek(self.begin)
            while rest:
                count = opened.readinto(rest)
                if not count:
                    raise _altered(self.file)
                rest = rest[count:]
        return flat.as_strided(self.shape, self.stride)

    def deferred(self) -> Deferred:
        """The tensor, read by every operation that asks for its numbers."""
        return Deferred.of(self.read, self, self.shape, self.dtype)


def is_large(files: Iterable[Path]) -> bool:
    """Whether the files of one checkpoint are left where they are."""
    return sum(file.stat().st_size for file in files if file.is_file()) >= IN_MEMORY


def left_in_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, unread. What is no such file raises a `SafetensorError`."""
    from safetensors import safe_open

    with path.open("rb", buffering=0) as opened, safe_open(path, "pt"):  # which checks the whole header
        state = _state(opened.fileno())
        header, behind = header_of(path)
    dtypes = dtypes_by_code()
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    for name in sorted(header):
        shape = tuple(header[name]["shape"])
        begin = behind + header[name]["data_offsets"][0]
        dtype = dtypes[header[name]["dtype"]]
        tensors[name] = Span(path, begin, shape, _row_major(shape), dtype, state).deferred()
    return tensors


def left_in_archive(path: Path, saved: Any) -> Any | None:
    """What `torch.load` makes of a file on the device `meta`, with tensors that are read when asked for.

    Tied tensors stay tied. None for a file that has to be read at once: from before torch 1.6,
    compressed, or with tensors that are more than their numbers.
    """
    if not zipfile.is_zipfile(path):
        return None
    with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
        state = _state(opened.fileno())
        records = archive.infolist()
        order = next((archive.read(each) for each in records if each.filename.endswith("/byteorder")), b"little")
    if any(each.compress_type != zipfile.ZIP_STORED for each in records) or order.decode() != sys.byteorder:
        return None
    known: dict[Span, Deferred] = {}
    containers: dict[int, Any] = {}  # the same dictionary under two keys stays one

    def left(value: Any) -> Any:
        if isinstance(value, Tensor):
            offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
            if type(value) not in (Tensor, nn.Parameter) or value.is_conj() or value.is_neg() or offset is None:
                raise NotImplementedError
            begin = offset + value.storage_offset() * value.element_size()
            span = Span(path, begin, tuple(value.shape), value.stride(), value.dtype, state)
            return known.setdefault(span, span.deferred())
        if isinstance(value, Mapping):
            if id(value) not in containers:
                containers[id(value)] = {}
                containers[id(value)] |= {key: left(each) for key, each in value.items()}
            return containers[id(value)]
        return type(value)(map(left, value)) if type(value) in (list, tuple) else value

    try:
        return left(saved)
    except NotImplementedError:  # sparse and quantised tensors raise it by themselves
        return None


def _own_memory(size: int) -> Tensor:
    """So many bytes, which go back to the system when they are freed; malloc may keep them between others."""
    if size < SEPARATE:
        return torch.empty(size, dtype=torch.uint8)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _altered(file: Path) -> ValueError:
    return ValueError(
        explain(
            expected=f"{file} to stay as it was while it is measured; large files are read piece by piece.",
            got="another content or time of writing.",
            hint="Measure a copy, or wait until the training has ended.",
        )
    )
