"""Operations written out, where torch differentiates them wrongly or not at all a second time in forward mode.

torch's forward-mode derivative of layer norm, instance norm and batch norm treats the mean and the scale that it saved
as constants when it is differentiated once more (seen with torch 2.13), and says nothing. SiLU and Mish have no
second derivative. Written out in plain operations, all have the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lerpscape.networks.layer_kinds import BATCH_NORM, INSTANCE_NORM, LAYER_NORM, MISH, SILU, Kind


class WrittenOut(TorchFunctionMode):
    """Inside `with WrittenOut():` these operations are made of plain ones, which differentiate twice.

    >>> x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> with WrittenOut():
    ...     written_out = nn.functional.layer_norm(x, (3,))
    >>> torch.allclose(written_out, nn.functional.layer_norm(x, (3,)))
    True
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def _normalised(
    values: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    normalised = (values - mean) * (variance + eps).rsqrt()
    normalised = normalised if weight is None else normalised * weight
    return normalised if bias is None else normalised + bias


def _layer_norm(
    values: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    variance, mean = torch.var_mean(values, tuple(range(-len(normalized_shape), 0)), correction=0, keepdim=True)
    return _normalised(values, mean, variance, weight, bias, eps)


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    shape = [1, -1] + [1] * (values.dim() - 2)
    if training or running_mean is None or running_var is None:
        variance, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
    else:
        mean, variance = running_mean, running_var
    parts = [each if each is None else each.view(shape) for each in (weight, bias)]
    return _normalised(values, mean.view(shape), variance.view(shape), parts[0], parts[1], eps)


def _instance_norm(
    values: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
    shape = [1, -1] + [1] * (values.dim() - 2)
    variance, mean = torch.var_mean(values, list(range(2, values.dim())), correction=0, keepdim=True)
    parts = [each if each is None else each.view(shape) for each in (weight, bias)]
    return _normalised(values, mean, variance, parts[0], parts[1], eps)


def _silu(values: Tensor, inplace: bool = False) -> Tensor:
    return values * values.sigmoid()


def _mish(values: Tensor, inplace: bool = False) -> Tensor:
    return values * F.softplus(values).tanh()


_RULES: dict[Kind, Callable[..., Tensor]] = {
    LAYER_NORM: _layer_norm,
    BATCH_NORM: _batch_norm,
    INSTANCE_NORM: _instance_norm,
    SILU: _silu,
    MISH: _mish,
}
_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    function: rule for kind, rule in _RULES.items() for function in kind.functions
}
