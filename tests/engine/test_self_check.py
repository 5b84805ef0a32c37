"""The losses at both ends: by the model itself with an end loaded into it, against those with tensors lent to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import lerpscape as ls

REGISTRY: dict[int, Tensor] = {}


def some_data(examples: int = 20) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 4, generator=generator)
    return [(inputs, torch.randint(0, 3, (examples,), generator=generator))]


class FromRegistry(nn.Module):
    """Its weight is looked up outside of the module, where nothing that is lent arrives."""

    def __init__(self, key: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.key = key
        REGISTRY[key] = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, REGISTRY[self.key], self.layer.bias)


class FromClosure(nn.Module):
    """A function made when the module was built holds its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        weight = self.layer.weight
        self.scores = lambda x: linear(x, weight, self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(x)
        return scores


class FromGenerator(nn.Module):
    """The parameters come out of an object two levels deep, which only the module's own class knows."""

    class Box:
        def __init__(self, weight: Tensor) -> None:
            self.inside = type("Inside", (), {"__slots__": ("weight",)})()
            self.inside.weight = weight

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.box = self.Box(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.box.inside.weight, self.layer.bias)


class Merging(nn.Module):
    """Low-rank weights that are added to the others on a switch to evaluation, as loralib does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.low = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 4))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.weight.data += -self.low.data if self.merged else self.low.data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight if self.merged else self.weight + self.low)


class WithView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.first = self.layer.weight.detach()[:1]

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x) + self.first.sum()
        return scores


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def tensors(model: nn.Module) -> list[tuple[int, int, list[Any]]]:
    own = [*model.parameters(), *model.buffers()]
    return [(id(tensor), tensor.data_ptr(), tensor.tolist()) for tensor in own]


@pytest.mark.parametrize("build", [lambda: FromRegistry(len(REGISTRY)), FromClosure, FromGenerator])
def test_a_model_that_finds_its_weights_elsewhere_is_refused(build: Any) -> None:
    start, end = build(), build()
    before, data = tensors(start), some_data()
    with pytest.raises(ValueError, match=r"tensors lent to it is not .* with tensors loaded into it") as refusal:
        ls.profile(start, ls.Line(start, end), data, alphas=3)
    assert tensors(start) == before
    assert "self_check=False" in str(refusal.value)
    profile = ls.profile(start, ls.Line(start, end), data, alphas=3, self_check=False)
    assert profile.how["self_check"] == "not made: self_check=False"


@pytest.mark.parametrize("build", [plain, normalised, Merging])
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_other_models_are_compared_and_left_as_they_were(build: Any, dtype: torch.dtype | None) -> None:
    start, end = build(), build()
    before, modes = tensors(start), [module.training for module in start.modules()]
    policy = {"batch_norm": ls.InterpolateStatistics()} if build is normalised else {}
    profile = ls.profile(start, ls.Line(start, end), some_data(), alphas=3, dtype=dtype, **policy)
    assert profile.how["self_check"] == "both ends by the model itself, n = 20"
    assert tensors(start) == before
    assert [module.training for module in start.modules()] == modes


def test_a_large_batch_is_compared_on_some_of_its_examples() -> None:
    start, end = plain(), plain()
    assert ls.profile(start, ls.Line(start, end), some_data(500), alphas=3).how["self_check"].endswith("n = 64")


@pytest.mark.parametrize(
    ("build", "policy", "reason"),
    [
        (normalised, ls.BatchStatistics(), "batch-norm statistics come from data"),
        (WithView, None, "the model holds views of its weights"),
    ],
)
def test_the_reason_is_given_where_nothing_is_compared(build: Any, policy: Any, reason: str) -> None:
    start, end = build(), build()
    profile = ls.profile(start, ls.Line(start, end), some_data(), alphas=3, batch_norm=policy)
    assert profile.how["self_check"] == f"not made: {reason}"


def test_a_mere_plan_is_not_compared() -> None:
    start, end = plain(), plain()
    profile = ls.profile(plain().to("meta"), ls.Line(start, end), some_data(), alphas=3)
    assert profile.how["self_check"] == "not made: the model has no numbers of its own"
