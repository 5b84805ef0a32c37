"""Putting the examples of several batches into batches of other sizes.

Batches can be regrouped if they have the same layout: every tensor has a row for each example, and rows have the same
shape and dtype in every batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lerpscape.networks.batches import Batch


def layout(batch: Batch) -> Hashable:
    """Nesting, dtypes and shapes of one example's inputs and targets; None if a part has no row for each example.

    >>> from lerpscape.networks.batches import batch_of
    >>> layout(batch_of((torch.zeros(3, 2), torch.zeros(3))))
    ((torch.float32, torch.Size([2])), (torch.float32, torch.Size([])))
    """
    parts = _layout(batch.inputs, batch.examples), _layout(batch.targets, batch.examples)
    return None if None in parts else parts


def _layout(value: Any, examples: int | None) -> Hashable:
    if isinstance(value, Tensor):
        has_rows = value.layout is torch.strided and not value.is_nested and value.dim() and len(value) == examples
        return (value.dtype, value.shape[1:]) if has_rows else None
    if type(value) not in (dict, tuple, list):  # only its own class knows what an object's rows are
        return None
    parts = value.items() if type(value) is dict else enumerate(value)
    layouts = tuple((key, _layout(part, examples)) for key, part in parts)
    return None if not layouts or any(part is None for _, part in layouts) else (type(value), layouts)


def same_layout(batches: Sequence[Batch]) -> bool:
    """Whether batches can be regrouped: they have one layout, and their targets are a tensor.

    >>> from lerpscape.networks.batches import batch_of
    >>> same_layout([batch_of((torch.zeros(3, 2), torch.zeros(3))), batch_of((torch.zeros(1, 2), torch.zeros(1)))])
    True
    >>> same_layout([batch_of({"ids": torch.zeros(3, 2), "labels": torch.zeros(3)})])
    True
    >>> same_layout([batch_of({"ids": torch.zeros(3, 2), "cached": False, "labels": torch.zeros(3)})])
    False
    """
    layouts = {layout(batch) for batch in batches}
    return len(layouts) == 1 and None not in layouts and isinstance(batches[0].targets, Tensor)


def count_examples(batches: Sequence[Batch]) -> int:
    """Number of examples in batches whose targets are tensors.

    >>> from lerpscape.networks.batches import batch_of
    >>> count_examples([batch_of((torch.ones(3, 1), torch.ones(3))), batch_of((torch.ones(2, 1), torch.ones(2)))])
    5
    """
    return sum(len(batch.targets) for batch in batches)


def equal_sizes(examples: int, most: int) -> list[int]:
    """Sizes of at most about `most` that differ by at most one and add up to so many examples.

    No size is one where there are more examples: a model may take a batch of a single example for something else.

    >>> equal_sizes(9, 4), equal_sizes(8, 4), equal_sizes(3, 2), equal_sizes(1, 4), equal_sizes(0, 4)
    ([3, 3, 3], [4, 4], [3], [1], [])
    """
    count = max(min(-(-examples // most), examples // 2), min(examples, 1))
    return [examples // count + (place < examples % count) for place in range(count)]


def rebatched(batches: Iterable[Batch], sizes: Iterable[int]) -> Iterator[Batch]:
    """The examples of batches of the same layout, in the same order, in batches of these sizes, which add up to all.

    >>> from lerpscape.networks.batches import batch_of
    >>> batches = [batch_of((torch.ones(n, 1), torch.ones(n))) for n in (3, 2)]
    >>> [batch.examples for batch in rebatched(batches, [4, 1])]
    [4, 1]
    """
    left = iter(sizes)
    pieces: list[Batch] = []
    missing = 0
    for batch in batches:
        done = 0
        while done < len(batch.targets):
            missing = missing or next(left)
            taken = min(missing, len(batch.targets) - done)
            pieces.append(batch.part(done, done + taken))
            done, missing = done + taken, missing - taken
            if not missing:
                yield concatenated(pieces)
                pieces = []


def concatenated(batches: Sequence[Batch]) -> Batch:
    """The examples of several batches of the same layout as one batch.

    >>> from lerpscape.networks.batches import batch_of
    >>> concatenated([batch_of(({"ids": torch.ones(n)}, torch.ones(n))) for n in (2, 1)])
    Batch(inputs={'ids': tensor([1., 1., 1.])}, targets=tensor([1., 1., 1.]), examples=3)
    """
    if len(batches) == 1:
        return batches[0]
    inputs, targets = (_concatenated([getattr(batch, part) for batch in batches]) for part in ("inputs", "targets"))
    return replace(batches[0], inputs=inputs, targets=targets, examples=sum(each.examples or 0 for each in batches))


def first_examples(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The first `count` examples of batches of the same layout; the last batch is cut, not to less than two.

    >>> from lerpscape.networks.batches import batch_of
    >>> batches = [batch_of((torch.ones(n, 1), torch.ones(n))) for n in (3, 4)]
    >>> [[batch.examples for batch in first_examples(batches, count)] for count in (4, 5, 6)]
    [[3, 2], [3, 2], [3, 3]]
    """
    first: list[Batch] = []
    missing = count
    for batch in batches:
        taken = min(max(missing, 2), len(batch.targets)) if missing > 0 else 0
        if taken:
            first.append(batch.part(0, taken))
        missing -= taken
    return first


