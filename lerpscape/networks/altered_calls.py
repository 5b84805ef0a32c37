"""Whether calling a module is what its type says: no hooks, no forward of its own, torch's functions as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

from lerpscape.networks.layer_kinds import KINDS

# What `nn.Module.__call__` runs; each may stand in a module's own attributes, in front of its class.
_STEPS = ("forward", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_compiled_call_impl")


def _originals() -> dict[tuple[Any, str], Any]:
    """Every layer, function and method in the table of kinds, where callers find it, as it is when first imported."""
    functions = {id(form) for kind in KINDS for form in kind.functions}
    found: dict[tuple[Any, str], Any] = {
        (owner, name): each for owner in (F, torch) for name, each in vars(owner).items() if id(each) in functions
    }
    found |= {(Tensor, name): getattr(Tensor, name) for kind in KINDS for name in kind.methods}
    layers: list[Any] = [nn.Sequential, *(layer for kind in KINDS for layer in kind.modules)]
    found |= {(layer, "forward"): layer.forward for layer in layers}
    return found | {(nn.Module, name): getattr(nn.Module, name) for name in _STEPS if hasattr(nn.Module, name)}


_ORIGINALS = _originals()


def altered(model: nn.Module) -> str:
    """Why calls of a module, or of one inside it, may be more than the forwards of their classes; empty if nothing.

    These are forward hooks, their own or global ones, a `forward` or another step of the call that an instance has of
    its own, a class with a `__call__` of its own, and functions of torch that were replaced.

    >>> layer = nn.Linear(1, 1)
    >>> altered(nn.Sequential(layer))
    ''
    >>> layer.forward = lambda x: x
    >>> altered(nn.Sequential(layer))
    "'0' (Linear) has a forward of its own"
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "modules have global forward hooks"
    for (owner, name), original in _ORIGINALS.items():
        if getattr(owner, name, None) is not original:
            return f"{owner.__name__}.{name} was replaced"
    for name, each in model.named_modules():
        what = f"{name!r} ({type(each).__name__})" if name else f"the model ({type(each).__name__})"
        if each._forward_hooks or each._forward_pre_hooks:
            return f"{what} has forward hooks"
        own = next((step for step in _STEPS if step in vars(each) and vars(each)[step] is not None), None)
        calls = type(each).__call__
        if own or not (calls is nn.Module.__call__ or calls.__module__ == fx.graph_module.__name__):
            return f"{what} has a {own or '__call__'} of its own"
    return ""


def is_plain(tensor: Tensor) -> bool:
    """Whether operations on a tensor are torch's own: it is of no class that may replace them.

    >>> is_plain(nn.Parameter(torch.ones(1))), is_plain(torch.ones(1))
    (True, True)
    """
    return type(tensor) in (Tensor, nn.Parameter)


def unnamed(model: nn.Module) -> str:
    """Why a module's own tensors may be more than their names and numbers tell; empty if they are not.

    One may be of a class that replaces operations, or lie in the memory of another: what the path gives for the
    parameter does not reach an attribute that is a view of it.

    >>> layer = nn.Linear(2, 1)
    >>> layer.first = layer.weight.detach()[:, 0]
    >>> unnamed(layer)
    "attribute 'first' lies in the memory of 'weight'"
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in tensors.items():
        if not is_plain(tensor):
            return f"{name!r} is a {type(tensor).__name__}, whose operations may be others"
    memory = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items() if tensor.numel()}
    for name, module in model.named_modules():
        for own, value in vars(module).items():
            if own == "_flat_weights" and isinstance(module, nn.RNNBase):  # torch's own, and kept up to date
                continue
            parts = value if isinstance(value, (list, tuple)) else [value]
            for part in parts:
                if isinstance(part, Tensor) and part.untyped_storage().data_ptr() in memory:
                    attribute = f"{name}.{own}".lstrip(".")
                    return (
                        f"attribute {attribute!r} lies in the memory of {memory[part.untyped_storage().data_ptr()]!r}"
                    )
    return ""


# How Python gets at the numbers in a tensor.
_READING = {
    each: each.__name__
    for each in (
        *(Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.__complex__, Tensor.__format__),
        *(Tensor.__contains__, Tensor.__array__, Tensor.__dlpack__, Tensor.item, Tensor.tolist, Tensor.numpy),
        *(Tensor.data_ptr, Tensor.equal, Tensor.allclose, Tensor.is_nonzero),
        *(torch.equal, torch.allclose, torch.is_nonzero),
    )
}


class ReadingValues(TorchFunctionMode):
    """Inside `with ReadingValues() as reading:` its `names` lists how Python read numbers out of tensors.

    A forward that does may go another way for another number, which no list of its operations tells.

    >>> with ReadingValues() as reading:
    ...     larger = 3 if torch.ones(2).sum() > 1 else 2
    >>> reading.names
    {'__bool__'}
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READING:
            self.names.add(_READING[func])
        return func(*args, **(kwargs or {}))
