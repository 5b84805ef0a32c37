"""`certify()`: prove how much a loss can rise along a line, over every α and not only on a grid."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, fx, nn

from lerpscape.batch_norm import BatchNormPolicy
from lerpscape.batches import Batch, Data, Reader
from lerpscape.brackets import Bracket, Piece, Point, bracket
from lerpscape.certificates import Certificate
from lerpscape.enclosures import Memory
from lerpscape.errors import NonFiniteLoss, three_parts
from lerpscape.functional import ModelOnPath, undisturbed
from lerpscape.loss_enclosures import LOSS_RULES, LossRule
from lerpscape.losses import find_loss
from lerpscape.paths import Line
from lerpscape.progress import Progress, progress_bar
from lerpscape.saving import versions
from lerpscape.taylor_models import UNIT
from lerpscape.tracing import Network

# Intervals to begin with, how many are divided in one pass over the data, and the narrowest that is divided.
FIRST = 8
AT_ONCE = 8
NARROWEST = 2.0**-40
# Elements of the widest layer's tensor: examples are taken in pieces that stay in cache and bound the memory.
ELEMENTS = 1 << 16


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
    * `batch_norm`: `InterpolateStatistics()` or `EndStatistics()`, where the model has batch norm.
    * `device`, `dtype`: the proof covers float64 on the CPU, and nothing else.

    Raises `TypeError` for an operation without a rule, naming it and those that have one, or for data of another form;
    `ValueError` for another loss, device, dtype or batch-norm policy; `NonFiniteLoss` where L is NaN or infinite;
    `EndpointMismatch` and `NotRepeatable` as `profile` does.

    Sources: Moore (1966); Makino & Berz (2003); the bound for networks is derived in docs/certificates.md.

    >>> from lerpscape.paths import Line
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
    rule, unit = _checked(line, loss, tolerance, gap, budget, device, dtype)
    began = time.perf_counter()
    with undisturbed(model):
        reader = Reader(data)
        on_path = ModelOnPath(model, line, torch.device("cpu"), torch.float64)
        measure = _Measure(Network(on_path, batch_norm), rule, reader)
        grid = [index / FIRST for index in range(FIRST + 1)]
        with progress_bar(progress, total=budget, what="certify", unit="interval") as report:
            points, pieces = measure(grid, list(pairwise(grid)))
            report(FIRST)
            while True:
                found = bracket(points, pieces)
                goal = max(tolerance, (1 + gap) * found.lower)
                wanted, stopped = _to_divide(found, points, pieces, goal, budget - measure.evaluations)
                if wanted and time.perf_counter() - began > seconds:
                    stopped = "time"
                if stopped:
                    break
                cuts = [0.5 * (pieces[index].left + pieces[index].right) for index in wanted]
                halves = [
                    half
                    for index, cut in zip(wanted, cuts, strict=True)
                    for half in ((pieces[index].left, cut), (cut, pieces[index].right))
                ]
                new_points, new_pieces = measure(cuts, halves)
                report(len(halves))
                points = sorted([*points, *new_points], key=lambda point: point.alpha)
                kept = [piece for index, piece in enumerate(pieces) if index not in set(wanted)]
                pieces = sorted([*kept, *new_pieces], key=lambda piece: piece.left)
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
        direction=tuple(piece.direction for piece in pieces),
        evaluations=measure.evaluations,
        examples=measure.examples,
        unit=unit,
        loss_name=loss,
        seconds=round(time.perf_counter() - began, 3),
        how={
            "path": line.describe(),
            "path_digest": line.digest(),
            "model": type(model).__name__,
            "data_digest": measure.digest,
            "batch_norm": batch_norm.describe() if batch_norm and on_path.batch_norms else None,
            "gap": gap,
            "budget": budget,
            "most_seconds": seconds,
            "dtype": "float64",
            "threads": torch.get_num_threads(),
            "versions": versions(),
        },
    )


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


class _Sum:
    """Per-example numbers summed exactly (math.fsum), batch by batch."""

    def __init__(self) -> None:
        self.parts: list[float] = []

    def add(self, values: Tensor) -> None:
        self.parts.append(math.fsum(values.tolist()) if bool(values.isfinite().all()) else float("nan"))

    def mean(self, examples: int) -> tuple[float, float]:
        """The mean, and a bound of its rounding error: each batch's sum is rounded once, so are the total and it."""
        size = sum(abs(part) for part in self.parts)
        if not math.isfinite(size):
            return float("nan"), float("inf")
        return math.fsum(self.parts) / examples, 8 * UNIT * size / examples


