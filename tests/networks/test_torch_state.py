"""What the caller has switched in torch changes no number, and is as it was afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lerpscape as ls
from lerpscape.certificates.angles import certify_angles
from lerpscape.geometry.conditions import sufficient_condition
from lerpscape.geometry.hessian import curvature
from lerpscape.networks.torch_state import plain_torch
from lerpscape.profiles.examples import example_curves

# On first use of forward mode torch 2.13 warns about its own torch.jit.script; some precisions are for other machines.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning"),
]


@contextmanager
def switched(put: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(before)


def set_precision(backend: Any) -> Callable[[str], None]:
    return lambda value: setattr(backend, "fp32_precision", value)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast for CUDA": lambda: switched(lambda on: torch.set_autocast_enabled("cuda", on), True, False),
    "default float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "medium precision": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "high precision": lambda: switched(torch.set_float32_matmul_precision, "high", "highest"),
    "oneDNN products": lambda: switched(set_precision(torch.backends.mkldnn.matmul), "bf16", "none"),
    "oneDNN convolutions": lambda: switched(set_precision(torch.backends.mkldnn.conv), "bf16", "none"),
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "flushing": lambda: switched(torch.set_flush_denormal, True, False),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "no forward mode": lambda: torch.autograd.forward_ad._set_fwd_grad_enabled(False),
}


class Rowwise(nn.Module):
    """Convolution, batch norm and products, of which certificates and forward mode have all rules."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.norm(self.convolution(x.view(-1, 1, 4, 4)))).flatten(1))


def pair(build: Callable[[], nn.Module], dtype: torch.dtype) -> tuple[nn.Module, ls.Line, list[Any], Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [build().to(dtype) for _ in range(2)]
        for model in models:
            for name, buffer in model.named_buffers():
                buffer.copy_(torch.rand(buffer.shape) + 0.5) if buffer.is_floating_point() else name
        x = torch.randn(12, 16, dtype=dtype)
    data = [(x[:8], torch.arange(8) % 3), (x[8:], torch.arange(4) % 3)]
    policy = ls.InterpolateStatistics() if build is Rowwise else None
    return models[0], ls.Line(*models), data, policy


def bends(*arguments: Any, **options: Any) -> Any:
    return curvature(*arguments, **options | {"alphas": 2}, iterations=2, probes=6)


MEASURES = {"profile": ls.profile, "example_curves": example_curves, "curvature": bends}
FUNCTIONS = [
    *MEASURES,
    "certify",
    "certify_angles",
    "gauss_length",
    "sufficient_condition",
    "scheduled",
    "recalibrated",
]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8), nn.GELU(), nn.Linear(8, 3))


def numbers(function: str, build: Callable[[], nn.Module], dtype: torch.dtype) -> Callable[[], list[Any]]:
    """A measurement that is ready to be made: its numbers."""
    model, line, data, policy = pair(build, dtype)
    options: Any = {"batch_norm": policy, "progress": False}
    schedule = line.schedule({"*weight": lambda a: a**2})
    vectors = [(x, torch.nn.functional.one_hot(y, 3).to(dtype)) for x, y in data]

    def measured() -> list[Any]:
        if function == "certify":
            found: Any = ls.certify(model, line, data, budget=10, **options)
        elif function == "certify_angles":
            found = certify_angles(model, line, data, intervals=8, **options)
        elif function == "sufficient_condition":
            found = sufficient_condition(model, line, vectors, alphas=9, precision=None, **options)
        elif function == "scheduled":
            found = ls.profile(model, schedule, data, alphas=9, **options)
        elif function == "recalibrated":
            recalibrate = {"batch_norm": ls.Recalibrate(data)} if policy else {}
            found = ls.profile(model, line, data, alphas=9, **options | recalibrate)
        elif function == "gauss_length":
            found = ls.gauss_length(model, line, data, alphas=9, precision=None, **options)
        else:
            found = MEASURES[function](model, line, data, alphas=5, **options)
        arrays = [value for value in vars(found).values() if isinstance(value, np.ndarray | float | tuple | str)]
        return [*arrays, found.how["path_digest"], found.how["data_digest"]]

    return measured


def switches() -> list[Any]:
    precisions = [getattr(each, "fp32_precision", None) for each in (torch.backends.mkldnn.matmul, torch.backends)]
    return [
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        float(torch.full((), 2.0**-1060, dtype=torch.float64, device="cpu") * 2),
        precisions,
    ]


@pytest.mark.parametrize("build", [mlp, Rowwise])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_number_depends_on_the_callers_switches(function: str, build: Any) -> None:
    if function == "curvature":
        pytest.importorskip("hessian_eigenthings")
    measured = numbers(function, build, torch.float64 if function.startswith("certify") else torch.float32)
    expected = measured()
    for state, enter in STATES.items():
        with enter():
            before = switches()
            found = measured()
            assert switches() == before, state
        for ours, theirs in zip(found, expected, strict=True):
            # the same kernels on the same numbers
            np.testing.assert_array_equal(ours, theirs, err_msg=state)


@pytest.mark.parametrize("enter", [TorchDispatchMode, TorchFunctionMode], ids=["of dispatch", "of functions"])
def test_modes_that_could_replace_operations_are_refused(enter: Any) -> None:
    measured = numbers("profile", mlp, torch.float32)
    with enter(), pytest.raises(RuntimeError, match=f"got: {enter.__name__}"):
        measured()
    torch.func.grad(lambda x: x**2)(torch.ones(()))  # the stacks are as they were
    with pytest.raises(RuntimeError, match=r"got: a transform of torch\.func"):
        torch.func.grad(lambda x: x * measured()[0].sum())(torch.ones(()))


def test_a_forward_may_enter_autocast_itself() -> None:
    class Half(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x).float()

    model, line, data, _ = pair(lambda: Half(16, 3), torch.float32)
    whole, line_of_whole, *_ = pair(lambda: nn.Linear(16, 3), torch.float32)
    loss, exact = (ls.profile(*each, data, alphas=3).loss for each in ((model, line), (whole, line_of_whole)))
    # bfloat16 has 8 digits
    assert 1e-6 < abs(loss - exact).max() < 0.1


def test_precision_comes_back_when_the_last_of_several_threads_is_done() -> None:
    inside, leave, seen = threading.Barrier(2), threading.Event(), []

    def first() -> None:
        with plain_torch():
            inside.wait()
        leave.set()

    with switched(torch.set_float32_matmul_precision, "high", "highest"):
        thread = threading.Thread(target=first)
        thread.start()
        with plain_torch():
            inside.wait()
            leave.wait()
            seen.append(torch.get_float32_matmul_precision())
        thread.join()
        assert [*seen, torch.get_float32_matmul_precision()] == ["highest", "high"]
