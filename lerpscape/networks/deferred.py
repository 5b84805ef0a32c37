"""Tensors whose numbers lie elsewhere, such as in a file: every operation fetches them, and none keeps them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Self

import torch
from torch import Tensor

from lerpscape.base.errors import explain

# What a tensor is asked without a look at its numbers.
_METADATA = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "layout", "ndim", "requires_grad", "is_leaf")),
    *(getattr(Tensor, name).__get__ for name in ("is_quantized", "is_sparse", "is_nested", "itemsize", "nbytes")),
    *(getattr(Tensor, name).__get__ for name in ("_version", "grad", "grad_fn", "_backward_hooks")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "nelement", "element_size", "stride")),
    *(getattr(Tensor, name) for name in ("is_floating_point", "is_complex", "is_contiguous", "storage_offset")),
    *(getattr(Tensor, name) for name in ("is_inference", "untyped_storage", "is_conj", "is_neg", "__len__")),
    *(torch.numel, torch.is_floating_point, torch.is_complex, torch.is_inference, torch.is_conj, torch.is_neg),
}
_DEVICE, _META, _CUDA = (getattr(Tensor, name).__get__ for name in ("device", "is_meta", "is_cuda"))


class Deferred(Tensor):
    """A tensor whose numbers `fetch` gives, anew for every operation; its shape and dtype are known without.

    `place` is equal for two that are the same tensor. Underneath lies a tensor on `meta`, so that code that goes past
    torch's operations fails, and finds no wrong numbers.

    Raises `TypeError` where an operation writes to it, or asks for an address in memory.

    >>> ones = Deferred.of(lambda: torch.ones(2), "ones", (2,), torch.float32)
    >>> ones.shape, ones + 1, ones.device
    (torch.Size([2]), tensor([2., 2.]), device(type='cpu'))
    """

    fetch: Callable[[], Tensor]
    place: Hashable
    _device: torch.device

    @classmethod
    def of(
        cls,
        fetch: Callable[[], Tensor],
        place: Hashable,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> Self:
        """A tensor of this shape, dtype and device, with the numbers that `fetch` gives."""
        made = torch.empty(shape, dtype=dtype, device="meta").as_subclass(cls)
        made.fetch, made.place, made._device = fetch, place, device or torch.device("cpu")
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function on the numbers, or answer what the metadata say."""
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in (_DEVICE, _META, _CUDA):
            device = args[0]._device
            return device if func == _DEVICE else device.type == ("meta" if func == _META else "cuda")
        if func in (Tensor.detach, Tensor.resolve_conj, Tensor.resolve_neg):
            return args[0]
        if func is Tensor.data_ptr:
            raise TypeError(_no("an address in memory"))
        fetched: dict[int, tuple[Tensor, int]] = {}
        result = func(*_fetched(args, fetched), **_fetched(kwargs, fetched))
        if any(not tensor.is_inference() and tensor._version != version for tensor, version in fetched.values()):
            raise TypeError(_no(f"{getattr(func, '__name__', func)}, which writes to it"))
        return result


def stored(tensor: Tensor) -> Tensor:
    """The tensor itself, or the numbers of a deferred one."""
    return tensor.fetch() if isinstance(tensor, Deferred) else tensor


def converted(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor on a device in a dtype; a deferred one stays deferred.

    >>> ones = Deferred.of(lambda: torch.ones(2), "ones", (2,), torch.float32)
    >>> half = converted(ones, torch.device("cpu"), torch.half)
    >>> type(half).__name__, half.dtype, half + 1
    ('Deferred', torch.float16, tensor([2., 2.], dtype=torch.float16))
    """
    if not isinstance(tensor, Deferred):
        return tensor.to(device, dtype)
    if (tensor.device, tensor.dtype) == (device, dtype):
        return tensor
    place = tensor.place, str(device), dtype
    return Deferred.of(lambda: tensor.fetch().to(device, dtype), place, tensor.shape, dtype, device)


def _fetched(value: Any, fetched: dict[int, tuple[Tensor, int]]) -> Any:
    """The value with numbers in place of deferred tensors, each fetched once; `fetched` has their versions."""
    if isinstance(value, Deferred):
        if id(value) not in fetched:
            numbers = value.fetch()
            fetched[id(value)] = numbers, 0 if numbers.is_inference() else numbers._version
        return fetched[id(value)][0]
    if isinstance(value, dict):
        return {key: _fetched(each, fetched) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_fetched(each, fetched) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _no(got: str) -> str:
    return explain(
        expected="operations that read a tensor which lies in a file, or is computed when it is asked for.",
        got=f"{got}.",
        hint="Take its numbers first: tensor.clone()",
    )
