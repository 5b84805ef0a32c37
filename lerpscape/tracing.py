"""From a plain module to the Taylor model of its output: the operations that `torch.fx` finds, one rule for each."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, fx

from lerpscape.batch_norm import BatchNormPolicy, EndStatistics, InterpolateStatistics
from lerpscape.enclosures import Memory
from lerpscape.errors import three_parts
from lerpscape.functional import ModelOnPath
from lerpscape.graphs import traced
from lerpscape.layer_rules import BY_PARAMETER, FUNCTIONS, METHODS, MODULES, Layer, Rule
from lerpscape.taylor_models import Parameter, TaylorModel, constant, moving

Parameters = Mapping[str, Parameter]


class Network:
    """A module whose operations all have a rule, traced once.

    Raises `TypeError` for a module that cannot be traced, and one that names an operation without a rule and lists
    those with one; `ValueError` for a batch-norm policy whose statistics depend on the data.
    """

    def __init__(self, on_path: ModelOnPath, policy: BatchNormPolicy | None) -> None:
        if on_path.batch_norms and not isinstance(policy, InterpolateStatistics | EndStatistics):
            raise ValueError(
                three_parts(
                    "batch_norm=InterpolateStatistics() or EndStatistics(): statistics that do not depend on the data.",
                    "None." if policy is None else f"{type(policy).__name__}.",
                    "Choose one of the two: the certificate then is of that curve, and profile() can measure it too.",
                )
            )
        self._on_path = on_path
        self._model = on_path.model
        named = [*on_path.model.named_parameters(), *on_path.model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in reversed(named)}
        self._fixed = on_path.end_statistics() if isinstance(policy, EndStatistics) else {}
        self._graph = traced(on_path.model, f"Write its forward with these operations: {supported()}.")
        self._start = on_path.at(0.0)
        self._widest = 0
        self._modules = dict(on_path.model.named_modules())
        for node in self._graph.nodes:
            self._check(node)

    def parameters(self, alpha: float, reach: float) -> Parameters:
        """Every floating-point tensor of the module around α."""
        velocity = self._on_path.velocity(alpha)
        found = {
            name: moving(tensor, velocity.get(name), reach, alpha, self._start[name])
            for name, tensor in self._on_path.at(alpha).items()
            if tensor.is_floating_point()
        }
        return found | {name: moving(tensor, None, reach) for name, tensor in self._fixed.items()}

    def enclose(
        self, inputs: Tensor, parameters: Parameters, reach: float, memory: dict[fx.Node, Memory] | None = None
    ) -> TaylorModel:
        """The output for a batch of inputs on the interval of the parameters.

        `memory` keeps products of these inputs with the first layer's weights, for the next call with the same inputs.
        """
        known: dict[fx.Node, Any] = {}
        for node in self._graph.nodes:
            arguments = fx.map_arg(node.args, known.__getitem__)
            options = fx.map_arg(node.kwargs, known.__getitem__)
            if node.op == "placeholder":
                known[node] = constant(inputs, reach)
            elif node.op == "get_attr":
                known[node] = self._parameter(operator.attrgetter(node.target)(self._model), parameters)
            elif node.op == "output":
                return self._output(arguments[0], len(inputs))
            elif node.op == "call_module":
                module = self._modules[node.target]
                kept = None if memory is None else memory.setdefault(node, {})
                layer = Layer(module, partial(self._parameter, parameters=parameters), kept)
                known[node] = MODULES[type(module)](layer, *arguments, **options)
            else:
                rules: Mapping[Any, Rule] = FUNCTIONS if node.op == "call_function" else METHODS
                rule = rules[node.target]
                if node.target not in BY_PARAMETER:
                    arguments = tuple(map(_plain_model, arguments))
                    options = {name: _plain_model(value) for name, value in options.items()}
                if not any(isinstance(value, TaylorModel) for value in (*arguments, *options.values())):
                    # arithmetic on shapes: the operation itself
                    rule = node.target if callable(node.target) else operator.methodcaller(node.target, *arguments[1:])
                    arguments = arguments if callable(node.target) else arguments[:1]
                known[node] = rule(*arguments, **options)
            if isinstance(known[node], TaylorModel):
                self._widest = max(self._widest, known[node].value.centre.numel())
        raise AssertionError("a traced graph ends in its output")

    def widest(self, inputs: Tensor) -> int:
        """Elements of the widest tensor on the way, from the input of one example."""
        self._widest = inputs.numel()
        self.enclose(inputs, self.parameters(0.5, 0.0), 0.0)
        return self._widest

    def _parameter(self, tensor: Tensor | None, parameters: Parameters) -> Any:
        return None if tensor is None else parameters[self._names[id(tensor)]]

    def _check(self, node: fx.Node) -> None:
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            known, what = type(module) in MODULES, f"layer {node.target!r} of type {type(module).__name__}"
        elif node.op in ("call_function", "call_method"):
            known = node.target in (FUNCTIONS if node.op == "call_function" else METHODS)
            what = f"operation {getattr(node.target, '__name__', node.target)!r}"
        else:
            known, what = True, ""
        if sum(each.op == "placeholder" for each in self._graph.nodes) != 1:
            known, what = False, "a forward() with several inputs"
        if not known:
            raise TypeError(
                three_parts(
                    f"a model of one input, made of {supported()}.",
                    f"{what}.",
                    "Replace it by these, or measure the path with profile(), which takes any module.",
                )
            )

    @staticmethod
    def _output(model: Any, examples: int) -> TaylorModel:
        if not isinstance(model, TaylorModel) or model.value.centre.shape[:1] != (examples,):
            shape = tuple(model.value.centre.shape) if isinstance(model, TaylorModel) else type(model).__name__
            raise TypeError(
                three_parts(
                    f"a model that returns one tensor with a row for each of {examples} examples.",
                    f"{shape}.",
                    "Return the logits or the reconstruction alone.",
                )
            )
        return model


def supported() -> str:
    """The layers, functions and methods that have a rule, in words."""
    layers = ", ".join(sorted(kind.__name__ for kind in MODULES))
    functions = sorted({getattr(function, "__name__", "fn") for function in FUNCTIONS} - {"fn", "boolean_dispatch"})
    return f"the layers {layers}; the functions {', '.join(functions)}; the methods {', '.join(sorted(METHODS))}"


def _plain_model(value: Any) -> Any:
    """A parameter met outside a linear layer, as a model."""
    return value.model() if isinstance(value, Parameter) else value
