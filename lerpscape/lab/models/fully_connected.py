"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lerpscape.base.errors import ConfigError
from lerpscape.base.names import unknown_name
from lerpscape.lab.models.activations import activation_layer
from lerpscape.lab.models.initialisation import NTKLinear, initialise, keep_biases
from lerpscape.lab.options import Size

LAYERS: dict[str, type[nn.Linear] | type[NTKLinear]] = {"standard": nn.Linear, "ntk": NTKLinear}


def fully_connected(
    inputs: Sequence[int],
    outputs: int,
    *,
    widths: Sequence[Size] = (128,),
    activation: str = "relu",
    batch_norm: bool = False,
    biases: str = "all",
    init: str = "default",
    init_scale: float = 1.0,
    parametrization: str = "standard",
) -> nn.Sequential:
    """Hidden layers of the given widths: linear, batch norm if `batch_norm`, activation; then a linear output layer.

    Parameters: Σ (n + 1) m over neighbouring sizes n, m, and 2 m for each batch norm; 784-1024-1024-10 has 1,863,690.
    `activation`: relu, sigmoid, tanh, gelu, identity, groupsort. `biases`: all, last, none. `init` and `init_scale`
    are those of `initialise`, `parametrization` standard or ntk (see `NTKLinear`).

    Raises `ConfigError` for an unknown word in one of these options.

    >>> sum(p.numel() for p in fully_connected((1, 28, 28), 10, widths=(1024, 1024)).parameters())
    1863690
    """
    if parametrization not in LAYERS:
        raise ConfigError(unknown_name("parametrization", parametrization, LAYERS))
    linear = LAYERS[parametrization]
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(inputs)
    for width in widths:
        layers.append(linear(size, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        if activation != "identity":
            layers.append(activation_layer(activation, width))
        size = width
    model = nn.Sequential(*layers, linear(size, outputs))
    initialise(model, init, init_scale)
    keep_biases(model, biases)
    return model
