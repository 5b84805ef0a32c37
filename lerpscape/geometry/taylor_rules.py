"""Derivatives along a line through plain stacks of layers, by propagating Taylor coefficients in α.

For a `Sequential` of linear layers and simple activations this gives what forward-mode differentiation gives, cheaper:
the first layer is A + αB with two products of the inputs that all α share, the layer behind a first ReLU is kept up
from one α to the next, and a second derivative needs no nesting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.relu_sweep import NextLayer, ReLUSweep, installed, may_sweep
from lerpscape.engine.shared_layers import EndpointOutputs
from lerpscape.networks.altered_calls import altered, is_plain
from lerpscape.networks.batches import Batch
from lerpscape.networks.layer_kinds import (
    DROPOUT,
    ELU,
    FLATTEN,
    GELU,
    HARDSWISH,
    HARDTANH,
    IDENTITY,
    LEAKY_RELU,
    LINEAR,
    MISH,
    RELU,
    RELU6,
    SELU,
    SELU_ALPHA,
    SELU_SCALE,
    SIGMOID,
    SILU,
    SOFTPLUS,
    TANH,
    UNFLATTEN,
    Kind,
    kind_of_layer,
    settings_of_layer,
)
from lerpscape.paths.checkpoints import Params
from lerpscape.paths.line import Line

# A value with its derivatives by α, as many as were asked for; None stands for zeros.
Series: TypeAlias = list[Tensor | None]

# f(u), f′(u), and f″(u) where it is wanted; None for a function that is straight almost everywhere.
Derivatives: TypeAlias = tuple[Tensor, Tensor, Callable[[], Tensor] | None]

# Shared products of the first layer are kept up to this size, for the batches at work.
SHARED_BYTES = 1 << 28


class Stack:
    """A plain stack of layers on a line, as `stack_of` finds it."""

    def __init__(self, on_path: ModelOnPath, layers: list[tuple[str, nn.Module]]) -> None:
        self._on_path = on_path
        self._layers = layers
        self._shared: dict[int, tuple[Batch, Series]] = {}
        self._alphas: Floats = np.empty(0)
        self._examples = 0
        self._sweeps: dict[int, ReLUSweep | None] = {}

    def expect(self, alphas: Floats, examples: int) -> None:
        """These α come next, in increasing order: a layer behind a ReLU may be kept up from one to the next."""
        self._alphas, self._examples = alphas, examples
        self._sweeps = {}

    def derivatives(self, alpha: float, order: int, batches: list[Batch]) -> list[Tensor]:
        """Outputs and their first `order` derivatives for each batch, shape (1 + order, examples, …)."""
        state: Params = {}  # of the layers that are needed
        return [self._through(alpha, order, batch, state) for batch in batches]

    def _through(self, alpha: float, order: int, batch: Batch, state: Params) -> Tensor:
        shared = self._shared_by_all(batch)
        sweep = self._sweep(alpha, batch, shared)
        if sweep is not None:
            assert self._linear_relu_linear is not None
            series: Series = [*sweep.series(alpha, order)]
            rest = self._layers[self._linear_relu_linear + 1 :]
        else:
            series = self._first_layer(alpha, order, shared)
            rest = self._layers[self._first + 1 :]
        for name, layer in rest:
            if kind_of_layer(layer) is LINEAR:
                self._add_layer(state, name, alpha)
                series = _linear(series, name, state, self._change)
            else:
                series = _activated(series, layer)
        value = series[0]
        assert value is not None
        return torch.stack([torch.zeros_like(value) if each is None else each for each in series])

    def _add_layer(self, state: Params, name: str, alpha: float) -> None:
        """The tensors of a linear layer at α, those of `Line.at`."""
        start, end = self._ends
        for tensor in (f"{name}.{own}" if name else own for own in ("weight", "bias")):
            if tensor in start and tensor not in state:
                moves = tensor in self._change
                state[tensor] = torch.lerp(start[tensor], end[tensor], alpha) if moves else start[tensor]

    @cached_property
    def _ends(self) -> tuple[Params, Params]:
        return self._on_path.at(0.0), self._on_path.at(1.0)

    @cached_property
    def _first(self) -> int:
        return next(index for index, (_, layer) in enumerate(self._layers) if kind_of_layer(layer) is LINEAR)

    @cached_property
    def _linear_relu_linear(self) -> int | None:
        """The next linear layer, if nothing but a ReLU stands between the first and it."""
        after_relu = False
        for index in range(self._first + 1, len(self._layers)):
            kind = kind_of_layer(self._layers[index][1])
            if kind is LINEAR:
                return index if after_relu else None
            if kind not in (RELU, IDENTITY, DROPOUT):
                return None
            after_relu |= kind is RELU
        return None

    def _shared_by_all(self, batch: Batch) -> Series:
        """A and B of the first layer's result A + αB, computed when a batch is first seen."""
        key = id(batch)
        if key in self._shared and self._shared[key][0] is batch:
            return self._shared[key][1]
        inputs: Series = [batch.inputs]
        for _, layer in self._layers[: self._first]:
            inputs = _activated(inputs, layer)
        shared = _linear([inputs[0], None], self._layers[self._first][0], self._ends[0], self._change)
        self._keep(batch, shared)
        return shared

    def _first_layer(self, alpha: float, order: int, shared: Series) -> Series:
        start, change = shared
        assert start is not None
        if change is None:
            return [start, *[None] * order]
        return [torch.add(start, change, alpha=alpha), change, None][: order + 1]

    def _sweep(self, alpha: float, batch: Batch, shared: Series) -> ReLUSweep | None:
        """The sweep over the α that are expected, where it pays."""
        start, change = shared
        if alpha not in self._alphas or self._linear_relu_linear is None or start is None or change is None:
            return None
        if id(batch) not in self._sweeps:
            first = EndpointOutputs(start, start + change, change)
            outputs = self._ends[0][f"{self._layers[self._linear_relu_linear][0]}.weight"].shape[0]
            pays = may_sweep(first, outputs, len(self._alphas), self._examples, derivative=True) and installed()
            sweep = ReLUSweep(first, self._next_layer, self._alphas) if pays else None
            self._sweeps[id(batch)] = sweep if sweep is not None and sweep.is_safe() else None
        return self._sweeps[id(batch)]

    @cached_property
    def _next_layer(self) -> NextLayer:
        assert self._linear_relu_linear is not None
        name, state = self._layers[self._linear_relu_linear][0], self._ends[0]
        weight, bias = (f"{name}.{own}" for own in ("weight", "bias"))
        moved = self._change.get(weight, torch.zeros_like(state[weight]))
        return NextLayer.of(state[weight], moved, state.get(bias), self._change.get(bias))

    @cached_property
    def _change(self) -> Params:
        return self._on_path.velocity(0.0)

    def _keep(self, batch: Batch, shared: Series) -> None:
        def size(series: Series) -> int:
            return sum(each.numel() * each.element_size() for each in series if each is not None)

        kept = sum(size(series) for _, series in self._shared.values())
        while self._shared and kept + size(shared) > SHARED_BYTES:  # batches of the group before are done with
            kept -= size(self._shared.pop(next(iter(self._shared)))[1])
        if size(shared) <= SHARED_BYTES:
            self._shared[id(batch)] = batch, shared


