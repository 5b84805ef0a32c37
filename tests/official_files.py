"""Small files in the formats of the official ones, written byte by byte and not by what reads them."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lerpscape.lab.data.catalogue import ENTRIES, Layout

IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx(values: np.ndarray) -> bytes:
    """Two zero bytes, 8 for unsigned bytes, the number of dimensions, big-endian sizes, the values."""
    sizes = b"".join(struct.pack(">I", size) for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def make_official(patch: pytest.MonkeyPatch, name: str, folder: Path) -> None:
    """Give the catalogue the checksums of the files in a folder, in place of the official ones."""
    first, *others = ENTRIES[name].layouts
    found = {file: f"md5:{hashlib.md5((folder / file).read_bytes()).hexdigest()}" for file in first.files}
    patch.setitem(ENTRIES, name, replace(ENTRIES[name], layouts=(Layout(first.folder, found), *others)))


def write_idx_set(folder: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray], zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, (image_file, label_file) in IDX.items():
        for file, values in ((image_file, images[part]), (label_file, labels[part])):
            if zipped:
                (folder / f"{file}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (folder / file).write_bytes(idx(values))


def python2_string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def python2_integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)


def python2_array(values: np.ndarray) -> bytes:
    """What Python 2's cPickle writes for a uint8 array, protocol 2."""
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
    shape = b"".join(python2_integer(size) for size in values.shape) + b"\x86"
    kind = b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return made + b"(K\x01" + shape + kind + b"\x89" + python2_string(values.tobytes()) + b"tb"


def cifar_batch(images: np.ndarray, labels: dict[str, list[int]]) -> bytes:
    """One official batch: a dict of strings, lists and an array n × 3072, as cPickle wrote it.

    `images` are (n, 3, 32, 32); `labels` the lists by name, `labels`, or `fine_labels` and `coarse_labels`.
    """
    items = [b"\x80\x02}q\x01(", python2_string(b"batch_label"), b"q\x02", python2_string(b"testing batch"), b"q\x03"]
    for name, values in labels.items():
        items += [python2_string(name.encode()), b"]q\x04(", *map(python2_integer, values), b"e"]
    items += [python2_string(b"data"), b"q\x05", python2_array(images.reshape(len(images), -1))]
    names = b"".join(python2_string(f"image_{i}.png".encode()) + b"r" + struct.pack("<I", 300 + i) for i in range(3))
    items += [python2_string(b"filenames"), b"]q\x0b(", names, b"e", b"u."]
    return b"".join(items)


def write_sheet(file: Path, images: np.ndarray) -> None:
    """A PNG whose rows are the images (n, 3, 32, 32), a pixel's three colours together."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(len(images), 1024, 3)).save(file)


def write_cifar10(folder: Path, images: dict[str, np.ndarray], labels: dict[str, list[int]]) -> None:
    """Five training batches of equal size and one to test, as the official folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(np.array_split(np.arange(len(images["train"])), 5), start=1):
        batch = cifar_batch(images["train"][part], {"labels": [labels["train"][j] for j in part]})
        (folder / f"data_batch_{i}").write_bytes(batch)
    (folder / "test_batch").write_bytes(cifar_batch(images["test"], {"labels": labels["test"]}))


def write_cifar10_sheets(folder: Path, images: dict[str, np.ndarray], labels: dict[str, list[int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(np.array_split(np.arange(len(images["train"])), 5), start=1):
        write_sheet(folder / f"data_batch_{i}.png", images["train"][part])
    write_sheet(folder / "test_batch.png", images["test"])
    for part in ("train", "test"):
        (folder / f"{part}_lables.json").write_text(json.dumps(labels[part]))
