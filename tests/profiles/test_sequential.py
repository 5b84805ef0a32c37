"""Verdicts from a part of the data: the same as from all of it, from much less where the line is clear."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, POLICIES, variants
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lerpscape as ls
from lerpscape.networks.sampling import Sample
from lerpscape.profiles.interim_analyses import interim_analysis

COUNT = 8000
SEEDS = range(20)


@cache
def networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    """An initialisation, what training makes of it, and a point far beyond."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        end = deepcopy(start)
        x, y = examples()
        steps = torch.optim.SGD(end.parameters(), lr=0.3)
        for _ in range(60):
            steps.zero_grad()
            F.cross_entropy(end(x), y).backward()
            steps.step()
        beyond = deepcopy(start)
        beyond.load_state_dict(ls.Line(start, end).at(8.0))
    return start, end, beyond


def examples() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, 6, generator=draw)
    noisy = x[:, :3] + x[:, 3:].tanh() + 0.5 * torch.randn(COUNT, 3, generator=draw)
    return x, noisy.argmax(1)


def data(size: int = 500) -> list[Any]:
    return [*zip(*(part.split(size) for part in examples()), strict=True)]


def found(end: int = 1, **choices: Any) -> ls.profiles.SequentialVerdict:
    start = networks()[0]
    settings: dict[str, Any] = {"tolerance": 0.02, "alphas": 9, "first": 256, "progress": False} | choices
    return ls.sequential_verdict(start, ls.Line(start, networks()[end]), data(), **settings)


@cache
def whole(end: int) -> ls.Profile:
    start = networks()[0]
    return ls.profile(start, ls.Line(start, networks()[end]), data(), alphas=9, derivative=False)


@pytest.mark.parametrize(("end", "verdict"), [(1, "monotonic"), (2, "violated")])
def test_clear_lines_take_a_part_of_the_data_and_get_the_same_verdict(end: int, verdict: str) -> None:
    assert whole(end).is_monotonic(0.02) == (verdict == "monotonic")
    seen = [found(end, seed=seed) for seed in SEEDS]
    assert [each.verdict for each in seen] == [verdict] * len(SEEDS)
    assert {each.examples for each in seen} == {256}
    assert all(each.lower <= whole(end).max_rise <= each.upper for each in seen)
    assert len({each.loss.tobytes() for each in seen}) == len(SEEDS)  # seeds are orders


def test_a_tolerance_at_the_rise_itself_takes_all_examples_and_is_exact() -> None:
    rise = whole(2).max_rise
    for factor, verdict in ((1 - 1e-5, "violated"), (1 + 1e-5, "monotonic")):
        exact = found(2, tolerance=rise * factor)
        assert (exact.verdict, exact.examples, exact.basis) == (verdict, COUNT, "all examples")
        # float32 losses of single examples, summed in another order of batches
        assert exact.lower == exact.upper == pytest.approx(rise, rel=1e-6)
        assert [each.examples for each in exact.analyses] == [256, 512, 1024, 2048, 4096, COUNT]
        np.testing.assert_allclose(exact.loss, whole(2).loss, rtol=1e-6)
        assert not exact.loss_error.any() and exact.unseen == 0


@pytest.mark.parametrize(("name", "case", "policy"), variants(), ids=[each[0] for each in variants()])
def test_few_examples_are_all_measured_whatever_the_network(name: str, case: Any, policy: Any) -> None:
    start, end = case.ends()
    line = ls.Line(start, end)
    choices = {"alphas": 5, "loss": case.loss, "batch_norm": policy, "progress": False}
    if isinstance(policy, ls.BatchStatistics):
        with pytest.raises(ValueError, match=r"(?s)other examples of the batch.*batch norm.*Another batch-norm policy"):
            ls.sequential_verdict(start, line, case.data(), tolerance=0.1, **choices)
        return
    exact = ls.sequential_verdict(start, line, case.data(), tolerance=0.1, **choices)
    expected = ls.profile(start, line, case.data(), derivative=False, **choices)
    np.testing.assert_allclose(exact.loss, expected.loss, rtol=1e-12)
    assert exact.upper == pytest.approx(expected.max_rise, abs=1e-12)
    assert exact.of == exact.examples == expected.examples


class Counting:
    def __init__(self) -> None:
        self.examples = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.examples += len(targets)
        return F.cross_entropy(outputs, targets, reduction="none")


