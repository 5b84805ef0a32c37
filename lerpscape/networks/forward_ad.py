"""Dual numbers, tensors that carry a derivative, by torch's forward-mode differentiation."""

from __future__ import annotations

import warnings

from torch import Tensor
from torch.autograd import forward_ad

level = forward_ad.dual_level


def dual(value: Tensor, derivative: Tensor) -> Tensor:
    """A tensor with a derivative, inside `with level():`.

    >>> import torch
    >>> with level():
    ...     split(dual(torch.tensor(3.0), torch.tensor(1.0)) ** 2)
    (tensor(9.), tensor(6.))
    """
    with warnings.catch_warnings():
        # On first use torch 2.13 warns about its own use of torch.jit.script.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")
        pair: Tensor = forward_ad.make_dual(value, derivative)  # type: ignore[no-untyped-call]
    return pair


def split(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """The value of a tensor, and its derivative, None if it carries none."""
    value, derivative = forward_ad.unpack_dual(values)  # type: ignore[no-untyped-call]
    return value, derivative
