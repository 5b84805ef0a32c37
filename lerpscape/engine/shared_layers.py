"""What of a network every α shares: steps on the data alone, the layers that the data enter, and a ReLU behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lerpscape.networks import forward_ad
from lerpscape.networks.in_place import writes
from lerpscape.networks.layer_kinds import CONV2D, DROPOUT, LINEAR, RELU, SUM, does_nothing, kind_of, settings_of

# Products per output below which computing a layer costs less than reading two stored results and mixing them.
WORTH_SHARING = 64


def given(nodes: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """The inputs, and what depends on them alone."""
    nodes_given = {node for node in nodes if node.op == "placeholder"}
    for node in nodes:
        inputs = node.all_input_nodes
        if inputs and all(before in nodes_given for before in inputs) and _repeats(node, modules):
            nodes_given.add(node)
    return nodes_given


def _repeats(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether an operation gives the same for the same data, or does arithmetic on shapes."""
    kind = kind_of(node, modules)
    if kind is None or kind is DROPOUT:
        return kind is DROPOUT and does_nothing(node, modules)
    known = kind.arithmetic or kind.may_share_memory or kind.reads_shape or kind is SUM
    return known and not writes(node, modules)


def is_first_layer(
    node: fx.Node, given: Collection[fx.Node], modules: Mapping[str, nn.Module], constants: Collection[str]
) -> bool:
    """Whether a step is a layer, linear in weights of the model, that what is `given` with the data enters."""
    kind = kind_of(node, modules)
    if node.op == "call_function" and kind is LINEAR:
        first, *own = [*node.args, *node.kwargs.values()]
        return first in given and all(each is None or _is_tensor_of_model(each, constants) for each in own)
    if node.op != "call_module" or not all(before in given for before in node.all_input_nodes):
        return False
    settings = settings_of(node, modules) if kind is CONV2D else {}
    zeros = settings.get("padding_mode") == "zeros"
    return kind is LINEAR or (zeros and settings["weight"][0].numel() >= WORTH_SHARING)


def _is_tensor_of_model(node: Any, constants: Collection[str]) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and str(node.target) not in constants


@dataclass(frozen=True)
class LinearReluLinear:
    """A first linear layer, what stands between it and the next one (a ReLU), that next one, and its outputs."""

    first: fx.Node
    between: tuple[fx.Node, ...]
    layer: fx.Node
    outputs: int


def linear_relu_linear(first: fx.Node, modules: Mapping[str, nn.Module]) -> LinearReluLinear | None:
    """What follows a first layer, if that is a ReLU and a linear layer and nothing else."""
    if kind_of(first, modules) is not LINEAR:
        return None
    node, after_relu = first, False
    between: list[fx.Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        kind = kind_of(node, modules)
        if after_relu and kind is LINEAR and node.op == "call_module":
            return LinearReluLinear(first, tuple(between), node, len(settings_of(node, modules)["weight"]))
        if kind is not RELU and not does_nothing(node, modules):
            return None
        after_relu |= kind is RELU
        between.append(node)
    return None


@dataclass(frozen=True)
class EndpointOutputs:
    """The outputs of a first layer at both ends, and their derivative by α where it is wanted.

    >>> EndpointOutputs(torch.tensor([0.0]), torch.tensor([2.0]), None).at(0.25)
    tensor([0.5000])
    """

    start: Tensor
    end: Tensor
    change: Tensor | None

    def at(self, alpha: float, into: Tensor | None = None) -> Tensor:
        """The output at α, a dual tensor where there is a derivative; written `into` a tensor if given."""
        if self.change is not None:
            return forward_ad.dual(torch.lerp(self.start, self.end, alpha), self.change)
        return torch.lerp(self.start, self.end, alpha, out=into)

    @property
    def shape(self) -> torch.Size:
        """The shape of the output."""
        return self.start.shape

    @property
    def like(self) -> Tensor:
        """A tensor of the same type and device."""
        return self.start

    @property
    def elements(self) -> int:
        """The number of elements held."""
        return sum(part.numel() for part in (self.start, self.end, self.change) if part is not None)
