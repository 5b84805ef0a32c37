"""The operations of a module, as `torch.fx` finds them, and which of the module's own tensors they write to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.modules import module as torch_module

from lerpscape.base.errors import explain
from lerpscape.networks.in_place import read_after_writing


class _TensorProxy(fx.Proxy):
    """Says that it is a tensor: `if isinstance(h, Tensor) and h.max() > 20` then asks for its value, as with data."""

    _is_param = _is_buffer = False  # but no parameter or buffer, which torch tells apart by these

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return Tensor


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is done with buffers belongs to the operations, writing to them too
    asked_for_values = False

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        graph = super().trace(root, concrete_args)
        if self.asked_for_values:  # and the forward went on all the same
            raise fx.proxy.TraceError("a branch or loop depends on the values of a tensor")
        return graph

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _TensorProxy(node, self)

    # Proxies first: the tracer asks by isinstance what is a tensor with values.
    def create_arg(self, a: Any) -> Any:
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        made_in_forward = issubclass(type(attr_val), fx.Proxy)
        return attr_val if made_in_forward else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.asked_for_values = True
        return super().to_bool(obj)


@dataclass(frozen=True)
class Trace:
    """The operations of a forward that its output depends on.

    `module` runs them. It shares the parameters of the module that was traced; buffers and constants are its own.
    `entangled` says, in words, why the forward is more than the results of its operations: it reads what an operation
    has written over, or its output depends on a tensor of the module that it changes. It is empty for others, also
    for those that only count their calls.
    """

    module: fx.GraphModule
    entangled: str

    @property
    def graph(self) -> fx.Graph:
        """The operations in order."""
        return self.module.graph


def traced(model: nn.Module, advice: str) -> Trace:
    """The operations of a module's forward, layers of torch.nn kept whole; nothing in the module changes.

    Raises `TypeError` with this advice for a module that cannot be traced.

    >>> [node.op for node in traced(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), "").graph.nodes]
    ['placeholder', 'call_module', 'call_module', 'output']
    """
    try:
        # a copy, for a forward may write to its module while it is traced
        double = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
        before = [(name, each, dict(each._buffers)) for name, each in double.named_modules()]
        graph = _Tracer().trace(double)
        written = set()
        for path, each, buffers in before:
            written |= {f"{path}.{name}".lstrip(".") for name in buffers if each._buffers[name] is not buffers[name]}
            each._buffers.update(buffers)
        modules = dict(double.named_modules())
        entangled, in_place = read_after_writing(graph, modules)
        module = fx.GraphModule(double, graph)
        graph.eliminate_dead_code()
        module.recompile()
        changed = sorted((written | in_place) & _read(graph, modules))
        if changed:
            entangled = f"the output depends on {changed[0]!r}, which the forward changes"
        return Trace(module, entangled)
    except Exception as error:  # whatever a forward() may raise when it is called with a proxy
        raise TypeError(
            explain(
                expected="a model that torch.fx can trace: no branch or loop that depends on the values of tensors.",
                got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                hint=advice,
            )
        ) from error


def blank_trace(model: nn.Module) -> tuple[fx.Graph, dict[str, Tensor]] | str:
    """The operations of a module in evaluation mode and the constants among them, or the reason why they are not known.

    The module is traced with tensors without values in the place of its own, so that nothing it writes stays and no
    number of one α is taken for a constant.

    >>> graph, constants = blank_trace(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
    >>> [node.op for node in graph.nodes], constants
    (['placeholder', 'call_module', 'call_module', 'output'], {})
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "modules have global hooks"
    hooked = [name for name, each in model.named_modules() if each._forward_hooks or each._forward_pre_hooks]
    if hooked:
        return f"{hooked[0] or 'the model'} has hooks"
    blank: dict[str, Tensor] = {
        f"model.{name}": nn.Parameter(tensor.detach().to("meta"), requires_grad=False)
        for name, tensor in model.named_parameters()
    }
    blank |= {f"model.{name}": tensor.detach().to("meta") for name, tensor in model.named_buffers()}
    before = set(vars(model))
    try:
        graph = functional_call(_Traced(model), blank, ())
    except Exception as error:  # whatever a forward() may raise when it is called with a proxy
        return f"torch.fx cannot trace it ({type(error).__name__})"
    finally:
        constants = {name: vars(model).pop(name) for name in set(vars(model)) - before}
    if any(not isinstance(each, Tensor) or each.device.type == "meta" for each in constants.values()):
        return "it computes with its parameters outside torch.fx's sight"
    return graph, constants


class _Traced(nn.Module):
    """Traces a model, as a module, so that `functional_call` can lend it other tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> fx.Graph:
        return _Tracer().trace(self.model)


def _read(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the module's tensors that the operations use."""
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        tensors = [*modules[name].named_parameters(), *modules[name].named_buffers()]
        names |= {f"{name}.{own}" for own, _ in tensors}
    return names
