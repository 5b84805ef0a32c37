"""Many α over the data: every α passes over a group of batches while it is in memory, and data are read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.engine import planner
from lerpscape.engine.accumulator import Accumulator
from lerpscape.engine.adaptive import PILOT_GRID, PilotSample, first_points, next_points, pilot_size, reached
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.execution import Objective, Tell
from lerpscape.engine.groups import TellShare
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.resume import Partial
from lerpscape.engine.workers import Workers, evaluate_in_parallel
from lerpscape.networks.batches import Batch, Reader
from lerpscape.networks.rebatching import count_examples, evenly_spaced, same_layout


@dataclass(frozen=True)
class Evaluation:
    """Sums over all data at the α, with the plan that they were computed by and a digest of the data.

    `adaptive` says how well adaptive points know the curve.
    """

    alphas: Floats
    sums: Accumulator
    plan: ExecutionPlan
    data_digest: str
    adaptive: dict[str, Any] | None = None


def evaluate(
    evaluator: Evaluator,
    alphas: Floats,
    chunks: Iterable[list[Batch]],
    *,
    workers: Workers = 1,
    tell: Tell | None = None,
    finished: int = 0,
    unfinished: LossMatrix | None = None,
) -> Iterator[LossMatrix]:
    """The losses of one group of examples after the other at every α.

    A group's matrix is yielded after every α, longer by one each time, until it `is_complete`; so memory does not grow
    with the number of groups. `finished` groups are skipped, and the α of the `unfinished` one that follows them.
    """
    tell_share = _in_whole_batches(tell)
    for chunk in chunks:
        shares = evaluator.shares(chunk)
        skip = min(finished, len(shares))
        finished -= skip
        tell_share(sum(shares[:skip]) * len(alphas))
        if workers != 1:
            for number, losses in enumerate(evaluate_in_parallel(workers, evaluator, alphas, chunk, skip), start=skip):
                yield LossMatrix.of(len(alphas), losses)
                tell_share(shares[number] * len(alphas))
            continue
        for group in islice(evaluator.groups(chunk, alphas), skip, None):
            matrix, unfinished = unfinished or LossMatrix(len(alphas)), None
            tell_share(group.share * len(matrix))
            for alpha in alphas[len(matrix) :]:
                matrix.append(group.at(float(alpha), tell_share))
                yield matrix


def evaluate_all(
    evaluator: Evaluator,
    alphas: Floats,
    chunks: Iterable[list[Batch]],
    *,
    workers: Workers = 1,
    tell: Tell | None = None,
) -> LossMatrix:
    """The losses of all examples at every α, in memory."""
    matrices = evaluate(evaluator, alphas, chunks, workers=workers, tell=tell)
    return LossMatrix.joined([matrix for matrix in matrices if matrix.is_complete])


def evaluate_grid(
    objective: Objective, alphas: Floats, reader: Reader, partial: Partial, *, workers: Workers, tell: Tell
) -> Evaluation:
    """Sum the losses at these α over all data.

    What is done is written to `partial` now and then, and when an exception passes through. So is the plan, as another
    one would round differently.
    """
    kept = partial.load()
    if kept is None:
        plan = planner.plan(objective, reader.first, alphas, complete=reader.complete, workers=workers)
        sums = Accumulator(len(alphas))
    else:
        plan = ExecutionPlan.from_json(str(kept.pop("plan")))
        sums = Accumulator.restored(len(alphas), kept)
    digest = hashlib.sha256()

    def save() -> None:
        partial.save(sums.arrays() | {"plan": np.asarray(plan.to_json())})

    matrices = evaluate(
        Evaluator(objective, plan),
        alphas,
        _digested(reader.chunks(), digest),
        workers=workers,
        tell=tell,
        finished=sums.groups,
        unfinished=sums.unfinished,
    )
    try:
        for matrix in matrices:
            sums.add(matrix)
            if partial.due():
                save()
    except BaseException:
        if sums.unfinished or sums.groups:
            save()
        raise
    save()
    return Evaluation(alphas, sums, plan, digest.hexdigest()[:12])


def evaluate_adaptively(
    objective: Objective, precision: float, reader: Reader, *, workers: Workers, tell: Tell
) -> Evaluation:
    """Sum the losses at points that are added until the curve is known to `precision` times its range.

    The losses of all examples at all α are held in memory, as every pair of points has a covariance.
    """
    pilot = _pilot_sample(objective, reader.first)
    new = first_points(pilot, precision, with_slopes=objective.derivative)
    plan = planner.plan(objective, reader.first, new, complete=reader.complete, workers=workers)
    evaluator = Evaluator(objective, plan)
    digest = hashlib.sha256()
    chunks: Iterable[list[Batch]] = _digested(reader.chunks(), digest)
    known: dict[float, LossesAtAlpha] = {}
    while len(new):
        matrix = evaluate_all(evaluator, new, chunks, workers=workers, tell=tell)
        known |= {alpha: matrix[position] for position, alpha in enumerate(new.tolist())}
        alphas = np.array(sorted(known))
        totals = np.array([known[alpha].total() for alpha in alphas])
        losses = totals[:, 0] / totals[:, 2]
        slopes = totals[:, 1] / totals[:, 2] if objective.derivative else None
        new = next_points(alphas, losses, slopes, precision, pilot)
        chunks = reader.chunks()
    sums = Accumulator(len(alphas))
    sums.add(LossMatrix.of(len(alphas), (known[alpha] for alpha in alphas.tolist())))
    return Evaluation(alphas, sums, plan, digest.hexdigest()[:12], reached(alphas, losses, slopes, precision, pilot))


def _pilot_sample(objective: Objective, batches: list[Batch]) -> PilotSample | None:
    """The mean loss of a few examples on a fine grid; None where they cannot leave their batches or it is not finite.

    Nor are there pilots of tokens: there are often few examples, each of which takes long. At 257 points, 16 of 128
    examples cost as much as all of them at 32.
    """
    inputs = batches[0].inputs
    vectors = isinstance(inputs, Tensor) and inputs.is_floating_point()
    if objective.statistics.by_batch() or not vectors or not same_layout(batches):
        return None
    sample = evenly_spaced(batches, pilot_size(count_examples(batches)))
    pilot = objective.without_derivative().recalibrated_on(sample)
    plan = planner.plan(pilot, sample, PILOT_GRID, complete=True)
    matrix = evaluate_all(Evaluator(pilot, plan), PILOT_GRID, [sample])
    losses, weights = matrix.numbers()[0], matrix.weights
    if weights is not None and not weights.any():
        return None
    mean = np.average(losses, axis=1, weights=weights)
    return PilotSample(mean, losses.shape[1]) if np.isfinite(mean).all() else None


def _digested(chunks: Iterable[list[Batch]], digest: Any) -> Iterator[list[Batch]]:
    """The chunks; each batch enters the digest on its way."""
    for chunk in chunks:
        for batch in chunk:
            digest.update(batch.digest())
        yield chunk


def _in_whole_batches(tell: Tell | None) -> TellShare:
    """Adds up parts of batches and tells of whole ones."""
    untold = 0.0

    def tell_share(batches: float) -> None:
        nonlocal untold
        untold += batches
        whole = int(untold + 1e-6)
        if whole and tell is not None:
            tell(whole)
        untold -= whole

    return tell_share
