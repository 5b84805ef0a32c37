"""Batch-norm statistics along a path: estimated anew at α where the policy says so, and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lerpscape.base.errors import explain
from lerpscape.engine.model_on_path import ModelOnPath, statistic
from lerpscape.networks import forward_ad
from lerpscape.networks.batch_norm import (
    BatchNormPolicy,
    BatchStatistics,
    EndStatistics,
    InterpolateStatistics,
    Recalibrate,
)
from lerpscape.networks.batches import Batch, Caller
from lerpscape.networks.channel_moments import ExponentialMoments, PooledMoments
from lerpscape.networks.reading import Data, Reader
from lerpscape.paths.checkpoints import Params

# The mean and the variance of each batch-norm layer, by its name, at the given tensors of an α.
Estimator: TypeAlias = Callable[[Params, float], dict[str, tuple[Tensor, Tensor]]]


class BatchNormStatistics:
    """A batch-norm policy for one model and path: the tensors at α, with the statistics that the policy asks for.

    Raises `ValueError` where a model with batch norm comes without a policy, or with something else, and for a policy
    that needs running statistics from layers that keep none.
    """

    def __init__(self, on_path: ModelOnPath, policy: BatchNormPolicy | None) -> None:
        self._on_path = on_path
        self._layers = on_path.batch_norms
        self.policy = policy if self._layers else None
        if self._layers and not isinstance(policy, BatchNormPolicy):
            raise ValueError(
                explain(
                    expected=f"batch_norm=: the model has {len(self._layers)} batch-norm layers, and the curve "
                    "depends on it.",
                    got=f"{policy!r}.",
                    hint="Recalibrate(train_data), statistics estimated anew at every α; InterpolateStatistics(), "
                    "those stored on the same line, both ends exact; BatchStatistics(), each batch by itself; "
                    "EndStatistics(), those of the end.",
                )
            )
        untracked = [name for name, layer in self._layers.items() if layer.running_mean is None]
        if untracked and not isinstance(policy, BatchStatistics):
            raise ValueError(
                explain(
                    expected="batch-norm layers that keep running statistics, for every policy but BatchStatistics().",
                    got=f"{untracked[0]!r} with track_running_stats=False.",
                    hint="Use batch_norm=BatchStatistics(), which is how this layer works.",
                )
            )
        self._batches: list[Batch] | Reader = []
        self._order: tuple[str, ...] = ()
        self._estimated: dict[tuple[float, frozenset[str]], dict[str, tuple[Tensor, Tensor | None]]] = {}
        self._estimator: Estimator | None = None  # hooks in the module
        if isinstance(self.policy, Recalibrate):
            reader = Reader(self.policy.data, "the data of Recalibrate")
            self._batches = [self._place(batch) for batch in reader.batches()] if reader.complete else reader

    def estimating_with(self, estimator: Estimator) -> Self:
        """The same policy with statistics from this estimator, which may round otherwise than hooks in the module."""
        other = copy(self)
        other._estimator = estimator
        other._estimated = {}
        return other

    def held_data(self) -> list[Batch] | None:
        """The batches that exact or pooled statistics come from, where that is the policy and they fit in memory."""
        averaged = isinstance(self.policy, Recalibrate) and self.policy.momentum is None
        return self._batches if averaged and not isinstance(self._batches, Reader) else None

    def pools(self) -> bool:
        """Whether statistics are pooled over batches that are each normalised by their own on the way."""
        return isinstance(self.policy, Recalibrate) and self.policy.pooled

    def on(self, data: Data, on_path: ModelOnPath | None = None) -> BatchNormStatistics:
        """The same policy with other data to estimate statistics from, where it estimates any.

        `on_path` is the same model elsewhere or in another dtype.
        """
        policy = self.policy
        return BatchNormStatistics(
            on_path or self._on_path, replace(policy, data=data) if isinstance(policy, Recalibrate) else policy
        )

    def estimates(self) -> bool:
        """Whether statistics are estimated anew at every α."""
        return isinstance(self.policy, Recalibrate)

    def replaces(self) -> bool:
        """Whether the path's own statistics are not used: others take their place, or each batch has its own."""
        return not isinstance(self.policy, InterpolateStatistics)

    def by_batch(self) -> bool:
        """Whether the answer depends on how the examples are grouped into batches."""
        return isinstance(self.policy, BatchStatistics)

    def changes_with_data(self) -> bool:
        """Whether statistics come from data: those of each batch, or of the policy."""
        return self.estimates() or self.by_batch()

    def describe(self) -> str | None:
        """The policy in words; None for a model without batch norm."""
        return self.policy.describe() if self.policy else None

    def apply(self, state: Params, alpha: float) -> Params:
        """The tensors of the model at α with the policy's statistics in place; dual tensors stay dual.

        Statistics of an α and of the tensors that move are estimated once, however many chunks the data come in.
        """
        if isinstance(self.policy, EndStatistics):
            return state | {name: tensor.clone() for name, tensor in self._on_path.end_statistics().items()}
        if not isinstance(self.policy, Recalibrate):
            return state
        key = alpha, frozenset(name for name, tensor in state.items() if forward_ad.split(tensor)[1] is not None)
        if key not in self._estimated:
            estimated = self._recalibrated(state, self.policy, alpha)
            self._estimated[key] = {name: forward_ad.split(estimated[name]) for name in self._on_path.end_statistics()}
        parts = self._estimated[key].items()
        return state | {
            name: value if change is None else forward_ad.dual(value, change) for name, (value, change) in parts
        }

    def call(self, module: nn.Module, state: Params, argument: Any, *, by_batch: bool | None = None) -> Any:
        """`module(argument)` with the model at the given tensors, and batch norm as the policy says.

        Layers normalise by batch where the policy (or `by_batch`) says so, and then write nothing to the running
        statistics. torch cannot differentiate with respect to running statistics, forward or backward: a hook adds
        their part.
        """
        if by_batch is None:
            by_batch = isinstance(self.policy, BatchStatistics)
        state = dict(state)
        changes: dict[str, list[Tensor | None]] = {name: [] for name in self._layers}
        leaves: dict[str, list[Tensor]] = {}
        for name in self._layers:
            running = [each for each in (statistic(name, "mean"), statistic(name, "var")) if each in state]
            if any(state[each].requires_grad for each in running):
                leaves[name] = [state[each] for each in running]
            for each in running:
                value, change = forward_ad.split(state[each])
                state[each] = value.detach()
                changes[name].append(change)
        with self._on_path.lender.lend(state), ExitStack() as stack:
            for name, layer in self._layers.items():
                if by_batch:
                    stack.callback(_set, layer, layer.training, layer.track_running_stats)
                    _set(layer, True, False)
                elif any(change is not None for change in changes[name]):
                    add = partial(_add_statistics_derivative, changes[name])
                    stack.callback(layer.register_forward_hook(add).remove)
                elif name in leaves:
                    follow = partial(_follow_statistics, leaves[name])
                    stack.callback(layer.register_forward_hook(follow).remove)
            return module(argument)

    def call_held(self, module: nn.Module, state: Params, alpha: float, batches: Iterable[Batch]) -> list[Any]:
        """`module(batches)` with the values of the policy's statistics but without their derivative.

        Raises `ValueError` where a batch's own statistics cannot be held, as the layer keeps no running ones.
        """
        values = {name: forward_ad.split(tensor)[0] for name, tensor in state.items()}
        if not isinstance(self.policy, BatchStatistics):
            fixed = self.apply(values, alpha)
            held = {name: fixed[name] for name in self._on_path.end_statistics()}
            outputs: list[Any] = self.call(module, state | held, batches)
            return outputs
        untracked = [name for name in self._layers if statistic(name, "mean") not in state]
        if untracked:
            raise ValueError(
                explain(
                    expected="batch-norm layers whose statistics can be held still.",
                    got=f"{untracked[0]!r} with track_running_stats=False.",
                    hint="Its statistics are always those of the batch: they cannot be told apart from "
                    "the weights here.",
                )
            )
        outputs = []
        for batch in batches:
            averages = {name: PooledMoments() for name in self._layers}
            self._gather(values, averages, by_batch=True, batches=[batch])
            outputs += self.call(module, state | _as_statistics(averages, values), [batch], by_batch=False)
        return outputs

    def _recalibrated(self, state: Params, policy: Recalibrate, alpha: float) -> Params:
        if policy.momentum is not None:
            averages = {name: ExponentialMoments(policy.momentum) for name in self._layers}
            for _ in range(policy.passes):
                self._gather(state, averages, by_batch=True)
            return state | _as_statistics(averages, state)
        if self._estimator is not None:
            for layer, moments in self._estimator(state, alpha).items():
                state = state | dict(zip((statistic(layer, "mean"), statistic(layer, "var")), moments, strict=True))
            return state
        alone = None if isinstance(self._batches, Reader) or len(self._batches) > 1 else self._batches[0]
        single = alone is not None and alone.examples != 1  # torch normalises no single row by itself
        if policy.pooled or single:
            pooled = {name: PooledMoments() for name in self._layers}
            self._gather(state, pooled, by_batch=True)
            return state | _as_statistics(pooled, state)
        for layer in self._execution_order(state):
            exact = {layer: PooledMoments()}
            self._gather(state, exact, by_batch=False)
            state = state | _as_statistics(exact, state)
        return state

    def _gather(
        self, state: Params, into: dict[str, Any], by_batch: bool, batches: Iterable[Batch] | None = None
    ) -> None:
        """One pass over the data (those of the policy, unless given) in which the named layers report their inputs.

        With a single layer to watch, the rest of the network behind it is not run.
        """
        alone = not by_batch

        def watch(name: str) -> Any:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                into[name].add(arguments[0])
                if alone:
                    raise _Reached

            return hook

        caller = Caller(self._on_path.model)
        with ExitStack() as stack:
            for name in into:
                stack.callback(self._layers[name].register_forward_pre_hook(watch(name)).remove)
            for batch in self.batches() if batches is None else batches:
                try:
                    self.call(caller, state, batch, by_batch=by_batch)
                except _Reached:
                    continue

    def _execution_order(self, state: Params) -> tuple[str, ...]:
        """Batch-norm layers in the order in which the model calls them, as seen once on the first batch."""
        if self._order:
            return self._order
        called: list[str] = []
        with ExitStack() as stack:
            for name, layer in self._layers.items():

                def note(*_: Any, name: str = name) -> None:
                    called.append(name)

                stack.callback(layer.register_forward_pre_hook(note).remove)
            self.call(Caller(self._on_path.model), state, next(iter(self.batches())), by_batch=False)
        twice = next((name for name in called if called.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                explain(
                    expected="each batch-norm layer called once per forward pass, for exact recalibration.",
                    got=f"{twice!r}, called {called.count(twice)} times.",
                    hint="Recalibrate(data, pooled=True) pools over all its calls.",
                )
            )
        self._order = tuple(called)
        return self._order

    def batches(self) -> Iterable[Batch]:
        """The batches that statistics are estimated from, on the device and in the dtype of the model; none if none."""
        if isinstance(self._batches, Reader):
            return (self._place(batch) for batch in self._batches.batches())
        return self._batches

    def _place(self, batch: Batch) -> Batch:
        return batch.to(self._on_path.device, self._on_path.dtype)


class _Reached(Exception):
    """The watched layer has its input; the rest of the network need not run."""


def _as_statistics(averages: dict[str, Any], state: Params) -> Params:
    statistics: Params = {}
    for layer, average in averages.items():
        if not average.count:
            continue  # never called: nothing to estimate, and nothing depends on it
        for which, value in zip(("mean", "var"), average.result(), strict=True):
            name = statistic(layer, which)
            statistics[name] = value.to(state[name].dtype)
    return statistics


def _set(layer: _BatchNorm, training: bool, track_running_stats: bool) -> None:
    layer.training = training
    layer.track_running_stats = track_running_stats


def _add_statistics_derivative(
    changes: list[Tensor | None], layer: Any, arguments: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    """Add the part of the derivative that comes from moving running statistics; the output's value does not change.

    y = (x − m)·s·w + b with s = (v + eps)^(−½), so dy has −s·w·dm − (x − m)·½·s³·w·dv beside torch's own part.
    """
    mean_change, variance_change = changes
    values, _ = forward_ad.split(arguments[0])
    shape = [1, -1] + [1] * (values.dim() - 2)
    scale = (layer.running_var + layer.eps).rsqrt()
    factor = scale if layer.weight is None else scale * forward_ad.split(layer.weight)[0]
    value, change = forward_ad.split(output)
    change = torch.zeros_like(value) if change is None else change
    if mean_change is not None:
        change = change - (factor * mean_change).view(shape)
    if variance_change is not None:
        centred = values - layer.running_mean.view(shape)
        change = change - centred * (0.5 * factor * scale.square() * variance_change).view(shape)
    return forward_ad.dual(value, change)


class _FollowedStatistics(torch.autograd.Function):
    """The output of a batch-norm layer in evaluation mode as it is, with a gradient for its statistics.

    With the gradient g of the output, that of the mean is −Σ g·s·w, that of the variance −Σ g·(x − m)·½·s³·w.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, inputs: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, eps: float
    ) -> Tensor:
        ctx.save_for_backward(inputs, mean, variance, weight)
        ctx.eps = eps
        ctx.mark_dirty(output)  # no view: an activation may write to it
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inputs, mean, variance, weight = ctx.saved_tensors
        others = [axis for axis in range(inputs.dim()) if axis != 1]
        scale = (variance + ctx.eps).rsqrt()
        factor = scale if weight is None else scale * weight
        along = (gradient * (inputs - mean.view([1, -1] + [1] * (inputs.dim() - 2)))).sum(others)
        return gradient, None, -gradient.sum(others) * factor, -0.5 * along * factor * scale.square(), None, None


def _follow_statistics(leaves: list[Tensor], layer: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Let autograd follow the running statistics that a layer normalised with; the output's value does not change."""
    followed: Tensor = _FollowedStatistics.apply(output, arguments[0], *leaves, layer.weight, layer.eps)  # type: ignore[no-untyped-call]
    return followed
