"""A small network on real MNIST: where `LERPSCAPE_DATA` says it is."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import seeded
from torch import Tensor, nn

import lerpscape as ls


def idx(name: str) -> Tensor:
    """An idx file: two zero bytes, a type, the number of dimensions, the sizes, the values."""
    folder = os.environ.get("LERPSCAPE_DATA")
    if folder is None:
        pytest.skip("LERPSCAPE_DATA is not set: no MNIST here")
    raw = (Path(folder) / "MNIST" / "raw" / name).read_bytes()
    sizes = np.frombuffer(raw, ">i4", raw[3], offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes).copy())


@pytest.fixture(scope="module")
def mnist() -> tuple[Tensor, Tensor]:
    images = idx("train-images-idx3-ubyte").flatten(1).float() / 255
    assert images.shape == (60_000, 784)
    assert float(images.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(images.std()) == pytest.approx(0.3081, abs=5e-5)
    return images, idx("train-labels-idx1-ubyte").long()


def test_the_whole_training_set_agrees_with_the_plain_loop(mnist: tuple[Tensor, Tensor]) -> None:
    images, labels = mnist
    start = seeded(lambda: nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)), 0)
    end = deepcopy(start)
    optimizer = torch.optim.SGD(end.parameters(), lr=0.1)
    for batch in torch.split(torch.randperm(60_000, generator=torch.Generator().manual_seed(0)), 256):
        optimizer.zero_grad()
        F.cross_entropy(end(images[batch]), labels[batch]).backward()
        optimizer.step()
    line = ls.Line(start, end)
    data = list(zip(images.split(1000), labels.split(1000), strict=True))
    found = ls.profile(start, line, data, alphas=6)
    plain = deepcopy(start).double()
    for position, alpha in enumerate(found.alphas):
        plain.load_state_dict(line.at(alpha))
        with torch.no_grad():
            expected = float(F.cross_entropy(plain(images.double()), labels))
        assert found.loss[position] == pytest.approx(expected, abs=1e-6)  # float32 against float64
    assert found.examples == 60_000
    assert found.max_rise == 0
    assert found.accuracy is not None
    assert found.accuracy[-1] > 0.85
    # One part of the data, in other batches, through a loader.
    dataset = torch.utils.data.TensorDataset(images[:5000], labels[:5000])
    part = ls.profile(start, line, torch.utils.data.DataLoader(dataset, batch_size=333), alphas=6)
    half = ls.profile(start, line, [(images[:5000], labels[:5000])], alphas=6)
    np.testing.assert_allclose(part.loss, half.loss, rtol=1e-6)
    assert np.abs(part.loss - found.loss).max() < 5 * part.loss_error.max()
