"""Which way a model is measured: found by looking at its operations, and checked against the plain way.

The two ends are always measured by the plain module on the caller's own batches, so that they are the two checkpoints'
own losses; so is everything whose operations are not known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.adaptive import pilot_size
from lerpscape.engine.agreement import difference
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.compiling import installed
from lerpscape.engine.execution import (
    GraphExecution,
    ModuleExecution,
    PreparedBatch,
    Report,
    pooled,
    pooled_by_batch,
    tensors_at,
)
from lerpscape.engine.first_layers import EndpointOutputs
from lerpscape.engine.graph import Graph, traced
from lerpscape.engine.groups import Group
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.plan import Estimate, ExecutionPlan, Sizes, chosen
from lerpscape.engine.relu_sweep import ReLUSweep, may_sweep
from lerpscape.networks.batches import Batch, Reader
from lerpscape.networks.losses import Loss
from lerpscape.networks.rebatching import count_examples, evenly_spaced, first_examples, grouped, rebatched, same_layout
from lerpscape.paths.line import Line

# Points between the ends from which sharing work between them pays; with fewer it does from so many products saved,
# which take as long as it does to trace the model and to try its operations.
FEWEST_POINTS = 6
WORTH_TRACING = 1_000_000_000
# So many α must go over the data together for the first layer's results at both ends to cost less than at each α.
FEWEST_TOGETHER = 3
# The graph is compared with the module on so many examples at this α.
PROBE_ROWS = 16
PROBE_ALPHA = 0.37


class Evaluator:
    """A model ready to be measured at any α of a path: per-example losses, derivatives and right predictions.

    With `derivative`, the first batch decides whether the model and the loss have one; `reason` says why not.
    """

    def __init__(
        self,
        on_path: ModelOnPath,
        loss: Loss,
        statistics: BatchNormStatistics,
        report: Report,
        *,
        derivative: bool,
        probe: Batch,
        workers: int | str = 1,
    ) -> None:
        self.on_path = on_path
        self.statistics = statistics
        self.loss = loss
        self.derivative = derivative
        self.reason: str | None = None if derivative else "not asked for"
        self.choice = ExecutionPlan(False, "nothing chosen yet")
        self.workers = workers
        self.asked: Floats = np.empty(0)  # the α that pass over the data before it is read again
        self._report = report
        self._owed = 0.0
        if derivative:
            self.reason = self._why_no_derivative(self.place(probe))
            self.derivative = self.reason is None
        self._quiet = self._module_plan(lambda _: None)
        self._plain = self._module_plan(report)
        self._graph: GraphExecution | None = None

    def place(self, batch: Batch) -> Batch:
        """The batch on the device and in the dtype of the measurement."""
        return batch.to(self.on_path.device, self.on_path.dtype)

    def choose(self, alphas: Floats, chunk: list[Batch], complete: bool, known: str | None = None) -> str:
        """Choose the way for these α and data, or take the one that an earlier call has chosen; in words to keep."""
        self.asked = alphas
        graph = self._known_graph(None if known else alphas, chunk)
        if known is not None:
            self.choice = ExecutionPlan(**json.loads(known))
        elif isinstance(graph, str):
            self.choice = ExecutionPlan(False, graph)
        else:
            placed = [self.place(batch) for batch in chunk]
            self.choice = self._planned(graph, placed, complete, alphas)
        if known is None:
            self.choice = replace(self.choice, parts=self.workers if isinstance(self.workers, int) else 1)
        if self.choice.graph and isinstance(graph, Graph):
            self._graph = self._graph_plan(graph, self.statistics, self.choice)
        return self.plan

    @property
    def plan(self) -> str:
        """The way that was chosen, to be kept and taken up again by `choose`."""
        return json.dumps(asdict(self.choice))

    def groups(self, chunk: list[Batch]) -> Iterator[Group]:
        """The batches of a chunk as they are measured together."""
        placed = [self.place(batch) for batch in chunk]
        if self._graph is None:
            size = -(-len(placed) // self.choice.parts)
            for first in range(0, len(placed), size):
                part = placed[first : first + size]
                yield Group(part, len(part), self._plain)  # which tells of every batch
            return
        rows = count_examples(placed) if self.choice.estimate == "whole" else self.choice.group
        for pieces, progress in grouped(placed, rows):
            yield Group(pieces, progress, self._quiet, self._graph, self.choice.rows, both_ends=self._both_ends())

    def at(self, alpha: float, group: Group) -> LossesAtAlpha:
        """Measure a group at α."""
        if self._graph is None:
            return group.plain(alpha)
        # With statistics estimated anew, the ends are not the networks that were saved.
        plain = alpha in (0.0, 1.0) or (len(self.asked) < FEWEST_TOGETHER and not self.choice.channels_last)
        by_module = (plain or not self._graph.gives(alpha)) and not self.statistics.estimates()
        row = group.plain(alpha) if by_module else self._graph.row(alpha, group.ready)
        self.done(group.progress)
        return row

    def _both_ends(self) -> bool:
        """Whether the module measures both ends while the other α pass over the data."""
        return {0.0, 1.0} <= set(self.asked.tolist()) and not self.statistics.estimates()

    def done(self, progress: float) -> None:
        """Tell of so many of the caller's batches measured at one α each, rounded down over all that is done."""
        self._owed += progress
        whole = int(self._owed + 1e-6)
        if whole:
            self._report(whole)
            self._owed -= whole

    def ahead(self, chunk: list[Batch]) -> tuple[Evaluator, Reader] | None:
        """A few examples to be measured before the others; None where batches are not alike, or no pairs of numbers.

        Of tokens there are often few examples, each of which takes long: at 257 points 16 of 128 cost 32 α of all.
        """
        numbers = isinstance(chunk[0].inputs, Tensor) and chunk[0].inputs.is_floating_point()
        if self.statistics.by_batch() or not numbers or not same_layout(chunk):
            return None
        few = evenly_spaced(chunk, pilot_size(count_examples(chunk)))
        data = [(batch.inputs, batch.targets) for batch in few]
        statistics = self.statistics.on(data)
        walk = Evaluator(self.on_path, self.loss, statistics, lambda _: None, derivative=False, probe=few[0])
        return walk, Reader(data)

    def be_silent(self) -> None:
        """Report no progress from now on: another process does."""
        self._report = lambda _: None
        self._plain = self._quiet

    def _why_no_derivative(self, probe: Batch) -> str | None:
        try:
            row = ModuleExecution(self.on_path, self.loss, self.statistics, lambda _: None, derivative=True).row(
                0.0, [probe]
            )
        except (NotImplementedError, RuntimeError) as error:  # anything else wrong shows again without derivatives
            return f"an operation has no forward-mode derivative: {str(error).splitlines()[0]}"
        if row.slopes is None:
            return "the loss does not follow the parameters through torch operations (numpy, detach or .data inside?)"
        return None

    def _module_plan(self, report: Report) -> ModuleExecution:
        return ModuleExecution(self.on_path, self.loss, self.statistics, report, derivative=self.derivative)

    def _known_graph(self, alphas: Floats | None, chunk: list[Batch]) -> Graph | str:
        """The model's operations, or why they are of no use: for these α, or for as many as anybody may want."""
        if type(self.on_path.path) is not Line:
            return "the path is no line"
        if self.on_path.compute_dtype() not in (torch.float32, torch.float64):
            return f"the weights are {self.on_path.compute_dtype()}"
        if self.statistics.by_batch():
            return "each batch is normalised by itself"
        if not same_layout(chunk):
            return "the batches are not tensors with a row of one kind for each example"
        convolves = any(isinstance(module, nn.Conv2d) for module in self.on_path.model.modules())
        always = convolves or self.statistics.held_data() is not None  # worth it at any number of points
        between = FEWEST_POINTS if always or alphas is None else int(np.sum((alphas != 0) & (alphas != 1)))
        made = 0 if self._both_ends() else 2  # products at the ends, which the module makes if they are asked for
        saved = max(between - made, 0) * count_examples(chunk)  # how many products fewer a shared weight then has
        few = "there are too few points to share work"
        weights = sum(parameter.numel() for parameter in self.on_path.model.parameters())
        if between < FEWEST_POINTS and saved * weights < WORTH_TRACING:
            return few
        graph = traced(self.on_path.model)
        if not isinstance(graph, str) and not graph.takes(chunk[0].inputs):
            return "it takes other inputs than the batches have"
        if not isinstance(graph, str) and between < FEWEST_POINTS and saved * graph.shared_weights < WORTH_TRACING:
            return few
        if isinstance(graph, str) or graph.shared or always:
            return graph
        return "no first layer is linear in the weights"

    def _graph_plan(self, graph: Graph, statistics: BatchNormStatistics, choice: ExecutionPlan) -> GraphExecution:
        """The plan, with the statistics' faster way where it has one."""
        plan = GraphExecution(
            graph,
            self.on_path,
            self.loss,
            statistics,
            derivative=self.derivative,
            channels_last=choice.channels_last,
            whole=choice.estimate == "whole",
            alphas=np.array(choice.sweep) if choice.sweep else None,
        )
        data = statistics.held_data() or []
        if choice.estimate == "exact":
            ready = [plan.ready(batch) for batch in rebatched(data, choice.rows)]
            statistics.faster = lambda state, alpha: pooled(graph, ready, state, alpha)[0]
        elif choice.estimate == "batches":
            ready = [plan.ready(batch) for batch in data]
            statistics.faster = lambda state, alpha: pooled_by_batch(graph, ready, state, alpha)
        return plan

    def _planned(self, graph: Graph, batches: list[Batch], complete: bool, alphas: Floats) -> ExecutionPlan:
        """Sizes from what an example takes, if the graph agrees with the module on the first examples."""
        try:
            sizes = self._sizes(graph, first_examples(batches, 1)[0])
        except Exception as error:  # whatever an operation may raise on batches of another size
            return ExecutionPlan(False, f"it fails on batches of another size ({type(error).__name__})")
        examples, width = count_examples(batches), self.on_path.compute_dtype().itemsize
        choice = chosen(graph, sizes, width, examples)
        if not self.statistics.estimates() and not choice.saves(graph, [len(batch.targets) for batch in batches]):
            return ExecutionPlan(False, "there is nothing to share, and its batches and layout are good")
        probe = first_examples(batches, PROBE_ROWS)
        count = count_examples(probe)
        few = [(batch.inputs, batch.targets) for batch in probe]
        estimate: Estimate = (
            "" if self.statistics.held_data() is None else "batches" if self.statistics.pools() else "whole"
        )
        by_module = self.statistics.on(few)
        trial = self.statistics.on(few) if estimate else by_module
        plain = ModuleExecution(self.on_path, self.loss, by_module, lambda _: None, derivative=self.derivative)
        try:
            expected = plain.row(PROBE_ALPHA, probe)
            # Divided otherwise than the caller's batches, so that a model that mixes its examples is found out.
            rows, last = max(1, (3 * count + 3) // 4), graph.convolution_weights > 0
            on_trial = replace(choice, rows=rows, channels_last=last, estimate=estimate)
            found, ready = self._tried(graph, trial, on_trial, plain, probe)
        except Exception as error:  # or of another layout
            return ExecutionPlan(False, f"it fails on batches of another size ({type(error).__name__})")
        off = difference(found, expected, self.on_path.compute_dtype())
        if off is not None:
            return ExecutionPlan(False, f"its traced operations differ from it ({off})")
        sweeps = self._may_sweep(graph, ready, len(alphas), examples)
        if sweeps and not installed():
            choice = replace(choice, why=f"{choice.why} (faster with lerpscape[fast])")
        elif sweeps:
            swept = ExecutionPlan(True, "on trial", count, sweep=(0.0, PROBE_ALPHA))
            found, ready = self._tried(graph, trial, swept, plain, probe)
            if difference(found, expected, self.on_path.compute_dtype()) is None:
                held = sum(_bytes(value) for each in ready for value in each.values.values()) / count
                choice = chosen(graph, replace(sizes, shared=held), width, examples, tuple(alphas.tolist()))
        return replace(choice, estimate=self._estimate(sizes, batches, complete))

    def _tried(
        self,
        graph: Graph,
        statistics: BatchNormStatistics,
        choice: ExecutionPlan,
        module: ModuleExecution,
        batches: list[Batch],
    ) -> tuple[LossesAtAlpha, list[PreparedBatch]]:
        """What a plan gives for the batches, and what it shares of them; the plan's own tensors are given back."""
        plan = self._graph_plan(graph, statistics, choice)
        group = Group(batches, 0.0, module, plan, choice.rows, both_ends=self._both_ends())
        return plan.row(PROBE_ALPHA, group.ready), group.ready

    def _may_sweep(self, graph: Graph, ready: list[PreparedBatch], points: int, examples: int) -> bool:
        """Whether the layer behind the first ReLU is to be kept up over so many increasing α."""
        if graph.linear_relu_linear is None or graph.batch_norms:
            return False
        first = ready[0].values[graph.linear_relu_linear.first]
        return may_sweep(first, graph.linear_relu_linear.outputs, points, examples, derivative=self.derivative)

    def _sizes(self, graph: Graph, batch: Batch) -> Sizes:
        """What a batch of one example takes."""
        state = self.on_path.at(0.0)  # a copy: operations may write to it
        with tensors_at(self.on_path, 0.0, derivative=self.derivative) as moving, graph.watched() as steps:
            ready = graph.ready(batch.inputs, state, state, state if self.derivative else None)
            graph.outputs(ready, moving, 0.0)
        return Sizes.of(steps, sum(_bytes(value) for value in ready.values()))

    def _estimate(self, sizes: Sizes, batches: list[Batch], complete: bool) -> Estimate:
        """How the graph estimates statistics in the memory there is."""
        data = self.statistics.held_data()
        if data is None or not same_layout(data):
            return ""
        count = count_examples(data)
        if self.statistics.pools():
            return "batches" if sizes.shared * count <= free_bytes() / 4 else ""
        if sizes.held * count > free_bytes() / 2:
            return ""
        same = complete and [batch.digest() for batch in data] == [batch.digest() for batch in batches]
        return "whole" if same else "exact"


def free_bytes() -> int:
    """Memory that is free now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bytes(value: EndpointOutputs | ReLUSweep | Tensor | object) -> int:
    if isinstance(value, EndpointOutputs | ReLUSweep):
        return value.elements * value.like.element_size()
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
