"""What a few examples cannot tell: the graph is compared with the module on all, and given up where it differs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import batches, classes, generator, random
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.comparison import difference
from lerpscape.engine.losses_by_alpha import LossesAtAlpha

ROWS = 64
INPUTS, TARGETS = random(ROWS, 4, seed=1), classes(ROWS, seed=2)
FAR = torch.cat([INPUTS[:32], 200 * INPUTS[32:]])


class Net(nn.Module):
    """A linear layer, whatever is done with its output, and another."""

    def __init__(self, between: Callable[[Tensor], Tensor], batch_norm: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.between = between
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.norm(self.first(x))))


def less_the_mean(h: Tensor) -> Tensor:
    h = torch.relu(h)
    return h - h.mean(0)


def over_the_largest(h: Tensor) -> Tensor:
    return h / (1 + h.detach().abs().amax(0))


def by_rank(h: Tensor) -> Tensor:
    return h * (1 + 0.1 * h.sum(1, keepdim=True).argsort(0).argsort(0))


def guarded(h: Tensor) -> Tensor:
    h = torch.relu(h)
    if type(h) is torch.Tensor and h.max() > 20:  # a proxy cannot pretend to be of this type
        h = h.clamp(max=20.0)
    return h


def guarded_softly(h: Tensor) -> Tensor:
    return torch.tanh(h) if type(h) is torch.Tensor and bool((h.abs() > 30).any()) else h


def in_half_precision(h: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(h, torch.eye(8, dtype=h.dtype)).to(h.dtype)


def relative_to_the_worst(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return losses / losses.max()


def line_of(model: nn.Module, by: float = 0.5) -> ls.Line:
    draw = generator(3)
    start = {
        name: torch.rand(tensor.shape, generator=draw, dtype=tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    end = {
        name: tensor + by * torch.rand(tensor.shape, generator=draw) if tensor.is_floating_point() else tensor
        for name, tensor in start.items()
    }
    return ls.Line(start, end)


def by_loop(model: nn.Module, line: ls.Line, data: Any, alphas: Any, loss: Any) -> Any:
    means = []
    for alpha in alphas:
        model.load_state_dict(line.at(alpha))
        model.eval()
        with torch.no_grad():
            means.append(torch.cat([loss(model(x), y) for x, y in data]).mean().item())
    return means


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("size", [5, 7, 8, 16, 32, 64])
@pytest.mark.parametrize(
    ("between", "loss", "inputs"),
    [
        (less_the_mean, cross_entropy, INPUTS),
        (over_the_largest, cross_entropy, INPUTS),
        (by_rank, cross_entropy, INPUTS),
        (torch.relu, relative_to_the_worst, INPUTS),
        (guarded, cross_entropy, FAR),
        (guarded_softly, cross_entropy, FAR),
    ],
)
def test_a_function_of_more_than_one_example_is_measured_as_the_caller_divides_them(
    between: Any, loss: Any, inputs: Tensor, size: int
) -> None:
    model = Net(between)
    line, data = line_of(model), batches(inputs, TARGETS, size)
    profile = ls.profile(model, line, data, loss=loss, alphas=9, derivative=False, progress=False)
    expected = by_loop(Net(between), line, data, profile.alphas, loss)
    np.testing.assert_allclose(profile.loss, expected, rtol=1e-9)  # some 30 operations of float64
    if size < ROWS:  # one batch of all is what the graph computes too
        assert "the module batch by batch" in profile.how["plan"]


@pytest.mark.parametrize(
    ("policy", "workers"), [(None, 1), (None, 2), ("interpolate", 1), ("recalibrate", 1), ("pooled", 1)]
)
def test_a_difference_that_later_examples_show_is_found_with_any_statistics(policy: str | None, workers: int) -> None:
    data = batches(FAR, TARGETS, 8)
    policies = {
        "interpolate": ls.InterpolateStatistics(),
        "recalibrate": ls.Recalibrate(data),
        "pooled": ls.Recalibrate(data, pooled=True),
    }
    limit = 2.0 if policy in ("recalibrate", "pooled") else 20.0

    def clamped(h: Tensor) -> Tensor:
        return h.clamp(max=limit) if type(h) is torch.Tensor and h.max() > limit else h

    model = Net(clamped, batch_norm=policy is not None)
    line = line_of(model)
    seen: list[int] = []
    profile = ls.profile(
        model,
        line,
        data,
        alphas=[0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        derivative=False,
        batch_norm=policies.get(policy or ""),
        workers=workers,
        progress=lambda done, total: seen.append(done),
    )
    assert "its traced operations differ from it (losses off by" in profile.how["plan"]
    assert seen[-1] == 8 * len(data)  # what was thrown away is not counted
    honest = ls.profile(
        Net(lambda h: h.clamp(max=limit) if bool(h.max() > limit) else h, batch_norm=policy is not None),
        line,
        data,
        alphas=profile.alphas,
        derivative=False,
        batch_norm=policies.get(policy or ""),
        progress=False,
    )
    assert "cannot trace" in honest.how["plan"]
    np.testing.assert_allclose(profile.loss, honest.loss, rtol=1e-12)


def test_adaptive_points_and_sequential_verdicts_begin_again_too() -> None:
    model = Net(guarded)
    line, data = line_of(model), batches(FAR, TARGETS, 8)
    adaptive = ls.profile(model, line, data, alphas="adaptive", precision=0.1, progress=False)
    expected = by_loop(Net(guarded), line, data, adaptive.alphas, cross_entropy)
    np.testing.assert_allclose(adaptive.loss, expected, rtol=1e-9)
    verdict = ls.sequential_verdict(model, line, data, tolerance=0.5, alphas=9, first=16, progress=False)
    rise = ls.max_rise(by_loop(Net(guarded), line, data, verdict.alphas, cross_entropy))
    assert verdict.verdict == ("violated" if rise > 0.5 else "monotonic")


def test_autocast_inside_a_forward_is_kept() -> None:
    model = Net(in_half_precision).float()
    line = line_of(model)
    line = ls.Line(*({name: tensor.float() for name, tensor in line.at(alpha).items()} for alpha in (0.0, 1.0)))
    data = batches(INPUTS.float(), TARGETS, 16)
    profile = ls.profile(model, line, data, alphas=9, derivative=False, progress=False)
    assert profile.how["plan"].endswith("it computes in torch.bfloat16 inside")
    expected = by_loop(Net(in_half_precision).float(), line, data, profile.alphas, cross_entropy)
    np.testing.assert_allclose(profile.loss, expected, rtol=1e-6)  # losses in float32


def test_a_measurement_that_began_again_is_resumed_by_the_module(tmp_path: Path) -> None:
    data, file, seen = batches(FAR, TARGETS, 8), tmp_path / "partial", list[int]()
    line = line_of(Net(guarded))
    largest = float(F.linear(FAR, line.at(0.0)["first.weight"], line.at(0.0)["first.bias"]).max())
    limit = 1.5 * largest  # reached near the end only, not where a few examples are tried

    def clamped(h: Tensor) -> Tensor:
        return h.clamp(max=limit) if type(h) is torch.Tensor and h.max() > limit else h

    model = Net(clamped)

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done >= 20 and any(before > after for before, after in pairwise(seen)):
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"loss": squares, "alphas": 9, "derivative": False}
    whole = ls.profile(model, line, data, progress=False, **asked)
    asked["partial"] = file
    with pytest.raises(KeyboardInterrupt):
        ls.profile(model, line, data, progress=stop, **asked)
    resumed = ls.profile(model, line, data, progress=False, **asked)
    np.testing.assert_array_equal(resumed.loss, whole.loss)  # the same batches by the same module


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.square().sum(1)


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("policy", [None, "interpolate", "recalibrate"])
def test_one_example_that_no_trial_has_is_enough(policy: str | None, derivative: bool) -> None:
    inputs, targets = random(200, 4, seed=1), classes(200, seed=2)
    inputs[5] = 200 * inputs[5].abs()  # the trial has examples 0, 13, 27, …
    data = batches(inputs, targets, 40)
    policies = {"interpolate": ls.InterpolateStatistics(), "recalibrate": ls.Recalibrate(data)}
    limit = 8.0 if policy == "recalibrate" else 40.0  # normalised with its own outlier

    def build(hidden: bool) -> Net:
        def clamped(h: Tensor) -> Tensor:
            return h.clamp(max=limit) if (type(h) is torch.Tensor or not hidden) and bool(h.max() > limit) else h

        return Net(clamped, batch_norm=policy is not None)

    line = line_of(build(hidden=True))
    asked = {"loss": squares, "alphas": 9, "derivative": derivative, "batch_norm": policies.get(policy or "")}
    profile = ls.profile(build(hidden=True), line, data, progress=False, **asked)
    honest = ls.profile(build(hidden=False), line, data, progress=False, **asked)
    assert "its traced operations differ from it" in profile.how["plan"]
    assert "cannot trace" in honest.how["plan"]
    np.testing.assert_allclose(profile.loss, honest.loss, rtol=1e-12)  # the same module, the same batches


def at_alpha(losses: Tensor, slopes: Tensor | None = None) -> LossesAtAlpha:
    return LossesAtAlpha(losses, slopes, None)


def test_rounding_passes_and_more_does_not() -> None:
    losses = random(1000, seed=5).exp()
    assert difference(at_alpha(losses * (1 + 1e-13)), at_alpha(losses), 1e-12) is None
    other = losses.clone()
    other[7] += 1e-6  # one example of a thousand
    assert difference(at_alpha(other), at_alpha(losses), 1e-12) == "losses off by 1e-06"
    assert difference(at_alpha(losses), at_alpha(losses[:-1]), 1e-12) == "other losses"
    assert difference(at_alpha(other.fill_(torch.nan)), at_alpha(losses), 1e-12) == "other losses"


def test_a_kink_changes_the_derivative_of_one_example_but_not_of_many() -> None:
    losses, slopes = random(1000, seed=5), random(1000, seed=6)
    expected = at_alpha(losses, slopes)
    for many, differs in ((1, False), (20, False), (40, True)):
        other = slopes.clone()
        other[:many] += 0.5
        assert (difference(at_alpha(losses, other), expected, 1e-12) is not None) is differs
    assert difference(at_alpha(losses), expected, 1e-12) == "other derivatives"


def test_a_loss_that_nearly_vanishes_is_a_small_difference_of_large_numbers() -> None:
    small = torch.full((100,), 1e-9, dtype=torch.float64)
    assert difference(at_alpha(small + 1e-13), at_alpha(small), 1e-12) is not None
    assert difference(at_alpha(small + 1e-13), at_alpha(small), 1e-12, scale=1.0) is None
