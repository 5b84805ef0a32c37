"""Images in memory: uint8 pixels, their labels, and what they are normalised by."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.lab.data.splits import DataSet, Split

Images: TypeAlias = tuple[Tensor, Tensor]


def image_set(
    name: str, train: Images, test: Images, classes: int, *, normalize: bool, reconstruct: bool, white: int = 255
) -> DataSet:
    """A data set of uint8 images (n, channels, height, width) and their labels, `white` being the brightest pixel.

    With `normalize`, both parts are normalised by the training pixels' mean and standard deviation of each channel,
    rounded to four digits as they are published. With `reconstruct` the targets are the inputs, flattened.

    Raises `ValueError` for training and test images of different shapes.
    """
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            explain(
                expected=f"training and test images of {name} of one shape.",
                got=f"{tuple(train[0].shape[1:])} and {tuple(test[0].shape[1:])}.",
                hint="Get the files again, from one source.",
            )
        )
    mean, std = channel_statistics(train[0], white) if normalize else (None, None)

    def split(images: Tensor, labels: Tensor) -> Split:
        if reconstruct:
            return Split(images, None, white, mean, std)
        return Split(images, labels, white, mean, std, classes)

    inputs = tuple(train[0].shape[1:])
    return DataSet(
        name,
        split(*train),
        split(*test),
        "reconstruction" if reconstruct else "classification",
        inputs,
        math.prod(inputs) if reconstruct else classes,
    )


def channel_statistics(images: Tensor, white: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over N) of each channel of uint8 images in [0, 1], to four digits: (channels, 1, 1).

    Counted in whole numbers, so exact up to the rounding at the end, and without a float copy of the images.

    >>> mean, std = channel_statistics(torch.tensor([0, 0, 255, 255], dtype=torch.uint8).reshape(1, 1, 2, 2), 255)
    >>> mean.item(), std.item()
    (0.5, 0.5)
    """
    levels = torch.arange(256)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256)
        n, total, squares = (int((counts * levels**power).sum()) for power in (0, 1, 2))
        means.append(round(total / n / white, 4))
        stds.append(round(math.sqrt(n * squares - total**2) / n / white, 4))
    return torch.tensor(means)[:, None, None], torch.tensor(stds)[:, None, None]


def check_labels(labels: Tensor, examples: int, classes: int, name: str) -> None:
    """Raise `ValueError` unless there is one label for each example and all of them are classes."""
    if not examples or len(labels) != examples:
        raise ValueError(
            explain(
                expected=f"{name} to hold one label for each image, and at least one.",
                got=f"{len(labels)} labels for {examples} images.",
                hint="Get both files again, from one source.",
            )
        )
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            explain(
                expected=f"{name} to hold labels from 0 to {classes - 1}.",
                got=f"{int(labels[first])} at index {first}, and {len(wrong) - 1} more.",
                hint="Get the file again.",
            )
        )
