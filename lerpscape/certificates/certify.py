"""`certify()`: prove how much a loss can rise along a line, over every α and not only on a grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.base.saving import versions
from lerpscape.certificates.brackets import Bracket, Piece, Point, bracket
from lerpscape.certificates.loss_enclosures import LOSS_RULES, LossRule
from lerpscape.certificates.mean_bounds import MeanBounds, one_tensor, plain_products
from lerpscape.certificates.network import Network
from lerpscape.certificates.results import Certificate
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.losses import find_loss
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.line import Line

# Intervals to begin with, how many are divided in one pass over the data, and the narrowest that is divided.
FIRST = 8
AT_ONCE = 8
NARROWEST = 2.0**-40
# Examples to rehearse the search on, and how much worse than the sample the whole data may be, relative to |dL/dα|.
SAMPLE = 1000
CAUTION = 0.1


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
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
    progress: Progress = None,
) -> Certificate:
    """Prove bounds of the largest rise: lower ≤ sup over 0 ≤ α₁ < α₂ ≤ 1 of L(α₂) − L(α₁) ≤ upper.

    [0, 1] is cut into intervals; on each, dL/dα is enclosed by Taylor models in α through every layer and the loss,
    rounding included, and L is enclosed at every edge. Intervals that keep the bracket wide are divided until the
    verdict is known, `monotonic` (upper ≤ tolerance) or `violated` (lower > tolerance, then on until
    upper ≤ (1 + gap)·lower), or until the search ends without one: `undecided`.

    * `model`: a plain feed-forward module that `torch.fx` can trace, in evaluation mode; nothing in it changes.
    * `line`: a `Line`; the certificate is of the exact line between its two ends, for exactly these data.
    * `data`: a re-iterable of `(inputs, targets)`, the inputs one tensor with an example in each row.
    * `loss`: `"cross_entropy"`, `"squared_error"`, `"mean_squared_error"` or `"binary_cross_entropy"`.
    * `tolerance`: in the unit of the loss; with 0, a minimum exactly at an end cannot be decided, only bracketed.
    * `budget`, `seconds`: the most intervals to enclose and the most time to begin new ones.
    * `workers`: threads that share the examples.
    * `batch_norm`: `InterpolateStatistics()` or `EndStatistics()`, where the model has batch norm.
    * `device`, `dtype`: the proof covers float64 on the CPU, and nothing else.

    Raises `TypeError` for an operation without a rule, naming it and those that have one, or for data of another form;
    `ValueError` for another loss, device, dtype or batch-norm policy; `NonFiniteLoss` where L is NaN or infinite;
    `EndpointMismatch` and `NotRepeatable` as `profile` does.

    Sources: Moore (1966); Makino & Berz (2003); the bound for networks is derived in docs/certificates.md.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> line = Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    >>> x = torch.ones(4, 1).double()
    >>> found = certify(model, line, [(x, 2 * x)], loss="squared_error")
    >>> found.verdict, found.upper, found.intervals
    ('monotonic', 0.0, 8)
    >>> found = certify(model, line, [(x, 0.75 * x)], loss="squared_error")
    >>> found.verdict, found.lower <= 0.0625 <= found.upper
    ('violated', True)
    """
    rule, unit = _checked(line, loss, tolerance, gap, budget, workers, device, dtype)
    began = time.perf_counter()
    with undisturbed(model), plain_products():
        reader = Reader(data)
        on_path = ModelOnPath(model, line, torch.device("cpu"), torch.float64)
        network = Network(on_path, batch_norm)
        network.compare(one_tensor(reader.first[0]).inputs)
        wish = _Wish(tolerance, gap, budget, began + seconds)
        grid = _rehearsed(network, rule, reader, wish)
        bounds = MeanBounds(network, rule, reader, workers)
        with progress_bar(progress, total=budget, what="certify", unit="interval") as report:
            found, points, pieces, stopped = _search(bounds, grid, wish, report)
    right = [bounds.accuracy.get((piece.left, piece.right)) for piece in pieces]
    accuracy = None if None in right else np.array(right, dtype=np.float64)
    verdict = "violated" if found.lower > tolerance else "monotonic" if found.upper <= tolerance else "undecided"
    return Certificate(
        lower=found.lower,
        upper=found.upper,
        verdict=verdict,
        tolerance=tolerance,
        stopped=stopped,
        lowest=found.lowest,
        highest=found.highest,
        edges=np.array([point.alpha for point in points]),
        loss_low=np.array([point.low for point in points]),
        loss_high=np.array([point.high for point in points]),
        slope_low=np.array([piece.low for piece in pieces]),
        slope_high=np.array([piece.high for piece in pieces]),
        rise=np.array(found.inside),
        accuracy_low=None if accuracy is None else accuracy[:, 0],
        accuracy_high=None if accuracy is None else accuracy[:, 1],
        direction=tuple(piece.direction for piece in pieces),
        evaluations=bounds.evaluations,
        examples=bounds.examples,
        unit=unit,
        loss_name=loss,
        seconds=round(time.perf_counter() - began, 3),
        how={
            "path": line.describe(),
            "path_digest": line.digest(),
            "model": type(model).__name__,
            "data_digest": bounds.digest,
            "batch_norm": batch_norm.describe() if batch_norm and on_path.batch_norms else None,
            "gap": gap,
            "budget": budget,
            "most_seconds": seconds,
            "dtype": "float64",
            "threads": torch.get_num_threads(),
            "versions": versions(),
        },
    )


@dataclass(frozen=True)
class _Wish:
    """When the search may end: `deadline` in seconds of `time.perf_counter`."""

    tolerance: float
    gap: float
    budget: int
    deadline: float


def _search(
    bounds: MeanBounds, grid: list[float], wish: _Wish, report: Callable[[int], object], caution: float = 0.0
) -> tuple[Bracket, list[Point], list[Piece], str]:
    """Divide the pieces of a grid until the wish is met: the bracket, what it is of, and why the search ended."""
    points, pieces = bounds(grid, list(pairwise(grid)))
    report(len(pieces))
    while True:
        found = bracket(points, [_cautious(piece, caution) for piece in pieces] if caution else pieces)
        goal = max(wish.tolerance, (1 + wish.gap) * found.lower)
        wanted, stopped = _to_divide(found, points, pieces, goal, wish.budget - bounds.evaluations)
        if wanted and time.perf_counter() > wish.deadline:
            stopped = "time"
        if stopped:
            return found, points, pieces, stopped
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


def _rehearsed(network: Network, rule: LossRule, reader: Reader, wish: _Wish) -> list[float]:
    """Where to cut at first: as a search on a sample of many examples cuts, else evenly."""
    batches = [one_tensor(batch) for batch in reader.first]
    stride = sum(len(rows.inputs) for rows in batches) // SAMPLE
    if stride < 4:
        return [index / FIRST for index in range(FIRST + 1)]
    sample = Reader([(rows.inputs[::stride], rows.targets[::stride]) for rows in batches])
    small = replace(wish, budget=max(FIRST, wish.budget // 2))
    bounds = MeanBounds(network, rule, sample, 1)
    _, points, _, _ = _search(bounds, [0.0, 0.25, 0.5, 0.75, 1.0], small, lambda _: None, CAUTION)
    return [point.alpha for point in points]


def _cautious(piece: Piece, share: float) -> Piece:
    """A piece of a sample as if it were known less well, so that the whole data decide where the sample does."""
    raise_by = share * max(map(abs, piece.low))
    return replace(piece, high=(piece.high[0] + raise_by, piece.high[1] + raise_by))


def _to_divide(
    found: Bracket, points: list[Point], pieces: list[Piece], goal: float, budget: int
) -> tuple[list[int], str]:
    """The pieces that keep the bracket wide, worst first, and why the search ends where it does."""
    if found.upper <= goal:
        return [], "decided"
    if found.upper - found.lower <= max(point.high - point.low for point in points):
        return [], "rounding"
    order = sorted(range(len(pieces)), key=lambda index: -found.reached[index])
    wanted = dict.fromkeys(found.culprit[index] for index in order if found.reached[index] > goal)
    wide = [index for index in wanted if pieces[index].right - pieces[index].left > NARROWEST]
    if not wide:
        return [], "rounding"
    if budget < 2:
        return [], "budget"
    return wide[: min(AT_ONCE, budget // 2)], ""


def _checked(
    line: Line,
    loss: str,
    tolerance: float,
    gap: float,
    budget: int,
    workers: int,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> tuple[LossRule, str]:
    """The rule and the unit of the loss, once the arguments are known to be fit."""
    if not isinstance(line, Line):
        raise TypeError(
            explain(
                expected="a Line, on which parameters are linear in α.",
                got=f"{type(line).__name__}.",
                hint="Use Line(a, b).",
            )
        )
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
    if (device is not None and torch.device(device).type != "cpu") or dtype != torch.float64:
        raise ValueError(
            explain(
                expected="float64 on the CPU, whose rounding the proof covers.",
                got=f"{dtype} on {device}.",
                hint="Leave device and dtype out; the checkpoints may have any dtype.",
            )
        )
    return LOSS_RULES[loss], find_loss(loss).unit
