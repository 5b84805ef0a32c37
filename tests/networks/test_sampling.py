"""Examples in random order: all of them, each as likely anywhere, cut from batches of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lerpscape as ls
from lerpscape.networks import reading
from lerpscape.networks.sampling import Sample

NUMBERS = torch.arange(23)


def ragged() -> list[Any]:
    return [(part.float()[:, None], part) for part in NUMBERS.split([9, 1, 8, 5])]


def test_every_example_comes_once_with_its_own_target() -> None:
    sample = Sample(ragged(), seed=3)
    found = [batch for begin, end in ((0, 4), (4, 15), (15, 23)) for batch in sample.batches(begin, end)]
    assert all(torch.equal(batch.inputs[:, 0].long(), batch.targets) for batch in found)
    assert sorted(torch.cat([batch.targets for batch in found]).tolist()) == NUMBERS.tolist()
    assert [batch.examples for batch in found] == [4, 9, 2, 8]  # never more than the data's largest batch
    assert sample.batch_count(4, 15) == 2


def test_every_example_is_as_likely_to_be_early() -> None:
    counts = torch.zeros(len(NUMBERS))
    for seed in range(2000):
        for batch in Sample(ragged(), seed).batches(0, 5):
            counts[batch.targets] += 1
    expected = 2000 * 5 / 23
    # chi-square with 22 degrees of freedom, without replacement: above 48 once in a thousand
    assert float(((counts - expected) ** 2 / (expected * (1 - 5 / 23))).sum()) * 22 / 23 < 48


def test_a_seed_is_an_order_and_the_callers_generator_stays() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        [batch.targets.tolist() for batch in Sample(ragged(), seed).batches(0, 23)] for seed in (0, 0, 1)
    )
    assert first == again
    assert Sample(ragged(), 0)._order.tolist() != Sample(ragged(), 1)._order.tolist()
    assert other[0] != first[0]
    assert torch.equal(before, torch.get_rng_state())


def test_loaders_dicts_and_several_inputs() -> None:
    loader = DataLoader(TensorDataset(NUMBERS.float(), NUMBERS), batch_size=4)
    (batch, *_) = Sample(loader, 0).batches(0, 4)
    assert torch.equal(batch.inputs.long(), batch.targets)
    keyed = [{"ids": part, "mask": part + 1, "labels": part} for part in NUMBERS.split(6)]
    (batch, *_) = Sample(keyed, 0).batches(2, 8)
    assert torch.equal(batch.inputs["ids"], batch.targets) and torch.equal(batch.inputs["mask"], batch.targets + 1)
    several = [((part, part + 1), part) for part in NUMBERS.split(6)]
    (batch, *_) = Sample(several, 0).batches(2, 8)
    assert isinstance(batch.inputs, tuple) and torch.equal(batch.inputs[1], batch.targets + 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(torch.ones(3, 2), torch.ones(3)), (torch.ones(3, 4), torch.ones(3))], "another layout than batch 0"),
        ([(torch.ones(3, 2), torch.ones(3)), (torch.ones(3, 2), torch.ones(3).double())], "another layout"),
        ([((torch.ones(3, 2), torch.ones(4, 4)), torch.ones(3))], "one row for each example"),
        ([({"x": torch.ones(3, 2), "training": False}, torch.ones(3))], "tensors all have one row"),
        ([(torch.ones(3, 2), "words")], "tensors all have one row"),
    ],
)
def test_batches_that_cannot_be_cut(data: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){message}.*padded to one length"):
        Sample(data, 0)


def test_data_larger_than_memory_are_refused_unless_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", 50)
    with pytest.raises(ValueError, match=r"(?s)data that fits in memory.*from a DataLoader.*list\(data\)"):
        Sample(DataLoader(TensorDataset(NUMBERS.float(), NUMBERS), batch_size=4), 0)
    assert len(Sample(ragged(), 0)) == 23


def test_a_shuffling_loader_is_found_out() -> None:
    with pytest.raises(ls.NotRepeatable):
        Sample(DataLoader(TensorDataset(NUMBERS.float(), NUMBERS), batch_size=4, shuffle=True), 0)
