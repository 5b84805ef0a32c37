"""Groups of batches that every α passes over before the next group, and what these α share.

Both ends are computed by the plain module. The outputs of its first layers are captured there, as all other α share
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.comparison import DIFFERS, OperationsDiffer
from lerpscape.engine.execution import GraphExecution, ModuleExecution, PreparedBatch
from lerpscape.engine.graph import CapturedOutputs
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.networks import forward_ad
from lerpscape.networks.batches import Batch
from lerpscape.networks.rebatching import count_examples, equal_sizes, rebatched

# With fewer α in one pass over the data, computing the first layer at both ends costs more than computing it at each α.
FEWEST_TOGETHER = 3
ENDS = 0.0, 1.0

# Called with how many of the caller's batches are done at one α, parts of one included.
TellShare: TypeAlias = Callable[[float], object]


class Group:
    """Some batches of the data, evaluated at one α after the other.

    `share` is how many of the caller's batches it makes up. `alphas` are those of this pass over the data; they decide
    what is worth sharing. With `estimates`, batch-norm statistics are estimated anew at every α: the ends are then not
    the networks that were saved, and need not be computed by the module.

    At the α in `compared`, the graph's losses of all examples are compared with the module's, as a few examples cannot
    tell whether the two are the same function. Raises `OperationsDiffer` where they are not.
    """

    def __init__(
        self,
        batches: list[Batch],
        share: float,
        alphas: Floats,
        module: ModuleExecution,
        graph: GraphExecution | None,
        *,
        estimates: bool,
        compared: Collection[float] = (),
    ) -> None:
        self.batches = batches
        self.share = share
        self._module = module
        self._graph = graph
        self._estimates = estimates
        self._compared = compared
        self._both_ends = set(ENDS) <= set(alphas.tolist()) and not estimates
        self._shares = graph is not None and (len(alphas) >= FEWEST_TOGETHER or graph.plan.channels_last)
        self._ends: dict[float, LossesAtAlpha] = {}
        self._captured: dict[float, list[CapturedOutputs]] = {}

    def at(self, alpha: float, tell: TellShare | None = None) -> LossesAtAlpha:
        """The losses of the group at α; tells of the batches that are done."""
        graph = self._graph
        if graph is None:
            return self._module.at(alpha, self.batches, tell=tell)
        by_graph = self._estimates or (alpha not in ENDS and self._shares and graph.covers(alpha))
        if alpha in self._compared and (self._estimates or (self._shares and graph.covers(alpha))):
            losses = self._compare(graph, alpha)
        elif by_graph:
            losses = graph.at(alpha, self.prepared)
        else:
            losses = self._by_module(alpha)
        if tell is not None:
            tell(self.share)
        return losses

    def _compare(self, graph: GraphExecution, alpha: float) -> LossesAtAlpha:
        """The losses at α by the module, and by the graph where statistics are estimated; both are computed."""
        losses, running = graph.with_statistics(alpha, self.prepared)
        if self._estimates:
            expected = self._module.at_statistics(alpha, self.batches, running)
            differs = graph.difference(replace(losses, slopes=None), expected)
        else:
            expected = self._by_module(alpha)
            differs = graph.difference(losses, expected)
        if differs is not None:
            raise OperationsDiffer(
                f"{DIFFERS} ({differs}, of {count_examples(self.batches)} examples at α = {alpha:g})"
            )
        return losses if self._estimates else expected

    def _by_module(self, alpha: float) -> LossesAtAlpha:
        return self._end(alpha) if self._both_ends and alpha in ENDS else self._module.at(alpha, self.batches)

    @cached_property
    def prepared(self) -> list[PreparedBatch]:
        """Batches for the graph, of sizes as equal as can be, with what all α share; computed at the first use."""
        assert self._graph is not None
        sizes = equal_sizes(count_examples(self.batches), self._graph.plan.batch_size)
        prepared = []
        for batch in rebatched(self._with_captured(), sizes):
            inputs, start, end, derivatives = batch.inputs
            # A dual number made of a view has a derivative as large as the whole that it is a view of.
            at_start = CapturedOutputs(start, {layer: each.clone() for layer, each in derivatives.items()})
            own = Batch(inputs, batch.targets, batch.examples)
            prepared.append(self._graph.prepare(own, at_start, CapturedOutputs(end)))
        return prepared

    def _with_captured(self) -> Iterator[Batch]:
        """The batches, with the outputs captured at both ends beside their inputs, to be divided together with them."""
        if self._both_ends:
            for alpha in ENDS:
                self._end(alpha)
        nothing = [CapturedOutputs()] * len(self.batches)
        start, end = (self._captured.pop(alpha, nothing)[::-1] for alpha in ENDS)
        for batch in self.batches:
            at_start, at_end = start.pop(), end.pop()  # nothing else holds them, so memory is freed on the way
            inputs = batch.inputs, at_start.values, at_end.values, at_start.derivatives
            yield Batch(inputs, batch.targets, batch.examples)

    def _end(self, alpha: float) -> LossesAtAlpha:
        """An end, computed by the module; captures there the outputs of the layers whose results all α share."""
        if alpha not in self._ends:
            assert self._graph is not None
            with capture(self._graph.layers_to_capture(alpha), len(self.batches)) as captured:
                self._ends[alpha] = self._module.at(alpha, self.batches)
            self._captured[alpha] = captured
        return self._ends[alpha]


@contextmanager
def capture(layers: Mapping[fx.Node, nn.Module], batches: int) -> Iterator[list[CapturedOutputs]]:
    """Capture the outputs of layers for each of so many batches; the list is filled when the context ends.

    Skips layers that are not called exactly once per batch, or whose output is modified in place.
    """
    calls: dict[fx.Node, list[tuple[Tensor, Tensor | None, int]]] = {node: [] for node in layers}
    captured: list[CapturedOutputs] = []
    with ExitStack() as stack:
        for node, layer in layers.items():

            def keep(_layer: nn.Module, _inputs: Any, output: Tensor, node: fx.Node = node) -> None:
                value, change = forward_ad.split(output)
                calls[node].append((value.detach(), None if change is None else change.detach(), output._version))

            stack.callback(layer.register_forward_hook(keep).remove)
        yield captured
    intact = {
        node: outputs
        for node, outputs in calls.items()
        if len(outputs) == batches and all(value._version == version for value, _, version in outputs)
    }
    for index in range(batches):
        outputs = {node: each[index] for node, each in intact.items()}
        derivatives = {node: change for node, (_, change, _) in outputs.items() if change is not None}
        captured.append(CapturedOutputs({node: value for node, (value, _, _) in outputs.items()}, derivatives))
