"""Many α over the data: every α passes over a group of batches while it is in memory, and data are read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import PartialMismatch
from lerpscape.engine import planner
from lerpscape.engine.accumulator import Accumulator
from lerpscape.engine.adaptive import PILOT_GRID, PilotSample, first_points, next_points, pilot_size, reached
from lerpscape.engine.comparison import OperationsDiffer
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.execution import Objective, Tell
from lerpscape.engine.fingerprint import chunk_digest
from lerpscape.engine.groups import TellShare
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.resume import Partial
from lerpscape.engine.workers import Workers, evaluate_in_parallel
from lerpscape.networks.batches import Batch
from lerpscape.networks.reading import Reader
from lerpscape.networks.rebatching import count_examples, evenly_spaced, same_layout

Result = TypeVar("Result")


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
    tell_share = in_whole_batches(tell)
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
        chosen = planner.plan(objective, reader.first, alphas, complete=reader.complete, workers=workers)
        restored, kept_chunks = Accumulator(len(alphas)), []
    else:
        kept_chunks = kept.pop("chunks").tolist()
        chosen = ExecutionPlan.from_json(str(kept.pop("plan")))
        restored = Accumulator.restored(len(alphas), kept)

    def compute(plan: ExecutionPlan, tell: Tell) -> Evaluation:
        sums, known = (restored, kept_chunks) if plan == chosen else (Accumulator(len(alphas)), [])
        digest = hashlib.sha256()
        chunks = digested(reader.chunks(), digest)
        read: list[str] = []

        def save() -> None:
            seen = [*read, *known[len(read) :]]
            partial.save(sums.arrays() | {"plan": np.asarray(plan.to_json()), "chunks": np.array(seen, dtype=str)})

        matrices = evaluate(
            Evaluator(objective, plan),
            alphas,
            chunks if partial.path is None else _as_before(chunks, known, read, partial),
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
        except (OperationsDiffer, PartialMismatch):
            raise
        except BaseException:
            if sums.unfinished or sums.groups:
                save()
            raise
        save()
        return Evaluation(alphas, sums, plan, digest.hexdigest()[:12])

    return or_by_module(chosen, compute, tell)


def or_by_module(plan: ExecutionPlan, compute: Callable[[ExecutionPlan, Tell], Result], tell: Tell) -> Result:
    """What `compute` gives with a plan, or from the beginning by the module where the graph is not the same function.

    >>> def compute(plan, tell):
    ...     tell(3)
    ...     if plan.by == "graph":
    ...         raise OperationsDiffer("losses off by 2")
    ...     return plan.why
    >>> or_by_module(ExecutionPlan("graph", "", 8, group_size=8), compute, lambda batches: print(batches))
    3
    -3
    3
    'losses off by 2'
    """
    done = 0

    def counted(batches: int) -> None:
        nonlocal done
        done += batches
        tell(batches)

    try:
        return compute(plan, counted)
    except OperationsDiffer as error:
        tell(-done)
        return compute(replace(ExecutionPlan.by_module(str(error)), parts=plan.parts), tell)


def evaluate_adaptively(
    objective: Objective, precision: float, reader: Reader, *, workers: Workers, tell: Tell
) -> Evaluation:
    """Sum the losses at points that are added until the curve is known to `precision` times its range.

    The losses of all examples at all α are held in memory, as every pair of points has a covariance.
    """
    pilot = _pilot_sample(objective, reader.first)
    first = first_points(pilot, precision, with_slopes=objective.derivative is not None)
    plan = planner.plan(objective, reader.first, first, complete=reader.complete, workers=workers)

    def compute(plan: ExecutionPlan, tell: Tell) -> Evaluation:
        evaluator = Evaluator(objective, plan)
        digest = hashlib.sha256()
        chunks: Iterable[list[Batch]] = digested(reader.chunks(), digest)
        known: dict[float, LossesAtAlpha] = {}
        alphas = first
        while len(alphas):
            matrix = evaluate_all(evaluator, alphas, chunks, workers=workers, tell=tell)
            known |= {alpha: matrix[position] for position, alpha in enumerate(alphas.tolist())}
            every = np.array(sorted(known))
            totals = np.array([known[alpha].total() for alpha in every])
            losses = totals[:, 0] / totals[:, 2]
            slopes = totals[:, 1] / totals[:, 2] if objective.derivative else None
            alphas = next_points(every, losses, slopes, precision, pilot)
            evaluator, chunks = evaluator.compared(), reader.chunks()
        sums = Accumulator(len(every))
        sums.add(LossMatrix.of(len(every), (known[alpha] for alpha in every.tolist())))
        return Evaluation(every, sums, plan, digest.hexdigest()[:12], reached(every, losses, slopes, precision, pilot))

    return or_by_module(plan, compute, tell)


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
    matrix = or_by_module(
        plan, lambda plan, _: evaluate_all(Evaluator(pilot, plan), PILOT_GRID, [sample]), lambda _: None
    )
    losses, weights = matrix.numbers()[0], matrix.weights
    if weights is not None and not weights.any():
        return None
    mean = np.average(losses, axis=1, weights=weights)
    return PilotSample(mean, losses.shape[1]) if np.isfinite(mean).all() else None


def digested(chunks: Iterable[list[Batch]], digest: Any) -> Iterator[list[Batch]]:
    """The chunks; each batch enters the digest on its way."""
    for chunk in chunks:
        for batch in chunk:
            digest.update(batch.digest())
        yield chunk


def _as_before(
    chunks: Iterable[list[Batch]], known: list[str], read: list[str], partial: Partial
) -> Iterator[list[Batch]]:
    """The chunks, their digests in `read`; those that the stopped measurement has read must be the `known` ones.

    Raises `PartialMismatch`.
    """
    for number, chunk in enumerate(chunks):
        read.append(chunk_digest(chunk))
        if number < len(known) and read[number] != known[number]:
            raise partial.mismatch([f"data in chunk {number + 1}"])
        yield chunk
    if len(read) < len(known):
        raise partial.mismatch([f"data after chunk {len(read)}"])


def in_whole_batches(tell: Tell | None) -> TellShare:
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
