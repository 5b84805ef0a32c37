"""LeNet-5 with max pooling and modern activations: two convolutions, three linear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lerpscape.lab.models._shapes import image_shape
from lerpscape.lab.models.activations import activation_layer
from lerpscape.lab.models.initialisation import initialise, keep_biases

SIDE = 32


def lenet(
    inputs: Sequence[int],
    outputs: int,
    *,
    activation: str = "relu",
    batch_norm: bool = False,
    biases: str = "all",
    init: str = "default",
    init_scale: float = 1.0,
) -> nn.Sequential:
    """5 × 5 convolutions of 6 and 16 channels, each with 2 × 2 max pooling, then linear layers of 120 and 84 units.

    Smaller images are padded with zeros to 32 × 32 (LeCun et al. 1998). 61,706 parameters for 28 × 28 images of one
    channel and ten classes, 62,006 for CIFAR-10; batch norm after each convolution and hidden linear layer adds 452.
    The options are those of `fully_connected`.

    Raises `ConfigError` for examples that are not images.

    >>> sum(p.numel() for p in lenet((1, 28, 28), 10).parameters())
    61706
    """
    channels, *sides = image_shape(inputs, "lenet")
    padding = [math.ceil(max(SIDE - side, 0) / 2) for side in sides]
    sizes = [((side + 2 * pad - 4) // 2 - 4) // 2 for side, pad in zip(sides, padding, strict=True)]

    def after(width: int, two_dimensional: bool) -> list[nn.Module]:
        norms: list[nn.Module] = [nn.BatchNorm2d(width) if two_dimensional else nn.BatchNorm1d(width)]
        return [*(norms if batch_norm else []), activation_layer(activation, width)]

    model = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=(padding[0], padding[1])),
        *after(6, True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        *after(16, True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * math.prod(sizes), 120),
        *after(120, False),
        nn.Linear(120, 84),
        *after(84, False),
        nn.Linear(84, outputs),
    )
    initialise(model, init, init_scale)
    keep_biases(model, biases)
    return model
