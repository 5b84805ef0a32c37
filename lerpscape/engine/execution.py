"""Ways to measure batches at an α: the module as it is, or its traced operations with what every α shares done once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.graph import NOTHING_CAPTURED, CapturedOutputs, Graph, Moments, Values
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.engine.model_on_path import ModelOnPath, statistic
from lerpscape.networks import forward_ad
from lerpscape.networks.batches import Batch
from lerpscape.networks.channel_moments import PooledMoments, moments
from lerpscape.networks.losses import Loss, values_and_correct
from lerpscape.networks.undisturbed import forward_mode, seed
from lerpscape.paths.checkpoints import Params

Report: TypeAlias = Callable[[int], None]
# One loss per example, and which examples are right where the loss knows.
Part: TypeAlias = tuple[Tensor, Tensor | None]


class ModuleExecution:
    """The module as it is, batch by batch."""

    def __init__(
        self, on_path: ModelOnPath, loss: Loss, statistics: BatchNormStatistics, report: Report, *, derivative: bool
    ) -> None:
        self._on_path = on_path
        self._statistics = statistics
        self._pass = _Pass(on_path.model, loss, report)
        self._derivative = derivative

    def row(
        self, alpha: float, batches: list[Batch], *, only: Collection[str] | None = None, held: bool = False
    ) -> LossesAtAlpha:
        """Measure the batches at α. Random numbers that the model draws are the same at every α.

        With `only`, derivatives are those of the named tensors' movement; with `held`, batch-norm statistics have the
        policy's values but do not move.
        """
        seed(self._on_path.device)
        with tensors_at(self._on_path, alpha, derivative=self._derivative, only=only) as state:
            if held:
                return _row(self._statistics.call_held(self._pass, state, alpha, batches))
            return _row(self._statistics.call(self._pass, self._statistics.apply(state, alpha), batches))


@dataclass(frozen=True)
class PreparedBatch:
    """A batch, with everything that α does not change computed."""

    values: Values
    targets: Tensor
    examples: int


class GraphExecution:
    """A module's operations along a line, on batches of the size that suits the machine.

    With `channels_last`, images and weights of convolutions lie so. With `whole`, exact batch-norm statistics and the
    losses come from one pass over the data: all batches go through the network together, from one batch-norm layer to
    the next. With `alphas`, the layer behind the hinge sweeps over these.
    """

    def __init__(
        self,
        graph: Graph,
        on_path: ModelOnPath,
        loss: Loss,
        statistics: BatchNormStatistics,
        *,
        derivative: bool,
        channels_last: bool,
        whole: bool = False,
        alphas: Floats | None = None,
    ) -> None:
        self.graph = graph
        self.whole = whole
        self._channels_last = channels_last
        self._loss = loss
        self._derivative = derivative
        self._on_path = on_path
        self._statistics = statistics
        self._start, self._end = map(self._laid_out, on_path.ends())
        velocity = on_path.velocity(0.0)
        self._change = {
            name: velocity[name] if name in velocity else torch.zeros_like(tensor)
            for name, tensor in self._start.items()
            if derivative and tensor.is_floating_point()
        }
        self._sweeping = None if alphas is None else (graph.next_layer(self._start, velocity), alphas)
        needed = graph.needed(sweeping=self._sweeping is not None)
        self._moving = [name for name in velocity if name in needed]
        self._still = needed - set(self._moving)

    def gives(self, alpha: float) -> bool:
        """Whether it measures at this α: not beside those that it sweeps over."""
        return self._sweeping is None or alpha in self._sweeping[1]

    def layers(self, alpha: float) -> dict[fx.Node, nn.Module]:
        """Layers whose results at this end every α shares, if the module gives them in the plan's own layout."""
        begun = self._sweeping is not None and alpha == self._sweeping[1][0]
        return {} if self._channels_last else self.graph.layers(linear_relu_linear=begun)

    def ready(self, batch: Batch, seen: CapturedOutputs = NOTHING_CAPTURED) -> PreparedBatch:
        """Compute what every α shares, but for what was `seen` of it in the module at both ends."""
        inputs = batch.inputs
        if self._channels_last and isinstance(inputs, Tensor) and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        change = self._change if self._derivative else None
        values = self.graph.ready(inputs, self._start, self._end, change, self._sweeping, seen)
        return PreparedBatch(values, batch.targets, len(batch.targets))

    def row(self, alpha: float, ready: list[PreparedBatch]) -> LossesAtAlpha:
        """Measure the batches at α."""
        with self._tensors(alpha) as state:
            outputs: Iterable[Any]
            if self.whole:
                outputs = pooled(self.graph, ready, state, alpha)[1]
            else:
                outputs = (self.graph.outputs(each.values, state, alpha) for each in ready)
            found = zip(ready, outputs, strict=True)
            return _row(
                [self._kept(values_and_correct(self._loss, out, each.targets, each.examples)) for each, out in found]
            )

    def _kept(self, part: Part) -> Part:
        """The numbers of a batch in memory of their own: a loss may give a part of the network's output as it is."""
        values, right = (each.clone() if each is not None and self.graph.buffers.hold(each) else each for each in part)
        assert values is not None
        return values, right

    def _laid_out(self, tensors: Params) -> Params:
        """Weights of convolutions with channels last, as their inputs are: it saves turning them at every call."""
        if not self._channels_last:
            return tensors
        last = torch.channels_last
        return {k: each.contiguous(memory_format=last) if each.dim() == 4 else each for k, each in tensors.items()}

    @contextmanager
    def _tensors(self, alpha: float) -> Iterator[Params]:
        """The tensors that the operations need at α, those of `Line.at`; no others where there is no batch norm."""
        if self._on_path.batch_norms:
            with tensors_at(self._on_path, alpha, derivative=self._derivative) as state:
                state = self._laid_out(state)
                yield state if self.whole else self._statistics.apply(state, alpha)
            return
        nearer = self._start if alpha < 0.5 else self._end
        state = {name: nearer[name] for name in self._still}
        state |= {name: torch.lerp(self._start[name], self._end[name], alpha) for name in self._moving}
        if not self._derivative:
            yield state
            return
        with forward_mode(self._on_path.model), forward_ad.level():
            yield state | {name: forward_ad.dual(state[name], self._change[name]) for name in self._moving}


