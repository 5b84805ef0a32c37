"""Certificates of modules that are not what torch.fx finds in them are refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import lerpscape as ls
from lerpscape.certificates.angles import certify_angles
from lerpscape.networks.altered_calls import altered

DOUBLE = torch.float64


def random(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# Two batches; only in the second are there large inputs.
X = random(48, 4, seed=0) * torch.cat([torch.ones(24, 1), 200 * torch.ones(24, 1)]).double()
DATA = [(X[:24], torch.arange(24) % 3), (X[24:], torch.arange(24) % 3)]


class Net(nn.Module):
    """4-8-3 with whatever happens to the hidden units."""

    def __init__(self, hidden: Callable[[Net, Tensor], Tensor] = lambda net, h: h) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)
        self.hidden = hidden
        for seed, parameter in enumerate(self.parameters()):
            parameter.data = random(*parameter.shape, seed=seed) - 0.4

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.hidden(self, self.act(self.a(x))))


def line_of(model: nn.Module) -> ls.Line:
    start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return ls.Line(start, {name: tensor + 0.5 * random(*tensor.shape, seed=9) for name, tensor in start.items()})


def certified(model: nn.Module, data: Any = DATA) -> Any:
    return ls.certify(model, line_of(model), data, budget=8)


def with_angles(model: nn.Module) -> Any:
    return certify_angles(model, line_of(model), DATA, intervals=8)


def guard(net: Net, h: Tensor) -> Tensor:
    return h.clamp(max=20.0) if type(h) is Tensor and h.max() > 20 else h


def guard_in_try(net: Net, h: Tensor) -> Tensor:
    try:
        return h.clamp(max=20.0) if bool((h > 1e9).any()) else h
    except torch.fx.proxy.TraceError:
        return h


def by_numbers(net: Net, h: Tensor) -> Tensor:
    return h if type(h) is not Tensor or max(h[:, 0].tolist()) < 1e9 else 2 * h


def mixing(net: Net, h: Tensor) -> Tensor:
    return h - h.mean(0) if type(h) is Tensor and len(h) > 20 else h


def weight_by_list(net: Net, h: Tensor) -> Tensor:
    return h * next(net.parameters()).abs().sum()


def weight_by_number(net: Net, h: Tensor) -> Tensor:
    return h * 2 if float(next(net.parameters()).max()) > 1e9 else h


def later_calls(net: Net, h: Tensor) -> Tensor:
    net.calls = getattr(net, "calls", 0) + 1
    return h if net.calls < 4 else 2 * h


def changing(net: Net, h: Tensor) -> Tensor:
    net.offset = getattr(net, "offset", torch.zeros(8, dtype=DOUBLE)) + 1
    return h + net.offset


def viewed(net: Net, h: Tensor) -> Tensor:
    return h + net.view


def in_numpy(net: Net, h: Tensor) -> Tensor:
    return torch.from_numpy(np.minimum(h.numpy(), 20.0)) if type(h) is Tensor else h


@pytest.mark.parametrize("prove", [certified, with_angles])
@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (guard, "reads numbers out of tensors (__bool__)"),
        (guard_in_try, "a branch or loop depends on the values of a tensor"),
        (by_numbers, "reads numbers out of tensors (tolist)"),
        (weight_by_number, "reads numbers out of tensors (__float__)"),
        (in_numpy, "reads numbers out of tensors (numpy)"),
        (mixing, "first for example 0"),
        (weight_by_list, "apart at α = 0.375"),
        (viewed, "'view' lies in the memory of 'a.weight'"),
    ],
)
def test_a_forward_that_does_more_than_its_operations_say(hidden: Any, words: str, prove: Any) -> None:
    model = Net(hidden)
    if hidden is viewed:
        model.view = model.a.weight.data[:, 0]
    with pytest.raises(TypeError, match=re.escape(words)):
        prove(model)


@pytest.mark.parametrize("prove", [certified, with_angles])
def test_what_a_forward_keeps_is_put_back_before_each_call(prove: Any) -> None:
    """So the proof is of its first call, which is what profile() measures too."""
    prove(Net(later_calls))
    prove(Net(changing))


def test_examples_may_be_mixed_only_in_batches_that_the_caller_does_not_use() -> None:
    small = [(x[start : start + 12], y[start : start + 12]) for x, y in DATA for start in (0, 12)]
    assert certified(Net(mixing), small).upper == certified(Net(), small).upper


class Capped(nn.ReLU):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).clamp(max=6)


def cap(*arguments: Any, **options: Any) -> Any:
    return F.hardtanh(arguments[0], 0.0, 6.0)


def hooked(register: str, **options: Any) -> Callable[[Net], Any]:
    return lambda net: getattr(net.act, register)(lambda *arguments: None, **options)


ALTERATIONS: dict[str, tuple[Callable[[Net], Any], str]] = {
    "hook": (hooked("register_forward_hook"), "'act' (ReLU) has forward hooks"),
    "hook that always runs": (hooked("register_forward_hook", always_call=True), "'act' (ReLU) has forward hooks"),
    "pre-hook": (hooked("register_forward_pre_hook"), "'act' (ReLU) has forward hooks"),
    "with kwargs": (hooked("register_forward_pre_hook", with_kwargs=True), "'act' (ReLU) has forward hooks"),
    "hook of the model": (lambda net: net.register_forward_hook(lambda *_: None), "the model (Net) has forward hooks"),
    "weight norm": (lambda net: nn.utils.parametrizations.weight_norm(net.a), "type ParametrizedLinear"),
    "pruning": (lambda net: prune.identity(net.a, "weight"), "'a' (Linear) has forward hooks"),
    "forward": (lambda net: setattr(net.act, "forward", cap), "'act' (ReLU) has a forward of its own"),
    "forward of the model": (lambda net: setattr(net, "forward", cap), "the model (Net) has a forward of its own"),
    "step of the call": (lambda net: setattr(net.act, "_call_impl", cap), "has a _call_impl of its own"),
    "compiled": (lambda net: setattr(net.act, "_compiled_call_impl", cap), "has a _compiled_call_impl of its own"),
    "class": (lambda net: setattr(net, "act", Capped()), "'act' (Capped) has a __call__ of its own"),
}


@pytest.mark.parametrize("prove", [certified, with_angles])
@pytest.mark.parametrize("name", ALTERATIONS)
def test_hooks_and_forwards_that_were_replaced_are_refused_by_name(name: str, prove: Any) -> None:
    alter, words = ALTERATIONS[name]
    model = Net()
    alter(model)
    with pytest.raises(TypeError, match=re.escape(words)) as refusal:
        prove(model)
    assert "\ntry: " in str(refusal.value)


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (F, "relu", "torch.nn.functional.relu was replaced"),
        (nn.ReLU, "forward", "ReLU.forward was replaced"),
        (nn.Module, "_call_impl", "Module._call_impl was replaced"),
        (Tensor, "relu", "Tensor.relu was replaced"),
        (nn.Sequential, "forward", "Sequential.forward was replaced"),
    ],
)
def test_functions_of_torch_that_were_replaced_are_refused(
    owner: Any, name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Net()
    monkeypatch.setattr(owner, name, cap)
    assert altered(model) == words


def test_global_hooks_are_refused_and_backward_hooks_are_not() -> None:
    expected = certified(Net())
    model = Net()
    model.act.register_full_backward_hook(lambda *_: None)
    assert certified(model).upper == expected.upper
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    try:
        with pytest.raises(TypeError, match="global forward hooks"):
            certified(Net())
    finally:
        handle.remove()
    assert certified(torch.fx.symbolic_trace(Net())).upper == expected.upper


class Other(Tensor):
    """A tensor whose ReLU is another one."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result.clamp(max=6) if func is F.relu else result


