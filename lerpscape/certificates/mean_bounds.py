"""Bounds of the mean loss at points and of its derivative on intervals, from one pass over the data for all of them."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, fx

from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.certificates.affine_maps import Memory
from lerpscape.certificates.brackets import Piece, Point
from lerpscape.certificates.loss_enclosures import LossRule
from lerpscape.certificates.network import Network, Parameters
from lerpscape.certificates.rounding import UNIT
from lerpscape.networks.batches import Batch, Reader

# Elements of the widest layer's tensor: examples are taken in pieces that stay in cache and bound the memory.
ELEMENTS = 1 << 18
# Intervals and points enclosed in one pass over the data: each holds its own copy of the weights.
AT_ONCE = 12

Interval = tuple[float, float]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Rows:
    """Some examples: inputs, targets."""

    inputs: Tensor
    targets: Tensor


class MeanBounds:
    """Bounds of L at points and of dL/dα on intervals, averaged over data in the sound direction.

    `accuracy` keeps, for each interval enclosed, the shares of examples that are surely and possibly right on it, for
    losses that have right answers. `evaluations` counts the intervals.
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
        """Enclose L at the points and dL/dα on the intervals; widths are powers of two, so that centres are exact."""
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
        """For every place and quantity its sums over pieces of the data, each rounded once."""
        around = [self._network.parameters(*place) for place in places]
        sums: list[list[list[float]]] = [[] for _ in places]
        self.examples = 0
        for examples, found in _in_order(
            lambda rows: self._enclosed(rows, places, around), self._rows(), self._workers
        ):
            self.examples += examples
            for parts, values in zip(sums, found, strict=True):
                parts.extend([] for _ in range(len(values) - len(parts)))
                for part, value in zip(parts, values, strict=True):
                    part.append(value)
        return sums

    def _enclosed(
        self, rows: Rows, places: list[tuple[float, float]], around: list[Parameters]
    ) -> tuple[int, list[list[float]]]:
        """For every place the sums over these rows of what the loss rule says, rounded once."""
        memory: dict[fx.Node, Memory] = {}
        found = []
        with torch.no_grad():
            for (_, reach), parameters in zip(places, around, strict=True):
                output = self._network.enclose(rows.inputs, parameters, reach, memory)
                if reach == 0:
                    bounds = list(self._rule.value(output.value, rows.targets))
                else:
                    slope = self._rule.slope(output, rows.targets)
                    bounds = [slope.low, slope.low_tilt, slope.high, slope.high_tilt]
                    if self._rule.right is not None:
                        bounds += self._rule.right(output.value, rows.targets)
                found.append([_exact_sum(values) for values in bounds])
        return len(rows.inputs), found

    def _rows(self) -> Iterator[Rows]:
        """Inputs and targets in pieces of so many examples that every layer's tensors stay small."""
        hasher = None if self.digest else hashlib.sha256()
        for batch in self._reader.batches():
            if hasher:
                hasher.update(batch.digest())
            placed = one_tensor(batch)
            if not self._step:
                self._step = max(1, ELEMENTS // self._network.widest(placed.inputs[:1].double()))
            for start in range(0, len(placed.inputs), self._step):
                rows = slice(start, start + self._step)
                targets = placed.targets[rows]
                yield Rows(placed.inputs[rows].double(), targets.double() if targets.is_floating_point() else targets)
        if hasher:
            self.digest = hasher.hexdigest()[:12]


@contextmanager
def plain_products() -> Iterator[None]:
    """float32 products in float32, whatever the caller allows."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _exact_sum(values: Tensor) -> float:
    return math.fsum(values.tolist()) if bool(values.isfinite().all()) else math.nan


def _mean(parts: list[float], examples: int) -> tuple[float, float]:
    """The mean, and a bound of its rounding error: the sum of each piece was rounded once, so are the total and it."""
    size = sum(abs(part) for part in parts)
    if not math.isfinite(size):
        return math.nan, math.inf
    return math.fsum(parts) / examples, 8 * UNIT * size / examples


def _in_order(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """function(item) for every item in order, in so many threads; few items are held at a time."""
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
                expected="a finite loss of every example at every edge: NaN or infinity cannot be bracketed.",
                got=f"the loss at α = {alpha:.6g} is not finite, or beyond 1e38.",
                hint="profile() finds the first such example.",
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


def one_tensor(batch: Batch) -> Rows:
    """Inputs and targets of a batch that a certificate can be of.

    Raises `TypeError` for a batch of another form, `ValueError` for targets that do not pair with inputs.
    """
    inputs = batch.inputs[0] if isinstance(batch.inputs, (tuple, list)) and len(batch.inputs) == 1 else batch.inputs
    targets = batch.targets
    if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.is_floating_point()):
        raise TypeError(
            explain(
                expected="batches of one floating-point tensor and one tensor of targets.",
                got=f"inputs {type(inputs).__name__} and targets {type(targets).__name__}.",
                hint="Convert images to floats as the training did, and pass pairs (inputs, targets).",
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
    return Rows(inputs, targets)
