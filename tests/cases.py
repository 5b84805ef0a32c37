"""Small networks of every kind the instrument must measure, with data that fits them, in float64."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine import planner
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.geometry.outputs import OutputsOnPath
from lerpscape.networks.batches import Batch


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], list[Any]]
    loss: Any = "cross_entropy"
    batch_norm: bool = False

    def ends(self) -> tuple[nn.Module, nn.Module]:
        """An initialisation, and where a few plain gradient steps lead from it."""
        return deepcopy(_ends(self))

    def train(self) -> tuple[nn.Module, nn.Module]:
        start = seeded(self.build, 0).double()
        end = deepcopy(start)
        for module in (start, end):
            for name, tensor in module.named_buffers():
                if "running" in name:
                    tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator(3)).double())
        optimizer = torch.optim.SGD(end.parameters(), lr=0.2)
        end.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)  # dropout
            for _ in range(5):
                for item in self.data():
                    optimizer.zero_grad()
                    self.mean_loss(end, item).backward()
                    optimizer.step()
        return start.eval(), end.eval()

    def mean_loss(self, model: nn.Module, item: Any) -> Tensor:
        inputs, targets = (item, item["labels"]) if isinstance(item, dict) else item
        if isinstance(item, dict):
            outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
        else:
            outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        if callable(self.loss):
            return self.loss(outputs, targets).mean()
        if self.loss == "cross_entropy":
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs
            return F.cross_entropy(logits.flatten(0, -2), targets.flatten())
        return (outputs - targets).square().flatten(1).sum(1).mean()


@cache
def _ends(case: Case) -> tuple[nn.Module, nn.Module]:
    return case.train()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def classes(*shape: int, seed: int, count: int = 3) -> Tensor:
    return torch.randint(0, count, shape, generator=generator(seed))


def batches(inputs: Tensor, targets: Tensor, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(size), targets.split(size), strict=True))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.cell = nn.LSTM(6, 5, num_layers=2, batch_first=True)
        self.read = nn.Linear(5, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(self.cell(self.embed(tokens))[0])


class Attention(nn.Module):
    """A Transformer layer and a causal attention of our own, with a −inf mask among the buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.query = nn.Linear(8, 8)
        self.read = nn.Linear(8, 7)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.layer(self.embed(tokens), src_mask=self.mask)
        query = self.query(hidden).view(len(hidden), -1, 2, 4).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, query, query, is_causal=True)
        return self.read(hidden + mixed.transpose(1, 2).flatten(2))


class Tied(nn.Module):
    """Input and output embedding are one tensor; a counter and a constant ride along."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.mix = nn.Linear(6, 6)
        self.read = nn.Linear(6, 7, bias=False)
        self.read.weight = self.embed.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)
        self.embed.weight.requires_grad_(True)

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return self.read(torch.tanh(self.mix(self.embed(tokens))) * self.scale)


class Keyed(nn.Module):
    """Takes keyword arguments and returns a dictionary, as models from hubs do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.read = nn.Linear(6, 3)
        self.read.bias.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        weights = attention_mask[..., None] / attention_mask.sum(1)[:, None, None]
        return {"logits": self.read(torch.tanh((self.embed(input_ids) * weights).sum(1))), "hidden": weights}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4, affine=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def _keyed_data() -> list[dict[str, Tensor]]:
    mask = torch.ones(11, 4, dtype=torch.float64)
    mask[::2, 3] = 0
    ids, labels = classes(11, 4, seed=1, count=7), classes(11, seed=2)
    return [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids.split(4), mask.split(4), labels.split(4), strict=True)
    ]


def _tokens() -> list[tuple[Tensor, Tensor]]:
    tokens = classes(9, 5, seed=1, count=7)
    return batches(tokens[:, :-1], tokens[:, 1:], size=4)


