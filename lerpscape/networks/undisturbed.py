"""Calling a module without side effects: afterwards its mode, torch's flags and all random generators are as before."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients while inside; afterwards modes and random generators are as before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with preserved_generators(), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


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
