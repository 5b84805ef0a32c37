"""A module as the operations that torch.fx finds in it, run at any tensors.

`prepare` computes once for all α what depends on the data alone, and the outputs of the first layer at both ends: at α
the layer gives W(α)x + b(α) = lerp(W₀x + b₀, W_Tx + b_T, α). `run` computes the rest at one α.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from lerpscape.base.arrays import Floats
from lerpscape.engine.buffers import Buffers
from lerpscape.engine.first_layers import EndpointOutputs
from lerpscape.engine.linear_relu_linear import RELU_FUNCTIONS, linear_relu_linear
from lerpscape.engine.relu_sweep import NextLayer, ReLUSweep
from lerpscape.engine.shared_layers import given, is_first_layer
from lerpscape.networks import forward_ad
from lerpscape.networks.fx_tracing import blank_trace
from lerpscape.networks.in_place import writes
from lerpscape.paths.checkpoints import Params

Values: TypeAlias = dict[fx.Node, Any]
Moments: TypeAlias = tuple[Tensor, Tensor]
# A run: yields each batch-norm layer's name and input, is sent its mean and variance, and returns the output.
Run: TypeAlias = Generator[tuple[str, Tensor], Moments, Any]
# Called after each operation with its node and all values that are held then.
Observer: TypeAlias = Callable[[fx.Node, Values], None]

ADD_FUNCTIONS = (operator.add, torch.add)


@dataclass(frozen=True)
class CapturedOutputs:
    """Outputs of layers for one batch, as the module computed them at one end, and their derivatives by α."""

    values: dict[fx.Node, Tensor] = field(default_factory=dict)
    derivatives: dict[fx.Node, Tensor] = field(default_factory=dict)


NOTHING_CAPTURED = CapturedOutputs()


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
        self.inputs = [node for node in self._nodes if node.op == "placeholder"]
        self.given = given(self._nodes, self._modules)
        # of what a step may write over, others must have a copy
        self._written = {node.args[0] for node in self._nodes if writes(node, self._modules)}
        self.shared = [node for node in self._nodes if is_first_layer(node, self.given, self._modules, constants)]
        self.shared_weights = sum(self._weights_of(node) for node in self.shared)
        self.linear_relu_linear = next(
            filter(None, (linear_relu_linear(node, self._modules) for node in self.shared)), None
        )
        self._absorbed = {node for node in self._nodes if node.op == "get_attr" and set(node.users) <= {*self.shared}}
        convolutions = [each for each in self._modules.values() if isinstance(each, nn.Conv2d)]
        self.convolution_weights = sum(layer.weight.numel() for layer in convolutions)
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.batch_norms = sum(node.op == "call_module" and self._is_batch_norm(node) for node in self._nodes)
        self.buffers = Buffers()
        last = {used: node for node in self._nodes for used in node.all_input_nodes}
        self._done_after: dict[fx.Node, list[fx.Node]] = {}
        for used, node in last.items():
            self._done_after.setdefault(node, []).append(used)

    def needed(self, *, sweeping: bool = False) -> set[str]:
        """Names of the tensors that operations other than shared layers use; if `sweeping`, nor the swept layer."""
        found: set[str] = set()
        for node in self._nodes:
            if sweeping and self.linear_relu_linear and node is self.linear_relu_linear.layer:
                continue
            if node.op == "get_attr" and node not in self._absorbed:
                found |= {self._attribute(node)} - set(self._constants)
            elif node.op == "call_module" and node not in self.shared:
                found |= set(self._owned[node].values())
        return found

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
                known[node] = self._normalised(node, inputs, moments, state)
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

    def _linear(self, node: fx.Node, inputs: Tensor, weight: Tensor, bias: Tensor | None, reuse: bool) -> Tensor:
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

    def _operation(self, node: fx.Node, known: Values, state: Params, reuse: bool = False) -> Any:
        arguments: Any = fx.map_arg(node.args, known.__getitem__)
        options: Any = fx.map_arg(node.kwargs, known.__getitem__)
        if node.op == "get_attr":
            name = self._attribute(node)
            return self._constants[name] if name in self._constants else state[name]
        if node.target in RELU_FUNCTIONS and len(arguments) == 1:
            return self._relu(node, arguments[0], options.get("inplace", False))
        if node.target in ADD_FUNCTIONS and not options and all(isinstance(each, Tensor) for each in arguments):
            return self._sum(node, *arguments)
        if node.op == "call_function":
            return node.target(*arguments, **options)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
        module = self._modules[str(node.target)]
        own = {short: state[name] for short, name in self._owned[node].items() if name in state}
        if type(module) is nn.Linear:
            return self._linear(node, arguments[0], own["weight"], own.get("bias"), reuse)
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            shape: Any = module.stride, module.padding, module.dilation, module.groups
            return F.conv2d(arguments[0], own["weight"], own.get("bias"), *shape)
        if type(module) is nn.ReLU:
            return self._relu(node, arguments[0], module.inplace)
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            return self._normalised(node, arguments[0], (own["running_mean"], own["running_var"]), state)
        return functional_call(module, own, arguments, options) if own else module(*arguments, **options)

    def _normalised(self, node: fx.Node, inputs: Tensor, moments: Moments, state: Params) -> Tensor:
        layer: Any = self._modules[str(node.target)]
        own = self._owned[node]
        weight, bias = (state[own[each]] if each in own else None for each in ("weight", "bias"))
        parts = [inputs, *moments, *(each for each in (weight, bias) if each is not None)]
        if all(forward_ad.split(each)[1] is None for each in parts):
            return F.batch_norm(inputs, moments[0], moments[1], weight, bias, eps=layer.eps)
        # torch does not differentiate by running statistics
        scale = (moments[1] + layer.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -moments[0] * scale if bias is None else bias - moments[0] * scale
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        return torch.addcmul(shift.view(shape), inputs, scale.view(shape))

    def _tensors_of(self, node: fx.Node) -> dict[str, str]:
        """The tensors of a layer: its own short name for each, and the module's."""
        module = self._modules[str(node.target)]
        tensors = [*module.named_parameters(), *module.named_buffers()]
        return {short: self._names[id(tensor)] for short, tensor in tensors}

    def _attribute(self, node: fx.Node) -> str:
        target = str(node.target)
        return target if target in self._constants else self._names[id(operator.attrgetter(target)(self._model))]

    def _is_batch_norm(self, node: fx.Node) -> bool:
        return isinstance(self._modules[str(node.target)], _BatchNorm)

    def _fresh(self, node: fx.Node) -> bool:
        """Whether a step's result is a new tensor that one other step uses, which may overwrite it.

        Not so for dual numbers: their derivative may be shared, as a first layer's is by all α.
        """
        if len(node.users) > 1 or node in self.given:
            return False
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            if isinstance(module, nn.Identity):
                return self._fresh(node.all_input_nodes[0])
            return isinstance(module, (nn.Linear, nn.Conv2d, _BatchNorm, nn.ReLU))
        return node.op == "call_function" and node.target in (*RELU_FUNCTIONS, *ADD_FUNCTIONS)

    def _relu(self, node: fx.Node, values: Tensor, inplace: bool) -> Tensor:
        fresh = self._fresh(node.all_input_nodes[0]) and forward_ad.split(values)[1] is None
        return F.relu_(values) if inplace or fresh else F.relu(values)

    def _sum(self, node: fx.Node, one: Tensor, other: Tensor) -> Tensor:
        for node_of, into, added in ((node.args[0], one, other), (node.args[1], other, one)):
            alone = isinstance(node_of, fx.Node) and self._fresh(node_of) and forward_ad.split(into)[1] is None
            if alone and forward_ad.split(added)[1] is None and one.shape == other.shape and one.dtype == other.dtype:
                return into.add_(added)
        return one + other

    def _weights_of(self, node: fx.Node) -> int:
        """Weights of a shared layer: its products for each example."""
        if node.op == "call_module":
            tensors = list(self._modules[str(node.target)].parameters())
        else:
            tensors = [operator.attrgetter(str(each.target))(self._model) for each in node.all_input_nodes[1:]]
        return max(int(each.numel()) for each in tensors)


def traced(model: nn.Module) -> Graph | str:
    """A module's operations in evaluation mode, or the reason why they are not known."""
    found = blank_trace(model)
    return found if isinstance(found, str) else Graph(model, *found)
