"""From a plain module to the Taylor model of its output: the operations that `torch.fx` finds, one rule for each."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lerpscape.base.errors import explain
from lerpscape.certificates.affine_maps import Memory
from lerpscape.certificates.layer_rules import RULES
from lerpscape.certificates.moving_parameters import Movement, Parameter
from lerpscape.certificates.taylor_models import TaylorModel, constant
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import BatchNormPolicy, EndStatistics, InterpolateStatistics
from lerpscape.networks.fx_tracing import traced
from lerpscape.networks.layer_kinds import kind_of, settings_of

Parameters = Mapping[str, Parameter]
# The module is compared with its operations on so many examples at this α.
PROBE = 16
PROBE_ALPHA = 0.375


class Network:
    """A module whose operations all have a rule, traced once.

    Raises `TypeError` for a module that cannot be traced, and one that names an operation without a rule and lists
    those with one; `ValueError` for a batch-norm policy whose statistics depend on the data.
    """

    def __init__(self, on_path: ModelOnPath, policy: BatchNormPolicy | None) -> None:
        if on_path.batch_norms and not isinstance(policy, InterpolateStatistics | EndStatistics):
            raise ValueError(
                explain(
                    expected="batch_norm=InterpolateStatistics() or EndStatistics(): statistics that do not "
                    "depend on the data.",
                    got="None." if policy is None else f"{type(policy).__name__}.",
                    hint="Choose one of the two: the certificate then is of that curve, and profile() can "
                    "measure it too.",
                )
            )
        self._on_path = on_path
        self._model = model = on_path.model
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in reversed(named)}
        self._fixed = on_path.end_statistics() if isinstance(policy, EndStatistics) else {}
        trace = traced(model, f"Write its forward with these operations: {supported()}.")
        self._graph = trace.graph
        velocity = on_path.velocity(0.0)  # of a line: the same everywhere
        self._movements = {name: Movement(start, velocity.get(name)) for name, start in on_path.at(0.0).items()}
        self._movements |= {name: Movement(tensor, None) for name, tensor in self._fixed.items()}
        every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._aliases = {name: self._names[id(tensor)] for name, tensor in every}
        self._constants = {
            name: operator.attrgetter(name)(trace.module).detach().double()
            for name in {str(node.target) for node in self._graph.nodes if node.op == "get_attr"} - set(self._aliases)
        }
        self._widest = 0
        self._modules = dict(model.named_modules())
        for node in self._graph.nodes:
            self._check(node)
        if trace.entangled:
            raise TypeError(
                explain(
                    expected="a forward that is no more than the results of its operations.",
                    got=f"{trace.entangled}.",
                    hint="Write it without inplace=True there, and without changing the module's own tensors.",
                )
            )

    def parameters(self, alpha: float, reach: float) -> Parameters:
        """Every floating-point tensor of the module around α."""
        at = self._on_path.at(alpha) | self._fixed
        return {
            name: Parameter(self._movements[name], tensor, alpha, reach)
            for name, tensor in at.items()
            if tensor.is_floating_point()
        }

    def enclose(
        self, inputs: Tensor, parameters: Parameters, reach: float, memory: dict[fx.Node, Memory] | None = None
    ) -> TaylorModel:
        """The output for a batch of inputs on the interval of the parameters.

        `memory` keeps products of these inputs with the first layer's weights, for the next call with the same inputs.
        """
        known: dict[fx.Node, Any] = {}
        for node in self._graph.nodes:
            if node.op == "placeholder":
                known[node] = constant(inputs, reach)
            elif node.op == "get_attr":
                known[node] = self._attribute(str(node.target), parameters, reach)
            elif node.op == "output":
                return self._output(fx.map_arg(node.args[0], known.__getitem__), len(inputs))
            else:
                known[node] = self._applied(node, known, parameters, memory)
            if isinstance(known[node], TaylorModel):
                self._widest = max(self._widest, known[node].value.centre.numel())
        raise AssertionError("a traced graph ends in its output")

    def _applied(
        self,
        node: fx.Node,
        known: Mapping[fx.Node, Any],
        parameters: Parameters,
        memory: dict[fx.Node, Memory] | None,
    ) -> Any:
        """An operation by the rule of its kind; arithmetic on shapes is the operation itself."""
        arguments: Any = fx.map_arg(node.args, known.__getitem__)
        options: Any = fx.map_arg(node.kwargs, known.__getitem__)
        moving = any(isinstance(value, (TaylorModel, Parameter)) for value in (*arguments, *options.values()))
        if not moving and node.op != "call_module":
            if callable(node.target):
                return node.target(*arguments, **options)
            return operator.methodcaller(str(node.target), *arguments[1:], **options)(arguments[0])
        kind = kind_of(node, self._modules)
        assert kind is not None
        model, *rest = map(_plain_model, arguments)
        if not kind.settings:
            return RULES[kind](model, *rest, **options)
        settings: dict[str, Any] = fx.map_arg(settings_of(node, self._modules), known.__getitem__)
        if node.op == "call_module":
            settings = {name: self._parameter(value, parameters) for name, value in settings.items()}
        if "weight" not in kind.settings:
            return RULES[kind](model, **{name: _plain_model(value) for name, value in settings.items()})
        computed = [name for name, value in settings.items() if isinstance(value, TaylorModel)]
        if computed:
            raise TypeError(
                explain(
                    expected="layers whose weights are parameters as they stand.",
                    got=f"{node.name!r}, whose {computed[0]} is computed from others.",
                    hint="Measure the path with profile(), which takes any module.",
                )
            )
        if kind.linear_in_weights and node.op == "call_module" and memory is not None:
            settings["memory"] = memory.setdefault(node, {})
        return RULES[kind](model, **settings)

    def widest(self, inputs: Tensor) -> int:
        """Elements of the widest tensor on the way, from the input of one example."""
        self._widest = inputs.numel()
        self.enclose(inputs, self.parameters(0.5, 0.0), 0.0)
        return self._widest

    def compare(self, inputs: Tensor) -> None:
        """Check on a few examples that the module gives what its operations say; hooks, say, may change what it does.

        Raises `TypeError` where it does not.
        """
        inputs = inputs[:PROBE].double()
        state = self._on_path.at(PROBE_ALPHA) | self._fixed
        with torch.no_grad():
            said = self.enclose(inputs, self.parameters(PROBE_ALPHA, 0.0), 0.0).value
            with self._on_path.lender.lend(state):
                given = self._model(inputs.clone())
        # the module rounds as much as its operations do, and the remainder bounds that
        room = 1e-12 * said.magnitude if said.remainder is None else 2 * said.remainder + 1e-12 * said.magnitude
        apart = (given - said.centre).abs() if given.shape == said.centre.shape else torch.full_like(room, torch.inf)
        if bool((apart > room).any()):
            raise TypeError(
                explain(
                    expected="a module that does what torch.fx finds in its forward.",
                    got=f"outputs {float(apart.max()):.3g} apart on the first examples.",
                    hint="Remove its hooks, and let forward() depend on nothing but its input and the "
                    "module's tensors.",
                )
            )

    def _attribute(self, name: str, parameters: Parameters, reach: float) -> Parameter:
        """A tensor of the module that is used outside a layer, or a constant of its forward."""
        own = self._aliases.get(name)
        if own is not None:
            return parameters[own]
        value = self._constants[name]
        return Parameter(Movement(value, None), value, 0.0, reach)

    def _parameter(self, value: Any, parameters: Parameters) -> Any:
        """A layer's own tensor on the interval; its other settings as they are."""
        return parameters[self._names[id(value)]] if isinstance(value, Tensor) else value

    def _check(self, node: fx.Node) -> None:
        known, what = kind_of(node, self._modules) in RULES, ""
        if node.op == "call_module":
            what = f"layer {node.target!r} of type {type(self._modules[str(node.target)]).__name__}"
        elif node.op in ("call_function", "call_method"):
            what = f"operation {getattr(node.target, '__name__', node.target)!r}"
        elif node.op == "get_attr" and str(node.target) in self._aliases:
            tensor = self._movements[self._aliases[str(node.target)]].start
            known, what = tensor.is_floating_point(), f"tensor {node.target!r} of type {tensor.dtype}"
        else:
            known = True
        if sum(each.op == "placeholder" for each in self._graph.nodes) != 1:
            known, what = False, "a forward() with several inputs"
        if not known:
            raise TypeError(
                explain(
                    expected=f"a model of one input, made of {supported()}.",
                    got=f"{what}.",
                    hint="Replace it by these, or measure the path with profile(), which takes any module.",
                )
            )

    @staticmethod
    def _output(model: Any, examples: int) -> TaylorModel:
        if not isinstance(model, TaylorModel) or model.value.centre.shape[:1] != (examples,):
            shape = tuple(model.value.centre.shape) if isinstance(model, TaylorModel) else type(model).__name__
            raise TypeError(
                explain(
                    expected=f"a model that returns one tensor with a row for each of {examples} examples.",
                    got=f"{shape}.",
                    hint="Return the logits or the reconstruction alone.",
                )
            )
        return model


def supported() -> str:
    """The kinds of layers, functions and methods that have a rule, in words."""
    return f"the kinds {', '.join(sorted((kind.name for kind in RULES), key=str.lower))}"


def _plain_model(value: Any) -> Any:
    """A parameter met outside a linear layer, as a model."""
    return value.model() if isinstance(value, Parameter) else value
