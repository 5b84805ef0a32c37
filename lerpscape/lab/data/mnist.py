"""MNIST and Fashion-MNIST from their idx files, plain or gzipped.

An idx file holds two zero bytes, a type, the number of dimensions, the sizes and the values.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.lab.data._copies import Copy, find_copy
from lerpscape.lab.data._images import Images, check_labels, image_set
from lerpscape.lab.data.catalogue import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from lerpscape.lab.data.splits import DataSet

UNSIGNED_BYTES = 8
ADVICE = "Download the file again; the official one holds one array of unsigned bytes."


def mnist(
    folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False, verify: bool = True
) -> DataSet:
    """MNIST (LeCun et al. 1998) from the four idx files in MNIST/raw, plain or gzipped."""
    return _idx_set("mnist", folder, normalize, reconstruct, verify)


def fashion_mnist(
    folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False, verify: bool = True
) -> DataSet:
    """Fashion-MNIST (Xiao et al. 2017) from the four idx files in FashionMNIST/raw, plain or gzipped."""
    return _idx_set("fashion_mnist", folder, normalize, reconstruct, verify)


def _idx_set(name: str, folder: str | Path | None, normalize: bool, reconstruct: bool, verify: bool) -> DataSet:
    copy = find_copy(name, folder, verify)
    train = _idx_pair(copy, TRAIN_IMAGES, TRAIN_LABELS)
    test = _idx_pair(copy, TEST_IMAGES, TEST_LABELS)
    return image_set(name, train, test, 10, normalize=normalize, reconstruct=reconstruct)


def _idx_pair(copy: Copy, images_file: str, labels_file: str) -> Images:
    images = parse_idx(copy.read(images_file), 3, str(copy.path / images_file))
    labels = parse_idx(copy.read(labels_file), 1, str(copy.path / labels_file)).long()
    check_labels(labels, len(images), 10, str(copy.path / labels_file))
    return images[:, None], labels


def parse_idx(content: bytes, dimensions: int, name: str) -> Tensor:
    """The uint8 array in the bytes of an idx file.

    Raises `ValueError` for another magic number, and for more or fewer values than the header states.

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
                expected=f"{name} to have a header of {header} bytes.",
                got=f"{len(content)} bytes in all.",
                hint=ADVICE,
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
