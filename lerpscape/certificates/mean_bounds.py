"""Bounds of the mean loss at points and of its derivative on intervals, several of them in one pass over the data."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, fx

from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.certificates.affine_maps import Memory
from lerpscape.certificates.brackets import Piece, Point
from lerpscape.certificates.loss_enclosures import LossRule
from lerpscape.certificates.network import ELEMENTS, Network, Parameters
from lerpscape.certificates.rounding import UNIT
from lerpscape.networks.altered_calls import is_plain
from lerpscape.networks.batches import Batch
from lerpscape.networks.reading import Reader

# Largest number of intervals and points in one pass over the data; each needs a copy of the weights.
AT_ONCE = 12

Interval = tuple[float, float]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of some examples."""

    inputs: Tensor
    targets: Tensor


class MeanBounds:
    """Computes bounds of the mean loss L at points, and of dL/dα on intervals; rounding errors only widen them.

    For losses with correct predictions, `accuracy` has a lower and an upper bound of the accuracy on each interval so
    far. `evaluations` is the number of these intervals.
    """

    def __init__(self, network: Network, rule: LossRule, reader: Reader, workers: int) -> None:
        self._network = network
        self._rule = rule
        self._reader = reader
        self._workers = workers
        self._step = 0
        self.evaluations = 0
        self.examples = 0
        self.digest = ""
        self.accuracy: dict[Interval, tuple[float, float]] = {}

    def __call__(self, alphas: list[float], intervals: list[Interval]) -> tuple[list[Point], list[Piece]]:
        """Bounds of L at the points and of dL/dα on the intervals, whose widths must be powers of two."""
        places = [(alpha, 0.0) for alpha in alphas] + [
            (0.5 * (left + right), 0.5 * (right - left)) for left, right in intervals
        ]
        sums = [
            part for start in range(0, len(places), AT_ONCE) for part in self._pass(places[start : start + AT_ONCE])
        ]
        self.evaluations += len(intervals)
        points = [_point(alpha, parts, self.examples) for alpha, parts in zip(alphas, sums, strict=False)]
        pieces = []
        for interval, parts in zip(intervals, sums[len(alphas) :], strict=True):
            pieces.append(_piece(interval, parts, self.examples))
            if len(parts) > 4:
                self.accuracy[interval] = (sum(parts[4]) / self.examples, sum(parts[5]) / self.examples)
        return points, pieces

    def _pass(self, places: list[tuple[float, float]]) -> list[list[list[float]]]:
        """For every place and quantity its sums over pieces of the data, each rounded once.

        A place is a point α with reach 0, or the centre and half the width of an interval.
        """
        parameters = [self._network.parameters(*place) for place in places]
        sums: list[list[list[float]]] = [[] for _ in places]
        self.examples = 0
        for examples, piece_sums in _in_order(
            lambda piece: self._piece_sums(piece, places, parameters), self._pieces(), self._workers
        ):
            self.examples += examples
            for parts, values in zip(sums, piece_sums, strict=True):
                parts.extend([] for _ in range(len(values) - len(parts)))
                for part, value in zip(parts, values, strict=True):
                    part.append(value)
        return sums

    def _piece_sums(
        self, examples: Examples, places: list[tuple[float, float]], parameters: list[Parameters]
    ) -> tuple[int, list[list[float]]]:
        """The number of examples, and for every place the sums over them of the bounds of the loss, rounded once."""
        memory: dict[fx.Node, Memory] = {}
        sums = []
        with torch.no_grad():
            for (_, reach), place_parameters in zip(places, parameters, strict=True):
                output = self._network.enclose(examples.inputs, place_parameters, reach, memory)
                if reach == 0:
                    bounds = list(self._rule.value(output.value, examples.targets))
                else:
                    slope = self._rule.slope(output, examples.targets)
                    bounds = [slope.low, slope.low_tilt, slope.high, slope.high_tilt]
                    if self._rule.correct is not None:
                        bounds += self._rule.correct(output.value, examples.targets)
                sums.append([_exact_sum(values) for values in bounds])
        return len(examples.inputs), sums

    def _pieces(self) -> Iterator[Examples]:
        """The data in pieces of so many examples that no layer's output has more than `ELEMENTS` elements."""
        hasher = None if self.digest else hashlib.sha256()
        for batch in self._reader.batches():
            if hasher:
                hasher.update(batch.digest())
            examples = one_tensor(batch)
            if not self._step:
                self._step = max(1, ELEMENTS // self._network.widest(examples.inputs[:1].double()))
            for start in range(0, len(examples.inputs), self._step):
                inputs, targets = (part[start : start + self._step] for part in (examples.inputs, examples.targets))
                yield Examples(inputs.double(), targets.double() if targets.is_floating_point() else targets)
        if hasher:
            self.digest = hasher.hexdigest()[:12]


def _exact_sum(values: Tensor) -> float:
    return math.fsum(values.tolist()) if bool(values.isfinite().all()) else math.nan


def _mean(parts: list[float], examples: int) -> tuple[float, float]:
    """The mean, and a bound of its rounding error: that of each piece's sum, of the total, and of the mean itself."""
    size = sum(abs(part) for part in parts)
    if not math.isfinite(size):
        return math.nan, math.inf
    return math.fsum(parts) / examples, 8 * UNIT * size / examples


def _in_order(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """function(item) for every item in order, computed in `workers` threads at most 2·`workers` items ahead."""
    if workers == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    ahead: deque[Future[_Result]] = deque()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
    finally:
        torch.set_num_threads(threads)


def _point(alpha: float, parts: list[list[float]], examples: int) -> Point:
    value, rounding = _mean(parts[0], examples)
    error, _ = _mean(parts[1], examples)
    if not math.isfinite(value + error):
        raise NonFiniteLoss(
            explain(
                expected="a finite loss of every example at every edge, as NaN and infinity have no bounds.",
                got=f"a loss at α = {alpha:.6g} that is not finite, or above 1e38.",
                hint="profile() says which example is the first with such a loss.",
            )
        )
    margin = (rounding + error) * (1 + 16 * UNIT)
    return Point(alpha, value - margin, value + margin)


def _piece(interval: tuple[float, float], parts: list[list[float]], examples: int) -> Piece:
    left, right = interval
    reach = 0.5 * (right - left)
    (low, low_error), (low_tilt, low_turn), (high, high_error), (high_tilt, high_turn) = (
        _mean(part, examples) for part in parts[:4]
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


def one_tensor(batch: Batch) -> Examples:
    """Inputs and targets of a batch, each checked to be a single tensor, as certificates need.

    Raises `TypeError` for other inputs and targets, `ValueError` if their numbers of examples differ.
    """
    inputs = batch.inputs[0] if isinstance(batch.inputs, (tuple, list)) and len(batch.inputs) == 1 else batch.inputs
    targets = batch.targets
    plain = all(isinstance(part, Tensor) and is_plain(part) for part in (inputs, targets))
    if not (plain and inputs.is_floating_point()):
        raise TypeError(
            explain(
                expected="batches of one floating-point tensor and one tensor of targets, both plain.",
                got=f"inputs {type(inputs).__name__} and targets {type(targets).__name__}.",
                hint="Convert images to floats as in training, and pass pairs (inputs, targets).",
            )
        )
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
        raise ValueError(
            explain(
                expected="as many targets as inputs, along dimension 0.",
                got=f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}.",
                hint="Pair them in the data.",
            )
        )
    return Examples(inputs, targets)
