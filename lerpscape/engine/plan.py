"""How a model is measured: which way, how many examples at a time, in which layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lerpscape.engine.graph import Graph
from lerpscape.engine.step_sizes import Step

# Bytes of the widest layer's output for a batch at work: what stays in a core's own cache.
CACHE_BYTES = 1 << 21
# Bytes that the results shared by all α may take for the examples at work.
READY_BYTES = 1 << 25
MOST_GROUP = 1 << 14
FEWEST_ROWS, MOST_ROWS = 16, 4096
# So many times the bytes of its convolutions' weights must a batch's results have for channels to go last.
WORTH_TURNING = 8

# How batch-norm statistics are estimated: as the module does, or in the graph, from one pass over their data batch by
# batch, over all their data at once, or over the data measured, at once with the losses.
Estimate: TypeAlias = Literal["", "batches", "exact", "whole"]


@dataclass(frozen=True)
class ExecutionPlan:
    """A way to measure, and why.

    `rows` examples are at work at once, images `channels_last` or not; `group` share the results that α does not
    change; `parts` is how many groups a chunk is divided into where the module is called batch by batch. At the α of
    `sweep` the layer behind the first ReLU is kept up from one to the next.
    """

    graph: bool
    why: str
    rows: int = 0
    channels_last: bool = False
    group: int = 0
    estimate: Estimate = ""
    parts: int = 1
    sweep: tuple[float, ...] = ()

    def saves(self, graph: Graph, sizes: list[int]) -> bool:
        """Whether the operations can be faster than the module is on batches of these sizes."""
        rows, typical = min(self.rows, sum(sizes)), sum(sizes) / len(sizes)
        return bool(graph.shared) or self.channels_last or not rows / 4 <= typical <= 2 * rows

    def describe(self) -> str:
        """The way in words."""
        if not self.graph:
            return f"the module batch by batch: {self.why}"
        estimate = {
            "": "",
            "batches": ", pooled statistics in one pass",
            "exact": ", exact statistics in one pass",
            "whole": ", exact statistics and losses in one pass",
        }
        layout = ", channels last" if self.channels_last else ""
        sweep = ", the next one kept up from α to α" if self.sweep else ""
        return f"{self.why}{sweep}{layout}, {self.rows} examples at a time{estimate[self.estimate]}"


@dataclass(frozen=True)
class Sizes:
    """Bytes for each example: of the largest result, of what is held at once, of all results, of what all α share."""

    largest: float
    held: float
    total: float
    shared: float

    @classmethod
    def of(cls, steps: list[Step], shared: float) -> Sizes:
        """The sizes of steps seen with one example."""
        return cls(
            largest=max((step.largest for step in steps), default=0),
            held=max((step.held for step in steps), default=0),
            total=sum(step.made for step in steps),
            shared=shared,
        )


def chosen(graph: Graph, sizes: Sizes, width: int, examples: int, sweep: tuple[float, ...] = ()) -> ExecutionPlan:
    """The traced operations, on batches and in a layout that suit their sizes; never by timing, which would vary.

    `width` is the bytes of a weight, `examples` how many there are.
    """
    # Results stay in the cache, unless weights are the larger part: they pass through it with every batch. (Of those
    # that are multiplied at every α in a sweep, little is left.)
    enough = CACHE_BYTES / max(sizes.largest, 1)
    if not sweep:
        enough = max(enough, 2 * width * graph.weights / max(sizes.total, 1))
    rows = int(np.clip(enough, FEWEST_ROWS, MOST_ROWS))
    # Weights are put in order at every call, which pays where there is much to multiply them with.
    results = sizes.total * min(rows, examples)
    return ExecutionPlan(
        True,
        "first layer shared by all α" if graph.shared else "traced operations",
        rows,
        channels_last=0 < width * graph.convolution_weights <= results / WORTH_TURNING,
        group=int(np.clip(READY_BYTES // max(sizes.shared, 1), rows, MOST_GROUP)),
        sweep=sweep,
    )
