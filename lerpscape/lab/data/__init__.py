"""Data sets by name: read once, held in memory as they are stored, given out in batches."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lerpscape.errors import ConfigError, three_parts
from lerpscape.lab.data.augmentation import augment
from lerpscape.lab.data.cifar import cifar10, cifar100
from lerpscape.lab.data.digits import digits
from lerpscape.lab.data.mnist import fashion_mnist, mnist
from lerpscape.lab.data.splits import Batches, DataSet, Split
from lerpscape.lab.data.synthetic import gaussian_blobs, markov_chain, teacher_classification, teacher_regression
from lerpscape.lab.data.text import sotu, text, wikitext2

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
        raise _unknown("a data set", name, sorted(DATA_SETS))
    reader = DATA_SETS[name]
    known = {key: each for key, each in inspect.signature(reader).parameters.items() if key != "folder"}
    hints = get_type_hints(reader)
    options |= {key: True for key, value in (("normalize", normalize), ("reconstruct", reconstruct)) if value}
    for option, value in options.items():
        if option not in known:
            raise _unknown(f"an option of {name}", option, ["train_size", "subset_seed", *known])
        if not _fits(value, hints[option]):
            raise ConfigError(
                three_parts(
                    f"{_words(hints[option])} for {name}'s {option}.",
                    f"{value!r} ({type(value).__name__}).",
                    "Correct the value.",
                )
            )
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(
                three_parts(
                    f"{_words(hints[option])} for {name}'s {option}.",
                    "nothing.",
                    "It has no default: say what you want.",
                )
            )
    found = reader(folder, **options)
    return found if train_size is None else replace(found, train=found.train.subset(train_size, subset_seed))


def _unknown(what: str, name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"Did you mean {near[0]!r}?" if near else "Choose one of them."
    return ConfigError(three_parts(f"{what}: {', '.join(known)}.", f"{name!r}.", advice))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a TOML file is of this type: True is no number, and 1 is as good as 1.0."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) is hint or (hint is float and type(value) is int)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(each) for each in get_args(hint))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[hint]
