"""A first linear layer, a ReLU, and the next linear layer, among traced operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

RELU_FUNCTIONS = (F.relu, torch.relu)


@dataclass(frozen=True)
class LinearReluLinear:
    """A first linear layer, what stands between it and the next one (a ReLU), that next one, and its outputs."""

    first: fx.Node
    between: tuple[fx.Node, ...]
    layer: fx.Node
    outputs: int


def linear_relu_linear(first: fx.Node, modules: Mapping[str, nn.Module]) -> LinearReluLinear | None:
    """What follows a first layer, if that is a ReLU and a linear layer and nothing else."""
    if first.op == "call_module" and type(modules[str(first.target)]) is not nn.Linear:
        return None
    node, bent = first, False
    between: list[fx.Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        module = modules[str(node.target)] if node.op == "call_module" else None
        if bent and type(module) is nn.Linear:
            return LinearReluLinear(first, tuple(between), node, module.out_features)
        bends = type(module) is nn.ReLU or (node.op == "call_function" and node.target in RELU_FUNCTIONS)
        if not bends and type(module) not in (nn.Identity, nn.Dropout):
            return None
        bent |= bends
        between.append(node)
    return None
