"""A module as the operations that torch.fx finds in it, run at any tensors.

`prepare` computes once for all α what depends on the data alone, and the outputs of the first layer at both ends: at α
the layer gives W(α)x + b(α) = lerp(W₀x + b₀, W_Tx + b_T, α). `run` computes the rest at one α.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.relu_sweep import NextLayer, ReLUSweep
from lerpscape.engine.shared_layers import EndpointOutputs, given, is_first_layer, linear_relu_linear
from lerpscape.networks import forward_ad
from lerpscape.networks.fx_tracing import blank_trace
from lerpscape.networks.in_place import writes
from lerpscape.networks.layer_kinds import (
    ADD,
    BATCH_NORM,
    CONV2D,
    IDENTITY,
    LINEAR,
    RELU,
    Kind,
    kind_of,
    kind_of_layer,
    settings_of,
    settings_of_layer,
)
from lerpscape.networks.lending import Lender
from lerpscape.paths.checkpoints import Params

Values: TypeAlias = dict[fx.Node, Any]
Moments: TypeAlias = tuple[Tensor, Tensor]
# A run: yields each batch-norm layer's name and input, is sent its mean and variance, and returns the output.
Run: TypeAlias = Generator[tuple[str, Tensor], Moments, Any]
# Called after each operation with its node and all values that are held then.
Observer: TypeAlias = Callable[[fx.Node, Values], None]


@dataclass(frozen=True)
class CapturedOutputs:
    """Outputs of layers for one batch, as the module computed them at one end, and their derivatives by α."""

    values: dict[fx.Node, Tensor] = field(default_factory=dict)
    derivatives: dict[fx.Node, Tensor] = field(default_factory=dict)


NOTHING_CAPTURED = CapturedOutputs()


class Buffers:
    """Memory that is written over: one tensor for each place and shape, the same one at every call.

    Allocating memory for every result takes as long as a tenth of the products in it.

    >>> buffers = Buffers()
    >>> first = buffers.at("layer", torch.Size((2, 3)), torch.zeros(1))
    >>> buffers.at("layer", torch.Size((2, 3)), torch.zeros(1)) is first, buffers.hold(first[:, 0])
    (True, True)
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[Hashable, tuple[int, ...]], Tensor] = {}

    def at(self, place: Hashable, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The tensor of this place and shape, of the type and on the device of `like`, with whatever is in it."""
        key = place, shape
        if key not in self._tensors:
            self._tensors[key] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return self._tensors[key]

    def hold(self, values: Tensor) -> bool:
        """Whether these values lie in memory that will be written over."""
        storage = values.untyped_storage()._cdata
        return any(storage == tensor.untyped_storage()._cdata for tensor in self._tensors.values())


class Graph:
    """A module whose operations are known, as `traced` finds it."""

    def __init__(self, model: nn.Module, graph: fx.Graph, constants: Mapping[str, Tensor]) -> None:
        self._nodes = list(graph.nodes)
        self._constants = constants
        self._modules = dict(model.named_modules())
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in reversed(named)}
        self._model = model
        self._owned = {node: self._tensors_of(node) for node in self._nodes if node.op == "call_module"}
        self._lenders: dict[fx.Node, Lender] = {}
        self.inputs = [node for node in self._nodes if node.op == "placeholder"]
        self._kinds = {node: kind_of(node, self._modules) for node in self._nodes if node.op.startswith("call")}
        self.given = given(self._nodes, self._modules)
        # of what a step may write over, others must have a copy
        self._writing = {node for node in self._nodes if writes(node, self._modules)}
        self._written = {node.args[0] for node in self._writing}
        ruled = [node for node, kind in self._kinds.items() if kind in _RULES]
        self._settings = {node: settings_of(node, self._modules) for node in ruled}
        self._rules = {node: rule for node in ruled if (rule := self._rule_of(node)) is not None}
        self.shared = [node for node in self._nodes if is_first_layer(node, self.given, self._modules, constants)]
        self.shared_weights = sum(self._weights_of(node) for node in self.shared)
        self.linear_relu_linear = next(
            filter(None, (linear_relu_linear(node, self._modules) for node in self.shared)), None
        )
        self._absorbed = {node for node in self._nodes if node.op == "get_attr" and set(node.users) <= {*self.shared}}
        convolutions = [each for each in self._modules.values() if kind_of_layer(each) is CONV2D]
        self.convolution_weights = sum(settings_of_layer(each, CONV2D)["weight"].numel() for each in convolutions)
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.batch_norms = sum(node.op == "call_module" and self._is_batch_norm(node) for node in self._nodes)
        self.buffers = Buffers()
        last = {used: node for node in self._nodes for used in node.all_input_nodes}
        self._done_after: dict[fx.Node, list[fx.Node]] = {}
        for used, node in last.items():
            self._done_after.setdefault(node, []).append(used)

    def needed(self, *, sweeping: bool = False) -> set[str]:
        """Names of the tensors that operations other than shared layers use; if `sweeping`, nor the swept layer."""
        names: set[str] = set()
        for node in self._nodes:
            if sweeping and self.linear_relu_linear and node is self.linear_relu_linear.layer:
                continue
            if node.op == "get_attr" and node not in self._absorbed:
                names |= {self._attribute(node)} - set(self._constants)
            elif node.op == "call_module" and node not in self.shared:
                names |= set(self._owned[node].values())
        return names

    def next_layer(self, start: Params, change: Params) -> NextLayer:
        """The linear layer behind the first ReLU."""
        assert self.linear_relu_linear is not None
        own = self._owned[self.linear_relu_linear.layer]
        weight, bias = start[own["weight"]], start[own["bias"]] if "bias" in own else None
        moved = change.get(own["weight"], torch.zeros_like(weight))
        return NextLayer.of(weight, moved, bias, change.get(own.get("bias", "")))

    def prepare(
        self,
        inputs: Any,
        start: Params,
        end: Params,
        change: Params | None,
        sweep: tuple[NextLayer, Floats] | None = None,
        at_start: CapturedOutputs = NOTHING_CAPTURED,
        at_end: CapturedOutputs = NOTHING_CAPTURED,
    ) -> Values:
        """Everything about a batch that α does not change; with the derivative where `change`, dθ/dα, is given.

        With `sweep`, the layer behind the first ReLU is updated from one of these α to the next. Outputs captured at
        the ends are not computed again.
        """
        values: Values = self._arguments(inputs)
        for node in self._nodes:
            if node in values:
                continue
            if node in self.given:
                values[node] = self._operation(node, values, start)
            elif node in self.shared:
                values[node] = self._endpoint_outputs(node, values, (start, end, change), at_start, at_end)
        block = self.linear_relu_linear
        if sweep and block:
            known = (at_start.values.get(block.layer), at_start.derivatives.get(block.layer))
            swept = ReLUSweep(values[block.first], *sweep, [output for output in known if output is not None])
            values |= dict.fromkeys(block.between) | {block.layer: swept}
        return {node: value for node, value in values.items() if any(user not in values for user in node.users)}

    def run(
        self,
        prepared: Values,
        state: Params,
        alpha: float,
        *,
        estimate: bool = False,
        observe: Observer | None = None,
    ) -> Run:
        """Run the rest at the tensors of an α; with `estimate`, batch norm asks for its statistics.

        Several runs may be under way at once only with `estimate`: without it, each writes over the results of the
        one before.
        """
        known: Values = {}
        reuse = not estimate
        swept = (
            {self.linear_relu_linear.first, *self.linear_relu_linear.between}
            if self.linear_relu_linear and self.linear_relu_linear.layer in prepared
            else ()
        )
        for node in self._nodes:
            if node in swept:
                continue
            if node in prepared:
                value = prepared[node]
                if isinstance(value, EndpointOutputs):
                    value = value.at(alpha, self.buffers.at(node, value.shape, value.like) if reuse else None)
                elif isinstance(value, ReLUSweep):
                    value = value.at(alpha)
                known[node] = value.clone() if node in self._written else value
            elif node in self.given or node in self._absorbed or node.op == "placeholder":
                continue
            elif node.op == "output":
                return fx.map_arg(node.args[0], known.__getitem__)
            elif estimate and node.op == "call_module" and self._is_batch_norm(node):
                layer = str(node.target)
                inputs = known[node.all_input_nodes[0]]
                moments = yield layer, inputs
                known[node] = self._normalised(node, inputs, moments, self._own(node, state))
                del inputs
            else:
                known[node] = self._operation(node, known, state, reuse)
            if observe is not None:
                observe(node, known)
            for used in self._done_after.get(node, ()):
                known.pop(used, None)
        raise AssertionError("a traced graph ends in its output")

    def outputs(self, prepared: Values, state: Params, alpha: float, observe: Observer | None = None) -> Any:
        """The network's output, batch norm at the statistics in `state`."""
        try:
            next(self.run(prepared, state, alpha, observe=observe))
        except StopIteration as end:
            return end.value
        raise AssertionError("nothing was to be estimated")

    def layers(self, *, swept: bool) -> dict[fx.Node, nn.Module]:
        """Shared layers that are modules; if `swept`, also the linear layer behind the first ReLU."""
        nodes = [*self.shared, *([self.linear_relu_linear.layer] if swept and self.linear_relu_linear else [])]
        return {node: self._modules[str(node.target)] for node in nodes if node.op == "call_module"}

    def _endpoint_outputs(
        self,
        node: fx.Node,
        values: Values,
        tensors: tuple[Params, Params, Params | None],
        at_start: CapturedOutputs,
        at_end: CapturedOutputs,
    ) -> EndpointOutputs:
        """The outputs of a shared layer at both ends and their derivative: as captured, or computed."""
        start, end, derivative = at_start.values.get(node), at_end.values.get(node), at_start.derivatives.get(node)
        if derivative is None and tensors[2] is not None:
            derivative = self._first_layer(node, values, tensors[2])
        return EndpointOutputs(
            self._first_layer(node, values, tensors[0]) if start is None else start,
            self._first_layer(node, values, tensors[1]) if end is None else end,
            derivative,
        )

    def _first_layer(self, node: fx.Node, values: Values, state: Params) -> Any:
        """The output of a shared layer at these tensors."""
        own = {used: self._operation(used, values, state) for used in node.all_input_nodes if used.op == "get_attr"}
        return self._operation(node, values | own, state)

    def takes(self, inputs: Any) -> bool:
        """Whether these are all the inputs that were traced, by name or place, and no others."""
        if isinstance(inputs, Mapping):
            return {str(node.target) for node in self.inputs} == set(inputs)
        return len(self.inputs) == (len(inputs) if isinstance(inputs, (tuple, list)) else 1)

    def _arguments(self, inputs: Any) -> Values:
        if isinstance(inputs, Mapping):
            return {node: inputs[str(node.target)] for node in self.inputs}
        return dict(zip(self.inputs, inputs if isinstance(inputs, (tuple, list)) else [inputs], strict=True))

    def _operation(self, node: fx.Node, known: Values, state: Params, reuse: bool = False) -> Any:
        """What an operation gives: by the rule of its kind where there is one, else as it is written."""
        if node.op == "get_attr":
            name = self._attribute(node)
            return self._constants[name] if name in self._constants else state[name]
        arguments: Any = fx.map_arg(node.args, known.__getitem__)
        rule = self._rules.get(node)
        if node.op == "call_module":
            own = self._own(node, state)
            if rule is not None:
                return rule(self, node, arguments[0], own, reuse)
            module = self._modules[str(node.target)]
            options: Any = fx.map_arg(node.kwargs, known.__getitem__)
            if node not in self._lenders:
                self._lenders[node] = Lender(module)
            with self._lenders[node].lend(own):
                return module(*arguments, **options)
        if rule is not None:
            return rule(self, node, arguments[0], fx.map_arg(self._settings[node], known.__getitem__), reuse)
        options = fx.map_arg(node.kwargs, known.__getitem__)
        if node.op == "call_function":
            return node.target(*arguments, **options)  # type: ignore[operator]
        return getattr(arguments[0], str(node.target))(*arguments[1:], **options)

    def _own(self, node: fx.Node, state: Params) -> Params:
        """A layer's tensors at an α, by its own names."""
        return {short: state[name] for short, name in self._owned[node].items() if name in state}

    def _rule_of(self, node: fx.Node) -> Rule | None:
        """The rule for a node, if its kind has one that holds for the node as it is written."""
        kind = self._kinds[node]
        if not node.args or node in self._writing:
            return None
        if kind is ADD and (len(node.args) != 2 or node.kwargs):
            return None
        if kind in (CONV2D, BATCH_NORM) and node.op != "call_module":
            return None
        if kind is CONV2D and self._settings[node]["padding_mode"] != "zeros":
            return None
        if kind is BATCH_NORM and self._settings[node]["running_mean"] is None:
            return None
        return _RULES.get(kind)

    def _linear(self, node: fx.Node, inputs: Tensor, own: Params, reuse: bool) -> Tensor:
        weight, bias = own["weight"], own.get("bias")
        parts = [each for each in (inputs, weight, bias) if each is not None]
        if (
            not reuse
            or inputs.dim() != 2
            or len(parts) < 3
            or any(forward_ad.split(each)[1] is not None for each in parts)
        ):
            return F.linear(inputs, weight, bias)
        into = self.buffers.at(node, torch.Size((len(inputs), len(weight))), inputs)
        return torch.addmm(parts[2], inputs, weight.t(), out=into)

    def _convolution(self, node: fx.Node, inputs: Tensor, own: Params, reuse: bool) -> Tensor:
        shape: Any = (self._settings[node][name] for name in ("stride", "padding", "dilation", "groups"))
        return F.conv2d(inputs, own["weight"], own.get("bias"), *shape)

    def _batch_norm(self, node: fx.Node, inputs: Tensor, own: Params, reuse: bool) -> Tensor:
        return self._normalised(node, inputs, (own["running_mean"], own["running_var"]), own)

    def _normalised(self, node: fx.Node, inputs: Tensor, moments: Moments, own: Params) -> Tensor:
        eps, weight, bias = self._settings[node]["eps"], own.get("weight"), own.get("bias")
        parts = [inputs, *moments, *(each for each in (weight, bias) if each is not None)]
        if all(forward_ad.split(each)[1] is None for each in parts):
            return F.batch_norm(inputs, moments[0], moments[1], weight, bias, eps=eps)
        # torch does not differentiate by running statistics
        scale = (moments[1] + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -moments[0] * scale if bias is None else bias - moments[0] * scale
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        return torch.addcmul(shift.view(shape), inputs, scale.view(shape))

    def _relu(self, node: fx.Node, values: Tensor, own: Params, reuse: bool) -> Tensor:
        fresh = self._fresh(node.all_input_nodes[0]) and forward_ad.split(values)[1] is None
        return F.relu_(values) if fresh else F.relu(values)

    def _sum(self, node: fx.Node, one: Any, own: Params, reuse: bool) -> Any:
        other = own["other"]
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            return one + other
        for node_of, into, added in ((node.args[0], one, other), (node.args[1], other, one)):
            alone = isinstance(node_of, fx.Node) and self._fresh(node_of) and forward_ad.split(into)[1] is None
            if alone and forward_ad.split(added)[1] is None and one.shape == other.shape and one.dtype == other.dtype:
                return into.add_(added)
        return one + other

    def _fresh(self, node: fx.Node) -> bool:
        """Whether a step's result is a new tensor that one other step uses, which may overwrite it.

        Not so for dual numbers: their derivative may be shared, as a first layer's is by all α.
        """
        if len(node.users) > 1 or node in self.given:
            return False
        if self._kinds.get(node) is IDENTITY:
            return self._fresh(node.all_input_nodes[0])
        return node in self._rules

    def _tensors_of(self, node: fx.Node) -> dict[str, str]:
        """The tensors of a layer: its own short name for each, and the module's."""
        module = self._modules[str(node.target)]
        tensors = [*module.named_parameters(), *module.named_buffers()]
        return {short: self._names[id(tensor)] for short, tensor in tensors}

    def _attribute(self, node: fx.Node) -> str:
        target = str(node.target)
        return target if target in self._constants else self._names[id(operator.attrgetter(target)(self._model))]

    def _is_batch_norm(self, node: fx.Node) -> bool:
        return self._kinds[node] is BATCH_NORM

    def _weights_of(self, node: fx.Node) -> int:
        """Weights of a shared layer: its products for each example."""
        if node.op == "call_module":
            tensors = list(self._modules[str(node.target)].parameters())
        else:
            tensors = [operator.attrgetter(str(each.target))(self._model) for each in node.all_input_nodes[1:]]
        return max(int(each.numel()) for each in tensors)


# A rule takes the graph, the node, its input, its settings or, for a layer, its tensors, and whether to use buffers.
Rule: TypeAlias = Callable[[Graph, fx.Node, Any, Params, bool], Any]
# Kinds of which something else is known than how to call them; each makes a new tensor, or writes over a fresh one.
_RULES: dict[Kind | None, Rule] = {
    LINEAR: Graph._linear,
    CONV2D: Graph._convolution,
    BATCH_NORM: Graph._batch_norm,
    RELU: Graph._relu,
    ADD: Graph._sum,
}


def traced(model: nn.Module) -> Graph | str:
    """A module's operations in evaluation mode, or the reason why they are not known."""
    trace = blank_trace(model)
    return trace if isinstance(trace, str) else Graph(model, *trace)
