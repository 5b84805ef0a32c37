"""Batches divided anew: where all have a row of the same kind for each example."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lerpscape.networks.batches import Batch


def alike(batches: Sequence[Batch]) -> bool:
    """Whether batches can be divided anew: targets and every input are tensors with a row for each example.

    >>> from lerpscape.networks.batches import batch_of
    >>> alike([batch_of((torch.zeros(3, 2), torch.zeros(3))), batch_of((torch.zeros(1, 2), torch.zeros(1)))])
    True
    >>> alike([batch_of({"ids": torch.zeros(3, 2), "labels": torch.zeros(3)})])
    True
    >>> alike([batch_of({"ids": torch.zeros(3, 2), "cached": False, "labels": torch.zeros(3)})])
    False
    """
    kinds = [(_kind(batch.inputs, batch.examples), _kind(batch.targets, batch.examples)) for batch in batches]
    return (
        bool(kinds)
        and all(kind == kinds[0] and None not in kind for kind in kinds)
        and (isinstance(batches[0].targets, Tensor))
    )


def _kind(value: Any, rows: int | None) -> Hashable:
    """Types and shapes of an example's tensors, by place; None where anything has no row for each example."""
    if isinstance(value, Tensor):
        return (value.dtype, value.shape[1:]) if value.dim() and len(value) == rows else None
    if not isinstance(value, Mapping | tuple | list):
        return None
    places = value.items() if isinstance(value, Mapping) else enumerate(value)
    kinds = tuple((place, _kind(each, rows)) for place, each in places)
    return None if not kinds or any(kind is None for _, kind in kinds) else (type(value), kinds)


def counted(batches: Sequence[Batch]) -> int:
    """How many examples batches that are `alike` have.

    >>> from lerpscape.networks.batches import batch_of
    >>> counted([batch_of((torch.ones(3, 1), torch.ones(3))), batch_of((torch.ones(2, 1), torch.ones(2)))])
    5
    """
    return sum(len(batch.targets) for batch in batches)


def divided(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """The examples of batches that are `alike`, in the same order, in batches of at most `rows`.

    >>> from lerpscape.networks.batches import batch_of
    >>> found = divided([batch_of((torch.ones(3, 1), torch.ones(3))), batch_of((torch.ones(2, 1), torch.ones(2)))], 4)
    >>> [batch.examples for batch in found]
    [4, 1]
    """
    pieces: list[Batch] = []
    size = 0
    for batch in batches:
        done = 0
        while done < len(batch.targets):
            taken = min(rows - size, len(batch.targets) - done)
            pieces.append(batch.part(done, done + taken))
            done, size = done + taken, size + taken
            if size == rows:
                yield joined(pieces)
                pieces, size = [], 0
    if pieces:
        yield joined(pieces)


def joined(pieces: Sequence[Batch]) -> Batch:
    """The examples of several batches as one; every tensor has a row for each example.

    >>> from lerpscape.networks.batches import batch_of
    >>> joined([batch_of(({"ids": torch.ones(rows)}, torch.ones(rows))) for rows in (2, 1)])
    Batch(inputs={'ids': tensor([1., 1., 1.])}, targets=tensor([1., 1., 1.]), examples=3)
    """
    if len(pieces) == 1:
        return pieces[0]
    inputs, targets = (_concatenated([getattr(piece, part) for piece in pieces]) for part in ("inputs", "targets"))
    return Batch(inputs, targets, sum(piece.examples or 0 for piece in pieces))


def first_rows(batches: Sequence[Batch], rows: int) -> list[Batch]:
    """The first `rows` examples, in batches that are `alike`, the last one cut.

    >>> from lerpscape.networks.batches import batch_of
    >>> three, two = (batch_of((torch.ones(n, 1), torch.ones(n))) for n in (3, 2))
    >>> found = first_rows([three, two], 4)
    >>> [batch.examples for batch in found]
    [3, 1]
    """
    found: list[Batch] = []
    for batch in batches:
        taken = min(rows - counted(found), counted([batch]))
        if taken:
            found.append(batch.part(0, taken))
    return found


def spread(batches: Sequence[Batch], count: int) -> list[Batch]:
    """About `count` examples, evenly spread over batches that are `alike`, as one batch.

    >>> from lerpscape.networks.batches import batch_of
    >>> inputs = torch.arange(6.0)[:, None]
    >>> [found] = spread([batch_of((inputs[:4], inputs[:4])), batch_of((inputs[4:], inputs[4:]))], 3)
    >>> found.inputs.flatten()
    tensor([0., 2., 5.])
    """
    ends = list(accumulate(len(batch.targets) for batch in batches))
    places = torch.linspace(0, ends[-1] - 1, min(count, ends[-1]), dtype=torch.float64).round().long()
    pieces = []
    for batch, end in zip(batches, ends, strict=True):
        first = end - len(batch.targets)
        pieces.append(batch.rows(places[(places >= first) & (places < end)] - first))
    return [joined(pieces)]


def gathered(batches: list[Batch], rows: int) -> Iterator[tuple[list[Batch], float]]:
    """Groups of about so many rows, of the caller's batches: whole ones, but for those of more than twice the rows.

    With each group, the caller's batches in it, a part of one counting as a fraction.
    """
    group: list[Batch] = []
    size, progress = 0, 0.0
    for batch in batches:
        pieces = list(divided([batch], rows)) if len(batch.targets) > 2 * rows else [batch]
        for piece in pieces:
            if group and size + len(piece.targets) > rows:
                yield group, progress
                group, size, progress = [], 0, 0.0
            group, size = [*group, piece], size + len(piece.targets)
            progress += len(piece.targets) / len(batch.targets) if len(batch.targets) else 1.0
    if group:
        yield group, progress


def _concatenated(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _concatenated([value[key] for value in values]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_concatenated(list(parts)) for parts in zip(*values, strict=True)))
    if isinstance(first, (tuple, list)):
        return type(first)(_concatenated(list(parts)) for parts in zip(*values, strict=True))
    return torch.cat(values)
