from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cases import classes, random
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import lerpscape as ls
from lerpscape.networks.batches import batch_of
from lerpscape.networks.reading import Reader
from lerpscape.networks.rebatching import count_examples, equal_sizes, evenly_spaced, grouped, rebatched, same_layout

IMAGES, LABELS = random(20, 3, seed=0), classes(20, seed=1)


class Augmented(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return IMAGES[index] + torch.randn(3), LABELS[index]


class Forgetful:
    """Iterable, but empty on the second pass."""

    def __init__(self) -> None:
        self.left = [(IMAGES, LABELS)]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while self.left:
            yield self.left.pop()


class Growing:
    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.passes += 1
        yield from [(IMAGES, LABELS)] * (3 - self.passes)


def test_a_generator_is_refused_before_it_is_used_up() -> None:
    generator = (pair for pair in [(IMAGES, LABELS)])
    with pytest.raises(TypeError, match=r"(?s)read more than once.*a generator, which is used up.*list\(data\)"):
        Reader(generator)
    assert next(generator) is not None
    with pytest.raises(TypeError, match="iterable of batches"):
        Reader(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, shuffle=True), "shuffles or augments"),
        (DataLoader(TensorDataset(IMAGES, LABELS), batch_size=20, shuffle=True), "a different batch 0"),
        (DataLoader(Augmented(), batch_size=8), "shuffles or augments"),
        (Forgetful(), "nothing on the second pass"),
        (Growing(), "."),
    ],
    ids=["shuffled", "shuffled in one batch", "augmented", "used up", "shorter"],
)
def test_data_that_does_not_repeat_is_refused(data: object, message: str) -> None:
    with torch.random.fork_rng(), pytest.raises(ls.NotRepeatable, match=message):
        Reader(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk_bytes", [1, 400, 1 << 30])
def test_chunks_hold_every_batch_once_in_order(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", chunk_bytes)
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=6)
    reader = Reader(loader)
    for _ in range(2):
        found = list(reader.batches())
        assert torch.equal(torch.cat([batch.inputs for batch in found]), IMAGES)
        assert [batch.examples for batch in found] == [6, 6, 6, 2]
    assert len(reader) == 4
    assert reader.complete == (chunk_bytes == 1 << 30)


@pytest.mark.parametrize("data", [[], (), DataLoader(TensorDataset(IMAGES[:0], LABELS[:0]))])
def test_empty_data_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        Reader(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("item", [torch.zeros(2), (torch.zeros(2),), (1, 2, 3), "text", 3])
def test_other_batches_are_refused(item: object) -> None:
    with pytest.raises(TypeError, match=r"\(inputs, targets\), or dicts"):
        batch_of(item)


def test_digests_see_every_tensor_of_a_nested_batch() -> None:
    nested = {"a": (torch.ones(2), [torch.zeros(1)]), "labels": torch.zeros(2, dtype=torch.long)}
    changed = {"a": (torch.ones(2), [torch.ones(1)]), "labels": torch.zeros(2, dtype=torch.long)}
    assert batch_of(nested).digest() != batch_of(changed).digest()
    assert batch_of(nested).bytes() == 8 + 4 + 16
    moved = batch_of(nested).to(torch.device("cpu"), torch.float64)
    assert moved.inputs["a"][1][0].dtype == torch.float64 and moved.targets.dtype == torch.long


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 9))
def test_nested_batches_are_divided_in_order(sizes: list[int], rows: int) -> None:
    count = sum(sizes)
    ids, mask = torch.arange(2 * count).view(count, 2), torch.arange(count)
    given_batches = [
        batch_of({"ids": i, "extra": (m, [m.double()]), "labels": -m})
        for i, m in zip(ids.split(sizes), mask.split(sizes), strict=True)
    ]
    assert same_layout(given_batches) and count_examples(given_batches) == count
    equal = equal_sizes(count, rows)
    assert sum(equal) == count and max(equal) - min(equal) <= 1
    assert (max(equal) <= rows or rows == 1 or max(equal) == 3) and (min(equal) > 1 or count == 1)
    found = list(rebatched(given_batches, equal))
    assert [each.examples for each in found] == equal
    for batches in (found, [piece for group, _ in grouped(given_batches, rows) for piece in group]):
        assert torch.cat([each.inputs["ids"] for each in batches]).equal(ids)
        assert torch.cat([each.inputs["extra"][1][0] for each in batches]).equal(mask.double())
        assert torch.cat([each.targets for each in batches]).equal(-mask)
    np.testing.assert_allclose(sum(progress for _, progress in grouped(given_batches, rows)), len(sizes))
    [few] = evenly_spaced(given_batches, 2)
    assert few.inputs["extra"][0].tolist() == ([0, count - 1] if count > 1 else [0])


def test_batches_of_other_lengths_types_or_names_are_not_alike() -> None:
    one = {"ids": torch.zeros(3, 5), "labels": torch.zeros(3)}
    for other in (
        one | {"ids": torch.zeros(3, 6)},
        one | {"ids": torch.zeros(3, 5).double()},
        one | {"ids": torch.zeros(2, 5)},
        one | {"mask": torch.zeros(3, 5)},
        one | {"labels": torch.zeros(3, 2)},
    ):
        assert not same_layout([batch_of(one), batch_of(other)])
    assert same_layout([batch_of(one), batch_of(dict(one))]) and not same_layout([])


def test_a_single_example_with_a_stride_of_its_own_has_a_digest() -> None:
    labels = torch.arange(6).view(3, 2)[:1, 0]
    assert labels.stride() == (2,)
    assert batch_of((torch.ones(1, 2), labels)).digest() == batch_of((torch.ones(1, 2), labels.clone())).digest()
