"""From a plain module to the Taylor model of its output: the operations that `torch.fx` finds, one rule for each."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lerpscape.base.errors import explain
from lerpscape.certificates.affine_maps import Memory
from lerpscape.certificates.layer_rules import RULES
from lerpscape.certificates.moving_parameters import Movement, Parameter
from lerpscape.certificates.taylor_models import Form, TaylorModel, constant
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.altered_calls import ReadingValues, altered, unnamed
from lerpscape.networks.batch_norm import BatchNormPolicy, EndStatistics, InterpolateStatistics
from lerpscape.networks.fx_tracing import traced
from lerpscape.networks.layer_kinds import kind_of, settings_of
from lerpscape.paths.checkpoints import Params

Parameters = Mapping[str, Parameter]
# Largest number of elements of a layer's output: examples are processed in pieces that stay in the processor's cache.
ELEMENTS = 1 << 18
# The module is compared with its operations at these α, in batches of at most so many pieces (about 1 GiB).
COMPARED = (0.0, 0.375, 1.0)
BATCH = 512
# What the module may differ by beside the remainder, relative to the output.
ROUNDING = 2.0**-50


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
        self._check_plain()
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
        return {
            name: Parameter(self._movements[name], tensor, alpha, reach)
            for name, tensor in self._state(alpha).items()
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

    def compare(self, batches: Iterable[Tensor]) -> None:
        """Check on all inputs, in the batches they came in, that the module gives what its operations say.

        It is called at both ends of the line and at one α between them, and may not look at numbers while it computes:
        it could go another way at another α. Batches too large for the memory are cut.

        Raises `TypeError` where it differs, and where it reads numbers.
        """
        states = {alpha: self._state(alpha) for alpha in COMPARED}
        parameters = {alpha: self.parameters(alpha, 0.0) for alpha in COMPARED}
        step, first = 0, 0
        for batch in filter(len, batches):
            step = step or max(1, ELEMENTS // self.widest(batch[:1].double()))
            for inputs in torch.split(batch, BATCH * step):
                given = {alpha: self._called(inputs, state, first) for alpha, state in states.items()}
                for begin in range(0, len(inputs), step):
                    memory: dict[fx.Node, Memory] = {}
                    piece = inputs[begin : begin + step].double()
                    for alpha, outputs in given.items():
                        said = self.enclose(piece, parameters[alpha], 0.0, memory).value
                        wrong = _outside(outputs[begin : begin + step], said)
                        if wrong is not None:
                            raise _differs(f"outputs {wrong[1]:.3g} apart at α = {alpha:g}", first + begin + wrong[0])
                first += len(inputs)

    def _state(self, alpha: float) -> Params:
        return self._on_path.at(alpha) | self._fixed

    def _called(self, inputs: Tensor, state: Params, first: int) -> Tensor:
        """The module's own output in float64 for a batch that begins with this example."""
        with torch.no_grad(), self._on_path.lender.lend(state), ReadingValues() as reading:
            given = self._model(inputs.to(torch.float64, copy=True))
        if reading.names:
            raise TypeError(
                explain(
                    expected="a forward that goes the same way for all numbers, as a certificate follows one.",
                    got=f"one that reads numbers out of tensors ({', '.join(sorted(reading.names))}).",
                    hint="Leave out branches and prints that depend on the values of tensors, or use profile().",
                )
            )
        if not isinstance(given, Tensor) or given.shape[:1] != inputs.shape[:1]:
            raise _differs("an output of another form", first)
        return given

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

    def _check_plain(self) -> None:
        """Calls do what the classes' forwards say, on plain tensors, each of which has a name."""
        what = altered(self._model) or unnamed(self._model)
        if what:
            raise TypeError(
                explain(
                    expected="a module whose calls are the forwards of its classes, on plain tensors with names.",
                    got=f"{what}.",
                    hint="Remove it, or write what it does into a forward(); profile() takes any module.",
                )
            )

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


def _outside(given: Tensor, said: Form) -> tuple[int, float] | None:
    """The first row that is not within rounding of what the operations say, and the largest difference.

    The module rounds as much as its operations do, and the remainder bounds that.
    """
    if given.shape != said.centre.shape:
        return 0, math.inf
    room = ROUNDING * said.magnitude
    room = room if said.remainder is None else room + 2 * said.remainder
    apart = (given - said.centre).abs()
    # what is not finite has no bounds, and is refused later
    wrong = ~(apart <= room) & said.centre.isfinite() & room.isfinite()
    rows = wrong.reshape(len(wrong), -1).any(1).nonzero()
    return (int(rows[0]), float(apart[wrong].max())) if len(rows) else None


def _differs(how: str, example: int) -> TypeError:
    return TypeError(
        explain(
            expected="a module that does what torch.fx finds in its forward, in every batch.",
            got=f"{how}, first for example {example} of the data.",
            hint="Let forward() depend on nothing but its own example and the module's tensors, or use profile(), "
            "which takes any module.",
        )
    )


def _plain_model(value: Any) -> Any:
    """A parameter met outside a linear layer, as a model."""
    return value.model() if isinstance(value, Parameter) else value
