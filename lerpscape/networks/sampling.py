"""Random samples of the examples of a data set, without replacement."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lerpscape.base.errors import explain
from lerpscape.networks.batches import Batch
from lerpscape.networks.reading import CHUNK_BYTES, Data, Reader
from lerpscape.networks.rebatching import concatenated, layout


class Sample:
    """The examples of data in memory, in a random order: the first n are a random sample of n examples.

    Taking whole batches in random order would not give a random sample of examples, because the examples of one batch
    may be similar. So single examples must be accessible: the data must be in memory, and every tensor of a batch must
    have one row for each example, of the same shape and dtype in every batch.

    Raises `ValueError` for data of more than a gigabyte that is not a list, and for batches without such rows; and
    whatever `Reader` raises.

    >>> sample = Sample([(torch.arange(3.0), torch.arange(3)), (torch.arange(3.0, 5.0), torch.arange(3, 5))], seed=0)
    >>> len(sample), [batch.examples for batch in sample.batches(0, 4)]
    (5, [3, 1])
    >>> sorted(value for batch in sample.batches(0, 5) for value in batch.inputs.tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, data: Data | Reader, seed: int) -> None:
        reader = data if isinstance(data, Reader) else Reader(data)
        if not reader.in_memory:
            raise ValueError(
                explain(
                    expected="data that fits in memory, as its examples are measured in random order.",
                    got=f"at least {CHUNK_BYTES / 2**30:.3g} GiB from a {type(reader.data).__name__}, whose batches in "
                    "random order would not be a random sample of examples.",
                    hint="list(data) if there is memory for it; profile() reads such data in order, all of it.",
                )
            )
        self._batches = list(reader.batches())
        layouts = [layout(batch) for batch in self._batches]
        for index, other in enumerate(layouts):
            if other is None or other != layouts[0]:
                raise ValueError(
                    explain(
                        expected="batches whose tensors all have one row for each example, of the same shape and dtype "
                        "in every batch, so that single examples can be drawn.",
                        got=f"batch {index}, which has "
                        + ("parts without such rows." if other is None else "another layout than batch 0."),
                        hint="Give pairs or dicts of tensors, with sequences padded to one length; or use profile().",
                    )
                )
        self._ends = torch.tensor([batch.examples for batch in self._batches]).cumsum(0)
        self._size = max(int(batch.examples or 0) for batch in self._batches)
        self._order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        """Number of examples."""
        return int(self._ends[-1])

    def batch_count(self, begin: int, end: int) -> int:
        """Number of batches that `batches(begin, end)` gives."""
        return -(-(end - begin) // self._size)

    def batches(self, begin: int, end: int) -> Iterator[Batch]:
        """The examples from `begin` to `end` − 1 of the random order, in batches no larger than the data's largest."""
        for first in range(begin, end, self._size):
            # Sorted, so that each batch of the data is indexed once; the order within a sample does not matter.
            positions = self._order[first : min(first + self._size, end)].sort().values
            sources = torch.searchsorted(self._ends, positions, right=True)
            pieces = []
            for source in sorted(set(sources.tolist())):
                before = int(self._ends[source - 1]) if source else 0
                pieces.append(self._batches[source].select(positions[sources == source] - before))
            yield concatenated(pieces)
