"""Examples of batches in a random order: every set of so many examples is equally likely to come first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.networks.batches import CHUNK_BYTES, Batch, Data, Reader
from lerpscape.networks.rebatching import joined


class Sample:
    """The examples of data in memory, in the random order of a seed.

    Whole batches in random order would be no sample of examples: those of one batch may be alike. So data must be known
    example by example: batches in memory, all of whose tensors have one row for each example.

    Raises `ValueError` for data of more than a gigabyte that are no list, and for batches that cannot be cut into rows;
    and what `Reader` raises.

    >>> sample = Sample([(torch.arange(3.0), torch.arange(3)), (torch.arange(3.0, 5.0), torch.arange(3, 5))], seed=0)
    >>> len(sample), [batch.examples for batch in sample.batches(0, 4)]
    (5, [3, 1])
    >>> sorted(value for batch in sample.batches(0, 5) for value in batch.inputs.tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, data: Data, seed: int) -> None:
        # A list is in memory already, however large.
        reader = Reader(data, chunk_bytes=sys.maxsize if isinstance(data, (list, tuple)) else None)
        if not reader.complete:
            raise ValueError(
                explain(
                    expected="data that fit in memory, as their examples are measured in random order.",
                    got=f"at least {CHUNK_BYTES / 2**30:.3g} GiB from a {type(data).__name__}, whose batches in random "
                    "order would be no random sample of examples.",
                    hint="list(data) where there is memory for it; profile() reads such data in order, all of them.",
                )
            )
        self._batches = reader.first
        layouts = [_layout(batch) for batch in self._batches]
        for number, layout in enumerate(layouts):
            if layout is None or layout != layouts[0]:
                raise ValueError(
                    explain(
                        expected="batches whose tensors all have one row for each example, of the same shape "
                        "and dtype in every "
                        "batch, so that single examples can be drawn.",
                        got=f"batch {number}, which has "
                        + ("others." if layout is None else "another layout than batch 0."),
                        hint="Give pairs or dicts of tensors, sequences padded to one length; or use "
                        "profile() on all data.",
                    )
                )
        self._ends = torch.tensor([batch.examples for batch in self._batches]).cumsum(0)
        self._size = max(int(batch.examples or 0) for batch in self._batches)
        self._order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        """Number of examples."""
        return int(self._ends[-1])

    @property
    def one_batch(self) -> Batch:
        """The first batch of the data as it was given."""
        return self._batches[0]

    def batches_in(self, begin: int, end: int) -> int:
        """How many batches the examples at these places come in."""
        return -(-(end - begin) // self._size)

    def batches(self, begin: int, end: int) -> Iterator[Batch]:
        """The examples at these places of the random order, in batches no larger than the data's largest."""
        for first in range(begin, end, self._size):
            # In the order of the data, which does not matter inside a sample, so that a batch is cut once.
            numbers = self._order[first : min(first + self._size, end)].sort().values
            homes = torch.searchsorted(self._ends, numbers, right=True)
            pieces = []
            for home in sorted(set(homes.tolist())):
                before = int(self._ends[home - 1]) if home else 0
                pieces.append(self._batches[home].rows(numbers[homes == home] - before))
            yield joined(pieces)


def _layout(batch: Batch) -> Any:
    """Structure, dtypes and shapes of a row; None where some part has no row for each example."""

    def described(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.dim() or len(value) != batch.examples:
                raise LookupError
            return value.dtype, tuple(value.shape[1:])
        if isinstance(value, Mapping):
            return {name: described(part) for name, part in value.items()}
        if isinstance(value, (tuple, list)):
            return [described(part) for part in value]
        raise LookupError

    try:
        return described(batch.inputs), described(batch.targets)
    except LookupError:
        return None
