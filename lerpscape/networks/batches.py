"""One batch of data: what the model and the loss are given, copied where they write to it.

A batch is `(inputs, targets)` or a dict. Inputs are a tensor, a tuple of positional arguments of the model, a dict of
its keyword arguments, or an object of any class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lerpscape.base.errors import NotRepeatable, explain
from lerpscape.networks import nested
from lerpscape.networks.calls import TARGET_KEYS, called
from lerpscape.networks.checksums import checksum, strided_parts, tensor_bytes
from lerpscape.networks.nested import Leaf


@dataclass(frozen=True)
class Batch:
    """The inputs of a model for one batch, the targets of the loss, and the number of examples, if it is known.

    `key` is the name of the targets in a dict batch, `number` the batch's place in the data. A model and a loss get
    what `lent` gives them, so that they may write to it by any means.
    """

    inputs: Any
    targets: Any
    examples: int | None
    key: str | None = field(default=None, repr=False)
    number: int | None = field(default=None, repr=False, compare=False)
    _known: _Known = field(default_factory=lambda: _Known(), init=False, repr=False, compare=False)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Batch:
        """The batch on a device, with its floating-point tensors in `dtype` unless that is None.

        An object that has a method `to` moves itself to the device, a copy of it that is.
        """

        def cast(leaf: Leaf) -> Leaf:
            return leaf.to(dtype) if dtype and isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

        def place(leaf: Leaf) -> Leaf:
            leaf = cast(leaf)
            return leaf.to(device) if isinstance(leaf, Tensor) else leaf

        def place_object(value: Any) -> Any:
            if all(isinstance(leaf, np.ndarray) or leaf.device == device for leaf in nested.leaves(value)):
                return nested.mapped(value, cast)
            if not callable(getattr(value, "to", None)):
                return nested.mapped(value, place)
            return nested.mapped(nested.mapped(value, lambda leaf: leaf).to(device), cast)

        if all(place(leaf) is leaf for leaf in nested.leaves((self.inputs, self.targets))):
            return self
        placed = self._with(lambda part: nested.mapped(part, place, place_object))
        placed._known.copies = True  # nobody compares its memory with the data's at the end
        return placed

    def call(self, model: nn.Module, *, with_targets: bool = False) -> Any:
        """The model's output for the inputs of this batch, and its targets where it is to have them."""
        with self.lent() as own:
            return called(model, own.inputs, own.targets, self.key, with_targets=with_targets)

    @contextmanager
    def lent(self) -> Iterator[Batch]:
        """What one call of a model and a loss may have of this batch, as a batch, which they may write to.

        The first call has copies, which are compared with the batch afterwards. Where it wrote to them by any means,
        all later calls have copies too; else they have the tensors themselves, whose versions are watched. Containers,
        objects and arrays are always copies. A model may return views of its inputs to a loss that works in place: so
        both are called with one copy.

        Raises `NotRepeatable` where a later call writes to a tensor although the first did not.
        """
        known, given = self._known, list[tuple[Leaf, Leaf, tuple[int, bool]]]()
        copies = known.copies or not known.done

        def give(leaf: Leaf) -> Leaf:
            own = nested.cloned(leaf) if copies or isinstance(leaf, np.ndarray) else leaf
            given.append((leaf, own, nested.state(own)))
            return own

        inputs, targets = nested.mapped(self.inputs, give), nested.mapped(self.targets, give)
        yield _Lent(inputs, targets, self.examples, self.key, self.number)
        wrote = any(nested.state(own) != before for _, own, before in given)
        if wrote and not copies:
            raise _altered()
        if not known.done and not wrote:  # writing by `.data` or numpy counts no versions
            wrote = not all(nested.same_bits(own, leaf) for leaf, own, _ in given)
        apart = not all(nested.lie_alike(own, leaf) for leaf, own, _ in given)  # all calls are to round alike
        known.done, known.copies, known.wrote = True, known.copies or wrote or apart, known.wrote or wrote

    @property
    def is_written_to(self) -> bool:
        """Whether a call wrote to what it was lent."""
        return self._known.wrote

    def check_intact(self) -> None:
        """Raise `NotRepeatable` where the batch is not as it was when it was digested."""
        if self._known.digest != self._digested():
            raise _altered()

    def cloned(self) -> Batch:
        """The batch in memory of its own."""
        return self._with(lambda part: nested.mapped(part, nested.cloned))

    def select(self, positions: Tensor) -> Batch:
        """The examples at these positions; every tensor of the batch must have a row for each example."""

        def rows(tensor: Any) -> Any:
            return tensor[positions.to(tensor.device)]

        return self._with(lambda part: nested.mapped(part, rows), len(positions))

    def part(self, first: int, last: int) -> Batch:
        """Views of the examples from `first` to `last` − 1; every tensor must have a row for each example."""

        def rows(tensor: Any) -> Any:
            return tensor[first:last]

        return self._with(lambda part: nested.mapped(part, rows), min(last, self.examples or 0) - first)

    def digest(self) -> bytes:
        """sha256 over the batch's structure, the dtypes, shapes and checksums of its tensors, and all other values.

        It sees every part of an object that is not `opaque`. It is computed once.
        """
        self._known.digest = self._known.digest or self._digested()
        return self._known.digest

    def _digested(self) -> bytes:
        hasher = hashlib.sha256()
        for part in chain(nested.walk(self.inputs), nested.walk(self.targets)):
            if isinstance(part, Tensor):
                for tensor in strided_parts(part):
                    hasher.update(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode())
                    hasher.update(checksum(tensor_bytes(tensor)))
            elif isinstance(part, np.ndarray):
                hasher.update(f"{part.dtype.str}|{part.shape}|".encode())
                hasher.update(checksum(part.tobytes()))
            elif isinstance(part, str):
                hasher.update(f"{len(part)}|{part}|".encode())
        return hasher.digest()

    @property
    def opaque(self) -> str | None:
        """The type of a part that no digest can see, such as a handle of a C library; None if there is none."""
        return nested.opaque_part((self.inputs, self.targets))

    def bytes(self) -> int:
        """Size of the tensors and arrays of the batch in bytes."""
        return sum(nested.byte_count(leaf) for leaf in nested.leaves((self.inputs, self.targets)))

    def _with(self, change: Callable[[Any], Any], examples: int | None = None) -> Batch:
        examples = self.examples if examples is None else examples
        return Batch(change(self.inputs), change(self.targets), examples, self.key, self.number)


class _Lent(Batch):
    """A copy that belongs to one call."""

    @contextmanager
    def lent(self) -> Iterator[Batch]:
        """Itself."""
        yield self


@dataclass
class _Known:
    # whether a call is done, whether all have copies, whether one wrote
    done: bool = False
    copies: bool = False
    wrote: bool = False
    digest: bytes = b""


def _altered() -> NotRepeatable:
    return NotRepeatable(
        explain(
            expected="a model and a loss that leave their inputs and targets alone, or write to them in every call.",
            got="data that were altered in some calls only, so that the numbers of several α belong to different data.",
            hint="Let the forward work on inputs.clone(); the data in memory may have to be made again.",
        )
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
        return Batch(dict(inputs) if isinstance(inputs, Mapping) else inputs, targets, batch_size(targets))
    label = next((name for name in (*TARGET_KEYS, "y") if hasattr(item, name)), None)
    shape = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else type(item).__name__
    raise TypeError(
        explain(
            expected=f"batches that are (inputs, targets), or dicts with one of {', '.join(TARGET_KEYS)}.",
            got=f"{shape}.",
            hint=f"Pair each with its targets: (batch, batch.{label})."
            if label
            else "Pair them: [(x, y) for x, y in ...]; where the model takes several inputs, ((a, b), y).",
        )
    )


def batch_size(targets: Any) -> int | None:
    """Number of examples in a batch: the length of its targets, where all tensors among them agree on it.

    None where they do not, as for lengths beside concatenated labels: the loss then says how many examples there are.

    >>> batch_size(torch.zeros(5, 2)), batch_size({"a": torch.zeros(3), "b": torch.zeros(3, 2)}), batch_size("no")
    (5, 3, None)
    >>> batch_size((torch.zeros(12), torch.zeros(3)))
    """
    lengths = set(_lengths(targets))
    return lengths.pop() if len(lengths) == 1 else None


def _lengths(targets: Any) -> list[int | None]:
    if isinstance(targets, Tensor):
        return [len(targets) if targets.dim() else None]
    if isinstance(targets, (Mapping, tuple, list)) and not isinstance(targets, PackedSequence):  # rows are steps
        parts = targets.values() if isinstance(targets, Mapping) else targets
        return [length for part in parts for length in _lengths(part)]
    return []
