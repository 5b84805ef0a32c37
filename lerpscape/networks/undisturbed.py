"""Calling a module without leaving a trace: its mode, its flags and every random generator are as before."""

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
    """Evaluation mode without gradients, after which mode, flags and every random generator are as before."""
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def seed(device: torch.device) -> None:
    """Make what a model draws on this device the same at every α; inside `undisturbed`, which puts generators back.

    Not `torch.manual_seed`: for every device that is not in use it keeps a stack trace, in time and memory.
    """
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.manual_seed(0)


@contextmanager
def forward_mode(model: nn.Module) -> Iterator[None]:
    """Kernels that have a forward-mode derivative, while inside.

    Fused attention has none on the CPU, nor have the fast path of torch's Transformer layers and the fused LSTM.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.LSTM) for module in model.modules()):
            stack.enter_context(warnings.catch_warnings())  # torch's own switch warns about hardware that is not here
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield
