"""Many α over the data: every α passes over a group of batches while it is in memory, and data are read once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.engine.accumulator import Accumulator
from lerpscape.engine.adaptive import PILOT_GRID, PilotSample, first_points, next_points, reached
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.planner import Evaluator
from lerpscape.engine.resume import Partial
from lerpscape.engine.workers import measured_by
from lerpscape.networks.batches import Reader


def evaluate_grid(measured: Evaluator, alphas: Floats, reader: Reader, partial: Partial) -> tuple[Accumulator, str]:
    """Measure every α over all data; the sums, and a digest of the data.

    Per-example losses live as long as their group, so memory does not grow with the data. What is done is written
    to `partial` now and then, and when an exception passes through; so is the way that was chosen, as another one
    would round otherwise.
    """
    kept = partial.load()
    plan = measured.choose(alphas, reader.first, reader.complete, str(kept.pop("plan")) if kept else None)
    sums = Accumulator.restored(len(alphas), kept)

    def save() -> None:
        partial.save(sums.arrays() | {"plan": np.asarray(plan)})

    hasher = hashlib.sha256()
    number = 0
    try:
        for chunk in reader.chunks():
            for batch in chunk:
                hasher.update(batch.digest())
            if measured.workers != 1:
                weights = [group.progress for group in measured.groups(chunk)]
                done = max(min(len(weights), sums.chunks - number), 0)
                measured.done(sum(weights[:done]) * len(alphas))
                number += done
                sums.rows = LossMatrix(len(alphas))  # of a group not finished
                for progress, rows in measured_by(measured.workers, measured, alphas, chunk, skip=done):
                    number += 1
                    sums.rows = LossMatrix.of(len(alphas), rows)
                    sums.close_chunk()
                    measured.done(progress * len(alphas))
                    if partial.due():
                        save()
                continue
            for group in measured.groups(chunk):
                number += 1
                if number <= sums.chunks:
                    measured.done(group.progress * len(alphas))
                    continue
                measured.done(group.progress * len(sums.rows))
                for alpha in alphas[len(sums.rows) :]:
                    sums.rows.append(measured.at(float(alpha), group))
                    if partial.due():
                        save()
                sums.close_chunk()
    except BaseException:
        if sums.rows or sums.chunks:
            save()
        raise
    save()
    return sums, hasher.hexdigest()[:12]


def evaluate_adaptively(
    measured: Evaluator, reader: Reader, tolerance: float
) -> tuple[Floats, Accumulator, str, dict[str, Any]]:
    """Measure at points chosen one after the other until the curve is known to `tolerance` of its range.

    The α in increasing order, sums over all data, a digest of the data, and what was reached. One loss for each
    example and α is held in memory, as every pair of points has a covariance.
    """
    pilot = _pilot_sample(measured, reader)
    grid = first_points(pilot, tolerance, with_slopes=measured.derivative)
    measured.choose(grid, reader.first, reader.complete)
    rows: dict[float, LossesAtAlpha] = {}
    asked, data = grid, ""
    while len(asked):
        found, data = rows_of(measured, asked, reader)
        rows |= {alpha: found[place] for place, alpha in enumerate(asked.tolist())}
        grid = np.array(sorted(rows))
        losses = np.array([float(rows[alpha].losses.mean()) for alpha in grid])
        moving = [each.slopes for each in (rows[alpha] for alpha in grid) if each.slopes is not None]
        slopes = np.array([float(each.mean()) for each in moving]) if moving else None
        asked = next_points(grid, losses, slopes, tolerance, pilot)
    sums = Accumulator(len(grid))
    sums.rows = LossMatrix.of(len(grid), (rows[alpha] for alpha in grid.tolist()))
    sums.close_chunk()
    return grid, sums, data, reached(grid, losses, slopes, tolerance, pilot)


def _pilot_sample(measured: Evaluator, reader: Reader) -> PilotSample | None:
    """A few examples' mean loss on a fine grid; None where it is not finite or they cannot leave their batches."""
    ahead = measured.ahead(reader.first)
    if ahead is None:
        return None
    few, data = ahead
    few.choose(PILOT_GRID, data.first, data.complete)
    rows, _ = rows_of(few, PILOT_GRID, data)
    each = rows.numbers()[0]
    losses = each.mean(axis=1)
    return PilotSample(losses, each.shape[1]) if np.isfinite(losses).all() else None


def rows_of(measured: Evaluator, alphas: Floats, reader: Reader) -> tuple[LossMatrix, str]:
    """One row for each α with all examples of the data."""
    groups: list[LossMatrix] = []
    measured.asked = alphas
    hasher = hashlib.sha256()
    for chunk in reader.chunks():
        for batch in chunk:
            hasher.update(batch.digest())
        if measured.workers != 1:
            for progress, rows in measured_by(measured.workers, measured, alphas, chunk, skip=0):
                measured.done(progress * len(alphas))
                groups.append(LossMatrix.of(len(alphas), rows))
            continue
        for group in measured.groups(chunk):
            groups.append(LossMatrix.of(len(alphas), (measured.at(float(alpha), group) for alpha in alphas)))
    return LossMatrix.joined(groups), hasher.hexdigest()[:12]
