"""One rule for each supported layer, function and method: from the models of its arguments to that of its result.

Every rule treats the examples of a batch independently, so that data can be taken in pieces of any size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerpscape.base.errors import explain
from lerpscape.certificates.affine_maps import LinearMap, Memory, affine
from lerpscape.certificates.enclosures import kink, largest, smooth
from lerpscape.certificates.moving_parameters import Parameter
from lerpscape.certificates.noises import joined
from lerpscape.certificates.rounding import UNIT, enlarged, lifted
from lerpscape.certificates.smooth_functions import GELU, RSQRT, SIGMOID, SILU, TANH
from lerpscape.certificates.taylor_models import Form, TaylorModel, add, constant, multiply, scale

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Layer:
    """A module of the graph with its parameters on the interval, and what it keeps of the data."""

    module: Any
    find: Callable[[Tensor | None], Any]
    memory: Memory | None


def _linear(layer: Layer, model: TaylorModel) -> TaylorModel:
    weight, bias = layer.find(layer.module.weight), layer.find(layer.module.bias)
    return _linear_function(model, weight, bias, memory=layer.memory)


def _linear_function(
    model: TaylorModel, weight: Parameter, bias: Parameter | None = None, memory: Memory | None = None
) -> TaylorModel:
    return affine(model, weight, bias, LinearMap(F.linear, weight.middle.shape[1], plain=True), memory)


def _convolution(layer: Layer, model: TaylorModel) -> TaylorModel:
    module = layer.module
    if module.padding_mode != "zeros":
        raise ValueError(
            explain(
                expected="convolutions with padding_mode='zeros'.",
                got=f"{module.padding_mode!r}.",
                hint="Use padding_mode='zeros'.",
            )
        )
    options = [getattr(module, name) for name in ("stride", "padding", "dilation", "groups")]
    weight, bias = layer.find(module.weight), layer.find(module.bias)
    return _convolution_function(model, weight, bias, *options, memory=layer.memory)


def _convolution_function(
    model: TaylorModel,
    weight: Parameter,
    bias: Parameter | None = None,
    *settings: Any,
    memory: Memory | None = None,
    **options: Any,
) -> TaylorModel:
    function: Callable[..., Tensor] = F.conv1d if weight.middle.dim() == 3 else F.conv2d

    def apply(inputs: Tensor, kernel: Tensor) -> Tensor:
        # float64 convolutions on the CPU are matrix products over patches: the bound of a dot product holds
        return function(inputs, kernel, None, *settings, **options)

    return affine(model, weight, bias, LinearMap(apply, weight.middle[0].numel(), plain=False), memory)


def _batch_norm(layer: Layer, model: TaylorModel) -> TaylorModel:
    """(h − mean)·weight/√(variance + ε) + bias, every part of it moving in t."""
    module, shape = layer.module, (-1, *([1] * (model.value.centre.dim() - 2)))

    def part(tensor: Tensor | None) -> TaylorModel:
        return layer.find(tensor).model().map(lambda values: values.view(shape))  # type: ignore[no-any-return]

    variance = part(module.running_var)
    eps = torch.full_like(variance.value.centre, module.eps)
    factor = smooth(add(variance, constant(eps, variance.value.reach)), RSQRT)
    if module.weight is not None:
        factor = multiply(factor, part(module.weight))
    normal = multiply(add(model, scale(part(module.running_mean), -1.0)), factor)
    return normal if module.bias is None else add(normal, part(module.bias))


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


def _minus(one: Any, other: Any) -> TaylorModel:
    return add(_as_model(one, other), scale(_as_model(other, one), -1.0))


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


def _module(rule: Rule, *names: str) -> Rule:
    """A rule for a layer that has no parameters, only settings."""
    return lambda layer, model: rule(model, *(getattr(layer.module, name) for name in names))


_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_MAXIMUM = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _module(_relu),
    nn.LeakyReLU: _module(_leaky, "negative_slope"),
    nn.Tanh: _module(partial(smooth, function=TANH)),
    nn.Sigmoid: _module(partial(smooth, function=SIGMOID)),
    nn.GELU: _module(_gelu, "approximate"),
    nn.SiLU: _module(lambda model: smooth(model, SILU)),
    nn.Flatten: _module(_shaped("flatten"), "start_dim", "end_dim"),
    nn.Identity: _module(_same),
    nn.Dropout: _module(_same),
    nn.Dropout1d: _module(_same),
    nn.Dropout2d: _module(_same),
    nn.AvgPool1d: _module(_pooled(F.avg_pool1d), *_AVERAGE),
    nn.AvgPool2d: _module(_pooled(F.avg_pool2d), *_AVERAGE),
    nn.AdaptiveAvgPool1d: _module(_pooled(F.adaptive_avg_pool1d), "output_size"),
    nn.AdaptiveAvgPool2d: _module(_pooled(F.adaptive_avg_pool2d), "output_size"),
    nn.MaxPool1d: _module(_max_pool, *_MAXIMUM),
    nn.MaxPool2d: _module(_max_pool, *_MAXIMUM),
}

FUNCTIONS: dict[Callable[..., Any], Rule] = {
    F.linear: _linear_function,
    F.conv1d: _convolution_function,
    F.conv2d: _convolution_function,
    torch.relu: _relu,
    F.relu: _relu,
    F.leaky_relu: _leaky,
    torch.tanh: partial(smooth, function=TANH),
    F.tanh: partial(smooth, function=TANH),
    torch.sigmoid: partial(smooth, function=SIGMOID),
    F.sigmoid: partial(smooth, function=SIGMOID),
    F.gelu: _gelu,
    F.silu: lambda model, inplace=False: smooth(model, SILU),
    torch.flatten: _shaped("flatten"),
    torch.reshape: _shaped("reshape"),
    torch.mean: _mean,
    F.dropout: _dropout,
    F.pad: _padded,
    F.avg_pool1d: _pooled(F.avg_pool1d),
    F.avg_pool2d: _pooled(F.avg_pool2d),
    F.adaptive_avg_pool1d: _pooled(F.adaptive_avg_pool1d),
    F.adaptive_avg_pool2d: _pooled(F.adaptive_avg_pool2d),
    F.max_pool1d: _max_pool,
    F.max_pool2d: _max_pool,
    operator.add: _plus,
    operator.iadd: _plus,
    torch.add: _plus,
    operator.sub: _minus,
    operator.mul: _times,
    operator.imul: _times,
    torch.mul: _times,
    operator.neg: lambda model: scale(model, -1.0),
    operator.getitem: _part,
    getattr: _attribute,
}

# Functions whose other arguments are weights, taken as they are.
BY_PARAMETER = (F.linear, F.conv1d, F.conv2d)

METHODS: dict[str, Rule] = {
    "relu": _relu,
    "tanh": partial(smooth, function=TANH),
    "sigmoid": partial(smooth, function=SIGMOID),
    "flatten": _shaped("flatten"),
    "view": _shaped("reshape"),
    "reshape": _shaped("reshape"),
    "unsqueeze": _shaped("unsqueeze"),
    "squeeze": _shaped("squeeze"),
    "contiguous": _shaped("contiguous"),
    "mean": _mean,
    "add": _plus,
    "mul": _times,
    "size": _size,
}
