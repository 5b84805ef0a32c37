"""`certify()`: prove bounds of the largest rise of a loss along a line, over every α instead of a grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.certificates.brackets import Bracket, Piece, Point, bracket
from lerpscape.certificates.loss_enclosures import LOSS_RULES, LossRule
from lerpscape.certificates.mean_bounds import MeanBounds, one_tensor
from lerpscape.certificates.network import Network
from lerpscape.certificates.results import Certificate
from lerpscape.engine.measurement import Measurement, MeasurementOptions, check_options, opened
from lerpscape.networks.batch_norm import EndStatistics
from lerpscape.networks.losses import find_loss
from lerpscape.networks.reading import Data, Reader
from lerpscape.paths.line import Line

# Number of intervals to begin with, how many are halved at a time, and the narrowest that is halved.
FIRST = 8
AT_ONCE = 8
NARROWEST = 2.0**-40
# Number of examples in the pilot sample, and how much its slopes are widened, relative to |dL/dα|.
SAMPLE = 1000
MARGIN = 0.1


def certify(
    model: nn.Module,
    line: Line,
    data: Data,
    *,
    loss: str = "cross_entropy",
    tolerance: float = 0.0,
    gap: float = 0.25,
    budget: int = 500,
    seconds: float = math.inf,
    workers: int = 1,
    **options: Unpack[MeasurementOptions],
) -> Certificate:
    """Prove bounds of the largest rise: lower ≤ sup over 0 ≤ α₁ < α₂ ≤ 1 of L(α₂) − L(α₁) ≤ upper.

    [0, 1] is cut into intervals; on each, dL/dα is enclosed by Taylor models in α through every layer and the loss,
    rounding included, and L is enclosed at every edge. The intervals that make the bracket wide are halved until the
    verdict is known: `monotonic` (upper ≤ tolerance) or `violated` (lower > tolerance; the search then goes on until
    upper ≤ (1 + gap)·lower). If the search ends before, the verdict is `undecided`.

    * `model`: a plain feed-forward module that `torch.fx` can trace, in evaluation mode; nothing in it changes.
    * `line`: a `Line`; the certificate is of the exact line between its two ends, for exactly these data.
    * `data`: a re-iterable of `(inputs, targets)`, the inputs one tensor with an example in each row.
    * `loss`: `"cross_entropy"`, `"squared_error"`, `"mean_squared_error"` or `"binary_cross_entropy"`.
    * `tolerance`: largest increase that still counts as monotonic, in the unit of the loss. With 0, a minimum exactly
      at an end cannot be decided, only bracketed.
    * `budget`, `seconds`: most intervals to enclose, and time after which no more are.
    * `workers`: number of threads, which share the examples.
    * `options`: `batch_norm`, `InterpolateStatistics()` or `EndStatistics()`, if the model has batch norm, and
      `progress`; see `MeasurementOptions`. Device and dtype are the CPU and float64, whose rounding the proof covers.

    Raises `TypeError` for an operation without a rule, with its name and those that have one, or for data of another
    form; `ValueError` for another loss or batch-norm policy; `NonFiniteLoss` if L is NaN or infinite;
    `EndpointMismatch` and `NotRepeatable` as `profile` does.

    Sources: Moore (1966); Makino & Berz (2003); the bound for networks is derived in docs/certificates.md.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> line = Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    >>> x = torch.ones(4, 1).double()
    >>> proof = certify(model, line, [(x, 2 * x)], loss="squared_error")
    >>> proof.verdict, proof.upper, proof.intervals
    ('monotonic', 0.0, 8)
    >>> proof = certify(model, line, [(x, 0.75 * x)], loss="squared_error")
    >>> proof.verdict, proof.lower <= 0.0625 <= proof.upper
    ('violated', True)
    """
    rule, unit = _checked(loss, tolerance, gap, budget, workers)
    with opened_for_proof(certify, model, line, data, options) as (measurement, network):
        reader = measurement.reader
        limits = _Limits(tolerance, gap, budget, measurement.began + seconds)
        grid = _first_cuts(network, rule, reader, limits)
        bounds = MeanBounds(network, rule, reader, workers)
        with measurement.progress_bar(budget, "certify", unit="interval") as report:
            bracket, points, pieces, stopped = _search(bounds, grid, limits, report)
        how = measurement.how(data_digest=bounds.digest, gap=gap, budget=budget, most_seconds=seconds)
    right = [bounds.accuracy.get((piece.left, piece.right)) for piece in pieces]
    accuracy = None if None in right else np.array(right, dtype=np.float64)
    verdict = "violated" if bracket.lower > tolerance else "monotonic" if bracket.upper <= tolerance else "undecided"
    return Certificate(
        lower=bracket.lower,
        upper=bracket.upper,
        verdict=verdict,
        tolerance=tolerance,
        stopped=stopped,
        lowest=bracket.lowest,
        highest=bracket.highest,
        edges=np.array([point.alpha for point in points]),
        loss_low=np.array([point.low for point in points]),
        loss_high=np.array([point.high for point in points]),
        slope_low=np.array([piece.low for piece in pieces]),
        slope_high=np.array([piece.high for piece in pieces]),
        rise=np.array(bracket.inside),
        accuracy_low=None if accuracy is None else accuracy[:, 0],
        accuracy_high=None if accuracy is None else accuracy[:, 1],
        direction=tuple(piece.direction for piece in pieces),
        evaluations=bounds.evaluations,
        examples=bounds.examples,
        unit=unit,
        loss_name=loss,
        how=how,
    )


@dataclass(frozen=True)
class _Limits:
    """When the search ends: `deadline` in seconds of `time.perf_counter`."""

    tolerance: float
    gap: float
    budget: int
    deadline: float


def _search(
    bounds: MeanBounds, grid: list[float], limits: _Limits, report: Callable[[int], object], margin: float = 0.0
) -> tuple[Bracket, list[Point], list[Piece], str]:
    """Halve pieces of a grid up to the limits: the bracket, its points and pieces, and why the search ended.

    `margin` widens the slopes, relative to their size.
    """
    points, pieces = bounds(grid, list(pairwise(grid)))
    report(len(pieces))
    while True:
        bounded = bracket(points, [_widened(piece, margin) for piece in pieces] if margin else pieces)
        # While the verdict is open, the gap between the bounds is not what matters.
        goal = limits.tolerance if bounded.lower <= limits.tolerance else (1 + limits.gap) * bounded.lower
        wanted, stopped = _to_divide(bounded, points, pieces, goal, limits.budget - bounds.evaluations)
        if wanted and time.perf_counter() > limits.deadline:
            stopped = "time"
        if stopped:
            return bounded, points, pieces, stopped
        cuts = [0.5 * (pieces[index].left + pieces[index].right) for index in wanted]
        halves = [
            half
            for index, cut in zip(wanted, cuts, strict=True)
            for half in ((pieces[index].left, cut), (cut, pieces[index].right))
        ]
        new_points, new_pieces = bounds(cuts, halves)
        report(len(halves))
        points = sorted([*points, *new_points], key=lambda point: point.alpha)
        kept = [piece for index, piece in enumerate(pieces) if index not in set(wanted)]
        pieces = sorted([*kept, *new_pieces], key=lambda piece: piece.left)


def _first_cuts(network: Network, rule: LossRule, reader: Reader, limits: _Limits) -> list[float]:
    """The first edges: those of a search on a pilot sample, if there are many examples, else evenly spaced ones."""
    batches = [one_tensor(batch) for batch in reader.first]
    stride = sum(len(rows.inputs) for rows in batches) // SAMPLE
    if stride < 4:
        return [index / FIRST for index in range(FIRST + 1)]
    sample = Reader([(rows.inputs[::stride], rows.targets[::stride]) for rows in batches])
    small = replace(limits, budget=max(FIRST, limits.budget // 2))
    bounds = MeanBounds(network, rule, sample, 1)
    _, points, _, _ = _search(bounds, [0.0, 0.25, 0.5, 0.75, 1.0], small, lambda _: None, MARGIN)
    return [point.alpha for point in points]


def _widened(piece: Piece, margin: float) -> Piece:
    """A piece of a sample with larger upper slopes, so that cuts that suffice for it suffice for all data too."""
    more = margin * max(map(abs, piece.low))
    return replace(piece, high=(piece.high[0] + more, piece.high[1] + more))


def _to_divide(
    bounded: Bracket, points: list[Point], pieces: list[Piece], goal: float, budget: int
) -> tuple[list[int], str]:
    """The pieces that make the bracket wide, the widest first; or why the search ends."""
    if bounded.upper <= goal:
        return [], "decided"
    if bounded.upper - bounded.lower <= max(point.high - point.low for point in points):
        return [], "rounding"
    order = sorted(range(len(pieces)), key=lambda index: -bounded.reached[index])
    wanted = dict.fromkeys(bounded.culprit[index] for index in order if bounded.reached[index] > goal)
    wide = [index for index in wanted if pieces[index].right - pieces[index].left > NARROWEST]
    if not wide:
        return [], "rounding"
    if budget < 2:
        return [], "budget"
    return wide[: min(AT_ONCE, budget // 2)], ""


@contextmanager
def opened_for_proof(
    function: Callable[..., Any], model: nn.Module, line: Line, data: Data, options: MeasurementOptions
) -> Iterator[tuple[Measurement, Network]]:
    """`opened` in float64 on the CPU, whose rounding proofs cover, and the traced network, compared with the module.

    Raises `TypeError` for other paths, as only on a line are parameters linear in α, and for a device or a dtype;
    otherwise what `opened` and `Network` raise.
    """
    check_options(function, options, without=["device", "dtype", "label", "self_check"])
    if not isinstance(line, Line):
        raise TypeError(
            explain(
                expected="a Line, on which parameters are linear in α.",
                got=f"{type(line).__name__}.",
                hint="Use Line(a, b).",
            )
        )
    policy = options.get("batch_norm")
    in_float64: MeasurementOptions = {**options, "device": "cpu", "dtype": torch.float64}
    in_float64["batch_norm"] = policy or EndStatistics()  # `Network` refuses None, with the policies it allows
    with opened(function, model, line, data, in_float64) as measurement:
        network = Network(measurement.on_path, policy)
        network.compare(one_tensor(batch).inputs for batch in measurement.reader.batches())
        yield measurement, network


def _checked(loss: str, tolerance: float, gap: float, budget: int, workers: int) -> tuple[LossRule, str]:
    """The rule and the unit of the loss, if the arguments are valid."""
    if not (isinstance(loss, str) and loss in LOSS_RULES):
        raise ValueError(
            explain(
                expected=f"one of {', '.join(LOSS_RULES)}.",
                got=f"{loss!r}.",
                hint="A loss of your own has no enclosure: measure it with profile().",
            )
        )
    if not (tolerance >= 0 and gap > 0 and budget >= FIRST and workers >= 1):
        raise ValueError(
            explain(
                expected=f"tolerance ≥ 0, gap > 0, budget ≥ {FIRST} and workers ≥ 1.",
                got=f"tolerance={tolerance}, gap={gap}, budget={budget}, workers={workers}.",
                hint="tolerance=0, gap=0.25, budget=500, workers=1 are usual.",
            )
        )
    return LOSS_RULES[loss], find_loss(loss).unit