def stack_of(on_path: ModelOnPath, probe: Batch) -> Stack | None:
    """The model as a plain stack on a line, or None where it is anything else.

    A plain stack is a `Sequential`, nested or not, of linear layers and of activations whose derivatives are known
    here, called as they are (see `altered`) with one tensor.
    """
    layers = _plain_layers(on_path.model, "")
    plain = layers is not None and any(kind_of_layer(layer) is LINEAR for _, layer in layers)
    if not plain or type(on_path.path) is not Line or not isinstance(probe.inputs, Tensor):
        return None
    named = dict(on_path.model.named_parameters())
    owned = (f"{name}.{own}" if name else own for name, layer in layers or [] for own, _ in layer.named_parameters())
    if any(name not in named for name in owned):
        return None  # tied weights have one name only
    tensors = [*on_path.model.parameters(), *on_path.model.buffers(), probe.inputs]
    trusted = not altered(on_path.model) and all(map(is_plain, tensors))
    return Stack(on_path, layers or []) if trusted and probe.inputs.is_floating_point() else None


def _plain_layers(module: nn.Module, name: str) -> list[tuple[str, nn.Module]] | None:
    if type(module) is nn.Sequential:
        layers: list[tuple[str, nn.Module]] = []
        for child, layer in module.named_children():
            inside = _plain_layers(layer, f"{name}.{child}" if name else child)
            if inside is None:
                return None
            layers += inside
        # A layer used twice is named once by named_children.
        return layers if len(module) == len(list(module.named_children())) else None
    kind = kind_of_layer(module)
    return [(name, module)] if kind is LINEAR or kind in _RULES else None


