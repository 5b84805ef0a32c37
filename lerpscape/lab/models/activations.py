"""Activations by name, GroupSort among them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name


class GroupSort(nn.Module):
    """Sorts the features in groups of `size` neighbours; 1-Lipschitz, and preserves every norm.

    The features, or channels, are dimension 1. Size 2 is MaxMin; the size of the whole layer is FullSort (Anil, Lucas &
    Grosse 2019, "Sorting out Lipschitz function approximation").

    Raises `ConfigError` for a size under 2.

    >>> GroupSort()(torch.tensor([[3.0, 1.0, -1.0, 0.0]]))
    tensor([[ 1.,  3., -1.,  0.]])
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        if size < 2:
            raise ConfigError(
                explain(expected="groups of at least 2 features.", got=f"size={size}.", hint="Use 2 (MaxMin) or more.")
            )
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Outputs shaped like `x`, whose number of features must be a multiple of the group size."""
        groups = torch.unflatten(x, 1, (-1, self.size))
        return torch.sort(groups, dim=2).values.flatten(1, 2)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "groupsort": GroupSort,
}


def activation_layer(name: str, features: int) -> nn.Module:
    """A new activation layer for this number of features or channels.

    Raises `ConfigError` for an unknown name, and for GroupSort on an odd number of features.

    >>> activation_layer("tanh", 8)
    Tanh()
    """
    if name not in ACTIVATIONS:
        raise ConfigError(unknown_name("activation", name, ACTIVATIONS))
    layer = ACTIVATIONS[name]()
    if isinstance(layer, GroupSort) and features % layer.size:
        raise ConfigError(
            explain(
                expected=f"a multiple of {layer.size} features in every layer, for the groups of GroupSort.",
                got=f"{features} features.",
                hint="Choose an even width.",
            )
        )
    return layer
