"""A case: everything that a call of `profile` depends on, drawn from one integer and printable."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import lerpscape as ls
from fuzz import data, losses, modules

POLICIES = ("interpolate", "end", "batch", "recalibrate", "pooled", "momentum")
GRIDS: dict[str, Any] = {
    "three": 3,
    "nine": 9,
    "thirteen": 13,
    "beyond": np.linspace(-0.5, 1.25, 11),
    "uneven": [0.0, 0.01, 0.1, 1 / 3, 0.4, 0.5, 2 / 3, 0.9, 0.99, 1.0],
    "adaptive": "adaptive",
}


@dataclass(frozen=True)
class Case:
    """The first value of each field is the plainest."""

    seed: int
    family: str = "vectors"
    blocks: tuple[str, ...] = ()
    takes: str = "tensor"
    squeeze: bool = False
    loss: str = "cross_entropy"
    sizes: str = "even"
    order: str = "random"
    container: str = "list"
    path: str = "line"
    grid: str = "nine"
    derivative: bool = True
    double: bool = True
    asked_dtype: str | None = None
    policy: str = "interpolate"
    workers: int = 1
    stop: str | None = None  # how the first try of two ends
    training: bool = False
    frozen: bool = False
    gain: float = 1.0

    def __str__(self) -> str:
        """What is not plain."""
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Case({', '.join(changed)})"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.double else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        return getattr(torch, self.asked_dtype) if self.asked_dtype else self.dtype

    @property
    def special(self) -> bool:
        """Whether a refusal is an answer."""
        return (
            any(modules.BLOCKS[name].special for name in self.blocks)
            or losses.LOSSES[self.loss]().special
            or self.container in data.SPECIAL_CONTAINERS
            or self.takes == "object"
            or (self.squeeze and 1 in data.SIZES[self.sizes])  # a batch of one row gives a number
            or (self.policy == "batch" and 1 in data.SIZES[self.sizes])  # torch normalises no single row by itself
        )

    @property
    def outputs(self) -> int:
        return 1 if self.squeeze else 3

    def model(self, weights: int = 0) -> nn.Module:
        model = modules.network(
            self.family,
            self.blocks,
            takes=self.takes,
            outputs=self.outputs,
            squeeze=self.squeeze,
            gain=self.gain,
            seed=self.seed,
            weights=2 * self.seed + weights,
        )
        return model.to(self.dtype).eval()

    def states(self) -> list[dict[str, torch.Tensor]]:
        """The tensors of both ends, and of a third point for paths that need one."""
        return [
            {name: tensor.detach().clone() for name, tensor in self.model(weights).state_dict().items()}
            for weights in range(3)
        ]

    def batches(self) -> list[Any]:
        targets = "one number" if self.squeeze else losses.LOSSES[self.loss]().targets
        return data.items(self.family, self.takes, targets, self.outputs, self.sizes, self.order, self.dtype, self.seed)

    def batch_norm(self) -> Any:
        """The policy, None without batch norm."""
        if "BatchNorm" not in self.blocks:
            return None
        return {
            "interpolate": ls.InterpolateStatistics,
            "end": ls.EndStatistics,
            "batch": ls.BatchStatistics,
            "recalibrate": lambda: ls.Recalibrate(self.batches()),
            "pooled": lambda: ls.Recalibrate(self.batches(), pooled=True),
            "momentum": lambda: ls.Recalibrate(self.batches(), momentum=0.3),
        }[self.policy]()

    def line(self) -> Any:
        start, end, third = self.states()
        if self.path == "polyline":
            return ls.Polyline(start, third, end, start)
        return ls.Line(start, end)

    def tags(self) -> list[str]:
        """The kinds that this case counts for."""
        found = [f"block: {name}" for name in set(self.blocks) if " as " not in name]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("seed", "blocks") and value != field.default:
                found.append(f"{field.name}: {value}")
        return found or ["plain"]


def drawn_case(seed: int) -> Case:
    """The case of a seed: a network of one to four plain blocks, with at most two things that are special."""
    rng = random.Random(seed)
    family = rng.choice(("vectors", "vectors", "vectors", "images", "sequences", "tokens"))
    takes = rng.choice(data.TAKES) if family == "vectors" and rng.random() < 0.3 else "tensor"
    squeeze = rng.random() < 0.12
    extras = rng.choices((0, 1, 2), (4, 5, 1))[0]
    wanted = rng.choices(("block", "loss", "container"), (6, 2, 1), k=extras)
    blocks = _blocks(rng, family, seed, wanted.count("block"))
    return Case(
        seed=seed,
        family=family,
        blocks=blocks,
        takes=takes,
        squeeze=squeeze,
        loss=_loss(rng, squeeze, "loss" in wanted),
        sizes=rng.choice(list(data.SIZES)),
        order=rng.choice(data.ORDERS) if rng.random() < 0.5 else "random",
        container=rng.choice(data.SPECIAL_CONTAINERS)
        if "container" in wanted and takes != "object"
        else rng.choice([name for name in data.CONTAINERS if name not in data.SPECIAL_CONTAINERS]),
        path=rng.choices(("line", "polyline"), (8, 1))[0],
        grid=rng.choices(list(GRIDS), (2, 5, 4, 2, 2, 1))[0],
        derivative=rng.random() < 0.7,
        double=rng.random() < 0.7,
        asked_dtype=rng.choice(("float64", "float32")) if rng.random() < 0.15 else None,
        policy=rng.choice(POLICIES) if "BatchNorm" in blocks else "interpolate",
        workers=2 if rng.random() < 0.02 else 1,
        stop=rng.choice(("in progress", "by the keyboard", "after another network", "after another loss"))
        if rng.random() < 0.3
        else None,
        training=rng.random() < 0.3,
        frozen=rng.random() < 0.2,
    )


def _blocks(rng: random.Random, family: str, seed: int, specials: int) -> tuple[str, ...]:
    _, shape = modules.front(family)
    count = rng.randint(max(1, specials), 4)
    places = set(rng.sample(range(count), specials))
    if rng.random() < 0.3:  # most of what all α share begins with a layer of weights
        places = {place + 1 for place in places}
        count += 1
    names: list[str] = []
    for place in range(count):
        fits = modules.fitting(shape, special=place in places, at_front=place == 0 and family != "tokens")
        named = [name for name in fits if " as " not in name]
        name = rng.choice(named if rng.random() < 0.7 or place in places else fits)
        if place not in places and rng.random() < 0.06:
            name = "BatchNorm"
        if name == "BatchNorm" and name in names:  # the loop estimates the statistics of one layer
            name = "Dropout"
        names.append(name)
        shape = _shape_behind(family, names, seed)
    return tuple(names)


def _shape_behind(family: str, names: list[str], seed: int) -> modules.Shape:
    """The shape behind these blocks, made as `network` makes them."""
    rng = random.Random(seed)
    _, shape = modules.front(family)
    with torch.random.fork_rng(devices=[]):
        for name in names:
            shape = modules.made(name, shape, rng)[1]
    return shape


def _loss(rng: random.Random, squeeze: bool, special: bool) -> str:
    if squeeze:
        return "squared_error"
    return rng.choice([name for name, loss in losses.LOSSES.items() if loss().special == special])


def plainer(case: Any) -> list[Any]:
    """The same case with one thing plainer."""
    found = []
    for field in fields(case):
        if field.name == "blocks":
            found += [replace(case, blocks=case.blocks[:i] + case.blocks[i + 1 :]) for i in range(len(case.blocks))]
        elif field.name != "seed" and getattr(case, field.name) != field.default:
            found.append(replace(case, **{field.name: field.default}))
    return found
