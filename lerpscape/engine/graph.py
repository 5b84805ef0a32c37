"""A module as the operations that torch.fx finds in it, to be run at any tensors.

What depends on the data alone is computed once for all α, and so are the products of the data with the first layer's
weights at both ends: at α the layer is W(α)x + b(α) = lerp(W₀x + b₀, W_Tx + b_T, α).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from lerpscape.base.arrays import Floats
from lerpscape.engine.buffers import Buffers
from lerpscape.engine.first_layers import EndpointOutputs
from lerpscape.engine.relu_sweep import NextLayer, ReLUSweep
from lerpscape.engine.shared_layers import given, is_first_layer, linear_relu_linear
from lerpscape.engine.step_sizes import Step
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
from lerpscape.paths.checkpoints import Params

Values: TypeAlias = dict[fx.Node, Any]
Moments: TypeAlias = tuple[Tensor, Tensor]
# What layers gave for a batch: values at the start, at the end, and derivatives at the start.
CapturedOutputs: TypeAlias = tuple[dict[fx.Node, Tensor], dict[fx.Node, Tensor], dict[fx.Node, Tensor]]
NOTHING_CAPTURED: CapturedOutputs = {}, {}, {}
# Runs a network; stops at each batch-norm layer with its input and goes on with the mean and variance sent to it.
Run: TypeAlias = Generator[tuple[str, Tensor], Moments, Any]


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
        self._watched: list[Step] | None = None
        last = {used: node for node in self._nodes for used in node.all_input_nodes}
        self._done_after: dict[fx.Node, list[fx.Node]] = {}
        for used, node in last.items():
            self._done_after.setdefault(node, []).append(used)

    def needed(self, *, sweeping: bool = False) -> set[str]:
        """Names of the tensors that change what the operations behind the shared layers give; or behind the hinge."""
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
        """The layer behind the hinge."""
        assert self.linear_relu_linear is not None
        own = self._owned[self.linear_relu_linear.layer]
        weight, bias = start[own["weight"]], start[own["bias"]] if "bias" in own else None
        moved = change.get(own["weight"], torch.zeros_like(weight))
        return NextLayer.of(weight, moved, bias, change.get(own.get("bias", "")))

    def ready(
        self,
        inputs: Any,
        start: Params,
        end: Params,
        change: Params | None,
        sweeping: tuple[NextLayer, Floats] | None = None,
        seen: CapturedOutputs = NOTHING_CAPTURED,
    ) -> Values:
        """Everything about a batch that α does not change; with the derivative where `change`, dθ/dα, is given.

        With `sweeping`, the layer behind the hinge is kept up from one α to the next. What was `seen` of layers is
        not made again.
        """
        values: Values = self._arguments(inputs)
        for node in self._nodes:
            if node in values:
                continue
            if node in self.given:
                values[node] = self._operation(node, values, start)
            elif node in self.shared:
                made: list[Any] = [known.get(node) for known in seen]
                for place, tensors in enumerate((start, end, change)):
                    if made[place] is None and tensors is not None:
                        made[place] = self._first_layer(node, values, tensors)
                values[node] = EndpointOutputs(*made)
        if sweeping and self.linear_relu_linear:
            first: EndpointOutputs = values[self.linear_relu_linear.first]
            begun = [
                known[self.linear_relu_linear.layer]
                for known in (seen[0], seen[2])
                if self.linear_relu_linear.layer in known
            ]
            values |= dict.fromkeys(self.linear_relu_linear.between) | {
                self.linear_relu_linear.layer: ReLUSweep(first, *sweeping, begun)
            }
        return {node: value for node, value in values.items() if any(user not in values for user in node.users)}

    def run(self, ready: Values, state: Params, alpha: float, *, estimate: bool = False) -> Run:
        """Run the rest at the tensors of an α; with `estimate`, batch norm asks for its statistics.

        Only then may several runs be under way: without, each writes over the results of the one before.
        """
        known: Values = {}
        reuse = not estimate
        swept = (
            {self.linear_relu_linear.first, *self.linear_relu_linear.between}
            if self.linear_relu_linear and self.linear_relu_linear.layer in ready
            else ()
        )
        for node in self._nodes:
            if node in swept:
                continue
            if node in ready:
                value = ready[node]
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
            if self._watched is not None:
                self._watched.append(Step.of(known, node))
            for used in self._done_after.get(node, ()):
                known.pop(used, None)
        raise AssertionError("a traced graph ends in its output")

    def outputs(self, ready: Values, state: Params, alpha: float) -> Any:
        """The network's output, batch norm at the statistics in `state`."""
        try:
            next(self.run(ready, state, alpha))
        except StopIteration as end:
            return end.value
        raise AssertionError("nothing was to be estimated")

    @contextmanager
    def watched(self) -> Iterator[list[Step]]:
        """While inside, what each step makes, and what is held then, goes into a list."""
        found: list[Step] = []
        self._watched = found
        try:
            yield found
        finally:
            self._watched = None

    def layers(self, *, linear_relu_linear: bool) -> dict[fx.Node, nn.Module]:
        """Shared layers that are modules; with `linear_relu_linear`, also the one behind it."""
        nodes = [
            *self.shared,
            *([self.linear_relu_linear.layer] if linear_relu_linear and self.linear_relu_linear else []),
        ]
        return {node: self._modules[str(node.target)] for node in nodes if node.op == "call_module"}

    def _first_layer(self, node: fx.Node, values: Values, state: Params) -> Any:
        """What a shared layer gives at these tensors."""
        own = {each: self._operation(each, values, state) for each in node.all_input_nodes if each.op == "get_attr"}
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
            return functional_call(module, own, arguments, options) if own else module(*arguments, **options)
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
    found = blank_trace(model)
    return found if isinstance(found, str) else Graph(model, *found)
