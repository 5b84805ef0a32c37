"""Many α over the data: every α passes over a group of batches while it is in memory, and data are read once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from lerpscape.adaptive import SCOUTED, Scout, first_points, next_points, reached
from lerpscape.batches import Reader
from lerpscape.monotonicity import Floats
from lerpscape.partial import Partial
from lerpscape.planning import Walk
from lerpscape.rows import Row, Rows
from lerpscape.shards import measured_by
from lerpscape.sums import Sums


def walk(measured: Walk, alphas: Floats, reader: Reader, partial: Partial) -> tuple[Sums, str]:
    """Measure every α over all data; the sums, and a digest of the data.

    Per-example losses live as long as their group, so memory does not grow with the data. What is done is written
    to `partial` now and then, and when an exception passes through; so is the way that was chosen, as another one
    would round otherwise.
    """
    kept = partial.load()
    plan = measured.choose(alphas, reader.first, reader.complete, str(kept.pop("plan")) if kept else None)
    sums = Sums.restored(len(alphas), kept)

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
                sums.rows = Rows(len(alphas))  # of a group not finished
                for progress, rows in measured_by(measured.workers, measured, alphas, chunk, skip=done):
                    number += 1
                    sums.rows = Rows.of(len(alphas), rows)
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


def search(measured: Walk, reader: Reader, tolerance: float) -> tuple[Floats, Sums, str, dict[str, Any]]:
    """Measure at points chosen one after the other until the curve is known to `tolerance` of its range.

    The α in increasing order, sums over all data, a digest of the data, and what was reached. One loss for each
    example and α is held in memory, as every pair of points has a covariance.
    """
    scout = _scout(measured, reader)
    grid = first_points(scout, tolerance, with_slopes=measured.derivative)
    measured.choose(grid, reader.first, reader.complete)
    rows: dict[float, Row] = {}
    asked, data = grid, ""
    while len(asked):
        found, data = rows_of(measured, asked, reader)
        rows |= {alpha: found[place] for place, alpha in enumerate(asked.tolist())}
        grid = np.array(sorted(rows))
        losses = np.array([float(rows[alpha].losses.mean()) for alpha in grid])
        moving = [each.slopes for each in (rows[alpha] for alpha in grid) if each.slopes is not None]
        slopes = np.array([float(each.mean()) for each in moving]) if moving else None
        asked = next_points(grid, losses, slopes, tolerance, scout)
    sums = Sums(len(grid))
    sums.rows = Rows.of(len(grid), (rows[alpha] for alpha in grid.tolist()))
    sums.close_chunk()
    return grid, sums, data, reached(grid, losses, slopes, tolerance, scout)


def _scout(measured: Walk, reader: Reader) -> Scout | None:
    """A few examples' mean loss on a fine grid; None where it is not finite or they cannot leave their batches."""
    ahead = measured.ahead(reader.first)
    if ahead is None:
        return None
    few, data = ahead
    few.choose(SCOUTED, data.first, data.complete)
    rows, _ = rows_of(few, SCOUTED, data)
    each = rows.numbers()[0]
    losses = each.mean(axis=1)
    return Scout(losses, each.shape[1]) if np.isfinite(losses).all() else None


def rows_of(measured: Walk, alphas: Floats, reader: Reader) -> tuple[Rows, str]:
    """One row for each α with all examples of the data."""
    groups: list[Rows] = []
    measured.asked = alphas
    hasher = hashlib.sha256()
    for chunk in reader.chunks():
        for batch in chunk:
            hasher.update(batch.digest())
        if measured.workers != 1:
            for progress, rows in measured_by(measured.workers, measured, alphas, chunk, skip=0):
                measured.done(progress * len(alphas))
                groups.append(Rows.of(len(alphas), rows))
            continue
        for group in measured.groups(chunk):
            groups.append(Rows.of(len(alphas), (measured.at(float(alpha), group) for alpha in alphas)))
    return Rows.joined(groups), hasher.hexdigest()[:12]
