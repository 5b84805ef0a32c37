"""What a layer behind a ReLU gives along a line, without multiplying its weights at every α.

The ReLU's input z(α) = s + αd is linear in α, and so are the weights W(α) = W₀ + αΔ. Between two α at which a hidden
unit switches on or off, W(α)·relu(z(α)) + b(α) is therefore a quadratic in α, and where unit j switches, its
coefficients change by W₀ⱼsⱼ, W₀ⱼdⱼ + Δⱼsⱼ and Δⱼdⱼ: a few columns, in place of a product with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.engine.shared_layers import EndpointOutputs
from lerpscape.networks import forward_ad

Result = TypeVar("Result")

# Results are computed for so many α at once, as long as they take no more bytes: coefficients are then read from memory
# once for all of them.
AHEAD, AHEAD_BYTES = 8, 1 << 24
# Costs in multiplications of a matrix product, measured at 128 to 1024 units in float32 on an Intel Xeon (AVX-512) by
# benchmarks/bench_engine.py: to find whether and where a unit switches; to add a switch to an output; to read an
# output at an α off its coefficients, and its derivative too. They are high because memory has to be moved.
FINDING, SWITCHING, READING, READING_SLOPE = 900, 40, 60, 30
# The same for computing a weight at an α, which products need once for all examples.
WEIGHT_AT_ALPHA = 40
# A sweep must cost less than this share of the products, as the costs are rough.
WORTH_SWEEPING = 0.9
# Multiplications to be saved before numba is loaded, which takes half a second in each process.
WORTH_LOADING = 2e10
# Coefficients lose digits where outputs at the end are so many times smaller than those at the start.
MOST_SHRINKING = 8.0


@dataclass(frozen=True)
class NextLayer:
    """A linear layer whose weights move: for each unit a column of W₀ and one of Δ = dW/dα; b and db/dα.

    `columns` has the shape (units, 2, outputs). `sizes` are norms of the weights at both ends.
    """

    columns: Tensor
    bias: Tensor
    shift: Tensor
    sizes: tuple[float, float]

    @classmethod
    def of(cls, weight: Tensor, moved: Tensor, bias: Tensor | None, shift: Tensor | None) -> NextLayer:
        """The layer with these values at the start, and their derivatives by α."""
        nothing = weight.new_zeros(len(weight))
        return cls(
            torch.stack([each.t().contiguous() for each in (weight, moved)], 1),  # turned first: twice as fast
            nothing if bias is None else bias,
            nothing if shift is None else shift,
            (float(torch.linalg.vector_norm(weight)), float(torch.linalg.vector_norm(weight + moved))),
        )

    def at(self, alpha: float, inputs: Tensor, *, moving: bool) -> Tensor:
        """What the layer gives at α by its products; `moving`, as a dual tensor."""
        start, moved = (each.t() for each in self.columns.unbind(1))
        weight, bias = torch.add(start, moved, alpha=alpha), torch.add(self.bias, self.shift, alpha=alpha)
        if moving:
            weight, bias = forward_ad.dual(weight, moved), forward_ad.dual(bias, self.shift)
        return F.linear(inputs, weight, bias)


class ReLUSweep:
    """W(α)·relu(z(α)) + b(α) for a batch at increasing α, with derivatives.

    `alphas` are those that will be asked for, in increasing order; each gives the same bits whichever of them were
    asked for before. Going back to a smaller one is allowed, and costs a new beginning. Results are made for some α
    ahead, in memory that the caller may write over and that the next ones will be written to. `begun` is what is known
    at the first α: the result, or it and its derivative.

    >>> first = EndpointOutputs(torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]]), None)
    >>> layer = NextLayer.of(torch.eye(2), torch.zeros(2, 2), None, None)
    >>> sweep = ReLUSweep(first, layer, np.array([0.25, 0.75]))
    >>> sweep.at(0.25).tolist(), sweep.at(0.75).tolist()
    ([[0.5, 0.0]], [[0.0, 0.5]])
    """

    def __init__(self, first: EndpointOutputs, layer: NextLayer, alphas: Floats, begun: Sequence[Tensor] = ()) -> None:
        self._first = first
        self._layer = layer
        self._alphas = alphas
        self._begun = begun
        self._safe: bool | None = None
        self._reached = len(alphas)  # the place whose switches the coefficients hold; none is beyond it yet
        self._ahead = range(0)
        self._given = 0
        self._results = self.like.new_empty(0).numpy()
        self._switches: list[tuple[int, Any]] = []  # how many examples are before those of a part, and theirs

    @property
    def shape(self) -> torch.Size:
        """Of what the layer gives."""
        return torch.Size((len(self._first.start), len(self._layer.bias)))

    @property
    def like(self) -> Tensor:
        """A tensor of the same type and device."""
        return self._first.start

    @property
    def elements(self) -> int:
        """How many numbers are held, about: the first layer, coefficients, units that switch, and results ahead.

        And what is known at the first α.
        """
        order = 0 if self._first.change is None else 1
        held = 3 + (1 + order) * self._at_once(order) + len(self._begun)
        return self._first.elements + held * self.shape.numel() + self._first.start.numel()

    def at(self, alpha: float) -> Tensor:
        """The layer's result at α, a dual tensor where there is a derivative."""
        moving = self._first.change is not None
        if not self.is_safe():
            return self._layer.at(alpha, F.relu(self._first.at(alpha)), moving=moving)
        derivatives = self.series(alpha, int(moving))
        return forward_ad.dual(*derivatives) if moving else derivatives[0]

    def series(self, alpha: float, order: int) -> list[Tensor]:
        """The result at α and its first `order` derivatives by α, at most two."""
        place = int(np.searchsorted(self._alphas, alpha))
        if place not in self._ahead or place < self._given or order + 1 != len(self._results):
            self._go_on(place, order)
        self._given = place + 1
        # No views: a dual number made of one has a derivative as large as all that it is a view of.
        return [torch.from_numpy(each[place - self._ahead.start]) for each in self._results]

    def is_safe(self) -> bool:
        """Whether sums may be kept: a NaN stays in them for ever, the rest of much larger ones has few digits."""
        if self._safe is None:
            start, end = (
                float(torch.linalg.vector_norm(F.relu(each))) for each in (self._first.start, self._first.end)
            )
            before, after = start * self._layer.sizes[0], end * self._layer.sizes[1]
            sums = float(self._first.start.sum() + self._first.end.sum()) + before + after
            self._safe = bool(np.isfinite(sums)) and before <= MOST_SHRINKING * after
        return self._safe

    def _at_once(self, order: int) -> int:
        """How many α results are made for at once."""
        bytes_each = (1 + order) * self.shape.numel() * self.like.element_size()
        return int(np.clip(AHEAD_BYTES // max(bytes_each, 1), 1, AHEAD))

    def _go_on(self, place: int, order: int) -> None:
        """Results at this place and some that follow."""
        from lerpscape.engine._relu_sweep_kernels import advance

        if place <= self._reached:
            self._begin()
            self._reached = -1
        count = self._at_once(order)
        self._ahead = range(place, min(place + count, len(self._alphas)))
        if order + 1 != len(self._results):
            self._results = self.like.new_empty(order + 1, count, *self.shape).numpy()
        columns, coefficients = self._layer.columns.numpy(), self._coefficients.numpy()
        begin, stop, results = self._reached + 1, self._ahead.stop, self._results
        calls = [
            partial(advance, columns, coefficients, each, before, self._grid, begin, place, stop, results)
            for before, each in self._switches
        ]
        in_threads(calls)
        self._reached = self._ahead[-1]

    def _begin(self) -> None:
        """Coefficients at the first α, and which units switch before which α."""
        from lerpscape.engine._relu_sweep_kernels import switching

        first, layer = self._first, self._layer
        moving = first.end - first.start if first.change is None else first.change
        self._grid = self._alphas.astype(first.start.numpy().dtype)
        start, change = torch.empty_like(first.start), torch.empty_like(first.start)
        arrays = [each.numpy() for each in (first.start, moving, start, change)]
        calls, threads = [], parts(len(first.start))
        for begin, stop in threads:
            values, speeds, *into = (each[begin:stop] for each in arrays)
            calls.append(partial(switching, values, speeds, self._grid, *into))
        self._switches = list(zip((begin for begin, _ in threads), in_threads(calls), strict=True))
        weight, moved = layer.columns.unbind(1)
        self._coefficients = first.start.new_empty(3, *self.shape)
        known = range(len(self._begun))
        for order in known:
            self._coefficients[order] = self._begun[order]
        if 0 not in known:
            torch.addmm(layer.bias, start, weight, out=self._coefficients[0])
        if 1 not in known:
            torch.addmm(layer.shift, change, weight, out=self._coefficients[1])
            self._coefficients[1].addmm_(start, moved)
        torch.mm(change, moved, out=self._coefficients[2])


def may_sweep(first: EndpointOutputs, outputs: int, points: int, examples: int, *, derivative: bool) -> bool:
    """Whether a sweep of so many examples is possible and pays; products are cheaper on a GPU."""
    return (
        first.start.dim() == 2
        and first.start.device.type == "cpu"
        and first.start.dtype in (torch.float32, torch.float64)
        and worth_sweeping(first, outputs, points, examples, derivative=derivative)
    )


def worth_sweeping(first: EndpointOutputs, outputs: int, points: int, examples: int, *, derivative: bool) -> bool:
    """Whether to sweep over so many α, as far as one can tell by how often units of a few examples switch.

    >>> moving = EndpointOutputs(torch.full((1, 512), -1.0), torch.ones(1, 512), None)
    >>> still = EndpointOutputs(torch.ones(1, 512), torch.ones(1, 512), None)
    >>> [worth_sweeping(each, 512, 20, 60_000, derivative=False) for each in (moving, still)]
    [False, True]
    """
    units = first.start.shape[1]
    switches = float(((first.start > 0) != (first.end > 0)).sum()) / len(first.start)
    product = units * outputs
    products = points * product * ((3 if derivative else 1) + WEIGHT_AT_ALPHA / max(examples, 1))
    reading = READING + READING_SLOPE if derivative else READING
    sweeping = 4 * product + FINDING * units + outputs * (SWITCHING * switches + reading * points)
    return sweeping < WORTH_SWEEPING * products and examples * (products - sweeping) > WORTH_LOADING


def installed() -> bool:
    """Whether numba, which compiles the loops of a sweep, is installed (`lerpscape[fast]`)."""
    return find_spec("numba") is not None


def parts(count: int) -> list[tuple[int, int]]:
    """Where each part begins and ends if so many examples are divided among torch's threads.

    >>> sum(stop - first for first, stop in parts(10))
    10
    """
    threads = max(min(torch.get_num_threads(), count), 1)
    return [(count * each // threads, count * (each + 1) // threads) for each in range(threads)]


def in_threads(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of calls, each in a thread of its own; compiled loops do not wait for each other.

    >>> in_threads([lambda: 1, lambda: 2])
    [1, 2]
    """
    if len(calls) == 1:
        return [calls[0]()]
    return [each.result() for each in [_pool(len(calls)).submit(call) for call in calls]]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
