"""What operations write over, and whether it is read again: then their order, not only their results, matters."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping

from torch import fx, nn

from lerpscape.networks.layer_kinds import kind_of

# x += y and the like
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow)


def writes(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether an operation may write over its first argument."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_function":
        return (
            node.target in IN_PLACE
            or getattr(node.target, "__name__", "").endswith("_")
            or bool(_given(node).get("inplace"))
        )
    return node.op == "call_method" and str(node.target).endswith("_")


def read_after_writing(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> tuple[str, set[str]]:
    """An operation that reads what another has written over, in words, and the module's own tensors written to.

    >>> import torch, torch.nn.functional as F
    >>> def forward(x):
    ...     hidden = torch.exp(x)
    ...     return F.relu(hidden, inplace=True) + hidden
    >>> read_after_writing(fx.Tracer().trace(forward), {})
    ("'add' reads the result of 'exp' after 'relu' has written over it", set())
    """
    memory: dict[fx.Node, fx.Node] = {}
    over: dict[fx.Node, fx.Node] = {}
    own = set()
    reason = ""
    for node in graph.nodes:
        for read in node.all_input_nodes:
            if read in over and not reason:
                reason = (
                    f"{node.name!r} reads the result of {read.name!r} after {over[read].name!r} has written over it"
                )
        source = next(iter(node.all_input_nodes), None)
        written = writes(node, modules)
        memory[node] = memory[source] if source is not None and (written or _shares(node, modules)) else node
        if written and memory[node] is not node:
            over |= {other: node for other in memory if memory[other] is memory[node] and other is not node}
            if memory[node].op == "get_attr":
                own.add(str(memory[node].target))
    return reason, own


def _shares(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    kind = kind_of(node, modules)
    return kind is not None and kind.may_share_memory


def _given(node: fx.Node) -> Mapping[str, object]:
    """The arguments by name of any function that has names for them, in the table of kinds or not."""
    assert callable(node.target)
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # built into torch: their names that write end in an underscore
        return node.kwargs
