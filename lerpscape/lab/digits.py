"""scikit-learn's handwritten digits: 1,797 real images of 8 × 8, which come with the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lerpscape.saving import optional

HELD_OUT = 360
BATCH = 512


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and held-out images and labels: 1,437 and 360, split once by a fixed permutation.

    Images of shape (n, 64), float32 in [0, 1]; labels int64. Needs scikit-learn (`pip install "lerpscape[demo]"`).

    >>> (images, labels), (held_out, _) = digits()
    >>> images.shape, labels.shape, held_out.shape
    (torch.Size([1437, 64]), torch.Size([1437]), torch.Size([360, 64]))
    """
    load_digits = optional("sklearn.datasets", "demo").load_digits
    pixels, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.tensor(pixels[order] / 16, dtype=torch.float32)
    labels = torch.tensor(classes[order])
    return (images[HELD_OUT:], labels[HELD_OUT:]), (images[:HELD_OUT], labels[:HELD_OUT])


def train_data() -> list[tuple[Tensor, Tensor]]:
    """The training images in order, in batches of 512, as `--data lerpscape.lab.digits:train_data`."""
    return _batches(*digits()[0])


def held_out_data() -> list[tuple[Tensor, Tensor]]:
    """The held-out images in order, as `--held-out lerpscape.lab.digits:held_out_data`."""
    return _batches(*digits()[1])


def _batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True))