def _activated(series: Series, layer: nn.Module) -> Series:
    """A layer without parameters, by the rule of its kind."""
    kind = kind_of_layer(layer)
    assert kind is not None
    settings = settings_of_layer(layer, kind)
    settings.pop("inplace", None)
    return _RULES[kind](series, **settings)


def _linear(series: Series, name: str, state: Params, velocity: Params) -> Series:
    """d^k/dα^k of Wh + b, where W and b move at a constant speed: W h⁽ᵏ⁾ + k·W′h⁽ᵏ⁻¹⁾."""
    weights, biases = (f"{name}.{own}" if name else own for own in ("weight", "bias"))
    weight, bias = state[weights], state.get(biases)
    moved, shifted = velocity.get(weights), velocity.get(biases)
    outputs: Series = []
    for k, part in enumerate(series):
        total = None if part is None else F.linear(part, weight, bias if k == 0 else None)
        before = series[k - 1] if k else None
        if before is not None and moved is not None:
            change = F.linear(before, moved, shifted if k == 1 else None)
            total = change.mul_(k) if total is None else total.add_(change, alpha=k)
        elif k == 1 and shifted is not None and outputs[0] is not None:
            total = shifted.expand_as(outputs[0]) if total is None else total.add_(shifted)
        outputs.append(total)
    return outputs


def _relu(series: Series) -> Series:
    value = series[0]
    assert value is not None
    # What torch itself takes for the derivative: three times faster than a mask.
    passed = torch.ops.aten.threshold_backward
    return [F.relu(value), *(None if each is None else passed(each, value, 0) for each in series[1:])]


def _smooth(series: Series, derivatives: Callable[..., Derivatives], **settings: Any) -> Series:
    """f(u), f′(u)u′ and f′(u)u″ + f″(u)u′²."""
    value = series[0]
    assert value is not None
    result, slope, curvature = derivatives(value, **settings)
    outputs: Series = [result, *(None if each is None else slope * each for each in series[1:])]
    first = series[1] if len(series) > 2 else None
    if first is not None and curvature is not None:
        bent, carried = curvature() * first.square(), outputs[2]
        outputs[2] = bent if carried is None else carried.add_(bent)
    return outputs


def _tanh(u: Tensor) -> Derivatives:
    result = u.tanh()
    slope = 1 - result.square()
    return result, slope, lambda: -2 * result * slope


def _sigmoid(u: Tensor) -> Derivatives:
    result = u.sigmoid()
    slope = result * (1 - result)
    return result, slope, lambda: slope * (1 - 2 * result)


def _silu(u: Tensor) -> Derivatives:
    s, s1, s2 = _sigmoid(u)
    assert s2 is not None
    return F.silu(u), s + u * s1, lambda: 2 * s1 + u * s2()


