"""Data sets of uint8 images: their splits, channel statistics and labels."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.lab.data.splits import DataSet, Split

Images: TypeAlias = tuple[Tensor, Tensor]


def image_set(
    name: str, train: Images, test: Images, classes: int, *, normalize: bool, reconstruct: bool, max_pixel: int = 255
) -> DataSet:
    """A data set of uint8 images (n, channels, height, width) with labels; `max_pixel` is the brightest value.

    With `normalize`, both splits are normalised by the mean and standard deviation of the training pixels in each
    channel, rounded to four digits as is usual. With `reconstruct` the targets are the flattened inputs.

    Raises `ValueError` for training and test images of different shapes.
    """
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(
            explain(
                expected=f"training and test images of {name} to have one shape.",
                got=f"{tuple(train[0].shape[1:])} and {tuple(test[0].shape[1:])}.",
                hint="Download the files again, from one source.",
            )
        )
    mean, std = channel_statistics(train[0], max_pixel) if normalize else (None, None)

    def split(images: Tensor, labels: Tensor) -> Split:
        if reconstruct:
            return Split(images, None, max_pixel, mean, std)
        return Split(images, labels, max_pixel, mean, std, classes)

    inputs = tuple(train[0].shape[1:])
    return DataSet(
        name,
        split(*train),
        split(*test),
        "reconstruction" if reconstruct else "classification",
        inputs,
        math.prod(inputs) if reconstruct else classes,
    )


def channel_statistics(images: Tensor, max_pixel: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (over N) of each channel of uint8 images in [0, 1], to four digits: (channels, 1, 1).

    Sums are exact, over counts of pixel values, and no float copy of the images is made.

    >>> mean, std = channel_statistics(torch.tensor([0, 0, 255, 255], dtype=torch.uint8).reshape(1, 1, 2, 2), 255)
    >>> mean.item(), std.item()
    (0.5, 0.5)
    """
    levels = torch.arange(256)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256)
        n, total, squares = (int((counts * levels**power).sum()) for power in (0, 1, 2))
        means.append(round(total / n / max_pixel, 4))
        stds.append(round(math.sqrt(n * squares - total**2) / n / max_pixel, 4))
    return torch.tensor(means)[:, None, None], torch.tensor(stds)[:, None, None]


def check_labels(labels: Tensor, examples: int, classes: int, name: str) -> None:
    """Raise `ValueError` unless there is one label for each example, from 0 to `classes` − 1."""
    if not examples or len(labels) != examples:
        raise ValueError(
            explain(
                expected=f"{name} to hold one label for each image, and at least one.",
                got=f"{len(labels)} labels for {examples} images.",
                hint="Download both files again, from one source.",
            )
        )
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            explain(
                expected=f"{name} to hold labels from 0 to {classes - 1}.",
                got=f"{int(labels[first])} at index {first}, and {len(wrong) - 1} more.",
                hint="Download the file again.",
            )
        )
