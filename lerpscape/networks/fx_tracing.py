"""The operations of a module, as `torch.fx` finds them, and which of the module's own tensors they write to."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from lerpscape.base.errors import explain
from lerpscape.networks.altered_calls import altered
from lerpscape.networks.in_place import read_after_writing, writes
from lerpscape.networks.lending import Lender, independent


class _TensorProxy(fx.Proxy):
    """Stands for a tensor: `if isinstance(h, Tensor) and h.max() > 20` then asks for its value, as with data."""

    _is_param = _is_buffer = False  # but no parameter or buffer, which torch tells apart by these


@contextmanager
def _proxies_are_tensors() -> Iterator[None]:
    """`isinstance(proxy, Tensor)` holds for Python code while inside.

    Not for torch's C code, which would read such an object's memory as a tensor's: `torch.arange(x.shape[1])` then ends
    the process.
    """
    plain = builtins.isinstance

    def asked(value: Any, kinds: Any) -> bool:
        return plain(value, kinds) or (type(value) is _TensorProxy and _names(kinds))

    def _names(kinds: Any) -> bool:
        return any(map(_names, kinds)) if type(kinds) is tuple else kinds is Tensor

    builtins.isinstance = asked
    try:
        yield
    finally:
        builtins.isinstance = plain


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is done with buffers belongs to the operations, writing to them too
    asked_for_values = False

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with _proxies_are_tensors():
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
        double = independent(model, sharing=model.parameters())
        graph, written = _trace(double)
        modules = dict(double.named_modules())
        entangled, in_place = read_after_writing(graph, modules)
        module = fx.GraphModule(double, graph)
        graph.eliminate_dead_code()
        module.recompile()
        changed = sorted((written | in_place) & _read(graph.nodes, modules))
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
    reason = altered(model)
    if reason:
        return reason
    lender = Lender(model)
    if lender.acts_on_mode:
        return "it changes more than modes when it is switched to evaluation"
    blank: dict[str, Tensor] = {
        name: nn.Parameter(tensor.detach().to("meta"), requires_grad=False) for name, tensor in model.named_parameters()
    }
    blank |= {name: tensor.detach().to("meta") for name, tensor in model.named_buffers()}
    before = set(vars(model))
    try:
        with lender.lend(blank):
            graph, written = _trace(model)
            constants = {name: vars(model).pop(name) for name in set(vars(model)) - before}
    except Exception as error:  # whatever a forward() may raise when it is called with a proxy
        return f"torch.fx cannot trace it ({type(error).__name__})"
    # A proxy that the forward has left says that it is a tensor.
    if any(not issubclass(type(each), Tensor) or each.device.type == "meta" for each in constants.values()):
        return "it computes with its parameters outside torch.fx's sight"
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"} - lender.names - set(constants)
    if any(lender.follows(operator.attrgetter(name)(model)) for name in read):
        return f"{min(read)!r} is a view of its weights"
    constants |= {name: operator.attrgetter(name)(model).detach() for name in read}
    if lender.changed:
        return f"its forward changes {lender.changed}"
    modules = dict(model.named_modules())
    written |= read_after_writing(graph, modules)[1]
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)} | set(constants)
    changed = sorted(written & (parameters | _read(_alive(graph, modules), modules)) | _renormalised(graph, modules))
    return f"its forward changes {changed[0]!r}" if changed else (graph, constants)


def _trace(model: nn.Module) -> tuple[fx.Graph, set[str]]:
    """The operations of a module, and its buffers for which the forward puts others, which are put back."""
    before = [(path, each, dict(each._buffers)) for path, each in model.named_modules()]
    graph = _Tracer().trace(model)
    written = set()
    for path, each, buffers in before:
        written |= {f"{path}.{name}".lstrip(".") for name in buffers if each._buffers.get(name) is not buffers[name]}
        each._buffers.update(buffers)
    return graph, written


def _alive(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """The operations that the output may depend on: all but those that only change a tensor of the module."""
    waiting = [
        node
        for node in graph.nodes
        if node.op == "output"
        or (writes(node, modules) and not (isinstance(node.args[0], fx.Node) and node.args[0].op == "get_attr"))
    ]
    alive: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in alive:
            alive.add(node)
            waiting += node.all_input_nodes
    return alive


def _renormalised(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> set[str]:
    """Layers that shorten rows of their weights when they are called: embeddings with `max_norm`."""
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    return {name for name in called if getattr(modules[name], "max_norm", None) is not None}


def _read(nodes: Iterable[fx.Node], modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the module's tensors that the operations use."""
    nodes = list(nodes)
    names = {str(node.target) for node in nodes if node.op == "get_attr"}
    for name in {str(node.target) for node in nodes if node.op == "call_module"}:
        tensors = [*modules[name].named_parameters(), *modules[name].named_buffers()]
        names |= {f"{name}.{own}" for own, _ in tensors}
    return names