def pooled(
    graph: Graph, ready: list[PreparedBatch], state: Params, alpha: float
) -> tuple[dict[str, Moments], list[Any]]:
    """Exact statistics of all batches together, and the outputs, from one pass: all wait at each batch-norm layer."""
    runs = [graph.run(each.values, state, alpha, estimate=True) for each in ready]
    statistics: dict[str, Moments] = {}
    outputs: list[Any] = []
    sent: Moments | None = None
    while not outputs:
        gathered, layer = PooledMoments(), ""
        for run in runs:
            try:
                layer, inputs = next(run) if sent is None else run.send(sent)
            except StopIteration as end:
                outputs.append(end.value)
            else:
                gathered.add(inputs)
                del inputs
        if not outputs:
            kind = state[statistic(layer, "mean")].dtype
            mean, variance = (each.to(kind) for each in gathered.result())
            sent = statistics[layer] = mean, variance
    return statistics, outputs


def pooled_by_batch(graph: Graph, ready: list[PreparedBatch], state: Params, alpha: float) -> dict[str, Moments]:
    """Statistics pooled over batches; on its way each batch is normalised by its own, as in training."""
    gathered: dict[str, PooledMoments] = {}
    for each in ready:
        run = graph.run(each.values, state, alpha, estimate=True)
        sent: Moments | None = None
        for _ in range(graph.batch_norms):
            layer, inputs = next(run) if sent is None else run.send(sent)
            variance, mean = moments(inputs)
            gathered.setdefault(layer, PooledMoments()).merge(inputs.numel() // inputs.shape[1], variance, mean)
            sent = mean.to(inputs.dtype), variance.to(inputs.dtype)
            del inputs
        run.close()  # nothing behind the last layer is needed
    kinds = {layer: state[statistic(layer, "mean")].dtype for layer in gathered}
    results = {layer: each.result() for layer, each in gathered.items()}
    return {layer: (mean.to(kinds[layer]), variance.to(kinds[layer])) for layer, (mean, variance) in results.items()}


@contextmanager
def tensors_at(
    on_path: ModelOnPath, alpha: float, *, derivative: bool, only: Collection[str] | None = None
) -> Iterator[Params]:
    """The model's tensors at α, as dual numbers that move with the path where derivatives are wanted.

    With `only`, the named ones alone move.
    """
    state = on_path.as_trained(on_path.at(alpha))
    if not derivative:
        yield state
        return
    with forward_mode(on_path.model), forward_ad.level():
        for name, velocity in on_path.velocity(alpha).items():
            if only is None or name in only:
                state[name] = forward_ad.dual(state[name], velocity)
        yield state


class _Pass(nn.Module):
    """One pass of a model and its loss over batches, as a module, so that `functional_call` sets its tensors once."""

    def __init__(self, model: nn.Module, loss: Loss, report: Report) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.report = report

    def forward(self, batches: list[Batch]) -> list[Part]:
        found = []
        for batch in batches:
            found.append(values_and_correct(self.loss, batch.call(self.model), batch.targets, batch.examples))
            self.report(1)
        return found


def _row(parts: list[Part]) -> LossesAtAlpha:
    losses, slopes = forward_ad.split(torch.cat([values for values, _ in parts]))
    right = [correct for _, correct in parts if correct is not None]
    return LossesAtAlpha(
        losses.detach(),
        None if slopes is None else slopes.detach(),
        torch.cat(right).double().sum() if right else None,
    )
