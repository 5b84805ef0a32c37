"""Data sets by name: read once, held in memory as they are stored, given out in batches."""

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
    each.__name__: each
    for each in (
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

    For images, `normalize` takes mean 0 and deviation 1 of each channel, and `reconstruct` makes the images their own
    targets. `train_size` keeps that many training examples, drawn with `subset_seed`. Further options are those of the
    data set's reader in `DATA_SETS`: `verify` for official files, `length` for text, and so on.

    Raises `ConfigError` for an unknown name or option (`normalize` is one of images alone), with the nearest known one,
    and for an option of another type; `FileNotFoundError` for data that are not there, with what to do; `ValueError`
    for damaged files.

    >>> found = load("digits", train_size=100)
    >>> [tuple(each.shape) for each in found.train.batch(slice(0, 32))]
    [(32, 1, 8, 8), (32,)]
    """
    if name not in DATA_SETS:
        raise ConfigError(unknown_name("a data set", name, DATA_SETS))
    reader = DATA_SETS[name]
    options |= {key: True for key, value in (("normalize", normalize), ("reconstruct", reconstruct)) if value}
    check_options(name, reader, options, given=["folder"])
    found = reader(folder, **options)
    return found if train_size is None else replace(found, train=found.train.subset(train_size, subset_seed))
