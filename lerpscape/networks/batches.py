"""Reading data: what a batch is, and proof that a second pass over the data gives the same batches.

Data is any re-iterable of batches: a DataLoader, a list, an object with `__iter__`. A batch is `(inputs, targets)`
or a dict; inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lerpscape.base.errors import NotRepeatable, explain
from lerpscape.networks.checksums import checksum, tensor_bytes
from lerpscape.networks.losses import batch_size

Data: TypeAlias = Iterable[Any]

# Where dict batches keep what the loss compares with.
TARGET_KEYS = ("labels", "label", "targets", "target")
# Batches are held in memory up to this size, so that every α sees them after one reading.
CHUNK_BYTES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """One batch: what the model is called with, what the loss compares with, and how many examples it has."""

    inputs: Any
    targets: Any
    examples: int | None

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Batch:
        """The batch on a device, its floating-point tensors in `dtype` where one is given."""

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return Batch(_mapped(self.inputs, place), _mapped(self.targets, place), self.examples)

    def call(self, model: nn.Module) -> Any:
        """The model's output for the inputs of this batch."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        if isinstance(self.inputs, (tuple, list)):
            return model(*self.inputs)
        return model(self.inputs)

    def rows(self, positions: Tensor) -> Batch:
        """Some examples of a batch whose tensors all have a row for each."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[positions.to(tensor.device)]

        return Batch(_mapped(self.inputs, cut), _mapped(self.targets, cut), len(positions))

    def part(self, first: int, last: int) -> Batch:
        """The examples from `first` to before `last` of such a batch, in the same memory."""
        cut = slice(first, last)
        inputs, targets = (_mapped(each, lambda tensor: tensor[cut]) for each in (self.inputs, self.targets))
        return Batch(inputs, targets, min(last, self.examples or 0) - first)

    def digest(self) -> bytes:
        """sha256 over the shapes and checksums of every tensor of the batch, in order."""
        hasher = hashlib.sha256()
        for tensor in _tensors((self.inputs, self.targets)):
            hasher.update(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            hasher.update(checksum(tensor_bytes(tensor)))
        return hasher.digest()

    def bytes(self) -> int:
        """Memory that the tensors of the batch take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors((self.inputs, self.targets)))


class Caller(nn.Module):
    """Calls a model on one batch, as a module, so that `functional_call` can set the model's tensors.

    >>> Caller(nn.Identity())(batch_of((torch.ones(1), torch.zeros(1))))
    tensor([1.])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Any:
        """The model's output for the batch."""
        return batch.call(self.model)


def batch_of(item: Any) -> Batch:
    """Understand one item of the data as a batch.

    Raises `TypeError` for anything but a pair or a dict.

    >>> batch_of((torch.zeros(3, 2), torch.zeros(3))).examples
    3
    >>> sorted(batch_of({"ids": torch.zeros(3, 2), "mask": torch.ones(3, 2), "labels": torch.zeros(3)}).inputs)
    ['ids', 'mask']
    """
    if isinstance(item, Mapping):
        key = next((key for key in TARGET_KEYS if key in item), None)
        targets = item if key is None else item[key]
        inputs = {name: value for name, value in item.items() if name != key}
        return Batch(inputs, targets, batch_size(targets))
    if isinstance(item, (tuple, list)) and len(item) == 2:
        inputs, targets = item
        return Batch(inputs, targets, batch_size(targets))
    shape = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else type(item).__name__
    raise TypeError(
        explain(
            expected=f"batches that are (inputs, targets), or dicts with one of {', '.join(TARGET_KEYS)}.",
            got=f"{shape}.",
            hint="Pair them: [(x, y) for x, y in ...]; where the model takes several inputs, ((a, b), y).",
        )
    )


class Reader:
    """Data read in chunks that fit into memory, once it is known to repeat itself.

    The first chunk is read twice and compared bit for bit; a list or tuple holds its batches and needs no check.

    Raises `TypeError` for an iterator or generator, `ValueError` for no data, and `NotRepeatable` where the second
    pass differs.
    """

    def __init__(self, data: Data, name: str = "data", chunk_bytes: int | None = None) -> None:
        if isinstance(data, Iterator):
            raise TypeError(
                explain(
                    expected=f"{name} that can be read more than once: a list, a DataLoader, an object with __iter__.",
                    got=f"a {type(data).__name__}, which is used up after one pass.",
                    hint=f"list({name}) where it fits in memory, or a class whose __iter__ starts anew.",
                )
            )
        if not isinstance(data, Iterable):
            raise TypeError(
                explain(
                    expected=f"{name} to be an iterable of batches.",
                    got=f"{type(data).__name__}.",
                    hint="Try [(inputs, targets)].",
                )
            )
        self._data = data
        self._name = name
        self._chunk_bytes = CHUNK_BYTES if chunk_bytes is None else chunk_bytes
        self.first, self.complete = self._fill(iter(data))
        if not self.first:
            raise ValueError(
                explain(
                    expected=f"{name} with at least one batch.",
                    got="no batch at all.",
                    hint="Check the loader's length and path.",
                )
            )
        if not isinstance(data, (list, tuple)):
            self._check_repeats()

    def __len__(self) -> int:
        """Number of batches, or 0 where the data does not say before it is read."""
        if self.complete:
            return len(self.first)
        return len(self._data) if isinstance(self._data, Sized) else 0

    def chunks(self) -> Iterator[list[Batch]]:
        """All batches in order, as lists of at most `CHUNK_BYTES`."""
        yield self.first
        if self.complete:
            return
        rest = iter(self._data)
        self._fill(rest)  # the first chunk again; two open iterators would disturb a loader with persistent workers
        complete = False
        while not complete:
            chunk, complete = self._fill(rest)
            if chunk:
                yield chunk

    def batches(self) -> Iterator[Batch]:
        """All batches in order."""
        for chunk in self.chunks():
            yield from chunk

    def _fill(self, items: Iterator[Any]) -> tuple[list[Batch], bool]:
        """The next chunk, and whether the data ended in it."""
        chunk: list[Batch] = []
        size = 0
        for item in items:
            batch = batch_of(item)
            chunk.append(batch)
            size += batch.bytes()
            if size >= self._chunk_bytes:
                return chunk, False
        return chunk, True

    def _check_repeats(self) -> None:
        index = -1
        for index, (old, item) in enumerate(zip(self.first, self._data, strict=False)):  # noqa: B007
            if old.digest() != batch_of(item).digest():
                break
        else:
            if index + 1 == len(self.first):
                return
        raise NotRepeatable(
            explain(
                expected=f"{self._name} that gives the same batches on every pass.",
                got=f"another batch {index} on the second pass, so it shuffles or augments."
                if index >= 0
                else "nothing on the second pass, so it is used up after one.",
                hint="DataLoader(..., shuffle=False) over a dataset without random transforms measures "
                "the same average.",
            )
        )


def _mapped(value: Any, place: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return place(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, place) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(part, place) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(part, place) for part in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
