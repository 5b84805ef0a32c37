"""What examples give at an α, and at all α of a group: losses, derivatives and right predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain

# A row's losses, slopes and right predictions in float64.
Numbers: TypeAlias = tuple[Floats, Floats | None, float | None]


@dataclass(frozen=True)
class LossesAtAlpha:
    """The examples of one group at one α: losses, derivatives dℓ/dα, and how many predictions are right.

    Still on the device, so that measuring the next α need not wait for them. `slopes` and `right` are None where they
    were not asked for or do not exist.
    """

    losses: Tensor
    slopes: Tensor | None
    right: Tensor | None

    def numbers(self) -> Numbers:
        """The numbers in float64, to be sent to another process."""
        slopes = None if self.slopes is None else _on_host(self.slopes)
        return _on_host(self.losses), slopes, None if self.right is None else float(self.right)

    @classmethod
    def of(cls, losses: Floats, slopes: Floats | None, right: float | None) -> LossesAtAlpha:
        """The row of which these are the `numbers`."""
        return cls(
            torch.tensor(losses),
            None if slopes is None else torch.tensor(slopes),
            None if right is None else torch.tensor(right, dtype=torch.float64),
        )


class LossMatrix:
    """The same examples at one α after the other, in memory that is taken when the first row comes.

    In float64 on their device, `losses` and `slopes` of shape (α, examples), `right` (α,). A tensor of its own for each
    α would lie between what the network needs at one α and at the next, and keep that memory from being used again:
    100 MB at 80 α.

    >>> values = [1.0, 2.0], [3.0, 4.0]
    >>> rows = LossMatrix.of(3, (LossesAtAlpha(torch.tensor(losses), None, None) for losses in values))
    >>> rows.numbers()[0].tolist(), len(rows), rows[1].losses.tolist()
    ([[1.0, 2.0], [3.0, 4.0]], 2, [3.0, 4.0])
    """

    def __init__(self, points: int) -> None:
        self._points = points
        self._count = 0
        self._kept: list[Tensor | None] = []  # as in a row, with α as the first dimension

    @classmethod
    def of(cls, points: int, rows: Iterable[LossesAtAlpha]) -> LossMatrix:
        """These rows, with room for as many as there are points."""
        made = cls(points)
        for row in rows:
            made.append(row)
        return made

    @classmethod
    def joined(cls, groups: Sequence[LossMatrix]) -> LossMatrix:
        """The examples of several groups, in order, at the same α."""
        made = cls(len(groups[0]))
        rows = ([each for each in kept if each is not None] for kept in zip(*(g._kept for g in groups), strict=True))
        losses, slopes, right = rows
        made._count = made._points
        made._kept = [
            torch.cat(losses, 1),
            torch.cat(slopes, 1) if slopes else None,
            torch.stack(right).sum(0) if right else None,
        ]
        return made

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> LossesAtAlpha:
        losses, slopes, right = (None if each is None else each[place] for each in self._kept)
        assert losses is not None
        return LossesAtAlpha(losses, slopes, right)

    def append(self, row: LossesAtAlpha) -> None:
        """Copy what the examples give at the next α.

        Raises `ValueError` for another number of examples than before.
        """
        new = row.losses, row.slopes, row.right
        if not self._kept:
            self._kept = [None if each is None else self._room(each) for each in new]
        for kept, each in zip(self._kept, new, strict=True):
            if kept is None or each is None:
                assert kept is each
                continue
            if kept[0].shape != each.shape:
                raise ValueError(
                    explain(
                        expected="the same number of losses at every α.",
                        got=f"{len(kept[0])} at one, {len(each)} at another.",
                        hint="A loss must not drop examples by their value.",
                    )
                )
            kept[self._count] = each
        self._count += 1

    def numbers(self) -> tuple[Floats, Floats | None, Floats | None]:
        """Losses, slopes and right predictions on the host; no losses where there is no row yet."""
        found = (None if each is None else _on_host(each[: self._count]) for each in self._kept)
        losses, slopes, right = found if self._kept else (None, None, None)
        return np.zeros((0, 0)) if losses is None else losses, slopes, right

    def _room(self, like: Tensor) -> Tensor:
        return like.new_empty(self._points, *like.shape, dtype=torch.float64)


def _on_host(values: Tensor) -> Floats:
    found: Floats = values.to(torch.float64).cpu().numpy()
    return found
