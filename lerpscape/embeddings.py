"""Sums over embeddings of the data: linear in the weights, and small beside the embeddings that they sum."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

MULTIPLICATIONS = (operator.mul, torch.mul)
DIVISIONS = (operator.truediv, torch.div)
SUMS = ("sum", "mean", torch.sum, torch.mean)


def embedded_sums(
    nodes: Sequence[fx.Node], given: Collection[fx.Node], modules: Mapping[str, nn.Module]
) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Steps from an embedding of what is `given` with the data over a sum of it, while they are linear, by the last.

    The embedding may be multiplied by what is given. One that is not summed takes as long to keep as to look up.
    """
    found = {}
    for node in nodes:
        if not _embeds(node, given, modules):
            continue
        steps = [node]
        while len(steps[-1].users) == 1 and _linear(step := next(iter(steps[-1].users)), steps[-1], given, modules):
            steps.append(step)
        if any(step.target in SUMS for step in steps):
            found[steps[-1]] = tuple(steps)
    return found


def _embeds(node: fx.Node, given: Collection[fx.Node], modules: Mapping[str, nn.Module]) -> bool:
    module: Any = modules[str(node.target)] if node.op == "call_module" else None
    # with max_norm the weights are changed by looking them up
    return type(module) is nn.Embedding and module.max_norm is None and all(each in given for each in node.args)


def _linear(node: fx.Node, moving: fx.Node, given: Collection[fx.Node], modules: Mapping[str, nn.Module]) -> bool:
    """Whether a step is linear in its argument `moving`, all others being given."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) in (nn.Dropout, nn.Identity)
    others = [each for each in node.args if each is not moving]
    known = all(each in given for each in node.all_input_nodes if each is not moving)
    if not known or len(others) != len(node.args) - 1:
        return False
    if node.target in MULTIPLICATIONS:
        return len(others) == 1
    first = node.args[0] is moving and "dtype" not in node.kwargs and "rounding_mode" not in node.kwargs
    return first and node.target in (*DIVISIONS, *SUMS)
