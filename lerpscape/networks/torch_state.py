"""torch's switches for the while of a measurement: the caller's may not change what is computed.

Some switches make products less precise than their dtype, some replace operations altogether. Those of the thread
(autocast, inference mode, the default device, flushing of subnormal numbers) are set for this thread. Those of the
process (the precision of float32 products) are set by the first measurement that begins and given back by the last
that ends, so that one in another thread never loses them. Left as they are: the default dtype and `grad` mode, which a
forward may ask for, and switches that choose between equally precise kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lerpscape.base.errors import explain

# torch's private names; their public ones refuse to be read where old and new switches disagree.
_C: Any = torch._C
# Whether float32 products may be computed in TF32 or bfloat16, in torch 2.9 and later.
_PRECISIONS = [(backend, op) for backend in ("cuda", "mkldnn") for op in ("matmul", "conv", "rnn")]
# Half-precision products that may be added up in half precision.
_REDUCED = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)
_AUTOCAST = ("cpu", "cuda", "mps", "xpu")

_lock = threading.Lock()
_measurements = 0
_before: list[tuple[Any, tuple[Any, ...]]] = []


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute in the dtype of the tensors and on their devices while inside, whatever switches the caller has set.

    No autocast, inference mode, default device or flushing of subnormal numbers; no TF32 or bfloat16 in float32
    products, and sums of half-precision products in float32. A forward may still enter autocast itself.

    Raises `RuntimeError` inside transforms of `torch.func` and modes that replace operations.

    >>> with torch.autocast("cpu"), plain_torch():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    with _without_modes(), torch.inference_mode(False), _without_autocast(), _gradual_underflow(), _full_precision():
        yield


@contextmanager
def _without_modes() -> Iterator[None]:
    """No default device, which is a mode; other modes could replace any operation, and are refused."""
    others = [type(mode).__name__ for mode in _get_current_dispatch_mode_stack()]
    others += ["a transform of torch.func"] if _C._functorch.peek_interpreter_stack() is not None else []
    popped = [_C._pop_torch_function_stack() for _ in range(_C._len_torch_function_stack())]
    try:
        others += [type(mode).__name__ for mode in popped if not isinstance(mode, DeviceContext)]
        if others:
            raise RuntimeError(
                explain(
                    expected="a call outside of modes and transforms of torch, which may replace its operations.",
                    got=f"{', '.join(others)}.",
                    hint="Call it before or after that `with` block or function.",
                )
            )
        yield
    finally:
        for mode in reversed(popped):
            _C._push_on_torch_function_stack(mode)


@contextmanager
def _without_autocast() -> Iterator[None]:
    on = [device for device in _AUTOCAST if torch.is_autocast_enabled(device)]
    for device in on:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in on:
            torch.set_autocast_enabled(device, True)


@contextmanager
def _gradual_underflow() -> Iterator[None]:
    tiny = torch.full((), 2.0**-1060, dtype=torch.float64, device="cpu")
    flushed = not bool(tiny + tiny)  # torch does not tell
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextmanager
def _full_precision() -> Iterator[None]:
    global _measurements
    with _lock:
        if not _measurements:
            _before[:] = _made_precise()
        _measurements += 1
    try:
        yield
    finally:
        with _lock:
            _measurements -= 1
            if not _measurements:
                for setter, value in _before:
                    setter(*value)


def _made_precise() -> list[tuple[Any, tuple[Any, ...]]]:
    """Set the switches of the process; the calls that set them back, in order."""
    back: list[tuple[Any, tuple[Any, ...]]] = []

    def switch(get: Any, put: Any, value: Any) -> None:
        with suppress(RuntimeError):  # old and new switches disagree: the new ones, below, count
            back.append((put, (get(),)))
        put(value)

    new = hasattr(_C, "_get_fp32_precision_getter")
    precise = {pair: _C._get_fp32_precision_getter(*pair) for pair in _PRECISIONS} if new else {}
    switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    switch(_C._get_cudnn_allow_tf32, _C._set_cudnn_allow_tf32, False)
    matmul = torch.backends.cuda.matmul
    for name in filter(partial(hasattr, matmul), _REDUCED):
        switch(partial(getattr, matmul, name), partial(setattr, matmul, name), False)
    for pair, before in precise.items():
        _C._set_fp32_precision_setter(*pair, "ieee")
        back.append((_restored, (*pair, before)))
    return back


def _restored(backend: str, op: str, precision: str) -> None:
    """What the backend says for all its operations, or, where this was another, its own precision."""
    _C._set_fp32_precision_setter(backend, op, "none")
    if _C._get_fp32_precision_getter(backend, op) != precision:
        _C._set_fp32_precision_setter(backend, op, precision)
