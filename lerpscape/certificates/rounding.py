"""Unit roundoffs, and the few operations that keep a bound a bound in floating point.

Centres and tilts are float64 with unit roundoff u = 2⁻⁵³. Remainders are float32 with v = 2⁻²⁴: they are sums and
products of non-negative numbers, so that every rounding is relative to the result and a factor 1 + a few v makes up
for it (Higham 2002, sections 3.1 and 4.2). Factors in remainders are kept above `TINY` where they are not zero, so
that no product of two underflows; what is exactly zero stays zero, and a flat function is proved flat.
"""

from __future__ import annotations

from torch import Tensor

UNIT = 2.0**-53
COARSE = 2.0**-24
TINY = 2.0**-60


def coarse(values: Tensor) -> Tensor:
    """|values| in float32, rounded up; zero stays zero, anything else is at least `TINY`."""
    size = values.float().add_(values.sign().float(), alpha=TINY).abs_()
    return size.mul_(1 + 4 * COARSE)


def enlarged(bound: Tensor, operations: int) -> Tensor:
    """A non-negative float32 bound that took so many rounded operations, made safe; zero stays zero."""
    return bound * (1 + 4 * operations * COARSE)


def lifted(bound: Tensor) -> Tensor:
    """A non-negative float32 bound, larger by `TINY` where it is not zero."""
    return bound + TINY * bound.sign()


def plus(first: Tensor, *rest: Tensor | None) -> Tensor:
    """Sum of one part and those of the rest that are there."""
    for part in rest:
        if part is not None:
            first = first + part
    return first


def total(*parts: Tensor | None) -> Tensor | None:
    """Sum of the parts that are there, None where there is none."""
    there = [part for part in parts if part is not None]
    return plus(there[0], *there[1:]) if there else None
