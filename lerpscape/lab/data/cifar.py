"""CIFAR-10 and CIFAR-100 from the official folders of pickles, or CIFAR-10 from PNG sheets with one image per row.

A pickle is a program that can call any function of any module. A pickle is therefore read only after its checksum is
found to be the official one, and even then it may use three names of numpy only.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.lab.data._copies import Copy, find_copy
from lerpscape.lab.data._images import Images, check_labels, image_set
from lerpscape.lab.data.catalogue import CIFAR10_BATCHES
from lerpscape.lab.data.splits import DataSet

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
ADVICE = "Download the official file again; data of your own must have the same format."
# The only names that a pickle of CIFAR may resolve.
ALLOWED: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],  # numpy 2 keeps it in another module
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}


def cifar10(
    folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False, verify: bool = True
) -> DataSet:
    """CIFAR-10 (Krizhevsky 2009) from cifar-10-batches-py, or from the PNG sheets in cifar10-png.

    `verify=False` concerns the sheets; the pickles in cifar-10-batches-py must always have their official checksums.
    """
    copy = find_copy("cifar10", folder, verify)
    if copy.layout.folder == "cifar10-png":
        sheets = tuple(f"{name}.png" for name in CIFAR10_BATCHES)
        train = read_sheets(copy, sheets, "train_lables.json", 10)
        test = read_sheets(copy, ("test_batch.png",), "test_lables.json", 10)
    else:
        train = read_batches(copy, CIFAR10_BATCHES, "labels", 10)
        test = read_batches(copy, ("test_batch",), "labels", 10)
    return image_set("cifar10", train, test, 10, normalize=normalize, reconstruct=reconstruct)


def cifar100(
    folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False, verify: bool = True
) -> DataSet:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels, from cifar-100-python.

    Its files are pickles, which must have their official checksums whatever `verify` is.
    """
    copy = find_copy("cifar100", folder, verify)
    train = read_batches(copy, ("train",), "fine_labels", 100)
    test = read_batches(copy, ("test",), "fine_labels", 100)
    return image_set("cifar100", train, test, 100, normalize=normalize, reconstruct=reconstruct)


def read_batches(copy: Copy, files: tuple[str, ...], key: str, classes: int) -> Images:
    """Images and labels of the official batch files, concatenated; `key` is the name of the labels.

    Raises `ValueError` for a file without its official checksum, before it is unpickled.
    """
    batches = [parse_batch(copy.read(file, pickled=True), str(copy.path / file), key, classes) for file in files]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dicts and numpy arrays; raises `ValueError` for any other name.

    Byte strings of Python 2 become str.

    >>> ArrayUnpickler(io.BytesIO(pickle.dumps({"labels": [3, 1]}, protocol=2)), "batch").load()
    {'labels': [3, 1]}
    >>> ArrayUnpickler(io.BytesIO(pickle.dumps(len, protocol=2)), "batch").load()
    Traceback (most recent call last):
    ValueError: expected: batch to be a pickle of numbers, strings, lists, dicts and numpy arrays.
    got: the name __builtin__.len, which was not called.
    try: Do not trust this file; download the official one.
    """

    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file, encoding="latin-1")
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        """The object that a name in the pickle refers to."""
        if f"{module}.{name}" not in ALLOWED:
            raise ValueError(
                explain(
                    expected=f"{self.name} to be a pickle of numbers, strings, lists, dicts and numpy arrays.",
                    got=f"the name {module}.{name}, which was not called.",
                    hint="Do not trust this file; download the official one.",
                )
            )
        return ALLOWED[f"{module}.{name}"]


def parse_batch(content: bytes, name: str, key: str, classes: int) -> Images:
    """Images (n, 3, 32, 32) and labels (n,) of one batch file: a pickled dict with an array `data`, n × 3072.

    Compare `content` with its checksum first. Raises `ValueError` for a pickle of anything else.
    """
    batch = ArrayUnpickler(io.BytesIO(content), name).load()
    pixels, labels = (batch.get("data"), batch.get(key)) if isinstance(batch, dict) else (None, None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(
            explain(expected=f"{name} to hold an array 'data' of n × {PIXELS} bytes.", got=f"{got}.", hint=ADVICE)
        )
    images = torch.from_numpy(pixels).reshape(-1, *SHAPE)
    return images, _label_tensor(labels, len(images), classes, f"{name}: {key}")


def read_sheets(copy: Copy, sheets: tuple[str, ...], labels_file: str, classes: int) -> Images:
    """Images and labels from PNG sheets, one image per row, and a JSON list of labels.

    Raises `ValueError` for files in another format.
    """
    images = torch.cat([parse_sheet(copy.read(sheet), str(copy.path / sheet)) for sheet in sheets])
    name = str(copy.path / labels_file)
    content = copy.read(labels_file)
    try:
        labels = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            explain(expected=f"{name} to be a list of labels in JSON.", got=f"{error}.", hint=ADVICE)
        ) from error
    return images, _label_tensor(labels, len(images), classes, name)


def parse_sheet(content: bytes, name: str) -> Tensor:
    """The images (n, 3, 32, 32) in a PNG of n rows of 1024 RGB pixels, one image per row."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as sheet:
            if sheet.mode != "RGB" or sheet.width != PIXELS // 3:
                raise ValueError(f"{sheet.width} × {sheet.height} pixels, {sheet.mode}")
            rows = np.asarray(sheet)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            explain(
                expected=f"{name} to be a whole PNG of RGB rows of {PIXELS // 3} pixels.", got=f"{error}.", hint=ADVICE
            )
        ) from error
    return torch.from_numpy(np.ascontiguousarray(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)))


def _label_tensor(labels: Any, examples: int, classes: int, name: str) -> Tensor:
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise ValueError(
            explain(expected=f"{name} to be a list of whole numbers.", got=f"{type(labels).__name__}.", hint=ADVICE)
        )
    tensor = torch.tensor(labels, dtype=torch.int64)
    check_labels(tensor, examples, classes, name)
    return tensor
