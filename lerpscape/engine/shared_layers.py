"""Which steps of a network every α shares: those on the data alone, and the layers that the data enter."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

# Products per output below which computing a layer costs less than reading two stored results and mixing them.
WORTH_SHARING = 64
# Operations that give the same for the same data, example by example, or do arithmetic on shapes.
PURE_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv, operator.eq, operator.ne)
PURE_FUNCTIONS = (torch.flatten, operator.getitem, getattr, *ARITHMETIC)
PURE_METHODS = ("view", "reshape", "flatten", "size", "unsqueeze", "squeeze", "permute", "contiguous", "float", "sum")


def given(nodes: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """The inputs, and what depends on them alone."""
    found = {node for node in nodes if node.op == "placeholder"}
    known = {"call_module": PURE_MODULES, "call_function": PURE_FUNCTIONS, "call_method": PURE_METHODS}
    for node in nodes:
        if node.op not in known or not all(before in found for before in node.all_input_nodes):
            continue
        target: Any = type(modules[str(node.target)]) if node.op == "call_module" else node.target
        if target in known[node.op] and node.all_input_nodes:
            found.add(node)
    return found


def is_first_layer(
    node: fx.Node, given: Collection[fx.Node], modules: Mapping[str, nn.Module], constants: Collection[str]
) -> bool:
    """Whether a step is a layer, linear in weights of the model, that what is `given` with the data enters."""
    if node.op == "call_function" and node.target is F.linear:
        first, *own = [*node.args, *node.kwargs.values()]
        return first in given and all(each is None or _is_tensor_of_model(each, constants) for each in own)
    if node.op != "call_module" or not all(before in given for before in node.all_input_nodes):
        return False
    module = modules[str(node.target)]
    if type(module) is nn.Linear:
        return True
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and module.weight[0].numel() >= WORTH_SHARING


def _is_tensor_of_model(node: Any, constants: Collection[str]) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and str(node.target) not in constants
