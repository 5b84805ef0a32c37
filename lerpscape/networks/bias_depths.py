"""How deep each bias lies: the number of layers with weights on the way to it, found by tracing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from lerpscape.base.errors import explain
from lerpscape.networks.fx_tracing import traced
from lerpscape.networks.layer_kinds import kind_of

_ADVICE = 'Give the depths: homogeneous_biases(model, depths={"layer1.bias": 1, "layer2.bias": 2, ...}).'


def bias_depths(model: nn.Module) -> dict[str, int]:
    """The depth of every bias of linear and convolutional layers, by name.

    Raises `TypeError` that names the layer where depth has no meaning: normalisation, which takes the scale of what
    comes before away, branches of different depths that meet, and layers with parameters of another kind.

    >>> bias_depths(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
    {'0.bias': 1, '2.bias': 2}
    """
    modules = dict(model.named_modules())
    depths: dict[fx.Node, int | None] = {}
    of_biases: dict[str, int] = {}
    for node in traced(model, _ADVICE).graph.nodes:
        if node.op == "placeholder":
            depths[node] = 0
            continue
        before = {depths[each] for each in node.all_input_nodes} - {None}
        if len(before) > 1:
            raise _refusal(f"{node.name!r}, where branches of depths {_and(before)} meet")
        depth = next(iter(before), None)
        if node.op == "get_attr":
            raise _refusal(f"{node.target!r}, a tensor used outside a layer")
        kind = kind_of(node, modules)
        if kind is not None and kind.normalises:
            raise _refusal(f"{_named(node, modules)}, which takes away the scale before it")
        if node.op == "call_module":
            layer = modules[str(node.target)]
            if kind is not None and kind.linear_in_weights and depth is not None:
                depth += 1
                if layer.bias is not None and of_biases.setdefault(f"{node.target}.bias", depth) != depth:
                    raise _refusal(f"{node.target!r}, used at two depths")
            elif next(layer.parameters(), None) is not None:
                raise _refusal(_named(node, modules))
        depths[node] = None if kind is not None and kind.reads_shape else depth
    return of_biases


def _named(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        return f"{node.target!r}, a {type(modules[str(node.target)]).__name__}"
    return f"{node.name!r}"


def _refusal(what: str) -> TypeError:
    return TypeError(
        explain(expected="linear and convolutional layers, each at one depth.", got=f"{what}.", hint=_ADVICE),
    )


def _and(depths: set[int | None]) -> str:
    return " and ".join(str(depth) for depth in sorted(depth for depth in depths if depth is not None))
