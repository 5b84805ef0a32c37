"""Losses, derivatives and right predictions of the same examples: at one α, and at one α after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain

# Losses, slopes, the weight of right predictions at an α, the weights of the examples, and sums of metrics, in float64.
Numbers: TypeAlias = tuple[Floats, Floats | None, float | None, Floats | None, Floats | None]


@dataclass(frozen=True)
class LossesAtAlpha:
    """The examples of one group at one α: losses, derivatives dℓ/dα, and how many predictions are right.

    They stay on the device, so that the next α need not wait for a transfer. `slopes` and `right` are None where they
    are not wanted or do not exist. `weights` are those of the examples in the mean, None where all are 1; `right` is
    weighed by them. `metrics` are sums over the examples, of shape (metrics, 6), see `Metric.sums`.
    """

    losses: Tensor
    slopes: Tensor | None
    right: Tensor | None
    weights: Tensor | None = None
    metrics: Tensor | None = None

    def numbers(self) -> Numbers:
        """The numbers in float64, to be sent to another process."""
        parts = self.slopes, self.weights, self.metrics
        slopes, weights, metrics = (None if part is None else _on_host(part) for part in parts)
        return _on_host(self.losses), slopes, None if self.right is None else float(self.right), weights, metrics

    def total(self) -> Floats:
        """Σ wℓ, Σ w dℓ/dα (0 without derivatives) and Σ w, in float64."""
        losses, slopes, _, weights, _ = self.numbers()
        weights = np.ones(len(losses)) if weights is None else weights
        return np.array([losses @ weights, 0.0 if slopes is None else slopes @ weights, weights.sum()])

    @classmethod
    def of(
        cls,
        losses: Floats,
        slopes: Floats | None,
        right: float | None,
        weights: Floats | None = None,
        metrics: Floats | None = None,
    ) -> LossesAtAlpha:
        """The losses of which these are the `numbers`."""
        return cls(
            torch.tensor(losses),
            None if slopes is None else torch.tensor(slopes),
            None if right is None else torch.tensor(right, dtype=torch.float64),
            None if weights is None else torch.tensor(weights),
            None if metrics is None else torch.tensor(metrics),
        )


class LossMatrix:
    """The losses of the same examples at every α of a grid, added one α at a time.

    Everything is in float64, on the device of the losses: `losses` and `slopes` of shape (α, examples), `right` (α,),
    `metrics` (α, metrics, 6), `weights` (examples,), as they are the same at every α.
    Memory is taken once, when the first α comes. (One tensor per α would fragment it: each would lie between the memory
    that the network uses at two successive α, which could then not be used again.)

    >>> values = [1.0, 2.0], [3.0, 4.0]
    >>> matrix = LossMatrix.of(3, (LossesAtAlpha(torch.tensor(losses), None, None) for losses in values))
    >>> matrix.numbers()[0].tolist(), len(matrix), matrix.is_complete, matrix[1].losses.tolist()
    ([[1.0, 2.0], [3.0, 4.0]], 2, False, [3.0, 4.0])
    """

    def __init__(self, points: int) -> None:
        self._points = points
        self._count = 0
        self._weights: Tensor | None = None
        self._columns: list[Tensor | None] = []  # losses, slopes, right predictions and metrics, α first

    @classmethod
    def of(cls, points: int, losses: Iterable[LossesAtAlpha]) -> LossMatrix:
        """A matrix for so many α that begins with these losses."""
        matrix = cls(points)
        for at_alpha in losses:
            matrix.append(at_alpha)
        return matrix

    @classmethod
    def joined(cls, groups: Sequence[LossMatrix]) -> LossMatrix:
        """The examples of several groups, in order, at the same α."""
        losses, slopes, right, metrics = (
            [column for column in columns if column is not None]
            for columns in zip(*(group._columns for group in groups), strict=True)
        )
        matrix = cls(len(groups[0]))
        matrix._count = matrix._points
        matrix._weights = joined_weights([(group._weights, group[0].losses) for group in groups])
        matrix._columns = [
            torch.cat(losses, 1),
            torch.cat(slopes, 1) if slopes else None,
            torch.stack(right).sum(0) if right else None,
            torch.stack(metrics).sum(0) if metrics else None,
        ]
        return matrix

    @property
    def is_complete(self) -> bool:
        """Whether the losses at every α are there."""
        return self._count == self._points

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> LossesAtAlpha:
        losses, slopes, right, metrics = (None if column is None else column[position] for column in self._columns)
        assert losses is not None
        return LossesAtAlpha(losses, slopes, right, self._weights, metrics)

    def append(self, at_alpha: LossesAtAlpha) -> None:
        """Copy the losses of the next α.

        Raises `ValueError` for another number of examples than before.
        """
        parts = at_alpha.losses, at_alpha.slopes, at_alpha.right, at_alpha.metrics
        if not self._columns:
            self._weights = at_alpha.weights
            self._columns = [None if part is None else self._empty(part) for part in parts]
        for column, part in zip(self._columns, parts, strict=True):
            if column is None or part is None:
                assert column is part
                continue
            if column[0].shape != part.shape:
                raise ValueError(
                    explain(
                        expected="the same number of losses at every α.",
                        got=f"{len(column[0])} at one, {len(part)} at another.",
                        hint="A loss must not drop examples by their value.",
                    )
                )
            column[self._count] = part
        self._count += 1

    @property
    def weights(self) -> Floats | None:
        """The weights of the examples on the host; None where all are 1."""
        return None if self._weights is None else _on_host(self._weights)

    def numbers(self) -> tuple[Floats, Floats | None, Floats | None]:
        """Losses, slopes and right predictions on the host; before the first α, losses of shape (0, 0)."""
        parts = (self._on_host(column) for column in self._columns[:3])
        losses, slopes, right = parts if self._columns else (None, None, None)
        return np.zeros((0, 0)) if losses is None else losses, slopes, right

    @property
    def metrics(self) -> Floats | None:
        """The sums of metrics on the host, of shape (α, metrics, 6); None without metrics."""
        return self._on_host(self._columns[3]) if self._columns else None

    def _on_host(self, column: Tensor | None) -> Floats | None:
        return None if column is None else _on_host(column[: self._count])

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_empty(self._points, *like.shape, dtype=torch.float64)


def joined_weights(parts: Sequence[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    """The weights of several groups of examples, given beside their losses; None where all are None, and so 1.

    >>> joined_weights([(None, torch.zeros(2)), (torch.tensor([3.0]).double(), torch.zeros(1))])
    tensor([1., 1., 3.], dtype=torch.float64)
    """
    if all(weights is None for weights, _ in parts):
        return None
    return torch.cat([torch.ones_like(like, dtype=torch.float64) if own is None else own for own, like in parts])


def _on_host(values: Tensor) -> Floats:
    on_host: Floats = values.to(torch.float64).cpu().numpy()
    return on_host
