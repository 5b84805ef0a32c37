"""Splits of a data set: examples held as they are stored, converted to floats one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import ConfigError, explain

Task: TypeAlias = Literal["classification", "regression", "reconstruction", "language"]
Transform: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, such as the training examples, in a fixed order.

    `inputs` hold one example per row: uint8 pixels, floats, or int64 tokens. `batch` converts pixels to float32:
    x / `max_pixel`, then (x − `mean`) / `std` by channel, both (channels, 1, 1), if they are given. `targets` are class
    numbers (n,), next tokens (n, length), values (n, outputs), or None for the flattened inputs. `classes` is the
    number of classes if the targets are class numbers.

    Raises `ValueError` if the numbers of inputs and targets differ.

    >>> split = Split(torch.tensor([[[[0, 255]]], [[[51, 102]]]], dtype=torch.uint8), torch.tensor([1, 0]), classes=2)
    >>> images, labels = split.batch(torch.tensor([1]))
    >>> images, labels
    (tensor([[[[0.2000, 0.4000]]]]), tensor([0]))
    """

    inputs: Tensor
    targets: Tensor | None
    max_pixel: int = 255
    mean: Tensor | None = None
    std: Tensor | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.targets is not None and len(self.inputs) != len(self.targets):
            raise ValueError(
                explain(
                    expected="one target for each example.",
                    got=f"{len(self.inputs)} examples and {len(self.targets)} targets.",
                    hint="Check that both come from the same part of the data.",
                )
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor | slice, transform: Transform | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some examples, with pixels as normalised float32.

        `transform`, such as an augmentation, is applied to the stored inputs first.
        """
        inputs = _rows(self.inputs, indices)
        if transform is not None:
            inputs = transform(inputs)
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(torch.float32).div_(self.max_pixel)
            if self.mean is not None and self.std is not None:
                inputs.sub_(self.mean).div_(self.std)
        return inputs, inputs.flatten(1) if self.targets is None else _rows(self.targets, indices)

    def batches(self, size: int) -> Batches:
        """All examples in order, unaugmented, `size` at a time; can be read any number of times, as measurements do.

        >>> data = Split(torch.zeros(5, 2), torch.zeros(5, 1)).batches(2)
        >>> len(data), [len(inputs) for inputs, _ in data], [len(inputs) for inputs, _ in data]
        (3, [2, 2, 1], [2, 2, 1])
        """
        return Batches(self, size)

    def subset(self, n: int, seed: int) -> Split:
        """`n` examples drawn without replacement, in their old order; subsets with one seed are nested.

        Raises `ConfigError` if there are fewer examples.
        """
        if not 1 <= n <= len(self):
            raise ConfigError(
                explain(
                    expected=f"a number of examples from 1 to {len(self)}.",
                    got=f"{n}.",
                    hint="Choose a smaller number, or leave it out for all.",
                )
            )
        chosen = torch.randperm(len(self), generator=_generator(seed))[:n].sort().values.to(self.inputs.device)
        return replace(self, inputs=self.inputs[chosen], targets=None if self.targets is None else self.targets[chosen])

    def corrupted(self, share: float, seed: int) -> Split:
        """The same examples, with round(`share` · n) labels redrawn uniformly from all classes.

        The new label may equal the old one: at share 1, labels are independent of the inputs (Zhang et al. 2017). With
        one seed, a larger share redraws the labels of a smaller one in the same way, and more.

        Raises `ConfigError` for a share outside [0, 1], and if the targets are not class numbers.
        """
        if self.targets is None or self.classes is None:
            raise ConfigError(
                explain(
                    expected="class labels to corrupt.",
                    got="a data set without classes.",
                    hint="Set label_noise = 0, or choose classes as targets.",
                )
            )
        if not 0 <= share <= 1:
            raise ConfigError(
                explain(expected="a share from 0 to 1.", got=f"{share}.", hint="0.2 corrupts a fifth of the labels.")
            )
        generator = _generator(seed)
        chosen = torch.randperm(len(self), generator=generator)[: round(share * len(self))]
        drawn = torch.randint(self.classes, (len(self),), generator=generator)[: len(chosen)]
        targets = self.targets.clone()
        targets[chosen.to(targets.device)] = drawn.to(targets)
        return replace(self, targets=targets)

    def to(self, device: torch.device | str) -> Split:
        """The split on a device; its batches are then created there."""
        moved = {
            name: value.to(device)
            for name in ("inputs", "targets", "mean", "std")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Batches:
    """A split as re-iterable batches (inputs, targets), in order; the last batch may be smaller."""

    split: Split
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(
                explain(expected="at least one example per batch.", got=f"{self.size}.", hint="Use 1000, say.")
            )

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self.split), self.size):
            yield self.split.batch(slice(first, first + self.size))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set: its splits, its task and the shape of its examples.

    `inputs` is the shape of one example, () for sequences of tokens; `outputs` is the number of classes, of predicted
    values, or of tokens in the vocabulary. `facts` are known quantities, such as the Bayes error of a synthetic set or
    the share of unknown words in a text.
    """

    name: str
    train: Split
    test: Split
    task: Task
    inputs: tuple[int, ...]
    outputs: int
    validation: Split | None = None
    vocabulary: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def _rows(tensor: Tensor, indices: Tensor | slice) -> Tensor:
    """Some rows; `index_select` takes a third of the time of indexing for shuffled images."""
    if isinstance(indices, slice):
        return tensor[indices]
    return tensor.index_select(0, indices.to(tensor.device))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
