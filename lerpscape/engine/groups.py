"""Batches that every α passes over before the next, and what these α share.

The plain module measures both ends. What its first layers give on the way is what all other α share, so it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from lerpscape.engine.execution import GraphExecution, ModuleExecution, PreparedBatch
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.networks import forward_ad
from lerpscape.networks.batches import Batch
from lerpscape.networks.rebatching import count_examples, rebatched

# What layers gave for a batch: values, and derivatives where there are any.
Outputs: TypeAlias = tuple[dict[fx.Node, Tensor], dict[fx.Node, Tensor]]


class Group:
    """The caller's batches, their share of progress, and the plan's batches where there is a plan.

    With `both_ends`, both ends are among the α that pass over it: what is computed there serves the others.
    """

    def __init__(
        self,
        batches: list[Batch],
        progress: float,
        module: ModuleExecution,
        plan: GraphExecution | None = None,
        rows: int = 0,
        *,
        both_ends: bool = False,
    ) -> None:
        self.batches = batches
        self.progress = progress
        self._module = module
        self._plan = plan
        self._rows = rows
        self._both_ends = both_ends
        self._ends: dict[float, tuple[LossesAtAlpha, list[Outputs]]] = {}

    def plain(self, alpha: float) -> LossesAtAlpha:
        """The batches measured by the module."""
        if self._both_ends and alpha in (0.0, 1.0):
            return self._end(alpha)[0]
        return self._module.row(alpha, self.batches)

    @cached_property
    def ready(self) -> list[PreparedBatch]:
        """The batches for the plan, as equal as can be, with what all α share; computed when first asked for."""
        assert self._plan is not None
        examples = count_examples(self.batches)
        rows = -(-examples // -(-examples // self._rows)) if examples else self._rows
        found = []
        for piece in rebatched(self._with_ends(), rows):
            inputs, start, end, change = piece.inputs
            # A dual number made of a view has a derivative as large as all that it is a view of.
            seen = start, end, {layer: each.clone() for layer, each in change.items()}
            found.append(self._plan.ready(Batch(inputs, piece.targets, piece.examples), seen))
        return found

    def _with_ends(self) -> Iterator[Batch]:
        """The batches, each with what was seen of it at both ends; nothing else keeps that."""
        nothing: Outputs = {}, {}
        start, end = (self._end(alpha)[1] if self._both_ends else [nothing] * len(self.batches) for alpha in (0.0, 1.0))
        for batch in self.batches:
            values, change = start.pop(0)
            yield Batch((batch.inputs, values, end.pop(0)[0], change), batch.targets, batch.examples)

    def _end(self, alpha: float) -> tuple[LossesAtAlpha, list[Outputs]]:
        """An end, measured by the module and watched while it is."""
        if alpha not in self._ends:
            assert self._plan is not None
            with outputs(self._plan.layers(alpha), len(self.batches)) as seen:
                row = self._module.row(alpha, self.batches)
            self._ends[alpha] = row, seen
        return self._ends[alpha]


@contextmanager
def outputs(layers: Mapping[fx.Node, nn.Module], batches: int) -> Iterator[list[Outputs]]:
    """What layers give while inside, for each of so many batches; known at the end.

    Without layers that are not called once for each batch, and those whose results are written over.
    """
    calls: dict[fx.Node, list[tuple[Tensor, Tensor | None, int]]] = {node: [] for node in layers}
    found: list[Outputs] = []
    with ExitStack() as stack:
        for node, layer in layers.items():

            def keep(_layer: nn.Module, _inputs: Any, output: Tensor, node: fx.Node = node) -> None:
                value, change = forward_ad.split(output)
                calls[node].append((value.detach(), None if change is None else change.detach(), output._version))

            stack.callback(layer.register_forward_hook(keep).remove)
        yield found
    kept = [
        node
        for node, each in calls.items()
        if len(each) == batches and all(value._version == version for value, _, version in each)
    ]
    for index in range(batches):
        seen = {node: calls[node][index] for node in kept}
        changes = {node: change for node, (_, change, _) in seen.items() if change is not None}
        found.append(({node: value for node, (value, _, _) in seen.items()}, changes))
