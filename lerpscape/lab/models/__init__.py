"""Networks by name, each a plain torch module, or by a factory of your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import import_object, unknown_name
from lerpscape.lab.models.alexnet import alexnet
from lerpscape.lab.models.autoencoders import autoencoder, linear_autoencoder
from lerpscape.lab.models.fully_connected import fully_connected
from lerpscape.lab.models.language import lstm, transformer
from lerpscape.lab.models.lenet import lenet
from lerpscape.lab.models.residual import resnet
from lerpscape.lab.models.vgg import vgg
from lerpscape.lab.options import check_options
from lerpscape.paths.endpoints import BUILT_BY

MODELS: dict[str, Callable[..., nn.Module]] = {
    "fully_connected": fully_connected,
    "autoencoder": autoencoder,
    "linear_autoencoder": linear_autoencoder,
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg": vgg,
    "resnet": resnet,
    "lstm": lstm,
    "transformer": transformer,
}


def build(name: str, *, inputs: tuple[int, ...], outputs: int, seed: int, **options: Any) -> nn.Module:
    """Build a network by name; the same seed gives the same bits, and the caller's random generators do not change.

    `inputs` is the shape of one example: (1, 28, 28), (8, 8), () for sequences of tokens. `outputs` is the number of
    classes, of reconstructed values, or of tokens in the vocabulary. `options` are the factory's keyword arguments. A
    name with a colon, `package.module:factory`, is a factory of your own: it is called with the options, and with
    `inputs` and `outputs` if its signature has them, and must draw its weights from torch's generator.

    Raises `ConfigError` for an unknown name or option (suggesting the nearest), for a missing option or one of the
    wrong type, and for a factory that does not return a module.

    >>> build("fully_connected", inputs=(8, 8), outputs=10, seed=0, widths=(16,), activation="tanh")
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=64, out_features=16, bias=True)
      (2): Tanh()
      (3): Linear(in_features=16, out_features=10, bias=True)
    )
    """
    factory = _factory(name)
    sizes = {"inputs": tuple(inputs), "outputs": outputs}
    check_options(name, factory, options, given=sizes)
    parameters = inspect.signature(factory).parameters
    with torch.random.fork_rng(devices=[]):
        # Seeds the CPU generator only; torch.manual_seed would also reset those of other devices.
        torch.default_generator.manual_seed(seed)
        model = factory(**{key: value for key, value in sizes.items() if key in parameters}, **options)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            explain(
                expected=f"a torch module from {name!r}.",
                got=f"{type(model).__name__}.",
                hint="Let the factory return the network.",
            )
        )
    setattr(model, BUILT_BY, partial(build, name, inputs=inputs, outputs=outputs, **options))
    return model


def _factory(name: str) -> Callable[..., Any]:
    if ":" not in name:
        if name not in MODELS:
            raise ConfigError(unknown_name("model", name, MODELS) + " A factory of your own is package.module:factory.")
        return MODELS[name]
    try:
        factory = import_object(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ConfigError(
            explain(
                expected=f"{name} to be a function.",
                got=f"an object of type {type(factory).__name__}.",
                hint="Give the name of the function that builds the network.",
            )
        )
    return factory  # type: ignore[no-any-return]
