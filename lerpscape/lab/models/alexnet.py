"""AlexNet for CIFAR: five convolutions and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lerpscape.lab.models._shapes import image_shape
from lerpscape.lab.models.activations import activation_layer
from lerpscape.lab.models.initialisation import initialise, keep_biases
from lerpscape.lab.options import Size

# Channels in units of the width, kernel, stride, padding, and whether 2 × 2 max pooling follows.
CONVOLUTIONS = ((1, 11, 4, 5, True), (3, 5, 1, 2, True), (6, 3, 1, 1, False), (4, 3, 1, 1, False), (4, 3, 1, 1, True))


def alexnet(
    inputs: Sequence[int],
    outputs: int,
    *,
    width: Size = 64,
    activation: str = "relu",
    batch_norm: bool = False,
    biases: str = "all",
    init: str = "default",
    init_scale: float = 1.0,
) -> nn.Sequential:
    """Convolutions of 64, 192, 384, 256 and 256 channels, without the two wide linear layers (Krizhevsky et al. 2012).

    2,472,266 parameters for CIFAR-10; batch norm after each convolution adds 2,304. `width` is the number of channels
    of the first convolution and scales the others; the other options are those of `fully_connected`.

    Raises `ConfigError` for images smaller than 29 × 29, which the pooling would reduce to nothing.

    >>> sum(p.numel() for p in alexnet((3, 32, 32), 10).parameters())
    2472266
    """
    size, *sides = image_shape(inputs, "alexnet", smallest=29)
    layers: list[nn.Module] = []
    for multiple, kernel, stride, padding, pooled in CONVOLUTIONS:
        channels = multiple * width
        layers.append(nn.Conv2d(size, channels, kernel, stride, padding))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(activation_layer(activation, channels))
        if pooled:
            layers.append(nn.MaxPool2d(2))
        size = channels
        sides = [((side + 2 * padding - kernel) // stride + 1) // (2 if pooled else 1) for side in sides]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size * sides[0] * sides[1], outputs))
    initialise(model, init, init_scale)
    keep_biases(model, biases)
    return model
