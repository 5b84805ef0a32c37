"""A derivative that forward mode gives without a word, although it is wrong, is withheld; a right one never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import batches, classes, generator, random, seeded
from torch import Tensor, nn

import lerpscape as ls

X, Y = random(24, 4, seed=1), classes(24, seed=2)


class Net(nn.Module):
    """Two linear layers, called as a function says."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.call = nn.Linear(4, 8), nn.Linear(8, 3), call

    def forward(self, inputs: Tensor) -> Tensor:
        return self.call(self, inputs)


class WrongRule(torch.autograd.Function):
    """The sine, with the derivative of the identity."""

    @staticmethod
    def forward(inputs: Tensor) -> Tensor:
        return inputs.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, change: Tensor) -> Tensor:
        return change


def plain(net: Any, x: Tensor) -> Tensor:
    return net.last(torch.relu(net.first(x)))


def rounded_weights(net: Any, x: Tensor) -> Tensor:
    weight = net.first.weight
    return net.last(torch.relu(F.linear(x, weight + (weight.sign() - weight).detach())))


def rounded_activations(net: Any, x: Tensor) -> Tensor:
    hidden = net.first(x)
    return net.last(hidden + (torch.round(4 * hidden) / 4 - hidden).detach())


def a_thousandth(net: Any, x: Tensor) -> Tensor:
    bias = torch.tensor([1.0, 0.0, 0.0])  # of float32, which rounds nothing here
    return plain(net, x) + 1e-3 * net.first.weight.sum().detach() * bias


def large_ones_only(net: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(net.first(x))
    return net.last(torch.where(hidden > 1, hidden.detach(), hidden))


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    entropy = F.cross_entropy(outputs, targets, reduction="none")
    return (1 - (-entropy).exp()).square().detach() * entropy


CUT: dict[str, tuple[Callable[[Any, Tensor], Tensor], Any]] = {
    "detach": (lambda net, x: net.last(torch.relu(net.first(x)).detach()), "cross_entropy"),
    "data": (lambda net, x: net.last(torch.relu(net.first(x)).data), "cross_entropy"),
    "item": (lambda net, x: plain(net, x) / net.first.weight.norm().item(), "cross_entropy"),
    "numpy": (
        lambda net, x: plain(net, x) + torch.from_numpy(net.last.bias.detach().numpy() ** 2),
        "cross_entropy",
    ),
    "a rule of one's own": (lambda net, x: net.last(WrongRule.apply(net.first(x))), "cross_entropy"),
    "straight through weights": (rounded_weights, "cross_entropy"),
    "straight through activations": (rounded_activations, "cross_entropy"),
    "a part of a thousandth": (a_thousandth, "cross_entropy"),
    "some units only": (large_ones_only, "cross_entropy"),
    "focal loss": (plain, focal),
    "margins by class": (plain, lambda z, y: (z - z.detach().amax(1, keepdim=True)).square().sum(1)),
}
WHOLE: dict[str, tuple[Callable[[Any, Tensor], Tensor], Any]] = {
    "no_grad, which forward mode passes through": (
        lambda net, x: net.last(torch.no_grad()(lambda: torch.relu(net.first(x)))()),
        "cross_entropy",
    ),
    "float32 inside": (
        lambda net, x: F.linear(plain(net, x).float().softmax(-1).to(x.dtype), net.last.weight.T).tanh(),
        lambda z, y: z.square().sum(1),
    ),
    "float32 weights inside": (
        lambda net, x: net.last(F.linear(x.float(), net.first.weight.float()).relu().to(x.dtype)),
        "cross_entropy",
    ),
    "bfloat16 inside": (lambda net, x: plain(net, x).bfloat16().to(x.dtype), "cross_entropy"),
    "ties": (
        lambda net, x: net.last(torch.stack([net.first(x), net.first(x)]).amax(0).sort(-1).values.abs()),
        "cross_entropy",
    ),
    "large and cancelling": (lambda net, x: plain(net, x) * 1e4 + 1e6 - 1e6, "cross_entropy"),
    "constant outputs": (lambda net, x: plain(net, x) * 0, "cross_entropy"),
    "jumps": (lambda net, x: plain(net, x) + (net.first(x)[:, :1] > 0).to(x.dtype), "cross_entropy"),
    "drawn at random": (lambda net, x: F.dropout(plain(net, x), 0.5, training=True), "cross_entropy"),
}
# The dtype of a float32 or bfloat16 network is raised to float64 for the comparison, where it runs in it.
DTYPES = [torch.float64, torch.float32]


def measured(call: Any, loss: Any, dtype: torch.dtype, **options: Any) -> ls.Profile:
    net, end = (seeded(lambda: Net(call), seed).to(dtype) for seed in (0, 1))
    data = batches(X.to(dtype), Y, 8)
    return ls.profile(net, ls.Line(net, end), data, **{"loss": loss, "alphas": 3, "progress": False} | options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CUT)
def test_a_graph_that_is_cut_somewhere_has_no_derivative(name: str, dtype: torch.dtype) -> None:
    found = measured(*CUT[name], dtype)
    assert found.derivative is None and found.hidden_rises == ()
    reason = str(found.derivative_reason)
    assert "dℓ/dα of an example at α = " in reason and "the difference quotient of its loss" in reason


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_a_right_derivative_is_given(name: str, dtype: torch.dtype) -> None:
    assert measured(*WHOLE[name], dtype).derivative_reason is None


def test_the_reason_quotes_both_numbers() -> None:
    """By hand: ℓ = (αx)² with one factor detached has half the derivative, αx²."""
    zero, one = ({"weight": torch.full((1, 1), value).double()} for value in (0.0, 1.0))
    x = torch.ones(4, 1).double()
    found = ls.profile(
        nn.Linear(1, 1, bias=False).double(),
        ls.Line(zero, one),
        [(x, 0 * x)],
        loss=lambda z, y: (z * z.detach()).sum(1),
        alphas=3,
    )
    assert "at α = 0.3729 is 0.3729, the difference quotient of its loss 0.7458" in str(found.derivative_reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_network_that_cannot_run_in_float64_is_compared_in_its_own_type(dtype: torch.dtype) -> None:
    weight = torch.ones(3, dtype=dtype)

    def picky(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight, reduction="none")

    assert measured(plain, picky, dtype).derivative_reason is None
    if dtype == torch.float32:
        cut = measured(plain, lambda z, y: picky(z * z.detach().norm(dim=1, keepdim=True), y), dtype)
        assert "difference quotient" in str(cut.derivative_reason)


def test_deep_networks_with_many_kinks_keep_their_derivative() -> None:
    """Some tens of thousands of ReLUs and maxima; both ends are random, so nearly all of them switch on the way."""

    def deep() -> nn.Module:
        blocks = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 1, 1)) for _ in range(8)]
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(16 * 144, 3))

    images = torch.randn(8, 1, 12, 12, generator=generator(5))
    for seed in range(3):
        start, end = (seeded(deep, 2 * seed + side) for side in (0, 1))
        with torch.no_grad():
            for parameter in (*start.parameters(), *end.parameters()):
                parameter *= 1.7
        found = ls.profile(start, ls.Line(start, end), [(images, Y[:8])], alphas=2)
        assert found.derivative_reason is None


