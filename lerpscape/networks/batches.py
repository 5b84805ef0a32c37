"""Reading data in batches, and checking that every pass over the data gives the same batches.

Data is any iterable of batches that can be read more than once: a DataLoader, a list, an object with `__iter__`.
A batch is `(inputs, targets)` or a dict. Inputs are a tensor, a tuple of positional arguments of the model, or a dict
of its keyword arguments.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lerpscape.base.errors import NotRepeatable, explain
from lerpscape.networks.checksums import checksum, tensor_bytes
from lerpscape.networks.foreign_calls import located, place_of
from lerpscape.networks.losses import batch_size

Data: TypeAlias = Iterable[Any]

# Keys under which dict batches may hold the targets.
TARGET_KEYS = ("labels", "label", "targets", "target")
# Data is read in chunks of this size, each of which is evaluated at every α before the next one is read.
CHUNK_BYTES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """The inputs of a model for one batch, the targets of the loss, and the number of examples, if it is known.

    `key` is the name of the targets in a dict batch, `number` the batch's place in the data.
    """

    inputs: Any
    targets: Any
    examples: int | None
    key: str | None = field(default=None, repr=False)
    number: int | None = field(default=None, repr=False, compare=False)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Batch:
        """The batch on a device, with its floating-point tensors in `dtype` unless that is None."""

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return replace(self, inputs=_mapped(self.inputs, place), targets=_mapped(self.targets, place))

    def call(self, model: nn.Module, *, with_targets: bool = False) -> Any:
        """The model's output for the inputs of this batch, and its targets where it is to have them.

        Encoder–decoder models always have them: without labels they decode the source, or fail.
        """
        spread = isinstance(self.inputs, (tuple, list)) and not isinstance(self.inputs, PackedSequence)
        named = dict(self.inputs) if isinstance(self.inputs, Mapping) else {}
        rest = () if isinstance(self.inputs, Mapping) else tuple(self.inputs) if spread else (self.inputs,)
        if (with_targets or decodes_labels(model)) and "decoder_input_ids" not in named and not self._in_inputs():
            name = self._targets_name(model)
            if name is None:
                rest = (*rest, self.targets)
            else:
                named[name] = self.targets
        return model(*rest, **named)

    def detached(self) -> Batch:
        """The same numbers in tensors of its own, so that a network which differentiates itself marks these."""
        return replace(self, inputs=_mapped(self.inputs, Tensor.detach), targets=_mapped(self.targets, Tensor.detach))

    def _in_inputs(self) -> bool:
        """Whether a dict batch has no targets of its own: all of it are inputs."""
        return self.key is None and isinstance(self.inputs, Mapping) and isinstance(self.targets, Mapping)

    def _targets_name(self, model: nn.Module) -> str | None:
        """The model's own name for the targets; None where it has none."""
        parameters = inspect.signature(model.forward).parameters
        name = next((name for name in (self.key, *TARGET_KEYS) if name in parameters), None)
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        return name or (self.key or TARGET_KEYS[0] if takes_any else None)

    def select(self, positions: Tensor) -> Batch:
        """The examples at these positions; every tensor of the batch must have a row for each example."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor[positions.to(tensor.device)]

        return replace(
            self, inputs=_mapped(self.inputs, rows), targets=_mapped(self.targets, rows), examples=len(positions)
        )

    def part(self, first: int, last: int) -> Batch:
        """Views of the examples from `first` to `last` − 1; every tensor must have a row for each example."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor[first:last]

        examples = min(last, self.examples or 0) - first
        return replace(self, inputs=_mapped(self.inputs, rows), targets=_mapped(self.targets, rows), examples=examples)

    def digest(self) -> bytes:
        """sha256 over the dtypes, shapes and checksums of the tensors of the batch, in order."""
        hasher = hashlib.sha256()
        for tensor in _tensors((self.inputs, self.targets)):
            hasher.update(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            hasher.update(checksum(tensor_bytes(tensor)))
        return hasher.digest()

    def bytes(self) -> int:
        """Size of the tensors of the batch in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors((self.inputs, self.targets)))


def decodes_labels(model: nn.Module) -> bool:
    """Whether a model, or the one that it wraps, is an encoder–decoder by its configuration.

    >>> decodes_labels(nn.Identity())
    False
    """
    return any(
        getattr(getattr(module, "config", None), "is_encoder_decoder", False) is True
        for module in (model, *model.children())
    )


class Caller(nn.Module):
    """A module that calls a model on one batch.

    >>> Caller(nn.Identity())(batch_of((torch.ones(1), torch.zeros(1))))
    tensor([1.])
    """

    def __init__(self, model: nn.Module, *, with_targets: bool = False) -> None:
        super().__init__()
        self.model = model
        self._with_targets = with_targets

    def forward(self, batch: Batch) -> Any:
        """The model's output for the batch."""
        return batch.call(self.model, with_targets=self._with_targets)


def batch_of(item: Any) -> Batch:
    """The batch that one item of the data stands for.

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
        return Batch(inputs, targets, batch_size(targets), key)
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
    """Reads data in chunks that fit into memory, after checking that it can be read repeatedly.

    The first chunk is read twice, and the two readings are compared by checksums. Lists and tuples need no check.

    Raises `TypeError` for an iterator or generator, `ValueError` for no data, and `NotRepeatable` if the second reading
    differs.
    """

    def __init__(self, data: Data, name: str = "data") -> None:
        if isinstance(data, Iterator):
            raise TypeError(
                explain(
                    expected=f"{name} that can be read more than once: a list, a DataLoader, an object with __iter__.",
                    got=f"a {type(data).__name__}, which is used up after one pass.",
                    hint=f"list({name}) if it fits in memory, or a class whose __iter__ starts from the beginning.",
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
        self.data = data
        self._name = name
        self.first, self.complete = self._fill(self._numbered())
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
        """Number of batches, or 0 if it is not known before all data is read."""
        if self.complete:
            return len(self.first)
        return len(self.data) if isinstance(self.data, Sized) else 0

    @property
    def in_memory(self) -> bool:
        """Whether all batches are in memory: the data fit into one chunk, or are a list or tuple."""
        return self.complete or isinstance(self.data, (list, tuple))

    def chunks(self) -> Iterator[list[Batch]]:
        """All batches in order, as lists of about `CHUNK_BYTES` each."""
        yield self.first
        if self.complete:
            return
        rest = self._numbered()
        # The first chunk is read again: keeping its iterator open would disturb a loader with persistent workers.
        self._fill(rest)
        complete = False
        while not complete:
            chunk, complete = self._fill(rest)
            if chunk:
                yield chunk

    def batches(self) -> Iterator[Batch]:
        """All batches in order."""
        for chunk in self.chunks():
            yield from chunk

    def _numbered(self) -> Iterator[Batch]:
        """The batches from the first one on, each with its number."""
        number, items = 0, None
        while True:
            with located(f"reading {self._name}", place_of(number)):
                try:
                    items = iter(self.data) if items is None else items
                    item = next(items)
                except StopIteration:
                    return
                batch = batch_of(item)
            yield replace(batch, number=number)
            number += 1

    def _fill(self, items: Iterator[Batch]) -> tuple[list[Batch], bool]:
        """The next chunk, and whether it is the last one."""
        chunk: list[Batch] = []
        size = 0
        for batch in items:
            chunk.append(batch)
            size += batch.bytes()
            if size >= CHUNK_BYTES:
                return chunk, False
        return chunk, True

    def _check_repeats(self) -> None:
        index = -1
        for index, (old, new) in enumerate(zip(self.first, self._numbered(), strict=False)):  # noqa: B007
            if old.digest() != new.digest():
                break
        else:
            if index + 1 == len(self.first):
                return
        raise NotRepeatable(
            explain(
                expected=f"{self._name} that gives the same batches on every pass.",
                got=f"a different batch {index} on the second pass, so it shuffles or augments."
                if index >= 0
                else "nothing on the second pass, so it is used up after one.",
                hint="DataLoader(..., shuffle=False) over a dataset without random transforms has the same mean loss.",
            )
        )


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A nested structure of tensors with a function applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, function) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(part, function) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(part, function) for part in value)
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
