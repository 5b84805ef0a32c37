"""VGG for CIFAR: blocks of 3 × 3 convolutions and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lerpscape.base.errors import ConfigError
from lerpscape.base.names import unknown_name
from lerpscape.lab.models._shapes import image_shape
from lerpscape.lab.models.activations import activation_layer
from lerpscape.lab.models.initialisation import initialise, keep_biases
from lerpscape.lab.options import Size

# Number of convolutions in each of the five blocks; their channels are MULTIPLES times the width.
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MULTIPLES = (1, 2, 4, 8, 8)


def vgg(
    inputs: Sequence[int],
    outputs: int,
    *,
    depth: Size = 16,
    width: Size = 64,
    activation: str = "relu",
    batch_norm: bool = False,
    biases: str = "all",
    init: str = "kaiming",
    init_scale: float = 1.0,
) -> nn.Sequential:
    """Five blocks of convolutions with 2 × 2 max pooling, and one linear layer (Simonyan & Zisserman 2015).

    For CIFAR-10, depth 16 has 14,719,818 parameters and depth 19 has 20,029,514; batch norm after each convolution adds
    8,448 and 11,008. `depth` is 11, 13, 16 or 19, `width` the number of channels of the first block; the other options
    are those of `fully_connected`, but `init` is kaiming: torch's default divides the variance by 6 at each ReLU layer.

    Raises `ConfigError` for images smaller than 32 × 32 and for other depths.

    >>> sum(p.numel() for p in vgg((3, 32, 32), 10, depth=11, width=8).parameters())
    145210
    """
    size, *sides = image_shape(inputs, "vgg", smallest=32)
    if depth not in BLOCKS:
        raise ConfigError(unknown_name("depth of 'vgg'", depth, map(str, BLOCKS)))
    layers: list[nn.Module] = []
    for multiple, convolutions in zip(MULTIPLES, BLOCKS[depth], strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(size, multiple * width, 3, padding=1))
            size = multiple * width
            if batch_norm:
                layers.append(nn.BatchNorm2d(size))
            layers.append(activation_layer(activation, size))
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size * (sides[0] // 32) * (sides[1] // 32), outputs))
    initialise(model, init, init_scale)
    keep_biases(model, biases)
    return model
