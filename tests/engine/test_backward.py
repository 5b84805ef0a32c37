"""dL/dα by backward passes: that of forward mode where both exist, and of difference quotients where one does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, POLICIES, batches, classes, generator, random, seeded
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine import backward, derivative_choice

X, Y = random(24, 5, 4, seed=1), classes(24, seed=2)
IDS = torch.randint(0, 10, (24, 5), generator=generator(3))
TEXT = torch.randint(1, 5, (24, 2), generator=generator(4))
ALPHAS = [0.0, 0.3, 0.6, 1.0]


class Net(nn.Module):
    """A first layer and a linear one, called as a function says."""

    def __init__(self, first: Callable[[], nn.Module], call: Callable[[Any, Tensor], Tensor], hidden: int = 8) -> None:
        super().__init__()
        self.first, self.last, self.call = first(), nn.Linear(hidden, 5), call

    def forward(self, inputs: Tensor) -> Tensor:
        return self.call(self, inputs)


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old weight_norm
        return nn.utils.weight_norm(nn.Linear(4, 8))


def spelled(outputs: Tensor, targets: Tensor) -> Tensor:
    steps, letters = (torch.full((len(outputs),), each.shape[1]) for each in (outputs, targets))
    return F.ctc_loss(outputs.transpose(0, 1), targets, steps, letters, reduction="none")


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


# Without a rule in forward mode: makes a network, its inputs, targets and loss.
NO_RULE: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor, Any]] = {
    "ctc": (lambda: Net(lambda: nn.Linear(4, 8), lambda n, x: n.last(n.first(x)).log_softmax(-1)), X, TEXT, spelled),
    "weight norm": (lambda: Net(weight_normed, lambda n, x: n.last(n.first(x).tanh()).mean(1)), X, Y, "cross_entropy"),
    "bag": (lambda: Net(lambda: nn.EmbeddingBag(10, 8), lambda n, x: n.last(n.first(x))), IDS, Y, "cross_entropy"),
    "sparse bag of maxima": (
        lambda: Net(lambda: nn.EmbeddingBag(10, 8, mode="max"), lambda n, x: n.last(n.first(x))),
        IDS,
        Y,
        "cross_entropy",
    ),
    "a function of one's own": (
        lambda: Net(lambda: nn.Linear(4, 8), lambda n, x: Twice.apply(n.last(n.first(x).tanh().mean(1)))),
        X,
        Y,
        "cross_entropy",
    ),
}


def attention(net: Any, x: Tensor) -> Tensor:
    query, key, value = net.first(x).unflatten(-1, (2, 12)).transpose(1, 2).split(4, -1)
    return net.last(
        F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2).mean(1)
    )


# With one: both modes must agree.
BOTH: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor, Any]] = {
    "attention": (lambda: Net(lambda: nn.Linear(4, 24), attention), X, Y, "cross_entropy"),
    "transformer": (
        lambda: Net(
            lambda: nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
            lambda n, x: n.last(n.first(x).mean(1)),
        ),
        X,
        Y,
        "cross_entropy",
    ),
    "lstm": (
        lambda: Net(lambda: nn.LSTM(4, 8, batch_first=True), lambda n, x: n.last(n.first(x)[0][:, -1])),
        X,
        Y,
        "cross_entropy",
    ),
    "group norm through views": (
        lambda: Net(
            lambda: nn.Sequential(nn.Conv1d(4, 8, 1), nn.GroupNorm(4, 8)),
            lambda n, x: n.last(n.first(x.transpose(1, 2)).view(len(x), 8, -1).mean(-1)),
        ),
        X,
        Y,
        "cross_entropy",
    ),
    "sparse gradients": (
        lambda: Net(lambda: nn.Embedding(10, 8, sparse=True), lambda n, x: n.last(n.first(x).mean(1).tanh())),
        IDS,
        Y,
        "cross_entropy",
    ),
    "used twice, written in place": (
        lambda: Net(lambda: nn.Linear(8, 8), lambda n, x: n.last(n.first(n.first(x.repeat(1, 1, 2)).relu_()).mean(1))),
        X,
        Y,
        "cross_entropy",
    ),
    "labels left out": (
        lambda: Net(lambda: nn.Linear(4, 8), lambda n, x: n.last(n.first(x))),
        X,
        torch.where(random(24, 5, seed=9) > 0, IDS % 5, -100),
        ls.Loss("cross_entropy", weights="positions", class_dim=-1),
    ),
    "a mean over the batch": (
        lambda: Net(lambda: nn.Linear(4, 8), lambda n, x: n.last(n.first(x).tanh().mean(1))),
        X,
        Y,
        ls.Loss("mean", lambda z, y: F.cross_entropy(z, y), per="batch", weights=lambda y: torch.ones(len(y))),
    ),
}


def measured(case: Any, loss: Any = None, **options: Any) -> ls.Profile:
    make, x, y, own = case
    start, end = (seeded(make, seed).double() for seed in (0, 1))
    asked = {"loss": own if loss is None else loss, "alphas": ALPHAS, "progress": False} | options
    return ls.profile(start, ls.Line(start, end), batches(x, y, 8), **asked)


@pytest.mark.parametrize("name", NO_RULE)
def test_without_a_rule_in_forward_mode_backward_passes_are_taken(name: str) -> None:
    found = measured(NO_RULE[name])
    assert found.derivative is not None and found.derivative_error is None and found.derivative_reason is None
    assert found.how["derivative"].startswith("backward passes, each batch: an operation has no forward-mode")
    h = 1e-5
    around = measured(NO_RULE[name], derivative=False, alphas=[0.3 - h, 0.3 + h, 0.6 - h, 0.6 + h]).loss
    # O(h²) and rounding / h
    assert found.derivative[1:3] == pytest.approx((around[1::2] - around[::2]) / (2 * h), rel=1e-6, abs=1e-9)
    withheld = measured(NO_RULE[name], derivative="forward")
    assert withheld.derivative is None and "no forward-mode derivative" in str(withheld.derivative_reason)


@pytest.mark.parametrize("name", BOTH)
def test_both_modes_agree(name: str) -> None:
    forward, found = (measured(BOTH[name], derivative=mode) for mode in ("forward", "backward"))
    assert forward.derivative is not None and found.derivative is not None
    assert found.loss == pytest.approx(forward.loss, rel=1e-13)
    assert found.derivative == pytest.approx(forward.derivative, rel=1e-10, abs=1e-13)
    if name == "a mean over the batch":  # of which backward passes lose nothing
        assert found.derivative_error == pytest.approx(forward.derivative_error, rel=1e-9)
    else:
        assert found.derivative_error is None


@pytest.mark.parametrize("policy", POLICIES)
def test_backward_passes_follow_batch_norm_statistics(policy: str) -> None:
    case = CASES[3]
    start, end = case.ends()
    line, options = ls.Line(start, end), {"batch_norm": POLICIES[policy](case.data()), "alphas": 4, "progress": False}
    forward, found = (
        ls.profile(start, line, case.data(), derivative=mode, **options) for mode in ("forward", "backward")
    )  # type: ignore[arg-type]
    assert found.derivative == pytest.approx(forward.derivative, rel=1e-10, abs=1e-13)


def test_float32_and_other_paths() -> None:
    start, middle, end = (seeded(BOTH["attention"][0], seed) for seed in range(3))
    data = batches(X.float(), Y, 8)
    for path in (ls.Line(start, end), ls.Bezier(start, middle, end), ls.Line(start, end).only("first.*")):
        forward, found = (
            ls.profile(start, path, data, alphas=5, derivative=mode, progress=False)  # type: ignore[arg-type]
            for mode in ("forward", "backward")
        )
        assert found.derivative == pytest.approx(forward.derivative, rel=1e-5, abs=1e-6)  # float32


def test_complex_weights() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return (x.mean(1).to(self.weight.dtype) @ self.weight).abs()

    start, end = (seeded(Complex, seed) for seed in (0, 1))
    forward, found = (
        ls.profile(start, ls.Line(start, end), [(X, Y % 3)], alphas=3, derivative=mode, progress=False)  # type: ignore[arg-type]
        for mode in ("forward", "backward")
    )
    assert found.derivative == pytest.approx(forward.derivative, rel=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y, reduction="none") * z.detach().square().sum(1),
        lambda z, y: z.detach().square().sum(1),
        lambda z, y: torch.from_numpy(z.detach().numpy() ** 2).sum(1),
    ],
)
@pytest.mark.parametrize("asked", [True, "backward"])
def test_a_graph_that_is_cut_is_withheld(loss: Any, asked: Any) -> None:
    found = measured(BOTH["attention"], loss=loss, derivative=asked)
    assert found.derivative is None and found.derivative_error is None
    assert "the difference quotient of its loss" in str(found.derivative_reason)
    assert found.how["derivative"].startswith("none: ")


def test_many_logits_are_followed() -> None:
    """Where losses and predictions share their logarithms, these are written over: not where autograd follows them."""
    start, end = (seeded(lambda: nn.Linear(4, 900), seed).double() for seed in (0, 1))
    x, y = random(24, 4, seed=5), torch.randint(0, 900, (24,), generator=generator(6))
    forward, found = (
        ls.profile(start, ls.Line(start, end), [(x, y)], alphas=3, derivative=mode, progress=False)  # type: ignore[arg-type]
        for mode in ("forward", "backward")
    )
    assert found.derivative == pytest.approx(forward.derivative, rel=1e-10)
    assert found.accuracy == pytest.approx(forward.accuracy)


def test_nothing_of_the_caller_s_gets_a_gradient() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5).double())

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.scale * outputs, targets, reduction="none")

    make, _, y, _ = BOTH["attention"]
    loss, x = Scaled(), X.clone().requires_grad_()
    start, end = (seeded(make, seed).double() for seed in (0, 1))
    own = dict(start.named_parameters())
    found = ls.profile(start, ls.Line(start, end), [(x, y)], loss=loss, alphas=2, derivative="backward", progress=False)
    assert found.derivative is not None
    assert x.grad is None and loss.scale.grad is None
    assert all(parameter is own[name] and parameter.grad is None for name, parameter in start.named_parameters())


def test_a_network_that_differentiates_itself() -> None:
    def slope(net: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = net.last(net.first(x).tanh().mean(1))
            value.sum().backward(create_graph=True)  # leaves gradients in the tensors that were lent
            assert x.grad is not None
            return value + x.grad.mean((1, 2))[:, None]

    case = (lambda: Net(lambda: nn.Linear(4, 8), slope), X, Y, "cross_entropy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's about create_graph in backward()
        found = measured(case, derivative="backward")
        h = 1e-5
        around = measured(case, derivative=False, alphas=[0.3 - h, 0.3 + h]).loss
    assert found.derivative is not None
    assert found.derivative[1] == pytest.approx((around[1] - around[0]) / (2 * h), rel=1e-6)


def test_one_gradient_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    product = backward._inner_product

    def watched(gradient: Tensor, velocity: Tensor) -> Tensor:
        leaves = watching._leaves.values()
        held.append(sum(leaf.grad is not None for leaf in leaves))
        return product(gradient, velocity)

    original = backward.BackwardPass.run

    def run(self: Any, found: Any) -> None:
        nonlocal watching
        watching = self
        original(self, found)

    watching: Any = None
    monkeypatch.setattr(backward, "_inner_product", watched)
    monkeypatch.setattr(backward.BackwardPass, "run", run)
    measured(BOTH["transformer"], derivative="backward")
    assert held and max(held) == 0  # the one that is multiplied has been taken out


def test_workers_resume_and_adaptive_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = NO_RULE["bag"]
    expected = measured(case)
    parallel = measured(case, workers=2)
    assert parallel.derivative == pytest.approx(expected.derivative, rel=1e-12)
    adaptive = measured(case, alphas="adaptive")
    again = measured(case, alphas=adaptive.alphas)
    assert adaptive.derivative == pytest.approx(again.derivative, rel=1e-12)
    file, calls = tmp_path / "work.partial", 0
    run = backward.BackwardPass.run

    def stopped(self: Any, found: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise KeyboardInterrupt
        run(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(backward.BackwardPass, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            measured(case, partial=file, alphas=50)
    assert file.exists()
    resumed, whole = measured(case, partial=file, alphas=50), measured(case, alphas=50)
    np.testing.assert_array_equal(resumed.derivative, whole.derivative)  # the same kernels on the same layout
    with pytest.raises(ls.PartialMismatch, match="one of another: derivative, "):
        measured(case, partial=file, alphas=50, derivative=False)


def test_long_attention_is_left_to_backward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(BOTH["attention"]).how["derivative"] == "forward mode, each example"
    monkeypatch.setattr(derivative_choice, "LARGEST_SCORES", 8 * 2 * 5 * 5 * 8 - 1)  # examples, heads, queries, keys
    found = measured(BOTH["attention"])
    assert found.how["derivative"].startswith("backward passes, each batch: attention scores of 0 MiB")
    monkeypatch.setattr(derivative_choice, "LARGEST_SCORES", 8 * 2 * 5 * 5 * 8)
    assert measured(BOTH["attention"]).how["derivative"].startswith("forward mode")


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"(?s)\"forward\" or \"backward\".*'reverse'.*True chooses"):
        measured(BOTH["attention"], derivative="reverse")
