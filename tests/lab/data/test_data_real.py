"""The official data sets, where `LERPSCAPE_DATA` says they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lerpscape.lab.data import DataSet, load
from lerpscape.lab.data.checking import check, inventory

FOLDER = os.environ.get("LERPSCAPE_DATA")


def there(name: str) -> str:
    """The data folder, or a skip that says what is missing."""
    if FOLDER is None or not Path(FOLDER).is_dir():
        pytest.skip("LERPSCAPE_DATA is not set to a folder: no real data here")
    (found,) = (each for each in inventory(FOLDER) if each.name == name)
    if found.state != "there":
        pytest.skip(f"{name} is not in {FOLDER}: {', '.join(found.missing)}")
    return FOLDER


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "sotu", "wikitext2"])
def test_official_copies_are_as_expected(name: str) -> None:
    findings = check(name, there(name))
    assert [each for each in findings if not each.good] == []
    assert len(findings) >= 4


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", [0.1307], [0.3081]),
        ("fashion_mnist", [0.2860], [0.3530]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_normalised_by_the_published_numbers(name: str, mean: list[float], std: list[float]) -> None:
    found = load(name, there(name), normalize=True)
    assert found.train.mean is not None and found.train.std is not None
    assert torch.equal(found.train.mean.flatten(), torch.tensor(mean))
    assert torch.equal(found.train.std.flatten(), torch.tensor(std))
    total = sum((inputs.double().sum((0, 2, 3)) for inputs, _ in found.train.batches(5000)), torch.zeros(len(mean)))
    average = total / (len(found.train) * found.train.inputs[0, 0].numel())
    assert float(average.abs().max()) < 0.5e-4 / min(std) + 1e-5  # the rounding of the mean, and of float32


def test_sotu_is_split_by_files() -> None:
    found = load("sotu", there("sotu"))
    assert found.validation is not None and found.vocabulary is not None
    assert (len(found.train), len(found.validation), len(found.test)) == (52_988, 4_924, 6_051)
    assert found.vocabulary[:4] == ("<unk>", "<eos>", "the", "of")
    assert sum(found.facts["tokens"].values()) == 2_238_521 + 249  # words and signs, and the ends of the files
    assert found.facts["unknown"]["train"] < found.facts["unknown"]["test"] < 0.02


def nearest_mean_accuracy(found: DataSet) -> float:
    """The share of test images whose nearest class mean is their own: pixels and labels belong together."""
    inputs, targets = found.train.batch(slice(0, 10_000))
    means = torch.stack([inputs[targets == label].flatten(1).mean(0) for label in range(10)])
    tested, expected = found.test.batch(slice(0, 2000))
    return float((torch.cdist(tested.flatten(1), means).argmin(1) == expected).float().mean())


@pytest.mark.parametrize(("name", "least"), [("mnist", 0.75), ("fashion_mnist", 0.6), ("cifar10", 0.22)])
def test_images_and_labels_belong_together(name: str, least: float) -> None:
    assert nearest_mean_accuracy(load(name, there(name))) > least