def single(batches: Sequence[Batch]) -> list[Batch]:
    """The first batch of a single example, if there is one beside larger ones: a model may take it for something else.

    >>> from lerpscape.networks.batches import batch_of
    >>> batches = [batch_of((torch.ones(n, 1), torch.ones(n))) for n in (3, 1, 1)]
    >>> [batch.examples for batch in single(batches)], single(batches[1:])
    ([1], [])
    """
    alone = [batch for batch in batches if len(batch.targets) == 1]
    return alone[:1] if len(alone) < len(batches) else []


def evenly_spaced(batches: Sequence[Batch], count: int) -> list[Batch]:
    """At most `count` examples, evenly spaced over batches of the same layout, as one batch.

    >>> from lerpscape.networks.batches import batch_of
    >>> inputs = torch.arange(6.0)[:, None]
    >>> [batch] = evenly_spaced([batch_of((inputs[:4], inputs[:4])), batch_of((inputs[4:], inputs[4:]))], 3)
    >>> batch.inputs.flatten()
    tensor([0., 2., 5.])
    """
    ends = list(accumulate(len(batch.targets) for batch in batches))
    positions = torch.linspace(0, ends[-1] - 1, min(count, ends[-1]), dtype=torch.float64).round().long()
    pieces = []
    for batch, end in zip(batches, ends, strict=True):
        first = end - len(batch.targets)
        pieces.append(batch.select(positions[(positions >= first) & (positions < end)] - first))
    return [concatenated(pieces)]


def spread(batch: Batch, count: int) -> Batch:
    """At most `count` examples of a batch, evenly spaced over it; every tensor must have a row for each example.

    >>> from lerpscape.networks.batches import batch_of
    >>> spread(batch_of((torch.arange(6.0), torch.zeros(6))), 3).inputs
    tensor([0., 2., 5.])
    """
    examples = batch.examples or 0
    return batch if examples <= count else batch.select(torch.linspace(0, examples - 1, count).long())


def grouped(batches: list[Batch], size: int) -> Iterator[tuple[list[Batch], float]]:
    """Groups of at most about `size` examples, and how many of the batches each group makes up.

    Batches stay whole, except that those with more than 2·`size` examples are cut into equal pieces, each of which
    counts as a fraction of a batch.

    >>> from lerpscape.networks.batches import batch_of
    >>> batches = [batch_of((torch.ones(n, 1), torch.ones(n))) for n in (2, 2, 12)]
    >>> [([batch.examples for batch in group], round(share, 2)) for group, share in grouped(batches, 4)]
    [([2, 2], 2.0), ([4], 0.33), ([4], 0.33), ([4], 0.33)]
    """
    group: list[Batch] = []
    count, share = 0, 0.0
    for batch in batches:
        examples = len(batch.targets)
        pieces = list(rebatched([batch], equal_sizes(examples, size))) if examples > 2 * size else [batch]
        for piece in pieces:
            if group and count + len(piece.targets) > size:
                yield group, share
                group, count, share = [], 0, 0.0
            group, count = [*group, piece], count + len(piece.targets)
            share += len(piece.targets) / len(batch.targets) if len(batch.targets) else 1.0
    if group:
        yield group, share


def _concatenated(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {key: _concatenated([value[key] for value in values]) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_concatenated(list(parts)) for parts in zip(*values, strict=True))
    return torch.cat(values)
