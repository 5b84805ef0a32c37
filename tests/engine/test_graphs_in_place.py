"""Modules that overwrite their tensors give at every α what they give at that α alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import batches, classes, random, seeded
from torch import Tensor, nn

import lerpscape as ls


class Forward(nn.Module):
    """Two linear layers, and a function that calls them."""

    def __init__(self, run: Callable[[Forward, Tensor], Tensor]) -> None:
        super().__init__()
        self.one = nn.Linear(6, 9)
        self.two = nn.Linear(9, 3)
        self.nothing = nn.Identity()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def method(net: Forward, x: Tensor) -> Tensor:
    shifted = x - 0.5
    shifted.mul_(2)
    return net.two(torch.tanh(net.one(shifted)))


def statement(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    hidden *= 1.5
    return net.two(F.relu(hidden))


def beside(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    return net.two(F.relu(net.nothing(hidden)) + hidden)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "identity": lambda: nn.Sequential(nn.Linear(6, 9), nn.Identity(), nn.ReLU(), nn.Linear(9, 3)),
    "identity of what is read again": lambda: Forward(beside),
    "relu": lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 3)),
    "leaky": lambda: nn.Sequential(nn.Linear(6, 9), nn.LeakyReLU(0.2, inplace=True), nn.Linear(9, 3)),
    "keyword": lambda: Forward(lambda net, x: net.two(F.relu(net.one(x), inplace=True))),
    "position": lambda: Forward(lambda net, x: net.two(F.leaky_relu(net.one(x), 0.2, True))),
    "underscore": lambda: Forward(lambda net, x: net.two(torch.relu_(net.one(x)))),
    "method": lambda: Forward(method),
    "statement": lambda: Forward(statement),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_overwritten_tensors_do_not_leak_from_one_alpha_to_the_next(name: str) -> None:
    start, end = (seeded(NETWORKS[name], seed).double() for seed in (0, 1))
    data = batches(random(40, 6, seed=0), classes(40, seed=1), 16)
    line = ls.Line(start, end)
    found = ls.profile(start, line, data, alphas=[0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.9, 1.0], progress=False)
    assert found.derivative is not None
    # Only numbers without a derivative are overwritten.
    values_alone = ls.profile(start, line, data, alphas=found.alphas, derivative=False, progress=False)
    assert "the module" not in values_alone.how["plan"]  # which would be measured where the plan is wrong
    np.testing.assert_allclose(values_alone.loss, found.loss, rtol=1e-12)
    for alpha, loss, slope in zip(found.alphas, found.loss, found.derivative, strict=True):
        weights = {
            key: value.clone().requires_grad_(value.is_floating_point()) for key, value in line.at(alpha).items()
        }
        values = []
        for inputs, targets in data:
            fresh = {key: value.clone() for key, value in weights.items()}
            outputs = torch.func.functional_call(start, fresh, (inputs,))
            values.append(F.cross_entropy(outputs, targets, reduction="none"))
        mean = torch.cat(values).mean()
        moving = [key for key, _ in start.named_parameters()]
        gradients = torch.autograd.grad(mean, [weights[key] for key in moving])
        expected = sum((g * line.velocity(alpha)[key]).sum().item() for g, key in zip(gradients, moving, strict=True))
        assert loss == pytest.approx(mean.item(), rel=1e-12)
        assert slope == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(torch.cat([inputs for inputs, _ in data]), random(40, 6, seed=0))
