"""MNIST and Fashion-MNIST from their idx files, plain or gzipped."""

from __future__ import annotations

from pathlib import Path

from lerpscape.lab.data.catalogue import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from lerpscape.lab.data.copies import Copy, find_copy
from lerpscape.lab.data.idx import parse_idx
from lerpscape.lab.data.images import Images, check_labels, image_set
from lerpscape.lab.data.splits import DataSet


def mnist(
    folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False, verify: bool = True
) -> DataSet:
    """MNIST (LeCun et al. 1998) from the four idx files in MNIST/raw, plain or .gz."""
    return _idx_set("mnist", folder, normalize, reconstruct, verify)


def fashion_mnist(
    folder: str | Path | None = None, *, normalize: bool = False, reconstruct: bool = False, verify: bool = True
) -> DataSet:
    """Fashion-MNIST (Xiao et al. 2017) from the four idx files in FashionMNIST/raw, plain or .gz."""
    return _idx_set("fashion_mnist", folder, normalize, reconstruct, verify)


def _idx_set(name: str, folder: str | Path | None, normalize: bool, reconstruct: bool, verify: bool) -> DataSet:
    copy = find_copy(name, folder, verify)
    train = _idx_pair(copy, TRAIN_IMAGES, TRAIN_LABELS)
    test = _idx_pair(copy, TEST_IMAGES, TEST_LABELS)
    return image_set(name, train, test, 10, normalize=normalize, reconstruct=reconstruct)


def _idx_pair(copy: Copy, images_file: str, labels_file: str) -> Images:
    images = parse_idx(copy.read(images_file), 3, str(copy.path / images_file))
    labels = parse_idx(copy.read(labels_file), 1, str(copy.path / labels_file)).long()
    check_labels(labels, len(images), 10, str(copy.path / labels_file))
    return images[:, None], labels
