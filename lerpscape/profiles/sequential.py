"""`sequential_verdict()`: does the loss rise by more than so much? From as few of the examples as it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.evaluate import rows_of
from lerpscape.engine.execution import ModuleExecution
from lerpscape.engine.measurement import alpha_grid
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.plan import MOST_GROUP
from lerpscape.engine.planner import PROBE_ALPHA, PROBE_ROWS, Evaluator
from lerpscape.engine.provenance import measured_with
from lerpscape.engine.workers import check_workers
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Batch, Data, Reader
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.sampling import Sample
from lerpscape.networks.undisturbed import undisturbed
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
    alphas: int | Sequence[float] | Floats = 50,
    bounds: tuple[float, float] | None = None,
    first: int = 1024,
    budget: int | None = None,
    seed: int = 0,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
    workers: int | str = 1,
) -> SequentialVerdict:
    """Decide whether max_rise of the mean loss over *all* data exceeds `tolerance`, from as few examples as it takes.

    Examples are drawn in a random order, without replacement. After 1,024, 2,048, 4,096, … of them an interim analysis
    brackets the largest rise over all; the first bracket that lies on one side of the tolerance ends the search. Each
    analysis measures new examples only. A line that no sample decides costs somewhat more than `profile`, and the
    answer is then exact.

    * `tolerance`: the rise that is forgiven, in the unit of the loss. With 0, lines that are flat somewhere need all.
    * `confidence`: a wrong verdict has a probability of at most 1 − confidence over the random order, which is divided
      evenly among the analyses before the last example. Without `bounds` that holds as sample means become normal; see
      `interim_analysis` and [engine](../engine.md) for what was measured, and where it fails.
    * `bounds`: least and most that the loss of a single example can be, as (0, 1) for errors. The confidence then holds
      for every number of examples.
    * `first`: examples at the first analysis. `budget`: the most to measure before it is `undecided`; all by default.
    * `seed`: of the random order. Choosing among seeds by their verdicts would void the confidence.
    * `data`: in memory, example by example: a list of batches, or anything re-iterable below a gigabyte.
    * `alphas`: points in [0, 1]. The rest as for `profile`; `Recalibrate(data)` keeps its own data whole.

    Raises what `profile` raises, `NonFiniteLoss` for a NaN among the losses seen, and `ValueError` for arguments out of
    range, a loss outside its bounds, and losses that depend on the other examples of a batch.

    Sources: Armitage (1975) and Pocock (1977) for repeated analyses; `interim_analysis` for each of them.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> line = Line({"weight": torch.ones(1, 1).double()}, {"weight": torch.full((1, 1), -1.0).double()})
    >>> x = torch.linspace(1, 2, 20_000).double()[:, None]
    >>> found = sequential_verdict(model, line, [(x, 0 * x)], loss="squared_error", tolerance=0.1)
    >>> found.verdict, found.examples, found.of
    ('violated', 1024, 20000)
    >>> found.lower < float(x.square().mean()) < found.upper
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            explain(
                expected="a torch module as the model.",
                got=f"{type(model).__name__}.",
                hint="Pass the network itself, built.",
            )
        )
    grid = alpha_grid(alphas)
    _check(grid, tolerance, confidence, bounds, first, budget)
    chosen = find_loss(loss)
    began = time.perf_counter()
    with undisturbed(model):
        sample = Sample(data, seed)
        on_path = ModelOnPath(model, path, device, dtype)
        check_workers(workers, on_path.device)
        statistics = BatchNormStatistics(on_path, batch_norm)
        _check_alone(on_path, chosen, statistics, next(sample.batches(0, min(PROBE_ROWS, len(sample)))))
        counts = sample_sizes(first, min(budget or len(sample), len(sample)))
        guesses = sum(count < len(sample) for count in counts)
        error = (1 - confidence) / guesses if guesses else 0.0
        losses = np.empty((len(grid), 0))
        analyses: list[InterimAnalysis] = []
        pieces = [list(_pieces(before, count)) for before, count in pairwise([0, *counts])]
        total = sum(sample.batch_count(*piece) for new in pieces for piece in new)
        with progress_bar(progress, total=total * len(grid), what=f"verdict {label}".strip()) as report:
            walker = Evaluator(
                on_path, chosen, statistics, report, derivative=False, probe=sample.first_batch, workers=workers
            )
            for new in pieces:
                for begin, end in new:
                    batches = list(sample.batches(begin, end))
                    if not begin:
                        walker.choose(grid, batches, complete=False)
                    rows, _ = rows_of(walker, grid, Reader([(each.inputs, each.targets) for each in batches]))
                    losses = np.hstack([losses, rows.numbers()[0]])
                _check_losses(losses, grid, bounds)
                last = interim_analysis(losses, len(sample), error, bounds=bounds, seed=seed + len(analyses))
                analyses.append(last)
                if last.lower > tolerance or last.upper <= tolerance:
                    break
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
        label=label,
        how=measured_with(
            on_path,
            statistics,
            began,
            planned_analyses=counts,
            error_per_analysis=error,
            plan=walker.choice.describe(),
            threads=torch.get_num_threads() if workers == 1 else 1,
            workers=workers,
        ),
    )


def _pieces(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The examples of an analysis as they are copied from the data: as many as the engine has at work for all α."""
    for first in range(begin, end, MOST_GROUP):
        yield first, min(first + MOST_GROUP, end)


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


def _check_alone(on_path: ModelOnPath, loss: Loss, statistics: BatchNormStatistics, probe: Batch) -> None:
    """Make sure that an example's loss does not depend on which others are in its batch: a sample regroups them.

    Raises `ValueError` where it does.
    """
    probe = probe.to(on_path.device, on_path.dtype)
    count = probe.examples or 0
    if count < 2:
        return
    plan = ModuleExecution(
        on_path, loss, statistics.on([(probe.inputs, probe.targets)]), lambda _: None, derivative=False
    )
    halves = [probe.select(part) for part in torch.arange(count).tensor_split(2)]
    whole, parts = (plan.row(PROBE_ALPHA, batches).numbers()[0] for batches in ([probe], halves))
    tolerance = 4096 * torch.finfo(on_path.compute_dtype()).eps
    if not np.allclose(whole, parts, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            explain(
                expected="losses that do not depend on the other examples of the batch, as a sample groups them anew.",
                got=f"losses that differ by {np.nanmax(np.abs(whole - parts)):.2g} when a batch is cut in two"
                + (f" (batch norm: {statistics.describe()})." if statistics.by_batch() else "."),
                hint="Another batch-norm policy, where it is BatchStatistics; else profile(), on batches as they are.",
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