class _Measure:
    """Bounds of L at points and of dL/dα on intervals, from one pass over the data for all of them."""

    def __init__(self, network: Network, rule: LossRule, reader: Reader) -> None:
        self._network = network
        self._rule = rule
        self._reader = reader
        self._step = 0
        self.evaluations = 0
        self.examples = 0
        self.digest = ""

    def __call__(self, alphas: list[float], intervals: list[tuple[float, float]]) -> tuple[list[Point], list[Piece]]:
        """Enclose L at the points and dL/dα on the intervals; widths are powers of two, so that centres are exact."""
        places = [(alpha, 0.0) for alpha in alphas] + [
            (0.5 * (left + right), 0.5 * (right - left)) for left, right in intervals
        ]
        around = [self._network.parameters(*place) for place in places]
        sums = [[_Sum() for _ in range(4)] for _ in places]
        examples = 0
        for inputs, targets in self._rows():
            examples += len(inputs)
            memory: dict[fx.Node, Memory] = {}
            for (_, reach), parameters, parts in zip(places, around, sums, strict=True):
                output = self._network.enclose(inputs, parameters, reach, memory)
                if reach == 0:
                    bounds: Iterable[Tensor] = self._rule.value(output.value, targets)
                else:
                    slope = self._rule.slope(output, targets)
                    bounds = (slope.low, slope.low_tilt, slope.high, slope.high_tilt)
                for part, values in zip(parts, bounds, strict=False):
                    part.add(values)
        self.examples = examples
        self.evaluations += len(intervals)
        points = [_point(alpha, parts, examples) for alpha, parts in zip(alphas, sums, strict=False)]
        pieces = [
            _piece(interval, parts, examples) for interval, parts in zip(intervals, sums[len(alphas) :], strict=True)
        ]
        return points, pieces

    def _rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets in pieces of so many examples that every layer's tensors stay small."""
        hasher = None if self.digest else hashlib.sha256()
        for batch in self._reader.batches():
            if hasher:
                hasher.update(batch.digest())
            placed = _one_tensor(batch.to(torch.device("cpu"), torch.float64))
            if not self._step:
                self._step = max(1, ELEMENTS // self._network.widest(placed.inputs[:1]))
            for start in range(0, len(placed.inputs), self._step):
                rows = slice(start, start + self._step)
                yield placed.inputs[rows], placed.targets[rows]
        if hasher:
            self.digest = hasher.hexdigest()[:12]


def _point(alpha: float, parts: list[_Sum], examples: int) -> Point:
    value, rounding = parts[0].mean(examples)
    error, _ = parts[1].mean(examples)
    if not math.isfinite(value + error):
        raise NonFiniteLoss(
            three_parts(
                "a finite loss of every example at every edge: NaN or infinity cannot be bracketed.",
                f"the loss at α = {alpha:.6g} is not finite.",
                "profile() finds the first such example.",
            )
        )
    margin = (rounding + error) * (1 + 16 * UNIT)
    return Point(alpha, value - margin, value + margin)


def _piece(interval: tuple[float, float], parts: list[_Sum], examples: int) -> Piece:
    left, right = interval
    reach = 0.5 * (right - left)
    (low, low_error), (low_tilt, low_turn), (high, high_error), (high_tilt, high_turn) = (
        part.mean(examples) for part in parts
    )
    lines = []
    for value, tilt, error, side in (
        (low, low_tilt, low_error + reach * low_turn, -1),
        (high, high_tilt, high_error + reach * high_turn, 1),
    ):
        margin = side * (error + 8 * UNIT * (abs(value) + reach * abs(tilt)))
        ends = (value - reach * tilt + margin, value + reach * tilt + margin)
        lines.append(ends if all(map(math.isfinite, ends)) else (side * math.inf, side * math.inf))
    return Piece(left, right, lines[0], lines[1])


def _one_tensor(batch: Batch) -> Batch:
    inputs = batch.inputs[0] if isinstance(batch.inputs, (tuple, list)) and len(batch.inputs) == 1 else batch.inputs
    targets = batch.targets
    if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.is_floating_point()):
        raise TypeError(
            three_parts(
                "batches of one floating-point tensor and one tensor of targets.",
                f"inputs {type(inputs).__name__} and targets {type(targets).__name__}.",
                "Convert images to floats as the training did, and pass pairs (inputs, targets).",
            )
        )
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
        raise ValueError(
            three_parts(
                "as many targets as inputs, along dimension 0.",
                f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}.",
                "Pair them in the data.",
            )
        )
    return Batch(inputs, targets, len(inputs))


def _checked(
    line: Line,
    loss: str,
    tolerance: float,
    gap: float,
    budget: int,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> tuple[LossRule, str]:
    """The rule and the unit of the loss, once the arguments are known to be fit."""
    if not isinstance(line, Line):
        raise TypeError(
            three_parts("a Line, on which parameters are linear in α.", f"{type(line).__name__}.", "Use Line(a, b).")
        )
    if not (isinstance(loss, str) and loss in LOSS_RULES):
        raise ValueError(
            three_parts(
                f"one of {', '.join(LOSS_RULES)}.",
                f"{loss!r}.",
                "A loss of your own has no enclosure: measure it with profile().",
            )
        )
    if not (tolerance >= 0 and gap > 0 and budget >= FIRST):
        raise ValueError(
            three_parts(
                f"tolerance ≥ 0, gap > 0 and budget ≥ {FIRST}.",
                f"tolerance={tolerance}, gap={gap}, budget={budget}.",
                "tolerance=0, gap=0.25, budget=500 are usual.",
            )
        )
    if (device is not None and torch.device(device).type != "cpu") or dtype != torch.float64:
        raise ValueError(
            three_parts(
                "float64 on the CPU, whose rounding the proof covers.",
                f"{dtype} on {device}.",
                "Leave device and dtype out; the checkpoints may have any dtype.",
            )
        )
    return LOSS_RULES[loss], find_loss(loss).unit
