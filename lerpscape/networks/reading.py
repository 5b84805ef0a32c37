"""Reading data in batches, and checking that every pass over the data gives the same batches.

Data is any iterable of batches that can be read more than once: a DataLoader, a list, an object with `__iter__`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from typing import Any, TypeAlias

from lerpscape.base.errors import NotRepeatable, explain
from lerpscape.networks.batches import Batch, batch_of
from lerpscape.networks.foreign_calls import located, place_of

Data: TypeAlias = Iterable[Any]

# Data is read in chunks of this size, each of which is evaluated at every α before the next one is read.
CHUNK_BYTES = 1 << 30


class Reader:
    """Reads data in chunks that fit into memory, after checking that it can be read repeatedly.

    What a loader gives is copied, as it may fill the same memory again. Its first chunk is read twice, and every later
    reading is compared with the first one by checksums. Lists and tuples need neither: their entries are the data.

    Raises `TypeError` for an iterator or generator, `ValueError` for no data, and `NotRepeatable` if a later reading
    differs or has parts that cannot be compared.
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
        self._is_list = type(data) in (list, tuple)  # a class of its own may give what it likes
        self._digests: list[bytes] = []  # of what a loader gave when it was first read
        self._count: int | None = None  # how many batches it gave
        self.first, self.complete = self._fill(self._numbered(), 0)
        if not self.first:
            raise ValueError(
                explain(
                    expected=f"{name} with at least one batch.",
                    got="no batch at all.",
                    hint="Check the loader's length and path.",
                )
            )
        if not self._is_list:
            self._check_repeats()

    def __len__(self) -> int:
        """Number of batches, or 0 if it is not known before all data is read."""
        if self.complete:
            return len(self.first)
        return len(self.data) if isinstance(self.data, Sized) else 0

    @property
    def in_memory(self) -> bool:
        """Whether all batches are in memory: the data fit into one chunk, or are a list or tuple."""
        return self.complete or self._is_list

    def chunks(self) -> Iterator[list[Batch]]:
        """All batches in order, as lists of about `CHUNK_BYTES` each."""
        yield self.first
        for batch in self.first:
            batch.check_intact()
        if self.complete:
            return
        rest = self._numbered()
        # The first chunk is read again: keeping its iterator open would disturb a loader with persistent workers.
        position = len(self._fill(rest, 0)[0])
        complete = False
        while not complete:
            chunk, complete = self._fill(rest, position)
            position += len(chunk)
            if chunk:
                yield chunk
                for batch in chunk:
                    batch.check_intact()

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

    def _fill(self, items: Iterator[Batch], position: int) -> tuple[list[Batch], bool]:
        """The next chunk, whose first batch has this number, and whether it is the last one."""
        chunk: list[Batch] = []
        size = 0
        for batch in items:
            if self._is_list:
                batch.digest()
            else:
                batch = batch.cloned()
                self._compare(batch, position + len(chunk))
            chunk.append(batch)
            size += batch.bytes()
            if size >= CHUNK_BYTES:
                return chunk, False
        self._end(position + len(chunk))
        return chunk, True

    def _check_repeats(self) -> None:
        opaque = next(filter(None, (batch.opaque for batch in self.first)), None)
        if opaque:
            raise NotRepeatable(
                explain(
                    expected=f"{self._name} whose batches can be compared with those of a second pass.",
                    got=f"batches with a part of type {opaque}, which cannot be looked into.",
                    hint=f"list({self._name}), if its batches fit in memory.",
                )
            )
        count = 0
        for count, batch in enumerate(self._numbered(), start=1):
            if count > len(self.first) and not self.complete:
                return
            self._compare(batch, count - 1)
        self._end(count)

    def _compare(self, batch: Batch, number: int) -> None:
        """Make sure that a batch is the one that had this number before, if there was one."""
        if number == len(self._digests) and self._count is None:
            self._digests.append(batch.digest())
        elif number >= len(self._digests) or self._digests[number] != batch.digest():
            raise self._differs(f"a different batch {number} on a later pass, so it shuffles or augments.")

    def _end(self, count: int) -> None:
        """Make sure that so many batches came before, too."""
        if self._count is None:
            self._count = count
        elif count != self._count:
            few = f"{count} batches on a later pass instead of {self._count}."
            raise self._differs(few if count else "nothing on the second pass, so it is used up after one.")

    def _differs(self, got: str) -> NotRepeatable:
        return NotRepeatable(
            explain(
                expected=f"{self._name} that gives the same batches on every pass.",
                got=got,
                hint="DataLoader(..., shuffle=False) over a dataset without random transforms has the same mean loss.",
            )
        )


def check_resumable(batches: Iterable[Batch]) -> None:
    """Make sure that a measurement can be told from one of other data: that digests see all of these batches.

    Raises `ValueError` where they do not.

    >>> check_resumable([batch_of((torch.zeros(1), torch.zeros(1)))])
    """
    opaque = next(filter(None, (batch.opaque for batch in batches)), None)
    if opaque:
        raise ValueError(
            explain(
                expected="batches that can be recognised, for partial=, which goes on only with the same data.",
                got=f"batches with a part of type {opaque}, which cannot be looked into.",
                hint="Leave partial= out, or give the model what it needs as tensors, arrays or plain values.",
            )
        )
