"""Two ways to compute the losses of batches at an α: by the module as it is, or by the graph of its operations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn

from lerpscape.base.errors import CallFailed, explain
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.comparison import difference
from lerpscape.engine.graph import NOTHING_CAPTURED, CapturedOutputs, Graph, Moments, Values
from lerpscape.engine.loss_pass import LossPass
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, joined_weights
from lerpscape.engine.model_on_path import ModelOnPath, statistic
from lerpscape.engine.moving_tensors import Mode, leaves_at, tensors_at
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.networks import forward_ad
from lerpscape.networks.batches import Batch
from lerpscape.networks.channel_moments import PooledMoments, moments
from lerpscape.networks.foreign_calls import located, needs_gradients, place_of
from lerpscape.networks.losses import LOSSES, ExampleLosses, Loss, evaluated, on_targets
from lerpscape.networks.metrics import Metric, sums_of
from lerpscape.networks.nested import cloned
from lerpscape.networks.rebatching import count_examples, equal_sizes, rebatched
from lerpscape.networks.undisturbed import forward_mode, seed
from lerpscape.paths.checkpoints import Params

# Called with the number of batches that are done at one α.
Tell: TypeAlias = Callable[[int], object]
# The same batch alone and after others may differ by so many rounding units of the type.
ROUNDING_UNITS = 64


@dataclass(frozen=True)
class Objective:
    """What is evaluated at every α: the loss of a model on a path, dℓ/dα in the `derivative` mode, if any; metrics."""

    on_path: ModelOnPath
    loss: Loss
    statistics: BatchNormStatistics
    derivative: Mode | None = None
    metrics: tuple[Metric, ...] = ()

    def place(self, batch: Batch) -> Batch:
        """The batch on the device and in the dtype of the measurement."""
        return batch.to(self.on_path.device, self.on_path.dtype)

    def without_derivative(self) -> Objective:
        """The same objective, losses only."""
        return replace(self, derivative=None, metrics=())

    def recalibrated_on(self, batches: list[Batch]) -> Objective:
        """The same objective, with batch-norm statistics estimated from these batches where any are estimated."""
        return replace(self, statistics=self.statistics.on([(batch.inputs, batch.targets) for batch in batches]))


class ModuleExecution:
    """The module as it is, batch by batch.

    A backward pass gives the derivative of each batch's mean, which then stands for those of its examples; with
    `parts`, a batch is divided among so many passes, and there is one derivative for each of its parts.
    """

    def __init__(self, objective: Objective, parts: int | None = None) -> None:
        self._objective = objective
        self._parts = parts
        self._pass = LossPass(objective.on_path.model, objective.loss, objective.metrics)
        self._compared = False  # whether a model that changes when it is called was called in another order

    @property
    def with_gradients(self) -> bool:
        """Whether the model was found to differentiate itself, which needs autograd."""
        return self._pass.gradients

    def at(
        self,
        alpha: float,
        batches: Iterable[Batch],
        *,
        only: Collection[str] | None = None,
        held: bool = False,
        tell: Tell | None = None,
    ) -> LossesAtAlpha:
        """The losses of all batches at α. Random numbers that the model draws are the same at every α.

        In forward mode: with `only`, derivatives are those of the named tensors' movement; if `held`, batch-norm
        statistics have the policy's values but do not move. A network that differentiates itself is run again with
        gradients.

        Raises `CallFailed` for what the model or the loss raises.
        """
        on_path, statistics = self._objective.on_path, self._objective.statistics

        def measured(some: Iterable[Batch]) -> list[LossesAtAlpha]:
            if self._objective.derivative == "backward":
                return self._through(alpha, some)[0]
            with tensors_at(on_path, alpha, derivative=self._objective.derivative is not None, only=only) as state:
                if held:
                    parts = statistics.call_held(self._pass, state, alpha, some)
                else:
                    parts = statistics.call(self._pass, statistics.apply(state, alpha), some)
                return [joined(parts), joined(parts[-1:])]  # derivatives end with the context

        return self._in_order(alpha, batches, measured, tell)

    def products(
        self, alpha: float, batches: Iterable[Batch], tell: Tell | None = None
    ) -> tuple[LossesAtAlpha, dict[str, Tensor]]:
        """The losses of all batches at α, and ⟨∂ Σ wℓ / ∂θ, dθ/dα⟩ of each tensor that moves, by backward passes."""
        products: dict[str, Tensor] = {}

        def measured(some: Iterable[Batch]) -> list[LossesAtAlpha]:
            losses, of_these = self._through(alpha, some)
            if not products:  # not of a batch that is called again
                products.update(of_these)
            return losses

        return self._in_order(alpha, batches, measured, tell), products

    def _through(self, alpha: float, batches: Iterable[Batch]) -> tuple[list[LossesAtAlpha], dict[str, Tensor]]:
        """The losses of all batches and those of the last one, and the products of the backward passes."""
        statistics = self._objective.statistics
        with leaves_at(self._objective.on_path, statistics, alpha, self._parts) as (state, backward):
            self._pass.backward = backward
            try:
                parts = statistics.call(self._pass, state, batches)
            finally:
                self._pass.backward = None
        return [joined(parts, backward.slopes), joined(parts[-1:])], backward.products

    def _in_order(
        self,
        alpha: float,
        batches: Iterable[Batch],
        measured: Callable[[Iterable[Batch]], list[LossesAtAlpha]],
        tell: Tell | None,
    ) -> LossesAtAlpha:
        """The losses of all batches; those of the last one must be the same when it is called alone."""
        batches = list(batches)

        def losses_of(some: Iterable[Batch]) -> list[LossesAtAlpha]:
            seed(self._objective.on_path.device)
            self._pass.alpha = alpha
            return measured(some)

        try:
            losses, last = losses_of(batches if tell is None else _told(batches, tell))
        except CallFailed as error:
            if self._pass.gradients or not needs_gradients(error):
                raise
            self._pass.gradients = True
            losses, last = losses_of(batches if tell is None else _told(batches, tell))
        changed = self._objective.on_path.lender.changed
        if changed and len(batches) > 1 and not self._compared:
            self._compared = True
            _check_order(last.losses, losses_of(batches[-1:])[1].losses, changed)
        return losses

    def at_statistics(self, alpha: float, batches: Iterable[Batch], running: Params) -> LossesAtAlpha:
        """The losses of all batches at α, without derivatives, where batch norm normalises with `running`."""
        on_path = self._objective.on_path
        seed(on_path.device)
        self._pass.alpha = alpha
        with tensors_at(on_path, alpha, derivative=False) as state:
            return joined(self._objective.statistics.call(self._pass, state | running, batches))


@dataclass(frozen=True)
class PreparedBatch:
    """A batch, with everything computed that α does not change."""

    values: Values
    targets: Tensor
    examples: int
    loss: Loss


class GraphExecution:
    """The traced operations on batches of the plan's size, what all α share computed once."""

    def __init__(self, objective: Objective, graph: Graph, plan: ExecutionPlan) -> None:
        on_path, derivative = objective.on_path, objective.derivative
        self.plan = plan
        self._graph = graph
        self._objective = objective
        self._start, self._end = map(self._in_layout, on_path.ends())
        velocity = on_path.velocity(0.0)
        self._change = {
            name: velocity[name] if name in velocity else torch.zeros_like(tensor)
            for name, tensor in self._start.items()
            if derivative is not None and tensor.is_floating_point()
        }
        swept = bool(plan.sweep_alphas)
        self._sweep = (graph.next_layer(self._start, velocity), np.array(plan.sweep_alphas)) if swept else None
        needed = graph.needed(sweeping=swept)
        self._moving = [name for name in velocity if name in needed]
        self._still = needed - set(self._moving)
        self._statistics = self._with_estimator(objective.statistics)

    def covers(self, alpha: float) -> bool:
        """Whether the plan can evaluate this α: a sweep gives those of its grid only."""
        return not self.plan.sweep_alphas or alpha in self.plan.sweep_alphas

    def difference(self, losses: LossesAtAlpha, expected: LossesAtAlpha) -> str | None:
        """How the graph's losses differ from the module's by more than the plan's rounding, in words; else None."""
        if self.plan.rounding is None:
            return None
        return difference(losses, expected, self.plan.rounding, self.plan.scale)

    def layers_to_capture(self, alpha: float) -> dict[fx.Node, nn.Module]:
        """Layers whose outputs at this end all α share, if the module computes them in the plan's own layout."""
        swept = alpha in self.plan.sweep_alphas[:1]
        return {} if self.plan.channels_last else self._graph.layers(swept=swept)

    def prepare(
        self, batch: Batch, at_start: CapturedOutputs = NOTHING_CAPTURED, at_end: CapturedOutputs = NOTHING_CAPTURED
    ) -> PreparedBatch:
        """Compute what all α share, except for the outputs that were captured at the ends."""
        batch = batch.cloned()  # operations may write to it
        inputs = batch.inputs
        if self.plan.channels_last and isinstance(inputs, Tensor) and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        change = self._change if self._objective.derivative else None
        values = self._graph.prepare(inputs, self._start, self._end, change, self._sweep, at_start, at_end)
        loss = on_targets(self._objective.loss, batch.targets)
        return PreparedBatch(values, batch.targets, len(batch.targets), loss)

    def at(self, alpha: float, batches: list[PreparedBatch]) -> LossesAtAlpha:
        """The losses of all batches at α."""
        return self.with_statistics(alpha, batches)[0]

    def with_statistics(self, alpha: float, batches: list[PreparedBatch]) -> tuple[LossesAtAlpha, Params]:
        """The losses of all batches at α, and the values of the batch-norm statistics that they were computed with."""
        with self._tensors(alpha) as state:
            outputs: Iterable[Any]
            moments: dict[str, Moments] = {}
            if self.plan.estimation == "exact with losses":
                moments, outputs = exact_statistics(self._graph, batches, state, alpha)
            else:
                outputs = (self._graph.outputs(batch.values, state, alpha) for batch in batches)
            with located("the loss", place_of(None, alpha)):
                losses = joined([self._losses(*each, alpha) for each in zip(outputs, batches, strict=True)])
            used = {name: state[name] for name in self._objective.on_path.running_statistics() if name in state}
            for layer, values in moments.items():
                used |= dict(zip((statistic(layer, "mean"), statistic(layer, "var")), values, strict=True))
            return losses, {name: forward_ad.split(value)[0] for name, value in used.items()}

    def _losses(self, output: Any, batch: PreparedBatch, alpha: float) -> ExampleLosses:
        """The losses in memory of their own: a loss may return a view of the output, which is written over."""
        known = self._objective.loss in LOSSES.values()
        targets = batch.targets if known else cloned(batch.targets)  # another loss may write to them
        metrics = sums_of(self._objective.metrics, output, targets, batch.examples, place_of(None, alpha))
        losses, right, weights, _ = evaluated(batch.loss, output, targets, batch.examples)
        hold = self._graph.buffers.hold
        own = losses.clone() if hold(losses) else losses
        return ExampleLosses(own, right.clone() if right is not None and hold(right) else right, weights, metrics)

    def _with_estimator(self, statistics: BatchNormStatistics) -> BatchNormStatistics:
        """The statistics, estimated by the graph where the plan says so."""
        graph, data = self._graph, statistics.held_data() or []
        if self.plan.estimation == "exact":
            sizes = equal_sizes(count_examples(data), self.plan.batch_size)
            prepared = [self.prepare(batch) for batch in rebatched(data, sizes)]
            return statistics.estimating_with(lambda state, alpha: exact_statistics(graph, prepared, state, alpha)[0])
        if self.plan.estimation == "pooled":
            prepared = [self.prepare(batch) for batch in data]
            return statistics.estimating_with(lambda state, alpha: pooled_statistics(graph, prepared, state, alpha))
        return statistics

    def _in_layout(self, tensors: Params) -> Params:
        """Weights of convolutions with channels last, as their inputs are, so that no call has to turn them."""
        if not self.plan.channels_last:
            return tensors
        last = torch.channels_last
        return {k: each.contiguous(memory_format=last) if each.dim() == 4 else each for k, each in tensors.items()}

    @contextmanager
    def _tensors(self, alpha: float) -> Iterator[Params]:
        """The tensors that the operations need at α, those of `Line.at`; only these where there is no batch norm."""
        on_path, derivative = self._objective.on_path, self._objective.derivative
        if on_path.batch_norms:
            with tensors_at(on_path, alpha, derivative=derivative is not None) as state:
                state = self._in_layout(state)
                together = self.plan.estimation == "exact with losses"
                yield state if together else self._statistics.apply(state, alpha)
            return
        nearer = self._start if alpha < 0.5 else self._end
        state = {name: nearer[name] for name in self._still}
        state |= {name: torch.lerp(self._start[name], self._end[name], alpha) for name in self._moving}
        if not derivative:
            yield state
            return
        with forward_mode(on_path.model), forward_ad.level():
            yield state | {name: forward_ad.dual(state[name], self._change[name]) for name in self._moving}