def _mish(u: Tensor) -> Derivatives:
    """u·tanh(ζ(u)) with the softplus ζ."""
    s, s1, _ = _sigmoid(u)
    t, t1, t2 = _tanh(F.softplus(u))
    assert t2 is not None
    slope = t1 * s  # of tanh(ζ(u))
    return F.mish(u), t + u * slope, lambda: 2 * slope + u * (t2() * s.square() + t1 * s1)


def _gelu(u: Tensor, approximate: str) -> Derivatives:
    if approximate == "tanh":
        scale = math.sqrt(2 / math.pi)
        t, t1, t2 = _tanh(scale * (u + 0.044715 * u**3))
        assert t2 is not None
        v1, v2 = scale * (1 + 0.134145 * u.square()), scale * 0.26829 * u
        slope = t1 * v1
        return (
            F.gelu(u, approximate="tanh"),
            0.5 * (1 + t + u * slope),
            lambda: slope + 0.5 * u * (t2() * v1.square() + t1 * v2),
        )
    density = torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
    return F.gelu(u), torch.special.ndtr(u) + u * density, lambda: density * (2 - u.square())


def _softplus(u: Tensor, beta: float, threshold: float) -> Derivatives:
    """log(1 + e^βu)/β, and u itself above the threshold."""
    straight = beta * u > threshold
    s, s1, _ = _sigmoid(beta * u)
    return F.softplus(u, beta, threshold), torch.where(straight, 1.0, s), lambda: torch.where(straight, 0.0, beta * s1)


def _elu(u: Tensor, alpha: float, scale: float = 1.0) -> Derivatives:
    """scale·u for u > 0, else scale·α(e^u − 1)."""
    below = scale * alpha * u.clamp(max=0).exp()
    return scale * F.elu(u, alpha), torch.where(u > 0, scale, below), lambda: torch.where(u > 0, 0.0, below)


def _selu(u: Tensor) -> Derivatives:
    _, slope, curvature = _elu(u, SELU_ALPHA, SELU_SCALE)
    return F.selu(u), slope, curvature


def _leaky_relu(u: Tensor, negative_slope: float) -> Derivatives:
    return F.leaky_relu(u, negative_slope), torch.where(u > 0, torch.ones_like(u), negative_slope), None


def _hardtanh(u: Tensor, min_val: float = 0.0, max_val: float = 6.0) -> Derivatives:
    return F.hardtanh(u, min_val, max_val), ((u > min_val) & (u < max_val)).to(u.dtype), None


def _hardswish(u: Tensor) -> Derivatives:
    """u·min(max(u + 3, 0), 6)/6."""
    inside = (u > -3) & (u < 3)
    slope = torch.where(inside, u / 3 + 0.5, (u >= 3).to(u.dtype))
    return F.hardswish(u), slope, lambda: inside.to(u.dtype) / 3


def _unchanged(series: Series, **_: Any) -> Series:
    return series  # measured in evaluation mode, in which dropout does nothing


def _reshaped(series: Series, reshape: Callable[..., Tensor], **settings: Any) -> Series:
    return [None if each is None else reshape(each, **settings) for each in series]


_DERIVATIVES: dict[Kind, Callable[..., Derivatives]] = {
    LEAKY_RELU: _leaky_relu,
    HARDTANH: _hardtanh,
    RELU6: _hardtanh,
    HARDSWISH: _hardswish,
    ELU: _elu,
    SELU: _selu,
    SOFTPLUS: _softplus,
    GELU: _gelu,
    SILU: _silu,
    MISH: _mish,
    TANH: _tanh,
    SIGMOID: _sigmoid,
}
_RULES: dict[Kind | None, Callable[..., Series]] = {
    RELU: _relu,
    IDENTITY: _unchanged,
    DROPOUT: _unchanged,
    FLATTEN: partial(_reshaped, reshape=torch.flatten),
    UNFLATTEN: partial(_reshaped, reshape=lambda part, dim, unflattened_size: part.unflatten(dim, unflattened_size)),
    **{kind: partial(_smooth, derivatives=derivatives) for kind, derivatives in _DERIVATIVES.items()},
}
