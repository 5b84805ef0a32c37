"""Data sets by name, held in memory as they are stored and converted to floats batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lerpscape.base.errors import ConfigError
from lerpscape.base.names import unknown_name
from lerpscape.lab.data.augmentation import augment
from lerpscape.lab.data.cifar import cifar10, cifar100
from lerpscape.lab.data.digits import digits
from lerpscape.lab.data.mnist import fashion_mnist, mnist
from lerpscape.lab.data.splits import Batches, DataSet, Split
from lerpscape.lab.data.synthetic import gaussian_blobs, markov_chain, teacher_classification, teacher_regression
from lerpscape.lab.data.text import sotu, text, wikitext2
from lerpscape.lab.options import check_options

__all__ = ["DATA_SETS", "Batches", "DataSet", "Split", "augment", "load"]

DATA_SETS: dict[str, Callable[..., DataSet]] = {
    reader.__name__: reader
    for reader in (
        digits,
        mnist,
        fashion_mnist,
        cifar10,
        cifar100,
        text,
        sotu,
        wikitext2,
        gaussian_blobs,
        teacher_classification,
        teacher_regression,
        markov_chain,
    )
}


def load(
    name: str,
    folder: str | Path | None = None,
    *,
    normalize: bool = False,
    reconstruct: bool = False,
    train_size: int | None = None,
    subset_seed: int = 0,
    **options: Any,
) -> DataSet:
    """Read a data set by name from below `folder`, or `LERPSCAPE_DATA`.

    For images, `normalize` gives each channel mean 0 and standard deviation 1 over the training set, and `reconstruct`
    makes the images their own targets. `train_size` draws that many training examples, with seed `subset_seed`. Other
    options are those of the data set's reader in `DATA_SETS`, such as `verify` for official files or `length` for text.

    Raises `ConfigError` for an unknown name or option, suggesting the nearest known one, and for an option of the wrong
    type; `FileNotFoundError`, with advice, for missing data; `ValueError` for damaged files.

    >>> inputs, labels = load("digits", train_size=100).train.batch(slice(0, 32))
    >>> tuple(inputs.shape), tuple(labels.shape)
    ((32, 1, 8, 8), (32,))
    """
    if name not in DATA_SETS:
        raise ConfigError(unknown_name("a data set", name, DATA_SETS))
    reader = DATA_SETS[name]
    options |= {key: True for key, value in (("normalize", normalize), ("reconstruct", reconstruct)) if value}
    check_options(name, reader, options, given=["folder"])
    data = reader(folder, **options)
    return data if train_size is None else replace(data, train=data.train.subset(train_size, subset_seed))