def test_each_analysis_measures_new_examples_only() -> None:
    class Opaque(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if len(x) else x  # which cannot be traced

    start, _, end = (Opaque(deepcopy(network)) for network in networks())
    loss = Counting()
    seen = ls.sequential_verdict(start, ls.Line(start, end), data(), loss=loss, tolerance=whole(2).max_rise, alphas=9)
    assert seen.examples == COUNT
    assert loss.examples == COUNT * 9 + 2 * 16 + 2 * 64 + 4 * 64  # and the checks of a few examples


def test_analyses_are_those_of_the_losses_in_the_order_of_the_sample() -> None:
    start, _, end = networks()
    losses = ls.profiles.example_curves(start, ls.Line(start, end), data(), alphas=9).losses
    seen = found(2, tolerance=whole(2).max_rise, seed=4, confidence=0.9)
    order = Sample(data(), 4)._order.numpy()
    for number, each in enumerate(seen.analyses):
        expected = interim_analysis(losses[:, order[: each.examples]], COUNT, 0.1 / 5, seed=4 + number)
        assert (each.first, each.second) == (expected.first, expected.second)
        assert each.upper == pytest.approx(expected.upper, rel=1e-5)  # float32 losses
        # Their last digits turn the eigenvectors and so the draws: a quantile with 20 draws beyond moves by a
        # per cent, and the margin for skewness by twice that.
        assert each.lower == pytest.approx(expected.lower, rel=0.04)


def test_seeds_workers_and_readers_give_one_answer() -> None:
    first = found()
    assert first.how["plan"].startswith("first layer shared")
    for other in (found(), found(workers=2)):
        assert other.analyses == first.analyses and other.loss.tolist() == first.loss.tolist()
    start, end, _ = networks()
    loader = DataLoader(TensorDataset(*examples()), batch_size=500)
    read = ls.sequential_verdict(start, ls.Line(start, end), loader, tolerance=0.02, alphas=9, first=256)
    assert read.loss.tolist() == first.loss.tolist()


def test_nothing_of_the_callers_changes() -> None:
    model = deepcopy(networks()[0]).train()
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    ls.sequential_verdict(model, ls.Line(*networks()[:2]), data(), tolerance=0.5, alphas=3)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_budget_ends_undecided() -> None:
    seen = found(2, tolerance=whole(2).max_rise, budget=600)
    assert (seen.verdict, seen.examples) == ("undecided", 600)
    assert [each.examples for each in seen.analyses] == [256, 512, 600]
    assert seen.lower <= whole(2).max_rise < seen.upper
    assert seen.summary.startswith("Undecided at 99 % confidence: the largest rise is between")
    assert found(2, budget=10**6).of == COUNT


def test_bounded_losses_are_sure_for_any_number_of_examples() -> None:
    def wrong(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) != targets).double()

    seen = found(1, loss=wrong, bounds=(0, 1), tolerance=0.1, confidence=0.99999)
    assert (seen.verdict, seen.basis) == ("monotonic", "bounds") and seen.share < 0.6
    assert "unseen" not in seen.summary
    with pytest.raises(ValueError, match=r"(?s)losses between 0 and 0\.5, the bounds.*hold for every example"):
        found(1, loss=wrong, bounds=(0, 0.5))


def test_what_cannot_be_answered_is_refused() -> None:
    for choices, message in (
        ({"tolerance": -1.0}, "a finite tolerance"),
        ({"tolerance": float("nan")}, "a finite tolerance"),
        ({"alphas": np.linspace(-0.5, 1, 5)}, "alphas between 0 and 1.*profile"),
        ({"alphas": "adaptive"}, "a count of at least 2"),
        ({"confidence": 1.0}, "0 < confidence < 1"),
        ({"confidence": 0.9999}, "at most 0.999"),
        ({"bounds": (1, 0)}, r"bounds \(least, most\)"),
        ({"first": 1}, "first of at least 2"),
        ({"budget": 0}, "budget of at least 2"),
        ({"workers": 0}, "workers=1"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            found(1, **choices)
    with pytest.raises(TypeError, match="a torch module as the model"):
        ls.sequential_verdict("net", ls.Line(*networks()[:2]), data(), tolerance=0.1)  # type: ignore[arg-type]


def test_examples_that_see_one_another_are_refused() -> None:
    class Centred(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.inner(x - x.mean(0))
            return outputs

    start, end, _ = (Centred(deepcopy(network)) for network in networks())
    with pytest.raises(ValueError, match=r"(?s)do not depend on the other examples.*cut in two\..*batches as they are"):
        ls.sequential_verdict(start, ls.Line(start, end), data(), tolerance=0.1, alphas=3)


def test_nan_among_the_losses_seen_has_no_verdict() -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets == 1, torch.nan, outputs[:, 0])

    with pytest.raises(ls.NonFiniteLoss, match=r"(?s)nan at α = 0, \d+ of 256 examples seen"):
        found(1, loss=broken)


def test_recalibration_keeps_its_own_data() -> None:
    case = next(case for case in CASES if case.name == "cnn")
    start, end = case.ends()
    part = case.data()[:2]
    policy = POLICIES["recalibrate"](case.data())
    choices = {"alphas": 5, "batch_norm": policy, "progress": False}
    seen = ls.sequential_verdict(start, ls.Line(start, end), part, tolerance=0.1, **choices)
    expected = ls.profile(start, ls.Line(start, end), part, derivative=False, **choices)
    np.testing.assert_allclose(seen.loss, expected.loss, rtol=1e-12)


def test_drawn_and_tabled() -> None:
    seen = found(2, label="pushed")
    frame = found(2, tolerance=whole(2).max_rise).to_pandas()
    assert frame["examples"].tolist() == [256, 512, 1024, 2048, 4096, COUNT]
    assert (frame["lower"] <= frame["upper"]).all() and (frame["peaks"] == 1).all()
    ax = seen.plot()
    assert ax.get_xlabel() == "examples measured" and "largest rise (nats)" in ax.get_ylabel()
    ax.figure.clear()


def test_the_summary_says_what_was_seen_and_what_not() -> None:
    monotonic, violated = found(1), found(2)
    assert monotonic.summary.startswith("Monotonic at 99 % confidence: no later loss exceeds an earlier one by more")
    assert f"{monotonic.examples:,} of 8,000 examples" in monotonic.summary
    assert f"A group of {monotonic.unseen} examples may have gone unseen." in monotonic.summary
    assert violated.summary.startswith("Not monotonic at 99 % confidence: the largest rise is between")
    assert "one is from α = " in violated.summary and "to 1 (on 9 points, tolerance 0.02 nats" in violated.summary
