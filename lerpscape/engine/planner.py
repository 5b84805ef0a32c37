"""`plan()`: choose how a model is evaluated at many α, from its operations, the data and the α.

Sizes and layouts follow from numbers of weights and bytes, never from a stopwatch, so that the same call gives the same
bits. A plan is compared with the plain module on a few examples before it is used; whatever cannot be traced, or
differs, is evaluated by the module.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.comparison import DIFFERS, Operations, difference, rounding
from lerpscape.engine.execution import GraphExecution, ModuleExecution, Objective, PreparedBatch
from lerpscape.engine.graph import Graph, Values
from lerpscape.engine.groups import ENDS, Group
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.engine.moving_tensors import tensors_at
from lerpscape.engine.plan import Estimation, ExecutionPlan
from lerpscape.engine.relu_sweep import ReLUSweep, installed, may_sweep
from lerpscape.engine.shared_layers import EndpointOutputs
from lerpscape.networks.batches import Batch
from lerpscape.networks.calls import decodes_labels
from lerpscape.networks.rebatching import count_examples, evenly_spaced, first_examples, same_layout, single
from lerpscape.paths.line import Line

# Points between the ends from which sharing work between them always pays. With fewer it pays from so many products
# saved, which take as long as tracing the model and trying its operations (some 20 ms at 1e11 products a second).
FEWEST_POINTS = 6
WORTH_TRACING = 1_000_000_000
# The graph is compared with the module on so many examples, at this α, before it is used; on all examples at both ends
# while it is. The module computes this share of the few, then the rest, which no caller divides so: a model whose
# examples influence each other gives something else than for all of them together.
PROBE_EXAMPLES = 16
PROBE_ALPHA = 0.37
FIRST_PART = 0.35

# Bytes of the largest result for a batch: what stays in the second-level cache of one core, 2 MiB on the Intel Xeon
# (AVX-512) where benchmarks/bench_engine.py was run; others have 0.5 to 2 MiB.
CACHE_BYTES = 1 << 21
# Bytes that the results shared by all α may take for one group, and examples in a group at most.
SHARED_BYTES = 1 << 25
LARGEST_GROUP = 1 << 14
# Smaller batches spend their time on calls; with larger ones nothing more is gained.
SMALLEST_BATCH, LARGEST_BATCH = 16, 4096
# Channels go last where a batch's results have so many times the bytes of the convolutions' weights, which have to be
# put in that order at every call.
CHANNELS_LAST_FACTOR = 8

# What torch operations are known to raise on batches of another size or layout than those that the model was made for.
OPERATION_ERRORS = (RuntimeError, ValueError, IndexError)


def plan(
    objective: Objective, batches: list[Batch], alphas: Floats, *, complete: bool, workers: int | str = 1
) -> ExecutionPlan:
    """Choose how to evaluate the objective at these α, given the first batches of the data.

    `complete` says whether these batches are all the data.
    """
    try:
        chosen = _chosen(objective, batches, alphas, complete)
    except Exception as error:  # a defect of the planner: the module is still right, but nobody should have to guess
        reason = f"planning failed with {type(error).__name__}: {error}"
        warnings.warn(f"{reason}; the module computes every α, which may be slow. Please report this.", stacklevel=2)
        chosen = ExecutionPlan.by_module(reason)
    return replace(chosen, parts=workers if isinstance(workers, int) else 1)


def _chosen(objective: Objective, batches: list[Batch], alphas: Floats, complete: bool) -> ExecutionPlan:
    graph = _worth_sharing(objective, batches, alphas)
    if isinstance(graph, str):
        return ExecutionPlan.by_module(graph)
    try:
        sizes = _sizes(objective, graph, objective.place(first_examples(batches, 1)[0]).cloned())
    except OPERATION_ERRORS as error:
        return _fails(error)
    dtype, examples = objective.on_path.compute_dtype(), count_examples(batches)
    chosen = sized(graph, sizes, dtype.itemsize, examples)
    if not objective.statistics.estimates() and not _pays(chosen, graph, batches):
        return ExecutionPlan.by_module("there is nothing to share, and its batches and layout are good")
    trial = _Trial(objective, graph, batches, alphas)
    operations = Operations(dtype)
    try:
        with operations:
            expected = trial.by_module()
    except Exception as error:  # the caller's own forward or loss, which may raise anything on a batch that was cut
        return _fails(error)
    if operations.narrower is not None:
        return ExecutionPlan.by_module(f"it computes in {operations.narrower} inside")
    if trial.is_written_to():
        return ExecutionPlan.by_module("it writes to its inputs or targets")
    try:
        losses, prepared = trial.by_graph(_on_trial(chosen, objective, graph, trial.examples))
    except OPERATION_ERRORS as error:
        return _fails(error)
    tolerance, scale = rounding(operations.count, dtype), float(expected.losses.double().square().mean().sqrt())
    differs = difference(losses, expected, tolerance, scale)
    if differs is not None:
        return ExecutionPlan.by_module(f"{DIFFERS} ({differs})")
    if _may_sweep(objective, graph, prepared, len(alphas), examples):
        if not installed():
            chosen = replace(chosen, why=f"{chosen.why} (faster with lerpscape[fast])")
        else:
            size = trial.examples
            sweep = ExecutionPlan("graph", "on trial", size, group_size=size, sweep_alphas=(0.0, PROBE_ALPHA))
            losses, prepared = trial.by_graph(sweep)
            if difference(losses, expected, tolerance, scale) is None:
                shared = sum(_bytes(value) for batch in prepared for value in batch.values.values()) / size
                sweep_alphas = tuple(alphas.tolist())
                chosen = sized(graph, replace(sizes, shared=shared), dtype.itemsize, examples, sweep_alphas)
    estimation = _estimation(objective, sizes, batches, complete)
    return replace(chosen, estimation=estimation, rounding=tolerance, scale=scale)


def _fails(error: Exception) -> ExecutionPlan:
    return ExecutionPlan.by_module(f"it fails on batches of another size ({type(error).__name__})")


def _worth_sharing(objective: Objective, batches: list[Batch], alphas: Floats) -> Graph | str:
    """The model's traced operations, or why it is not worth or not possible to use them."""
    on_path, statistics = objective.on_path, objective.statistics
    if objective.derivative == "backward":
        return "its derivative is taken by a backward pass"
    if type(on_path.path) is not Line:
        return "the path is no line"
    if on_path.lies_in_files:
        return "its tensors are read from files"
    if on_path.compute_dtype() not in (torch.float32, torch.float64):
        return f"the weights are {on_path.compute_dtype()}"
    if statistics.by_batch():
        return "each batch is normalised by itself"
    loss = objective.loss
    if loss.per == "batch" or loss.batch_dim or loss.takes_targets or decodes_labels(on_path.model):
        return "its loss is one of whole batches"
    if any(metric.per == "batch" for metric in objective.metrics):
        return "a metric is one of whole batches"
    if not same_layout(batches):
        return "the batches are not tensors with a row of one kind for each example"
    convolves = any(isinstance(module, nn.Conv2d) for module in on_path.model.modules())
    always = convolves or statistics.held_data() is not None  # worth it at any number of points
    between = int(np.sum((alphas != 0) & (alphas != 1)))
    ends_are_given = set(ENDS) <= set(alphas.tolist()) and not statistics.estimates()
    # At the ends a shared layer is computed twice, by the module if they are among the α, and at no α in between.
    products_saved = max(between - (0 if ends_are_given else 2), 0) * count_examples(batches)  # for each weight
    few = not always and between < FEWEST_POINTS
    if few and products_saved * sum(each.numel() for each in on_path.model.parameters()) < WORTH_TRACING:
        return "there are too few points to share work"
    graph = on_path.graph
    if isinstance(graph, str):
        return graph
    if not graph.takes(batches[0].inputs):
        return "it takes other inputs than the batches have"
    if few and products_saved * graph.shared_weights < WORTH_TRACING:
        return "there are too few points to share work"
    return graph if graph.shared or always else "no first layer is linear in the weights"


