"""`sequential_verdict()`: a sequential test of whether the loss rises by more than a tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Unpack

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.engine import planner
from lerpscape.engine.comparison import KERNEL_UNITS
from lerpscape.engine.evaluate import evaluate_all, or_by_module
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.execution import ModuleExecution, Objective, Tell
from lerpscape.engine.fitted_losses import fitted
from lerpscape.engine.losses_by_alpha import LossMatrix
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.planner import LARGEST_GROUP, PROBE_ALPHA, PROBE_EXAMPLES
from lerpscape.engine.workers import check_workers
from lerpscape.networks.batches import Batch
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.reading import Data
from lerpscape.networks.sampling import Sample
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.interim_analyses import InterimAnalysis, check_confidence, interim_analysis, sample_sizes
from lerpscape.profiles.sequential_verdicts import SequentialVerdict


def sequential_verdict(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    tolerance: float,
    confidence: float = 0.99,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas = 50,
    bounds: tuple[float, float] | None = None,
    first: int = 1024,
    budget: int | None = None,
    seed: int = 0,
    workers: int | str = 1,
    **options: Unpack[MeasurementOptions],
) -> SequentialVerdict:
    """Decide whether max_rise of the mean loss over *all* data exceeds `tolerance`, from as few examples as it takes.

    Examples are drawn in a random order, without replacement. After 1,024, 2,048, 4,096, … of them an interim analysis
    brackets the largest rise over all; the first bracket that lies on one side of the tolerance ends the search. Each
    analysis measures new examples only. A line that no sample decides costs somewhat more than `profile`, and the
    answer is then exact.

    * `tolerance`: largest increase that still counts as monotonic, in the unit of the loss. With 0, a line with a flat
      part needs all examples.
    * `confidence`: a wrong verdict has a probability of at most 1 − confidence over the random order, which is divided
      evenly among the analyses before the last example. Without `bounds` that holds as sample means become normal; see
      `interim_analysis` and [engine](../engine.md) for what was measured, and where it fails.
    * `bounds`: least and most that the loss of a single example can be, as (0, 1) for errors. The confidence then holds
      for every number of examples.
    * `first`: number of examples at the first analysis; without `bounds`, one of fewer than 256 decides nothing unless
      it is of all examples. `budget`: the most to measure, after which the verdict is
      `undecided`; all by default.
    * `seed`: of the random order. Choosing a seed by its verdict invalidates the confidence.
    * `data`: batches in memory, which can be cut into examples: a list, or any re-iterable below a gigabyte.
    * `loss`, `workers`: as for `profile`. `alphas`: as there, in [0, 1].
    * `options`: see `MeasurementOptions`. `Recalibrate(data)` uses all of its own data.

    Raises what `profile` raises, `NonFiniteLoss` for a NaN among the losses seen, and `ValueError` for arguments out of
    range, a loss outside its bounds, and losses that depend on the other examples of a batch.

    Sources: Armitage (1975) and Pocock (1977) for repeated analyses; `interim_analysis` for each of them.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> line = Line({"weight": torch.ones(1, 1).double()}, {"weight": torch.full((1, 1), -1.0).double()})
    >>> x = torch.linspace(1, 2, 20_000).double()[:, None]
    >>> result = sequential_verdict(model, line, [(x, 0 * x)], loss="squared_error", tolerance=0.1)
    >>> result.verdict, result.examples, result.of
    ('violated', 1024, 20000)
    >>> result.lower < float(x.square().mean()) < result.upper
    True
    """
    grid = alpha_grid(alphas)
    _check(grid, tolerance, confidence, bounds, first, budget)
    find_loss(loss)  # refuses a wrong one before the data are read
    with opened(sequential_verdict, model, path, data, options) as measurement:
        chosen = fitted(loss, measurement).loss
        sample = Sample(measurement.reader, seed)
        check_workers(workers, measurement.on_path.device)
        objective = Objective(measurement.on_path, chosen, measurement.statistics)
        _check_independent(objective, next(sample.batches(0, min(PROBE_EXAMPLES, len(sample)))))
        counts = sample_sizes(first, min(budget or len(sample), len(sample)))
        open_analyses = sum(count < len(sample) for count in counts)
        error = (1 - confidence) / open_analyses if open_analyses else 0.0
        parts = [list(_parts(before, count)) for before, count in pairwise([0, *counts])]
        total = sum(sample.batch_count(*part) for new_parts in parts for part in new_parts)

        def compute(plan: ExecutionPlan, tell: Tell) -> tuple[ExecutionPlan, Floats, list[InterimAnalysis]]:
            evaluator = Evaluator(objective, plan)
            losses = np.empty((len(grid), 0))
            analyses: list[InterimAnalysis] = []
            for new_parts in parts:
                for part in new_parts:
                    new = evaluate_all(evaluator, grid, [list(sample.batches(*part))], workers=workers, tell=tell)
                    _check_alike(new, chosen)
                    losses = np.hstack([losses, new.numbers()[0]])
                _check_losses(losses, grid, bounds)
                last = interim_analysis(losses, len(sample), error, bounds=bounds, seed=seed + len(analyses))
                analyses.append(last)
                if last.lower > tolerance or last.upper <= tolerance:
                    break
            return plan, losses, analyses

        with measurement.progress_bar(total * len(grid), "verdict") as tell:
            plan = planner.plan(objective, list(sample.batches(*parts[0][0])), grid, complete=False, workers=workers)
            plan, losses, analyses = or_by_module(plan, compute, tell)
        how = measurement.how(
            planned_analyses=counts,
            error_per_analysis=error,
            plan=plan.describe(),
            threads=torch.get_num_threads() if workers == 1 else 1,
            workers=workers,
        )
    last = analyses[-1]
    missing = 1 - last.examples / len(sample)
    deviation = losses.std(axis=1, ddof=1) if last.examples > 1 else np.zeros(len(grid))
    return SequentialVerdict(
        verdict="violated" if last.lower > tolerance else "monotonic" if last.upper <= tolerance else "undecided",
        tolerance=tolerance,
        confidence=confidence,
        lower=last.lower,
        upper=last.upper,
        opens=float(grid[last.first]),
        peaks=float(grid[last.second]),
        examples=last.examples,
        of=len(sample),
        analyses=tuple(analyses),
        alphas=grid,
        loss=losses.mean(axis=1),
        loss_error=deviation * np.sqrt(missing / last.examples),
        unit=chosen.unit,
        loss_name=chosen.name,
        bounds=bounds,
        seed=seed,
        label=measurement.label,
        how=how,
    )


def _parts(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The examples of an analysis in parts that are copied from the data one by one, at most a group of the engine."""
    for first in range(begin, end, LARGEST_GROUP):
        yield first, min(first + LARGEST_GROUP, end)