def exact_statistics(
    graph: Graph, batches: list[PreparedBatch], state: Params, alpha: float
) -> tuple[dict[str, Moments], list[Any]]:
    """Batch-norm statistics of all batches as one, and the outputs: all batches wait at each batch-norm layer."""
    runs = [graph.run(batch.values, state, alpha, estimate=True) for batch in batches]
    statistics: dict[str, Moments] = {}
    outputs: list[Any] = []
    sent: Moments | None = None
    while not outputs:
        average, layer = PooledMoments(), ""
        for run in runs:
            try:
                layer, inputs = next(run) if sent is None else run.send(sent)
            except StopIteration as end:
                outputs.append(end.value)
            else:
                average.add(inputs)
                del inputs
        if not outputs:
            dtype = state[statistic(layer, "mean")].dtype
            mean, variance = (moment.to(dtype) for moment in average.result())
            sent = statistics[layer] = mean, variance
    return statistics, outputs


def pooled_statistics(graph: Graph, batches: list[PreparedBatch], state: Params, alpha: float) -> dict[str, Moments]:
    """Batch-norm statistics pooled over batches, each of which is normalised by its own, as in training."""
    averages: dict[str, PooledMoments] = {}
    for batch in batches:
        run = graph.run(batch.values, state, alpha, estimate=True)
        sent: Moments | None = None
        for _ in range(graph.batch_norms):
            layer, inputs = next(run) if sent is None else run.send(sent)
            variance, mean = moments(inputs)
            averages.setdefault(layer, PooledMoments()).merge(inputs.numel() // inputs.shape[1], variance, mean)
            sent = mean.to(inputs.dtype), variance.to(inputs.dtype)
            del inputs
        run.close()  # nothing behind the last batch-norm layer is needed
    statistics: dict[str, Moments] = {}
    for layer, average in averages.items():
        dtype = state[statistic(layer, "mean")].dtype
        mean, variance = (moment.to(dtype) for moment in average.result())
        statistics[layer] = mean, variance
    return statistics


def _told(batches: Iterable[Batch], tell: Tell) -> Iterator[Batch]:
    """The batches; tells of each when the next one is asked for."""
    for batch in batches:
        yield batch
        tell(1)


def _check_order(losses: Tensor, alone: Tensor, changed: str) -> None:
    """Raise `ValueError` where the losses of a batch are others when the module is called on that batch alone."""
    close = ROUNDING_UNITS * torch.finfo(losses.dtype).eps
    if not torch.allclose(losses, alone, rtol=close, atol=close, equal_nan=True):
        raise ValueError(
            explain(
                expected="a model whose loss on a batch does not depend on the batches before it.",
                got=f"losses that differ by up to {float((losses - alone).abs().max()):.3g} when the last batch comes "
                f"alone; a forward changes {changed}.",
                hint="Let forward() keep nothing that it reads again, or initialise the model on data first.",
            )
        )


def joined(parts: list[ExampleLosses], by_backward: list[Tensor] | None = None) -> LossesAtAlpha:
    """The losses of the examples of several batches at one α, apart from what autograd recorded."""
    losses, slopes = forward_ad.split(torch.cat([each.values for each in parts]))
    slopes = torch.cat(by_backward) if by_backward else slopes
    right = [
        (each.correct if each.weights is None else each.correct * each.weights).double()
        for each in parts
        if each.correct is not None
    ]
    metrics = [each.metrics for each in parts if each.metrics is not None]
    return LossesAtAlpha(
        losses.detach(),
        None if slopes is None else slopes.detach(),
        torch.cat(right).sum() if right else None,
        joined_weights([(each.weights, forward_ad.split(each.values)[0]) for each in parts]),
        torch.stack(metrics).sum(0) if metrics else None,
    )