def test_tensors_that_are_not_plain_are_refused() -> None:
    with pytest.raises(TypeError, match="got: inputs Other and targets Tensor"):
        certified(Net(), [(x.as_subclass(Other), y) for x, y in DATA])
    model = Net()
    model.a.weight = nn.Parameter(model.a.weight.detach().as_subclass(Other))
    with pytest.raises(ValueError, match=r"'a\.weight', a tensor of another kind \(Other\)"):
        certified(model)


def test_constants_that_the_forward_makes_are_taken_as_it_makes_them() -> None:
    """In torch's default dtype: 0.1 of float32, also for a network in float64."""
    made = certified(Net(lambda net, h: h * torch.tensor(0.1)))
    given = certified(Net(lambda net, h: h * torch.tensor(0.1, dtype=torch.float32).double()))
    assert (made.lower, made.upper) == (given.lower, given.upper)


def test_what_the_certificate_says_of_a_module_is_true_of_it_called_batch_by_batch() -> None:
    model = Net(lambda net, h: h * net.scale)
    model.scale = torch.linspace(0.5, 1.5, 8, dtype=DOUBLE)  # an attribute that is no buffer
    line, found = line_of(model), certified(model)
    for alpha in np.linspace(0, 1, 21):
        copied = copy.deepcopy(model)
        copied.load_state_dict(line.at(float(alpha)))
        loss = float(torch.cat([F.cross_entropy(copied(x), y, reduction="none").detach() for x, y in DATA]).mean())
        low, high = found.loss_bounds(np.array([alpha]))
        # the mean of 48 losses of up to a hundred, summed in float64
        assert low[0] - 1e-12 <= loss <= high[0] + 1e-12
