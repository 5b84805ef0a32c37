"""scikit-learn's handwritten digits: 1,797 images of 8 × 8 pixels, part of that package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.saving import import_optional
from lerpscape.lab.data._images import image_set
from lerpscape.lab.data.splits import DataSet, Split

HELD_OUT = 360
BATCH = 512
MAX_PIXEL = 16


def digits(folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False) -> DataSet:
    """1,437 training and 360 test images, split by a fixed permutation; pixels in steps of 1/16.

    The images come with scikit-learn (`pip install "lerpscape[demo]"`), so `folder` is ignored.

    >>> data = digits()
    >>> len(data.train), len(data.test), data.inputs, data.outputs
    (1437, 360, (1, 8, 8), 10)
    """
    pixels, classes = import_optional("sklearn.datasets", "demo").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].astype(np.uint8)).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(classes[order])
    train, test = (images[HELD_OUT:], labels[HELD_OUT:]), (images[:HELD_OUT], labels[:HELD_OUT])
    return image_set("digits", train, test, 10, normalize=normalize, reconstruct=reconstruct, max_pixel=MAX_PIXEL)


def train_data() -> list[tuple[Tensor, Tensor]]:
    """Batches of the training images, flattened to 64 pixels, for `--data lerpscape.lab.data.digits:train_data`."""
    return _flat_batches(digits().train)


def held_out_data() -> list[tuple[Tensor, Tensor]]:
    """Batches of the test images, flattened, for `--held-out lerpscape.lab.data.digits:held_out_data`."""
    return _flat_batches(digits().test)


def _flat_batches(split: Split) -> list[tuple[Tensor, Tensor]]:
    return [(images.flatten(1), labels) for images, labels in split.batches(BATCH)]