def _images() -> list[tuple[Tensor, Tensor]]:
    return batches(random(17, 1, 4, 4, seed=1), classes(17, seed=2))


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.smooth_l1_loss(outputs, targets, reduction="none").mean(1)


CASES = [
    Case("mlp", mlp, lambda: batches(random(17, 4, seed=1), classes(17, seed=2))),
    Case("regression", mlp, lambda: batches(random(17, 4, seed=1), random(17, 3, seed=2)), loss="squared_error"),
    Case("own loss", mlp, lambda: batches(random(17, 4, seed=1), random(17, 3, seed=2)), loss=huber),
    Case("cnn", cnn, _images, batch_norm=True),
    Case("lstm", Recurrent, _tokens),
    Case("attention", Attention, _tokens),
    Case("tied", Tied, _tokens),
    Case("keyed", Keyed, _keyed_data),
]
POLICIES: dict[str, Callable[[list[Any]], Any]] = {
    "interpolate": lambda data: ls.InterpolateStatistics(),
    "end": lambda data: ls.EndStatistics(),
    "batch": lambda data: ls.BatchStatistics(),
    "recalibrate": lambda data: ls.Recalibrate(data),
    "pooled": lambda data: ls.Recalibrate(data, pooled=True),
    "momentum": lambda data: ls.Recalibrate(data, momentum=0.3, passes=2),
}


def variants() -> list[tuple[str, Case, Any]]:
    """Every case, those with batch norm under every policy."""
    found = []
    for case in CASES:
        names = list(POLICIES) if case.batch_norm else [None]
        for name in names:
            policy = POLICIES[name](case.data()) if name else None
            found.append((f"{case.name}-{name}" if name else case.name, case, policy))
    return found


def ends(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    return seeded(build, 0).to(dtype), seeded(build, 1).to(dtype)


def rounding(model: nn.Module, dtype: torch.dtype = torch.float64) -> float:
    """What one loss may be off by in two ways of measuring it: torch has several kernels for most operations.

    Both ways add up the numbers of each layer's inputs, one layer after the other, and round each product and each sum
    to ½ eps: 2 eps for every number on the longest way, in the worst case. Numbers in these networks are around 1.
    """
    return 2 * torch.finfo(dtype).eps * sum(each[0].numel() for each in model.parameters() if each.dim() > 1)


def by_plan(plan: ExecutionPlan, *arguments: Any, **options: Any) -> ls.Profile:
    """A profile by this plan, whatever the planner would choose."""
    with mock.patch.object(planner, "plan", return_value=plan):
        profile = ls.profile(*arguments, **options)
    assert profile.how["plan"] == plan.describe()
    return profile


def by_module(*arguments: Any, **options: Any) -> ls.Profile:
    """A profile by the plain module."""
    return by_plan(ExecutionPlan.by_module("as the test says"), *arguments, **options)


def by_graph(batch_size: int, group_size: int, *arguments: Any, **options: Any) -> ls.Profile:
    """A profile by the traced operations, on batches and groups of these sizes."""
    plan = ExecutionPlan("graph", "first layer shared by all α", batch_size=batch_size, group_size=group_size)
    return by_plan(plan, *arguments, **options)


def assert_same(found: ls.Profile, expected: ls.Profile) -> None:
    # float64: sums in another order, and products with both ends mixed instead of mixed weights multiplied
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9, atol=1e-13)
    if expected.derivative is not None:
        np.testing.assert_allclose(found.derivative, expected.derivative, rtol=1e-9, atol=1e-12)
    if expected.accuracy is not None:
        np.testing.assert_allclose(found.accuracy, expected.accuracy)


def outputs_on_path(model: nn.Module, line: ls.Line, probe: Batch, *, batch_norm: Any = None, **choices: Any) -> Any:
    """An `OutputsOnPath` of a model on a line."""
    on_path = ModelOnPath(model, line, None, None)
    return OutputsOnPath(on_path, BatchNormStatistics(on_path, batch_norm), probe, **choices)
