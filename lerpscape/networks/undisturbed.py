"""Calling a module without side effects: afterwards it, torch's flags and all random generators are as before."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lerpscape.networks.lending import Lender, kept

_one_at_a_time = threading.RLock()


def _renew() -> None:
    """A process that another thread forked has no thread that would ever release the lock."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients while inside; afterwards all that the model holds is as before.

    One thread is inside at a time: random generators and the choice of kernels belong to the whole process, and two
    models may share parts. A thread may enter again. A model that acts on a change of mode stays as it is: `Lender`
    switches it at every call, with the tensors that were lent.
    """
    with _one_at_a_time, kept(model), preserved_generators(), torch.no_grad():
        if not Lender(model).acts_on_mode:
            model.eval()
        yield


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the random generators of Python, numpy and torch afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def seed(device: torch.device) -> None:
    """Seed the device's generator, so that a model that draws random numbers draws the same ones at every α.

    For use inside `undisturbed`. `torch.manual_seed` would also record a stack trace for every device not in use, which
    takes time and memory.
    """
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.manual_seed(0)


def drawn_since_seed(device: torch.device) -> bool:
    """Whether random numbers were drawn since the last `seed`; seeds again."""
    after = torch.default_generator.get_state()
    seed(device)
    return not after.equal(torch.default_generator.get_state())


@contextmanager
def forward_mode(model: nn.Module) -> Iterator[None]:
    """Make torch choose kernels with a forward-mode derivative while inside.

    On the CPU fused attention, the fast path of torch's Transformer layers and the fused LSTM have none.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.LSTM) for module in model.modules()):
            stack.enter_context(warnings.catch_warnings())  # the switch warns about hardware that is not present
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


@contextmanager
def reverse_mode(model: nn.Module) -> Iterator[None]:
    """Make torch choose kernels with a backward pass in evaluation mode while inside.

    The recurrent kernels of cuDNN have one in training mode only.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        yield
