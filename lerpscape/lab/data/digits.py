"""scikit-learn's handwritten digits: 1,797 real images of 8 × 8, which come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.saving import import_optional
from lerpscape.lab.data.images import image_set
from lerpscape.lab.data.splits import DataSet, Split

HELD_OUT = 360
BATCH = 512
WHITE = 16


def digits(folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False) -> DataSet:
    """1,437 images to train on and 360 to test on, split once by a fixed permutation; pixels in steps of 1/16.

    The images come with scikit-learn (`pip install "lerpscape[demo]"`), so `folder` is not looked into.

    >>> found = digits()
    >>> len(found.train), len(found.test), found.inputs, found.outputs
    (1437, 360, (1, 8, 8), 10)
    """
    pixels, classes = import_optional("sklearn.datasets", "demo").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].astype(np.uint8)).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(classes[order])
    train, test = (images[HELD_OUT:], labels[HELD_OUT:]), (images[:HELD_OUT], labels[:HELD_OUT])
    return image_set("digits", train, test, 10, normalize=normalize, reconstruct=reconstruct, white=WHITE)


def train_data() -> list[tuple[Tensor, Tensor]]:
    """The training images in order, 64 pixels in a row, as `--data lerpscape.lab.data.digits:train_data`."""
    return rows(digits().train)


def held_out_data() -> list[tuple[Tensor, Tensor]]:
    """The held-out images in order, as `--held-out lerpscape.lab.data.digits:held_out_data`."""
    return rows(digits().test)


def rows(split: Split) -> list[tuple[Tensor, Tensor]]:
    """Batches of 512 with each image as one row of pixels."""
    return [(images.flatten(1), labels) for images, labels in split.batches(BATCH)]