def test_a_path_with_a_wrong_velocity_is_found_out() -> None:
    class Late(ls.Bezier):
        def velocity(self, alpha: float) -> Any:
            return super().velocity(alpha**2)

        def to(self, device: Any, dtype: Any) -> Any:
            return Late(*(each.to(device, dtype) for each in (self.start, self.control, self.end)))

    points = [seeded(lambda: Net(plain), seed).double() for seed in range(3)]
    found = ls.profile(points[0], Late(*points), [(X, Y)], alphas=3)
    assert "difference quotient" in str(found.derivative_reason)
    assert ls.profile(points[0], ls.Bezier(*points), [(X, Y)], alphas=3).derivative_reason is None


def test_contributions_refuse_a_graph_that_is_cut() -> None:
    net, end = (seeded(lambda: Net(CUT["detach"][0]), seed).double() for seed in (0, 1))
    with pytest.raises(ValueError, match=r"(?s)a derivative, to attribute.*difference quotient.*plain torch"):
        ls.studies.layer_contributions(net, ls.Line(net, end), [(X, Y)], between=(0, 1))


@pytest.mark.parametrize("name", ["detach", "item", "straight through activations"])
def test_outputs_whose_derivative_is_cut_are_refused(name: str) -> None:
    net, end = (seeded(lambda: Net(CUT[name][0]), seed).double() for seed in (0, 1))
    for method in ("turning", "integral"):
        with pytest.raises(ValueError, match=r"(?s)difference quotients.*dz/dα of an output at α = .*polygon"):
            ls.gauss_length(net, ls.Line(net, end), [(X, Y)], method=method)
    net, end = (seeded(lambda: Net(plain), seed).double() for seed in (0, 1))
    assert ls.gauss_length(net, ls.Line(net, end), [(X, Y)], precision=0.5).mean > 0


@pytest.mark.parametrize("name", ["detach", "item", "straight through activations", "focal loss"])
def test_a_hessian_of_a_graph_that_is_cut_is_refused(name: str) -> None:
    pytest.importorskip("hessian_eigenthings")
    call, loss = CUT[name]
    net, end = (seeded(lambda: Net(call), seed).double() for seed in (0, 1))
    with pytest.raises(ValueError, match=r"(?s)gradient agrees.*⟨∇L, dθ/dα⟩ at α = .*plain torch"):
        ls.curvature(net, ls.Line(net, end), [(X, Y)], loss=loss, alphas=2, iterations=2, probes=6)


def test_the_check_reads_a_few_examples_only() -> None:
    seen: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(targets))
        return F.cross_entropy(outputs, targets, reduction="none")

    measured(plain, loss, torch.float64, alphas=2, self_check=False)
    assert np.count_nonzero(np.array(seen) == 8) - 3 * 2 <= 14  # three batches of 8 at two α; the rest is the check