def _check(
    grid: Floats,
    tolerance: float,
    confidence: float,
    bounds: tuple[float, float] | None,
    first: int,
    budget: int | None,
) -> None:
    if not 0 <= tolerance < np.inf:
        raise ValueError(
            explain(
                expected="a finite tolerance ≥ 0, in the unit of the loss.",
                got=f"{tolerance}.",
                hint="Use 0 for strict.",
            )
        )
    if grid[0] < 0 or grid[-1] > 1:
        raise ValueError(
            explain(
                expected="alphas between 0 and 1, which a verdict is about.",
                got=f"from {grid[0]:.4g} to {grid[-1]:.4g}.",
                hint="profile() draws the curve beyond both ends.",
            )
        )
    if bounds is not None and not -np.inf < bounds[0] < bounds[1] < np.inf:
        raise ValueError(
            explain(
                expected="bounds (least, most) of the loss of one example.", got=f"{bounds}.", hint="(0, 1) for errors."
            )
        )
    for name, count in (("first", first), ("budget", budget)):
        if count is not None and count < 2:
            raise ValueError(
                explain(expected=f"{name} of at least 2 examples.", got=f"{count}.", hint="first=1024 is usual.")
            )
    check_confidence(confidence, bounds)


def _check_independent(objective: Objective, probe: Batch) -> None:
    """Make sure that an example's loss does not depend on the others in its batch: a sample groups them anew.

    Raises `ValueError` where it does.
    """
    probe = objective.place(probe)
    count = probe.examples or 0
    if count < 2:
        return
    module = ModuleExecution(objective.recalibrated_on([probe]))
    halves = [probe.select(part) for part in torch.arange(count).tensor_split(2)]
    whole, in_halves = (module.at(PROBE_ALPHA, batches).numbers()[0] for batches in ([probe], halves))
    tolerance = KERNEL_UNITS * torch.finfo(objective.on_path.compute_dtype()).eps
    if not np.allclose(whole, in_halves, rtol=tolerance, atol=tolerance, equal_nan=True):
        statistics = objective.statistics
        raise ValueError(
            explain(
                expected="losses that do not depend on the other examples of the batch, as a sample groups them anew.",
                got=f"losses that differ by {np.nanmax(np.abs(whole - in_halves)):.2g} when a batch is cut in two"
                + (f" (batch norm: {statistics.describe()})." if statistics.by_batch() else "."),
                hint="Another batch-norm policy, where it is BatchStatistics; else profile(), on batches as they are.",
            )
        )


def _check_alike(losses: LossMatrix, loss: Loss) -> None:
    """Make sure that every example counts alike in the mean, as a sample of them assumes.

    Raises `ValueError` where they do not.
    """
    weights = losses.weights
    if loss.per == "batch" or (weights is not None and np.ptp(weights) > 0):
        raise ValueError(
            explain(
                expected="a loss per example, each of which counts alike.",
                got=f"{loss.name!r}, "
                + ("one value per batch." if loss.per == "batch" else "whose examples have other weights."),
                hint="profile() weighs them; or leave out of the data what does not count.",
            )
        )


def _check_losses(losses: Floats, grid: Floats, bounds: tuple[float, float] | None) -> None:
    """Refuse losses that no verdict can be made of.

    Raises `NonFiniteLoss`, and `ValueError` for one outside the bounds.
    """
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        raise NonFiniteLoss(
            explain(
                expected="finite losses: a curve with NaN or inf has no verdict.",
                got=f"{losses[tuple(bad[0])]} at α = {grid[bad[0][0]]:.6g}, {len(np.unique(bad[:, 1]))} of "
                f"{losses.shape[1]} examples seen with such a loss.",
                hint="profile() says which example it is; dtype=torch.float64 may help.",
            )
        )
    if bounds is not None and (losses.min() < bounds[0] or losses.max() > bounds[1]):
        raise ValueError(
            explain(
                expected=f"losses between {bounds[0]:g} and {bounds[1]:g}, the bounds.",
                got=f"from {losses.min():.4g} to {losses.max():.4g}.",
                hint="Give bounds that hold for every example, or none.",
            )
        )
