"""Unit roundoffs, and operations on bounds that allow for rounding errors.

Centres and tilts are float64 with unit roundoff u = 2⁻⁵³. Remainders are float32 with unit roundoff v = 2⁻²⁴. They are
sums and products of non-negative numbers, so every rounding error is relative to the result, and a factor of 1 plus a
few v compensates for it (Higham 2002, sections 3.1 and 4.2). Factors in remainders are at least `TINY` or exactly zero,
so that no product of two of them underflows. Exact zeros remain zero, so that a constant function is proved constant.
"""

from __future__ import annotations

from torch import Tensor

UNIT = 2.0**-53
COARSE = 2.0**-24
TINY = 2.0**-60


def coarse(values: Tensor) -> Tensor:
    """|values| in float32, rounded up; at least `TINY`, except that zero remains zero."""
    size = values.float().add_(values.sign().float(), alpha=TINY).abs_()
    return size.mul_(1 + 4 * COARSE)


def enlarged(bound: Tensor, operations: int) -> Tensor:
    """A non-negative float32 bound, enlarged by the rounding errors of `operations` operations; zero remains zero."""
    return bound * (1 + 4 * operations * COARSE)


def lifted(bound: Tensor) -> Tensor:
    """A non-negative float32 bound, enlarged by `TINY` except where it is zero."""
    return bound + TINY * bound.sign()


def plus(first: Tensor, *rest: Tensor | None) -> Tensor:
    """Sum of the first part and of those of the rest that are not None."""
    for part in rest:
        if part is not None:
            first = first + part
    return first


def total(*parts: Tensor | None) -> Tensor | None:
    """Sum of the parts that are not None; None if all are."""
    there = [part for part in parts if part is not None]
    return plus(there[0], *there[1:]) if there else None
