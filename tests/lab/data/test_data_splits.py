"""Splits: batches against a plain computation, subsets, label noise, augmentation, and how little memory it takes."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_files import make_official, write_cifar10, write_idx_set
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lerpscape as ls
from lerpscape.base.errors import ConfigError
from lerpscape.lab.data import Split, augment, load
from lerpscape.lab.data._images import channel_statistics, image_set
from lerpscape.networks.losses import squared_error
from lerpscape.networks.reading import Reader


def pixels(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def labels(n: int, classes: int = 10, seed: int = 1) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


# batches


@given(st.integers(1, 20), st.integers(1, 25), st.booleans())
@settings(max_examples=40, deadline=None)
def test_batches_of_any_size_are_the_examples_in_order_bit_for_bit(n: int, size: int, normalize: bool) -> None:
    images = pixels(n, 3, 4, 5)
    found = image_set("x", (images, labels(n)), (images, labels(n)), 10, normalize=normalize, reconstruct=False).train
    data = found.batches(size)
    for _ in range(2):  # as often as one likes
        batches = list(data)
        assert len(batches) == len(data)
        assert [len(inputs) for inputs, _ in batches[:-1]] == [size] * (len(batches) - 1)
        expected = images.float() / 255
        if normalize:
            expected = (expected - found.mean) / found.std
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), expected)
        assert torch.equal(torch.cat([targets for _, targets in batches]), labels(n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    inputs, targets = found.batch(order)
    assert torch.equal(inputs, expected[order])
    assert torch.equal(targets, labels(n)[order])


def test_a_batch_is_a_copy() -> None:
    split = Split(pixels(4, 1, 2, 2), labels(4))
    split.batch(slice(None))[0].zero_()
    assert torch.equal(split.inputs, pixels(4, 1, 2, 2))


def test_normalised_training_pixels_have_mean_0_and_deviation_1() -> None:
    images = torch.cat([pixels(500, 1, 8, 8), pixels(500, 1, 8, 8, seed=2) // 3], dim=1)
    found = image_set("x", (images, labels(500)), (images[:50], labels(50)), 10, normalize=True, reconstruct=False)
    inputs, _ = found.train.batch(slice(None))
    exact = (images.double() / 255).transpose(0, 1).flatten(1)
    assert found.train.mean is not None and found.train.std is not None
    # rounded to four digits, so at most half of the last one away
    assert float((found.train.mean.flatten() - exact.mean(1)).abs().max()) <= 0.5e-4 + 1e-8
    assert float((found.train.std.flatten() - exact.std(1, correction=0)).abs().max()) <= 0.5e-4 + 1e-8
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-3
    assert (inputs.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert found.test.mean is found.train.mean  # the test images are normalised by the training images


def test_statistics_of_many_bright_pixels_are_exact() -> None:
    """Sums of squares past 2⁵³ in whole numbers: a float would lose the variance of nearly constant images."""
    images = torch.full((1, 1, 2000, 2000), 254, dtype=torch.uint8)
    images[..., ::2] = 255
    mean, std = channel_statistics(images, 255)
    assert mean.item() == pytest.approx(254.5 / 255, abs=5e-5)
    assert std.item() == pytest.approx(0.5 / 255, abs=5e-5)


def test_subsets_change_nothing_but_the_number() -> None:
    whole = load("digits", normalize=True)
    small, smaller = (load("digits", normalize=True, train_size=n, subset_seed=3) for n in (500, 100))
    assert torch.equal(small.train.mean, whole.train.mean)  # type: ignore[arg-type]
    assert torch.equal(small.test.inputs, whole.test.inputs)

    def positions(split: Split) -> list[int]:
        rows = {tuple(row): i for i, row in enumerate(whole.train.inputs.flatten(1).tolist())}
        assert len(rows) == 1437
        found = [rows[tuple(row)] for row in split.inputs.flatten(1).tolist()]
        assert whole.train.targets is not None and split.targets is not None
        assert torch.equal(whole.train.targets[found], split.targets)
        return found

    first, second = positions(small.train), positions(smaller.train)
    assert first == sorted(first) and len(set(first)) == 500  # no example twice, in the old order
    assert set(second) < set(first)  # nested
    assert positions(load("digits", train_size=100, subset_seed=4).train) != second


def test_reconstruction_targets_are_the_inputs() -> None:
    found = load("digits", normalize=True, reconstruct=True)
    assert (found.task, found.outputs) == ("reconstruction", 64)
    inputs, targets = found.train.batch(torch.tensor([5, 2]))
    assert targets.shape == (2, 64)
    assert torch.equal(targets, inputs.flatten(1))
    assert squared_error(torch.zeros(2, 64), targets).shape == (2,)
    with pytest.raises(ConfigError, match="without classes"):
        found.train.corrupted(0.5, 0)


def test_a_split_of_unequal_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="3 examples and 2 targets"):
        Split(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ConfigError, match="at least one example per batch"):
        Split(torch.zeros(3), None).batches(0)


def test_profile_reads_a_split_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same mean loss from splits in other batch sizes, and from the digits as one tensor."""
    found = load("digits")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    end = {name: value + 0.1 for name, value in model.state_dict().items()}
    line = ls.Line(model, end)
    one, other = (ls.profile(model, line, found.train.batches(size), alphas=3).loss for size in (100, 1437))
    whole = ls.profile(model, line, [found.train.batch(slice(None))], alphas=3).loss
    np.testing.assert_allclose(one, whole, rtol=1e-6)  # float32 products of other sizes
    np.testing.assert_allclose(other, whole, rtol=1e-12)
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 1)
    assert len(Reader(found.train.batches(100))) == 15