@dataclass(frozen=True)
class Sizes:
    """Bytes for each example: of the largest result, of all held at once, of all results, and of what all α share."""

    largest: float
    held: float
    total: float
    shared: float


def _sizes(objective: Objective, graph: Graph, example: Batch) -> Sizes:
    """The sizes of all results for each example, measured on a small batch."""
    on_path, derivative = objective.on_path, objective.derivative is not None
    largest = held = total = 0

    def observe(node: fx.Node, values: Values) -> None:
        nonlocal largest, held, total
        results = [value for other, value in values.items() if other.op != "get_attr" and isinstance(value, Tensor)]
        sizes = {id(value): value.numel() * value.element_size() for value in results}
        largest = max(largest, *sizes.values(), 0)
        held = max(held, sum(sizes.values()))
        total += sizes.get(id(values[node]), 0)

    state = on_path.at(0.0)  # a copy: operations may write to it
    with tensors_at(on_path, 0.0, derivative=derivative) as tensors:
        prepared = graph.prepare(example.inputs, state, state, state if derivative else None)
        graph.outputs(prepared, tensors, 0.0, observe)
    shared = sum(_bytes(value) for value in prepared.values())
    rows = example.examples or 1  # two where there are two: a model may take a single one for something else
    return Sizes(largest / rows, held / rows, total / rows, shared / rows)


