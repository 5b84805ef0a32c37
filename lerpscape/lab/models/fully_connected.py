"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.lab.models.activations import activation_layer
from lerpscape.lab.models.initialisation import AsymmetricLinear, NTKLinear, initialise, keep_biases
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
    fixed_entries: int = 0,
    fixed_scale: float = 1.0,
) -> nn.Sequential:
    """Hidden layers of the given widths: linear, batch norm if `batch_norm`, activation; then a linear output layer.

    Parameters: Σ (n + 1) m over neighbouring sizes n, m, and 2 m for each batch norm; 784-1024-1024-10 has 1,863,690.
    `activation`: relu, sigmoid, tanh, gelu, identity, groupsort. `biases`: all, last, none. `init` and `init_scale`
    are those of `initialise`, `parametrization` standard or ntk (see `NTKLinear`). `fixed_entries` > 0 makes the layers
    asymmetric (see `AsymmetricLinear`).

    Raises `ConfigError` for an unknown word in one of these options.

    >>> sum(p.numel() for p in fully_connected((1, 28, 28), 10, widths=(1024, 1024)).parameters())
    1863690
    """
    if parametrization not in LAYERS:
        raise ConfigError(unknown_name("parametrization", parametrization, LAYERS))
    if fixed_entries and parametrization != "standard":
        raise ConfigError(
            explain(
                expected='parametrization="standard" with fixed_entries.',
                got=f"{parametrization!r}.",
                hint="Leave one of them out.",
            )
        )

    def linear(inputs: int, outputs: int, number: int) -> nn.Module:
        if fixed_entries:
            return AsymmetricLinear(inputs, outputs, fixed=fixed_entries, scale=fixed_scale, number=number)
        return LAYERS[parametrization](inputs, outputs)

    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(inputs)
    for number, width in enumerate(widths):
        layers.append(linear(size, width, number))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        if activation != "identity":
            layers.append(activation_layer(activation, width))
        size = width
    model = nn.Sequential(*layers, linear(size, outputs, len(widths)))
    initialise(model, init, init_scale)
    keep_biases(model, biases)
    return model