# label noise


def test_label_noise_is_uniform_over_all_classes() -> None:
    n = 20_000
    split = Split(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), classes=10)
    noisy = split.corrupted(0.5, seed=3)
    assert noisy.targets is not None and split.targets is not None
    assert int(split.targets.sum()) == 0  # the labels given are as they were
    counts = noisy.targets.bincount(minlength=10).double()
    expected = torch.full((10,), n * 0.05, dtype=torch.float64)
    expected[0] += n * 0.5
    drawn = torch.full((10,), n * 0.05, dtype=torch.float64)
    chi_squared = float(((counts - expected).square() / drawn).sum())
    assert chi_squared < 27.9  # 0.999 quantile of χ² with 9 degrees of freedom
    changed = float((noisy.targets != 0).double().mean())
    assert changed == pytest.approx(0.45, abs=4 * (0.5 * 0.09 / n) ** 0.5)  # a tenth draws its old label


def test_label_noise_is_seeded_exact_in_number_and_nested() -> None:
    n = 1000
    marked = Split(torch.zeros(n, 1), torch.full((n,), 10), classes=10)  # a label that cannot be drawn
    assert marked.targets is not None
    shares = [marked.corrupted(share, 7).targets for share in (0.0, 0.1, 0.25, 1.0)]
    assert [int((each != 10).sum()) for each in shares if each is not None] == [0, 100, 250, 1000]
    one, more = shares[1], shares[2]
    assert one is not None and more is not None
    assert torch.equal(one[one != 10], more[one != 10])
    again, other = marked.corrupted(0.1, 7).targets, marked.corrupted(0.1, 8).targets
    assert again is not None and torch.equal(one, again)
    assert other is not None and not torch.equal(one, other)
    with pytest.raises(ConfigError, match="a share from 0 to 1"):
        marked.corrupted(1.5, 0)


# augmentation


def brute_force_crops(image: np.ndarray, crop: int) -> list[bytes]:
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)))
    return [
        padded[:, top : top + height, left : left + width].tobytes()
        for top in range(2 * crop + 1)
        for left in range(2 * crop + 1)
    ]


