"""What is learnt from and tested on: examples held as they were stored, made into floats one batch at a time."""

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
    """One part of a data set, in order.

    `inputs` hold one example per row: uint8 pixels, floats, or int64 tokens. Pixels become float32 when a batch is
    taken: x / `white`, then (x − `mean`) / `std` per channel where these are given (shape (channels, 1, 1)). `targets`
    are class numbers (n,), the next tokens (n, length), values (n, outputs), or None: the inputs themselves, flattened.
    `classes` is the number of classes where targets are class numbers.

    Raises `ValueError` for as many inputs as there are not targets.

    >>> split = Split(torch.tensor([[[[0, 255]]], [[[51, 102]]]], dtype=torch.uint8), torch.tensor([1, 0]), classes=2)
    >>> images, labels = split.batch(torch.tensor([1]))
    >>> images, labels
    (tensor([[[[0.2000, 0.4000]]]]), tensor([0]))
    """

    inputs: Tensor
    targets: Tensor | None
    white: int = 255
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
        """Inputs and targets of some examples, pixels as normalised float32.

        `transform` changes the stored inputs before that, as augmentation does while training.
        """
        inputs = _rows(self.inputs, indices)
        if transform is not None:
            inputs = transform(inputs)
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(torch.float32).div_(self.white)
            if self.mean is not None and self.std is not None:
                inputs.sub_(self.mean).div_(self.std)
        return inputs, inputs.flatten(1) if self.targets is None else _rows(self.targets, indices)

    def batches(self, size: int) -> Batches:
        """All examples in order and unaugmented, `size` at a time: what measurement reads, as often as it wants.

        >>> data = Split(torch.zeros(5, 2), torch.zeros(5, 1)).batches(2)
        >>> len(data), [len(inputs) for inputs, _ in data], [len(inputs) for inputs, _ in data]
        (3, [2, 2, 1], [2, 2, 1])
        """
        return Batches(self, size)

    def subset(self, n: int, seed: int) -> Split:
        """`n` examples drawn without replacement, in their old order; with one seed, smaller subsets lie in larger.

        Raises `ConfigError` where there are fewer examples.
        """
        if not 1 <= n <= len(self):
            raise ConfigError(
                explain(
                    expected=f"a number of examples from 1 to {len(self)}.",
                    got=f"{n}.",
                    hint="Ask for fewer, or for all.",
                )
            )
        chosen = torch.randperm(len(self), generator=_generator(seed))[:n].sort().values.to(self.inputs.device)
        return replace(self, inputs=self.inputs[chosen], targets=None if self.targets is None else self.targets[chosen])

    def corrupted(self, share: float, seed: int) -> Split:
        """The same examples, round(`share` · n) of them with a label drawn uniformly from all classes.

        The label drawn may be the old one: at share 1 labels are independent of the inputs (Zhang et al. 2017). With
        one seed, the examples changed by a smaller share are changed in the same way by a larger one.

        Raises `ConfigError` for a share outside [0, 1], and for targets that are no class numbers.
        """
        if self.targets is None or self.classes is None:
            raise ConfigError(
                explain(
                    expected="class labels to corrupt.",
                    got="a data set without classes.",
                    hint="Leave the corruption out.",
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
        """The split on a device, where its batches are then made."""
        moved = {
            name: value.to(device)
            for name in ("inputs", "targets", "mean", "std")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Batches:
    """A split as re-iterable data: (inputs, targets), in order, the last one with what is left."""

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
    """A data set that can be learnt: its parts, what is to be done with it, and its shape.

    `inputs` is the shape of one example, () for sequences of tokens; `outputs` the number of classes, of values to be
    predicted, or of tokens in the vocabulary. `facts` are numbers known about it: the Bayes error of a synthetic set,
    the share of unknown words of a text.
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
    """Some rows: `index_select` takes a third of the time of brackets for shuffled images."""
    if isinstance(indices, slice):
        return tensor[indices]
    return tensor.index_select(0, indices.to(tensor.device))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
