"""A grammar of data: rows, how they are cut into batches, and the container that gives these batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fuzz.modules import Parts

Item = Any  # one batch, as the caller has it

SIZES: dict[str, tuple[int, ...]] = {
    "even": (8, 8, 8),
    "ragged": (8, 8, 3),
    "one row last": (6, 6, 1),
    "two of seven": (7, 7),
    "one batch": (20,),
    "one example": (1,),
    "rows of one": (1,) * 6,
    "many small": (2,) * 11,
    "large first": (40, 5, 30),
}
ORDERS = ("random", "sorted labels", "growing", "equal rows", "sixteen zeros first")
SHAPES = {"vectors": (5,), "images": (2, 6, 6), "sequences": (3, 6)}
TAKES = ("tensor", "tuple", "dict", "keywords", "object")


def items(
    family: str, takes: str, targets: str, outputs: int, sizes: str, order: str, dtype: torch.dtype, seed: int
) -> list[Item]:
    """The batches as a plain list of tensors of their own."""
    draw = torch.Generator().manual_seed(seed)
    count = sum(SIZES[sizes])
    if family == "tokens":
        x = torch.randint(11, (count, 5), generator=draw)
    else:
        x = torch.randn(count, *SHAPES[family], generator=draw).to(dtype)
    z = torch.randn(count, 3, generator=draw).to(dtype)
    y = _targets(targets, count, outputs, draw, dtype)
    if order == "sorted labels":
        y = y[y.flatten(1).sum(1).argsort() if y.dim() > 1 else y.argsort()]
    elif order == "growing" and x.is_floating_point():
        x = x * torch.linspace(0.1, 6, count).to(dtype).square().view(-1, *[1] * (x.dim() - 1))
    elif order == "equal rows":
        x = x[torch.arange(count) % 2]
    elif order == "sixteen zeros first":
        x[:16] = 0
    parts = zip(x.split(SIZES[sizes]), z.split(SIZES[sizes]), y.split(SIZES[sizes]), strict=True)
    return [_item(takes, *(part.clone() for part in batch)) for batch in parts]


def _targets(kind: str, count: int, outputs: int, draw: torch.Generator, dtype: torch.dtype) -> Tensor:
    if kind == "classes":
        return torch.randint(outputs, (count,), generator=draw)
    if kind == "probabilities":
        return torch.rand(count, outputs, generator=draw).to(dtype).softmax(1)
    if kind == "binary":
        return torch.randint(2, (count, outputs), generator=draw).to(dtype)
    return torch.randn((count,) if kind == "one number" else (count, outputs), generator=draw).to(dtype)


def _item(takes: str, x: Tensor, z: Tensor, y: Tensor) -> Item:
    return {
        "tensor": (x, y),
        "tuple": ((x, z), y),
        "dict": {"x": x, "z": z, "labels": y},
        "keywords": ({"x": x, "z": z, "scale": 2.0}, y),
        "object": (Parts(x, z), y),
    }[takes]


class Fresh:
    """Gives new tensors on every pass."""

    def __init__(self, batches: list[Item]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Item]:
        yield from copy.deepcopy(self.batches)


class Refilled(Fresh):
    """Copies every batch into the tensors of the first one, as loaders do that reuse pinned memory."""

    def __init__(self, batches: list[Item]) -> None:
        super().__init__(batches)
        widest = max(batches, key=lambda batch: len(tensors(batch)[0]))
        self.buffers = [torch.empty_like(each) for each in tensors(widest)]

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches:
            filled = iter(self.buffers)
            yield mapped(batch, lambda each, filled=filled: next(filled)[: len(each)].copy_(each))


class RefilledTargets(Refilled):
    """Only the last tensor, the targets, is used again."""

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches:
            last = len(tensors(batch)) - 1
            numbers = iter(range(last + 1))
            yield mapped(
                batch,
                lambda each, numbers=numbers, last=last: (
                    self.buffers[last][: len(each)].copy_(each) if next(numbers) == last else each.clone()
                ),
            )


def _views(batches: list[Item]) -> list[Item]:
    """The same batches as slices of one tensor for each part."""
    whole = [torch.cat(parts) for parts in zip(*map(tensors, batches), strict=True)]
    first, cut = 0, []
    for batch in batches:
        rows, parts = len(tensors(batch)[0]), iter(whole)
        cut.append(mapped(batch, lambda each, parts=parts, a=first, b=first + rows: next(parts)[a:b]))
        first += rows
    return cut


def _loader(batches: list[Item]) -> Any:
    """A DataLoader that cuts by itself where batches are plain pairs of equal sizes but for the last one."""
    sizes = [len(tensors(batch)[0]) for batch in batches]
    plain = all(isinstance(batch, tuple) and isinstance(batch[0], Tensor) for batch in batches)
    if plain and all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return DataLoader(TensorDataset(x, y), batch_size=sizes[0])
    return DataLoader(batches, batch_size=None)


CONTAINERS: dict[str, Callable[[list[Item]], Any]] = {
    "list": list,
    "tuple": tuple,
    "DataLoader": _loader,
    "fresh tensors": Fresh,
    "views of one tensor": _views,
    "not contiguous": lambda batches: [mapped(batch, _strided) for batch in batches],
    "refilled": Refilled,
    "refilled targets": RefilledTargets,
    "one batch many times": lambda batches: [batches[0]] * len(batches),
    "expanded rows": lambda batches: [mapped(batch, lambda each: each[:1].expand_as(each)) for batch in batches],
}
SPECIAL_CONTAINERS = ("refilled", "refilled targets", "expanded rows")


def _strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


def as_measured(batches: list[Item], container: str) -> list[Item]:
    """What the container gives, as plain tensors of their own."""
    if container == "one batch many times":
        return [copy.deepcopy(batches[0]) for _ in batches]
    if container == "expanded rows":
        return [mapped(batch, lambda each: each[:1].expand_as(each).clone()) for batch in batches]
    return copy.deepcopy(batches)


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with a function applied to every tensor, in order."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(part, function) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(part, function) for part in value)
    return Parts(function(value.x), function(value.z)) if isinstance(value, Parts) else value


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(value, lambda each: (found.append(each), each)[1])
    return found