def test_every_crop_and_mirror_image_comes_equally_often() -> None:
    image = pixels(1, 3, 5, 6)
    n = 18_000
    found = augment(image.expand(n, -1, -1, -1), torch.Generator().manual_seed(0), crop=1)
    assert found.dtype == torch.uint8
    plain = image[0].numpy()
    expected = brute_force_crops(plain, 1) + brute_force_crops(np.ascontiguousarray(plain[:, :, ::-1]), 1)
    # mirrored after the crop: the shift of a mirrored image is mirrored too, and as frequent
    places = {each: i for i, each in enumerate(expected)}
    counts = np.zeros(18)
    for each in found.numpy():
        counts[places[np.ascontiguousarray(each).tobytes()]] += 1
    assert ((counts - 1000) ** 2 / 1000).sum() < 40.8  # 0.999 quantile of χ² with 17 degrees of freedom


def test_augmentation_without_crop_and_flip_is_the_identity() -> None:
    images = pixels(7, 1, 4, 4)
    assert torch.equal(augment(images, torch.Generator(), crop=0, flip=False), images)
    flipped = augment(images, torch.Generator().manual_seed(0), crop=0)
    assert {bool(torch.equal(a, b)) for a, b in zip(images, flipped, strict=True)} == {True, False}
    for before, after in zip(images, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


def test_augmentation_is_seeded_and_leaves_the_callers_randomness_alone() -> None:
    images = pixels(50, 3, 8, 8)
    state = torch.get_rng_state()
    first, again = (augment(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, torch.Generator().manual_seed(6)))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match=r"shape \(50, 24\)"):
        augment(torch.zeros(50, 24), torch.Generator())


def test_augmentation_fills_with_black_before_normalising() -> None:
    white = torch.full((4, 1, 6, 6), 255, dtype=torch.uint8)
    mixed = torch.cat([white, torch.zeros_like(white)])
    split = image_set("x", (mixed, labels(8)), (mixed, labels(8)), 10, normalize=True, reconstruct=False).train
    generator = torch.Generator().manual_seed(1)
    inputs, _ = split.batch(slice(0, 4), transform=lambda images: augment(images, generator, crop=4))
    assert sorted(set(inputs.flatten().tolist())) == [-1.0, 1.0]  # black and white; padding afterwards would give 0


# memory


class LargestFloat(TorchDispatchMode):
    """The largest floating-point tensor that any operation gives, in values."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, Tensor) and each.is_floating_point():
                self.values = max(self.values, each.numel(), each.untyped_storage().nbytes() // each.element_size())
        return out


def float_bytes_alive() -> int:
    gc.collect()
    found = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), Tensor) and each.is_floating_point()  # isinstance would ask every object
    }
    return sum(found.values())


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_no_float_copy_of_the_whole_set_is_ever_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither while reading nor while a pass over the data, by torch (its operations) or numpy (tracemalloc)."""
    n, shape = (4000, (28, 28)) if name == "mnist" else (1000, (3, 32, 32))
    images = {part: pixels(n, *shape, seed=i).numpy() for i, part in enumerate(("train", "test"))}
    numbers = {part: labels(n).numpy() for part in images}
    if name == "mnist":
        write_idx_set(tmp_path / "MNIST/raw", images, numbers, zipped=False)
    else:
        write_cifar10(tmp_path / "cifar-10-batches-py", images, {part: each.tolist() for part, each in numbers.items()})
        make_official(monkeypatch, "cifar10", tmp_path / "cifar-10-batches-py")
    values = images["train"].size
    with LargestFloat():
        load(name, tmp_path, normalize=True, verify=False)  # imports and caches
    alive = float_bytes_alive()
    tracemalloc.start()
    with LargestFloat() as largest:
        found = load(name, tmp_path, normalize=True, verify=False)
        assert largest.values <= 256
        for inputs, _ in found.train.batches(100):
            assert inputs.dtype == torch.float32
        del inputs
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest.values == values * 100 // n  # one batch: the measuring works
    assert found.train.inputs.dtype == torch.uint8
    assert found.train.inputs.untyped_storage().nbytes() <= values + 16  # an idx header at most
    assert peak < 3.5 * values, peak / values  # bytes of files; both parts in float32 would be 8 times as much
    assert float_bytes_alive() - alive <= 64  # means and deviations
