"""Autoencoders: fully connected networks with a narrow code layer and a linear, flattened output."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.lab.models.fully_connected import fully_connected
from lerpscape.lab.options import Size


def autoencoder(
    inputs: Sequence[int],
    outputs: int,
    *,
    widths: Sequence[Size] = (512,),
    code: Size = 30,
    activation: str = "relu",
    batch_norm: bool = False,
    biases: str = "all",
    init: str = "default",
    init_scale: float = 1.0,
) -> nn.Sequential:
    """Hidden layers of the given widths, the code, and the widths in reverse: n-512-code-512-n by default.

    The activation follows every hidden layer including the code; the output is linear. The other options are those of
    `fully_connected`.

    Raises `ConfigError` if the number of outputs differs from the number of values of an example.

    >>> sum(p.numel() for p in autoencoder((1, 28, 28), 784, code=100).parameters())
    907124
    """
    values = math.prod(inputs)
    if outputs != values:
        raise ConfigError(
            explain(
                expected=f"as many outputs as an example of shape {tuple(inputs)} has values ({values}).",
                got=f"{outputs}.",
                hint="Load the data for reconstruction: reconstruct = true.",
            )
        )
    return fully_connected(
        inputs,
        outputs,
        widths=(*widths, code, *reversed(widths)),
        activation=activation,
        batch_norm=batch_norm,
        biases=biases,
        init=init,
        init_scale=init_scale,
    )


def linear_autoencoder(
    inputs: Sequence[int],
    outputs: int,
    *,
    widths: Sequence[Size] = (),
    code: Size = 30,
    biases: str = "none",
    init: str = "default",
    init_scale: float = 1.0,
) -> nn.Sequential:
    """An autoencoder without activations; n-code-n without biases by default.

    Raises `ConfigError` if the number of outputs differs from the number of values of an example.

    >>> linear_autoencoder((8, 8), 64, code=5)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=64, out_features=5, bias=False)
      (2): Linear(in_features=5, out_features=64, bias=False)
    )
    """
    return autoencoder(
        inputs,
        outputs,
        widths=widths,
        code=code,
        activation="identity",
        biases=biases,
        init=init,
        init_scale=init_scale,
    )
