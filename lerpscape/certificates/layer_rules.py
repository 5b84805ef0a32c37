"""One rule for each supported kind of layer: from the models of its inputs to that of its result.

A rule's arguments have the names of the kind's settings (`networks.layer_kinds`), so that one rule holds for a layer, a
function and a method. Every rule treats the examples of a batch independently, so that data can be taken in pieces of
any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.certificates.affine_maps import LinearMap, Memory, affine
from lerpscape.certificates.enclosures import Smooth, kink, largest, smooth
from lerpscape.certificates.moving_parameters import Parameter
from lerpscape.certificates.noises import joined
from lerpscape.certificates.rounding import UNIT, enlarged, lifted
from lerpscape.certificates.smooth_functions import ELU, GELU, RSQRT, SIGMOID, SILU, TANH, softplus
from lerpscape.certificates.taylor_models import Form, TaylorModel, add, constant, multiply, scale
from lerpscape.networks import layer_kinds as kinds
from lerpscape.networks.layer_kinds import SELU_ALPHA, SELU_SCALE, Kind

Rule = Callable[..., Any]


def _linear(
    model: TaylorModel, weight: Parameter, bias: Parameter | None = None, *, memory: Memory | None = None
) -> TaylorModel:
    return affine(model, weight, bias, LinearMap(F.linear, weight.middle.shape[1], plain=True), memory)


def _convolution(
    model: TaylorModel,
    weight: Parameter,
    bias: Parameter | None = None,
    padding_mode: str = "zeros",
    *,
    function: Callable[..., Tensor],
    memory: Memory | None = None,
    **settings: Any,
) -> TaylorModel:
    if padding_mode != "zeros":
        raise ValueError(
            explain(
                expected="convolutions with padding_mode='zeros'.",
                got=f"{padding_mode!r}.",
                hint="Use padding_mode='zeros'.",
            )
        )

    def apply(inputs: Tensor, kernel: Tensor) -> Tensor:
        # float64 convolutions on the CPU are matrix products over patches: the bound of a dot product holds
        return function(inputs, kernel, None, **settings)

    return affine(model, weight, bias, LinearMap(apply, weight.middle[0].numel(), plain=False), memory)


def _batch_norm(
    model: TaylorModel,
    running_mean: Parameter | None,
    running_var: Parameter | None,
    weight: Parameter | None = None,
    bias: Parameter | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> TaylorModel:
    """(h − mean)·weight/√(variance + ε) + bias, every part of it moving in t."""
    if training or running_mean is None or running_var is None:
        raise ValueError(
            explain(
                expected="batch norm with fixed statistics.",
                got="statistics of the batch.",
                hint="Track running statistics, and normalise by them in evaluation mode.",
            )
        )
    shape = (-1, *([1] * (model.value.centre.dim() - 2)))

    def part(tensor: Parameter) -> TaylorModel:
        return tensor.model().map(lambda values: values.view(shape))

    variance = part(running_var)
    factor = smooth(_plus(variance, eps), RSQRT)
    if weight is not None:
        factor = multiply(factor, part(weight))
    normal = multiply(_minus(model, part(running_mean)), factor)
    return normal if bias is None else add(normal, part(bias))


def _leaky(model: TaylorModel, negative_slope: float = 0.01, inplace: bool = False) -> TaylorModel:
    if not 0 <= negative_slope <= 1:
        raise ValueError(
            explain(
                expected="a negative_slope between 0 and 1.", got=f"{negative_slope}.", hint="Train with such a slope."
            )
        )
    return kink(model, negative_slope)


def _relu(model: TaylorModel, inplace: bool = False) -> TaylorModel:
    return kink(model, 0.0)


def _clamped(model: TaylorModel, min_val: float = 0.0, max_val: float = 6.0, inplace: bool = False) -> TaylorModel:
    """min(max(z, a), b) by two kinks: max(z, a) = a + max(z − a, 0), min(w, b) = b − max(b − w, 0)."""
    raised = _plus(kink(_minus(model, min_val), 0.0), min_val)
    return _minus(max_val, kink(_minus(max_val, raised), 0.0))


def _hardswish(model: TaylorModel, inplace: bool = False) -> TaylorModel:
    """z·min(max(z + 3, 0), 6)/6."""
    return scale(multiply(model, _clamped(_plus(model, 3.0))), 1 / 6)


def _elu(model: TaylorModel, alpha: float = 1.0, inplace: bool = False) -> TaylorModel:
    """α·elu₁(z) + (1 − α)·max(z, 0): above 0 the two add up to z. The derivative of elu₁ does not jump."""
    bent = smooth(model, ELU)
    return bent if alpha == 1 else add(scale(bent, alpha), scale(kink(model, 0.0), 1 - alpha))


def _selu(model: TaylorModel, inplace: bool = False) -> TaylorModel:
    return scale(_elu(model, SELU_ALPHA), SELU_SCALE)


def _softplus(model: TaylorModel, beta: float = 1.0, threshold: float = 20.0) -> TaylorModel:
    if not (beta > 0 and threshold > 0):
        raise ValueError(
            explain(
                expected="a softplus with beta and threshold above 0.",
                got=f"beta={beta}, threshold={threshold}.",
                hint="Leave them at their defaults.",
            )
        )
    return smooth(model, softplus(beta, threshold))


def _mish(model: TaylorModel, inplace: bool = False) -> TaylorModel:
    """z·tanh(log(1 + e^z)), which torch computes without a threshold."""
    return multiply(model, smooth(smooth(model, softplus(1.0, math.inf)), TANH))


def _activation(model: TaylorModel, function: Smooth, inplace: bool = False) -> TaylorModel:
    return smooth(model, function)


def _gelu(model: TaylorModel, approximate: str = "none") -> TaylorModel:
    if approximate != "none":
        raise ValueError(
            explain(expected='GELU with approximate="none".', got=f"{approximate!r}.", hint="Use the exact form.")
        )
    return smooth(model, GELU)


def _same(model: TaylorModel, *_: Any, **__: Any) -> TaylorModel:
    return model


def _dropout(model: TaylorModel, p: float = 0.5, training: bool = True, inplace: bool = False) -> TaylorModel:
    if training:
        raise ValueError(
            explain(
                expected="dropout that is off in evaluation mode.",
                got="training=True.",
                hint="Write F.dropout(x, p, self.training).",
            )
        )
    return model


def _mean_like(model: TaylorModel, average: Callable[[Tensor], Tensor]) -> TaylorModel:
    """Averages with fixed non-negative weights that sum to at most 1."""
    terms = model.value.centre[0].numel()
    kappa = (2 * terms + 16) * UNIT

    def of(form: Form) -> Form:
        fresh = enlarged(average(lifted(kappa * form.magnitude)), terms + 4)
        remainder = fresh if form.remainder is None else fresh + average(lifted(form.remainder))
        tilt = None if form.tilt is None else average(form.tilt)
        noise = None if form.noise is None else joined(fresh, form.noise.map(average, fresh.shape, terms + 4))
        return Form(average(form.centre), tilt, enlarged(remainder, terms + 8), form.reach, noise)

    return TaylorModel(of(model.value), None if model.slope is None else of(model.slope))


def _pooled(average: Callable[..., Tensor]) -> Rule:
    def rule(model: TaylorModel, *arguments: Any, **options: Any) -> TaylorModel:
        if options.get("divisor_override"):
            raise ValueError(
                explain(expected="average pooling without divisor_override.", got="one.", hint="Leave it out.")
            )
        return _mean_like(model, lambda part: average(part, *arguments, **options))

    return rule


def _mean(model: TaylorModel, dim: Any = None, keepdim: bool = False, **_: Any) -> TaylorModel:
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if not dims or any(each % model.value.centre.dim() == 0 for each in dims):
        raise ValueError(
            explain(
                expected="a mean over dimensions within an example.",
                got=f"dim={dim}.",
                hint="Name dimensions other than 0.",
            )
        )
    return _mean_like(model, lambda part: part.mean(dim=dims, keepdim=keepdim))


def _max_pool(
    model: TaylorModel,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> TaylorModel:
    spatial = model.value.centre.dim() - 2
    kernel, step, pad, dilated = (
        list(value) if isinstance(value, (tuple, list)) else [value] * spatial
        for value in (kernel_size, stride if stride else kernel_size, padding, dilation)
    )
    if any(pad) or any(each != 1 for each in dilated) or ceil_mode or return_indices:
        raise ValueError(
            explain(
                expected="max pooling without padding, dilation, ceil_mode or return_indices.",
                got=f"padding={padding}, dilation={dilation}, ceil_mode={ceil_mode}, return_indices={return_indices}.",
                hint="Leave them at their defaults.",
            )
        )

    def windows(part: Tensor) -> Tensor:
        for index in range(spatial):
            part = part.unfold(2 + index, kernel[index], step[index])
        return part.flatten(-spatial)

    return largest(model.map(windows))


def _shaped(name: str) -> Rule:
    def rule(model: TaylorModel, *arguments: Any, **options: Any) -> TaylorModel:
        examples = len(model.value.centre)
        result = model.map(lambda part: getattr(part, name)(*arguments, **options))
        if result.value.centre.shape[:1] != (examples,):
            raise ValueError(
                explain(
                    expected=f"{name}() to keep the examples in dimension 0, whatever their number.",
                    got=f"a shape {tuple(result.value.centre.shape)} from {examples} examples.",
                    hint="Write x.flatten(1), or x.view(x.size(0), -1).",
                )
            )
        return result

    return rule


def _padded(model: TaylorModel, pad: list[int], mode: str = "constant", value: float | None = None) -> TaylorModel:
    if mode != "constant" or value:
        raise ValueError(
            explain(expected="padding with zeros.", got=f"mode={mode!r}, value={value}.", hint="Pad with zeros.")
        )
    if len(pad) > 2 * (model.value.centre.dim() - 1):
        raise ValueError(
            explain(expected="padding within an example.", got=f"{pad}.", hint="Leave the first dimension as it is.")
        )
    return model.map(lambda part: F.pad(part, pad))


def _plus(one: Any, other: Any, *, alpha: float = 1.0) -> TaylorModel:
    return add(_as_model(one, other), scale(_as_model(other, one), alpha) if alpha != 1 else _as_model(other, one))


def _minus(one: Any, other: Any, *, alpha: float = 1.0) -> TaylorModel:
    return _plus(one, other, alpha=-alpha)


def _times(one: Any, other: Any) -> TaylorModel:
    return multiply(_as_model(one, other), _as_model(other, one))


def _as_model(value: Any, beside: Any) -> TaylorModel:
    if isinstance(value, TaylorModel):
        return value
    return constant(torch.as_tensor(value, dtype=torch.float64), beside.value.reach)


def _size(model: TaylorModel, *dim: int) -> Any:
    return model.value.centre.size(*dim)


def _attribute(model: TaylorModel, name: str) -> Any:
    if name != "shape":
        raise TypeError(
            explain(expected="the shape of a tensor, as its only attribute.", got=f"{name!r}.", hint="Use its shape.")
        )
    return model.value.centre.shape


def _part(model: TaylorModel, index: Any) -> TaylorModel:
    raise TypeError(
        explain(
            expected="no indexing of tensors, only of shapes.",
            got=f"[{index}].",
            hint="Use layers that keep whole tensors.",
        )
    )


RULES: dict[Kind, Rule] = {
    kinds.LINEAR: _linear,
    kinds.CONV1D: partial(_convolution, function=F.conv1d),
    kinds.CONV2D: partial(_convolution, function=F.conv2d),
    kinds.BATCH_NORM: _batch_norm,
    kinds.RELU: _relu,
    kinds.LEAKY_RELU: _leaky,
    kinds.RELU6: _clamped,
    kinds.HARDTANH: _clamped,
    kinds.HARDSWISH: _hardswish,
    kinds.ELU: _elu,
    kinds.SELU: _selu,
    kinds.SOFTPLUS: _softplus,
    kinds.MISH: _mish,
    kinds.TANH: partial(_activation, function=TANH),
    kinds.SIGMOID: partial(_activation, function=SIGMOID),
    kinds.SILU: partial(_activation, function=SILU),
    kinds.GELU: _gelu,
    kinds.IDENTITY: _same,
    kinds.DROPOUT: _dropout,
    kinds.AVG_POOL1D: _pooled(F.avg_pool1d),
    kinds.AVG_POOL2D: _pooled(F.avg_pool2d),
    kinds.ADAPTIVE_AVG_POOL1D: _pooled(F.adaptive_avg_pool1d),
    kinds.ADAPTIVE_AVG_POOL2D: _pooled(F.adaptive_avg_pool2d),
    kinds.MAX_POOL1D: _max_pool,
    kinds.MAX_POOL2D: _max_pool,
    kinds.FLATTEN: _shaped("flatten"),
    kinds.RESHAPE: _shaped("reshape"),
    kinds.UNSQUEEZE: _shaped("unsqueeze"),
    kinds.SQUEEZE: _shaped("squeeze"),
    kinds.CONTIGUOUS: _shaped("contiguous"),
    kinds.PAD: _padded,
    kinds.MEAN: _mean,
    kinds.ADD: _plus,
    kinds.SUBTRACT: _minus,
    kinds.MULTIPLY: _times,
    kinds.NEGATE: lambda model: scale(model, -1.0),
    kinds.SIZE: _size,
    kinds.ATTRIBUTE: _attribute,
    kinds.INDEX: _part,
}