def _bytes(value: Any) -> int:
    if isinstance(value, EndpointOutputs | ReLUSweep):
        return value.elements * value.like.element_size()
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def sized(
    graph: Graph, sizes: Sizes, weight_bytes: int, examples: int, sweep_alphas: tuple[float, ...] = ()
) -> ExecutionPlan:
    """The plan to run the operations on batches and in a layout that suit their sizes.

    `weight_bytes` is the size of one weight, `examples` the number of examples.
    """
    # Results stay in the cache, unless weights are the larger part: all of them pass through it with every batch.
    # (A sweep leaves few of those that would be multiplied at every α.)
    batch_size = CACHE_BYTES / max(sizes.largest, 1)
    if not sweep_alphas:
        batch_size = max(batch_size, 2 * weight_bytes * graph.weights / max(sizes.total, 1))
    batch_size = int(np.clip(batch_size, SMALLEST_BATCH, LARGEST_BATCH))
    results = sizes.total * min(batch_size, examples)
    return ExecutionPlan(
        "graph",
        "first layer shared by all α" if graph.shared else "traced operations",
        batch_size,
        channels_last=0 < weight_bytes * graph.convolution_weights <= results / CHANNELS_LAST_FACTOR,
        group_size=int(np.clip(SHARED_BYTES // max(sizes.shared, 1), batch_size, LARGEST_GROUP)),
        sweep_alphas=sweep_alphas,
    )


def _pays(plan: ExecutionPlan, graph: Graph, batches: list[Batch]) -> bool:
    """Whether the operations can be faster than the module on the caller's batches."""
    examples = count_examples(batches)
    typical = examples / len(batches)
    size = min(plan.batch_size, examples)
    return bool(graph.shared) or plan.channels_last or not size / 4 <= typical <= 2 * size


def _on_trial(chosen: ExecutionPlan, objective: Objective, graph: Graph, examples: int) -> ExecutionPlan:
    """The plan as it is tried on a few examples, in every way in which it may differ from the module.

    All examples are one batch, as they are not for the module.
    """
    statistics = objective.statistics
    estimation: Estimation = (
        "module" if statistics.held_data() is None else "pooled" if statistics.pools() else "exact with losses"
    )
    last = graph.convolution_weights > 0
    return replace(chosen, batch_size=examples, group_size=examples, channels_last=last, estimation=estimation)


class _Trial:
    """A few examples from all over the data at `PROBE_ALPHA`, by the module and by the graph."""

    def __init__(self, objective: Objective, graph: Graph, batches: list[Batch], alphas: Floats) -> None:
        [together] = evenly_spaced(batches, PROBE_EXAMPLES)
        examples = count_examples([together])
        first = max(1, int(FIRST_PART * examples))
        parts = [together.part(0, first), together.part(first, examples)] if examples > 1 else [together]
        self._batches = [objective.place(part) for part in [*parts, *single(batches)]]
        self.examples = count_examples(self._batches)
        self._objective = objective
        self._on_probe = objective.recalibrated_on(self._batches)
        self._graph = graph
        self._alphas = alphas

    def by_module(self) -> LossesAtAlpha:
        return ModuleExecution(self._on_probe).at(PROBE_ALPHA, self._batches)

    def is_written_to(self) -> bool:
        """Whether the module or the loss wrote to what it was lent."""
        return any(batch.is_written_to for batch in self._batches)

    def by_graph(self, plan: ExecutionPlan) -> tuple[LossesAtAlpha, list[PreparedBatch]]:
        """The losses by the graph, and what it shares of the examples."""
        objective = self._on_probe
        if plan.estimation != "module":  # with statistics of its own: none that the module has estimated
            objective = self._objective.recalibrated_on(self._batches)
        execution, module = GraphExecution(objective, self._graph, plan), ModuleExecution(objective)
        estimates = objective.statistics.estimates()
        group = Group(self._batches, 0.0, self._alphas, module, execution, estimates=estimates)
        return execution.at(PROBE_ALPHA, group.prepared), group.prepared


def _may_sweep(objective: Objective, graph: Graph, prepared: list[PreparedBatch], points: int, examples: int) -> bool:
    """Whether the layer behind the first ReLU is to be updated from one α to the next."""
    if graph.linear_relu_linear is None or graph.batch_norms:
        return False
    first = prepared[0].values[graph.linear_relu_linear.first]
    return may_sweep(
        first, graph.linear_relu_linear.outputs, points, examples, derivative=objective.derivative is not None
    )


def _estimation(objective: Objective, sizes: Sizes, batches: list[Batch], complete: bool) -> Estimation:
    """What estimates batch-norm statistics, in the memory that is free."""
    data = objective.statistics.held_data()
    if data is None or not same_layout(data):
        return "module"
    examples = count_examples(data)
    if objective.statistics.pools():
        return "pooled" if sizes.shared * examples <= free_bytes() / 4 else "module"
    if sizes.held * examples > free_bytes() / 2:
        return "module"
    measured = (objective.place(batch).digest() for batch in batches)
    same = complete and [batch.digest() for batch in data] == list(measured)
    return "exact with losses" if same else "exact"


def free_bytes() -> int:
    """Memory that is free now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
