"""Whether the traced operations give what the module gives: within what rounding explains, else by how much not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lerpscape.base.arrays import Floats
from lerpscape.engine.losses_by_alpha import LossesAtAlpha

# Losses of the two may differ by so many rounding units of the type for each operation (relative, 2-norm), some hundred
# times what was seen on the networks of benchmarks/bench_models.py; derivatives by so many times more.
UNITS_PER_OPERATION = 2
DERIVATIVE_FACTOR = 16
# A ReLU's input that is zero within rounding may fall on either side, and gives the example another derivative: that of
# one example in so many is left out.
EXAMPLES_PER_KINK = 50

# The same losses from batches of other sizes, or by other means, may differ by so many rounding units of the type.
KERNEL_UNITS = 4096

DIFFERS = "its traced operations differ from it"


class OperationsDiffer(Exception):
    """The traced operations give other losses than the module, which is to compute every α instead; says how."""


class Operations(TorchFunctionMode):
    """Counts calls of torch's functions while it is entered, and notes results of fewer bits than `dtype` has.

    A trace drops an autocast inside a forward.

    >>> with Operations(torch.float32) as operations:
    ...     _ = torch.ones(2).bfloat16().float() + 1
    >>> operations.count, operations.narrower
    (4, torch.bfloat16)
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = 0
        self.narrower: torch.dtype | None = None
        self._bits = torch.finfo(dtype).bits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and look at what it gives."""
        self.count += 1
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            floating = isinstance(tensor, Tensor) and tensor.is_floating_point()
            if floating and torch.finfo(tensor.dtype).bits < self._bits:
                self.narrower = tensor.dtype
        return result


def rounding(operations: int, dtype: torch.dtype) -> float:
    """How far rounding may take two ways to compute so many operations from each other, relative to the result.

    >>> rounding(10, torch.float64)
    4.440892098500626e-15
    """
    return UNITS_PER_OPERATION * operations * torch.finfo(dtype).eps


def alike(one: Floats, other: Floats, dtype: torch.dtype) -> NDArray[np.bool_]:
    """Where two computations of the same numbers in a type differ by no more than the order of rounding explains.

    Rounding is relative to each number, or to the largest finite one: it may be a small part of large numbers.

    >>> alike(np.array([1.0, 1e-9, np.nan]), np.array([1.0, 0.0, np.nan]), torch.float32), alike(
    ...     np.array([1.0]), np.array([1.001]), torch.float32
    ... )
    (array([ True,  True,  True]), array([False]))
    """
    tolerance = KERNEL_UNITS * torch.finfo(dtype).eps
    scale = np.abs(other[np.isfinite(other)]).max(initial=0.0)
    return np.isclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def difference(losses: LossesAtAlpha, expected: LossesAtAlpha, tolerance: float, scale: float = 0.0) -> str | None:
    """How two measurements of the same examples differ by more than rounding, in words; None where they do not.

    Rounding is relative to the losses, or to `scale` where they are smaller: they may be a small difference of large
    numbers.

    >>> one, other = (LossesAtAlpha(torch.tensor([losses]), None, None) for losses in (1.0, 1.1))
    >>> difference(one, one, 1e-6), difference(other, one, 1e-6)
    (None, 'losses off by 0.1')
    """
    for name, values, wanted, kinks in (
        ("losses", losses.losses, expected.losses, False),
        ("derivatives", losses.slopes, expected.slopes, True),
    ):
        if values is None or wanted is None:
            if values is not wanted:
                return f"other {name}"
            continue
        finite = wanted.isfinite()
        if values.shape != wanted.shape or not values.isfinite().equal(finite):
            return f"other {name}"
        wanted = wanted[finite].double()
        apart = (values[finite].double() - wanted).abs()
        room = tolerance * max(scale * len(wanted) ** 0.5, float(wanted.norm()))
        if kinks:
            apart = apart.sort().values[: len(apart) - len(apart) // EXAMPLES_PER_KINK]
            room *= DERIVATIVE_FACTOR
        off = float(apart.norm())
        if off > room:
            return f"{name} off by {off:.2g}"
    return None
