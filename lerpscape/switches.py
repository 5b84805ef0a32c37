"""What a layer behind a ReLU gives along a line, without multiplying its weights at every α.

The ReLU's input z(α) = s + αd is linear in α, and so are the weights W(α) = W₀ + αΔ. Between two α at which a hidden
unit switches on or off, W(α)·relu(z(α)) + b(α) is therefore a quadratic in α, and where unit j switches, its
coefficients change by W₀ⱼsⱼ, W₀ⱼdⱼ + Δⱼsⱼ and Δⱼdⱼ: a few columns, in place of a product with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape import duals
from lerpscape.first_layers import Shared
from lerpscape.monotonicity import Floats

# So many examples and outputs at a time: coefficients and columns stay in a core's own cache.
ROWS, OUTPUTS = 512, 256
# Multiplications that take as long as: finding whether and where a unit switches, adding a switch to an output, reading
# an output at an α off its coefficients, and its derivative too. The work is bound by memory, not by arithmetic.
FINDING, SWITCHING, READING, READING_SLOPE = 1400, 40, 265, 100
# So much cheaper must it be, by these numbers.
WORTH_SWEEPING = 0.9
# Coefficients lose digits where outputs at the end are so many times smaller than those at the start.
MOST_SHRINKING = 8.0


@dataclass(frozen=True)
class NextLayer:
    """A linear layer whose weights move: columns of W₀ and then of Δ = dW/dα, for some outputs at a time; b and db/dα.

    Each of `columns` has shape (2 × units, outputs). `sizes` are norms of the weights at both ends.
    """

    columns: tuple[Tensor, ...]
    bias: Tensor
    shift: Tensor
    sizes: tuple[float, float]

    @classmethod
    def of(cls, weight: Tensor, moved: Tensor, bias: Tensor | None, shift: Tensor | None) -> NextLayer:
        """The layer with these values at the start, and their derivatives by α."""
        nothing = weight.new_zeros(len(weight))
        both = zip(torch.split(weight, OUTPUTS), torch.split(moved, OUTPUTS), strict=True)
        return cls(
            tuple(torch.cat([some.t(), change.t()]).contiguous() for some, change in both),
            nothing if bias is None else bias,
            nothing if shift is None else shift,
            (float(torch.linalg.vector_norm(weight)), float(torch.linalg.vector_norm(weight + moved))),
        )

    @property
    def units(self) -> int:
        """How many inputs the layer has."""
        return len(self.columns[0]) // 2

    def weights(self) -> tuple[Tensor, Tensor]:
        """W₀ and Δ, shape (outputs, units)."""
        start, moved = torch.cat(self.columns, 1).tensor_split(2)
        return start.t(), moved.t()

    def at(self, alpha: float, inputs: Tensor, *, moving: bool) -> Tensor:
        """What the layer gives at α by its products; `moving`, as a dual tensor."""
        start, moved = self.weights()
        weight, bias = torch.add(start, moved, alpha=alpha), torch.add(self.bias, self.shift, alpha=alpha)
        if moving:
            weight, bias = duals.dual(weight, moved), duals.dual(bias, self.shift)
        return F.linear(inputs, weight, bias)


class Sweep:
    """W(α)·relu(z(α)) + b(α) for a batch at increasing α, with derivatives.

    `alphas` are those that will be asked for, in increasing order; each gives the same bits whichever of them were
    asked for before. Going back to a smaller one is allowed, and costs a new beginning.

    >>> first = Shared(torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]]), None)
    >>> layer = NextLayer.of(torch.eye(2), torch.zeros(2, 2), None, None)
    >>> sweep = Sweep(first, layer, np.array([0.25, 0.75]))
    >>> sweep.at(0.25), sweep.at(0.75)
    (tensor([[0.5000, 0.0000]]), tensor([[0.0000, 0.5000]]))
    """

    def __init__(self, first: Shared, layer: NextLayer, alphas: Floats) -> None:
        self._first = first
        self._layer = layer
        self._alphas = alphas
        self._safe: bool | None = None
        parts = [torch.split(each, ROWS) for each in (first.start, first.end)]
        none = [None] * len(parts[0])
        changes: Sequence[Tensor | None] = none if first.change is None else torch.split(first.change, ROWS)
        self._parts = [_Part(*part, layer, alphas) for part in zip(parts[0], parts[1], changes, strict=True)]

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
        """How many numbers are held, about: those of the first layer, coefficients, and units that switch."""
        return self._first.elements + 3 * self.shape.numel() + 2 * self._first.start.numel()

    def at(self, alpha: float, into: Tensor | None = None) -> Tensor:
        """The layer's result at α, a dual tensor where there is a derivative; written `into` a tensor if given."""
        moving = self._first.change is not None
        if not self.is_safe():
            return self._layer.at(alpha, F.relu(self._first.at(alpha)), moving=moving)
        found = self.series(alpha, int(moving), into)
        return duals.dual(*found) if moving else found[0]

    def series(self, alpha: float, order: int, into: Tensor | None = None) -> list[Tensor]:
        """The result at α and its first `order` derivatives by α, at most two."""
        found = [self.like.new_empty(self.shape) for _ in range(order + 1)]
        if into is not None:
            found[0] = into
        place = int(np.searchsorted(self._alphas, alpha))
        for part, *results in zip(self._parts, *(torch.split(each, ROWS) for each in found), strict=True):
            part.write(place, alpha, results)
        return found

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


class _Part:
    """Some examples of a sweep."""

    def __init__(self, start: Tensor, end: Tensor, change: Tensor | None, layer: NextLayer, alphas: Floats) -> None:
        self._start, self._end, self._change = start, end, change
        self._layer = layer
        self._alphas = alphas
        self._reached = -1

    def write(self, place: int, alpha: float, results: list[Tensor]) -> None:
        """The layer's result at the α of this place, and derivatives, into as many tensors."""
        if self._reached < 0 or place < self._reached:
            self._begin()
        while self._reached < place:
            self._reached += 1
            self._switch(self._reached)
        pieces = (torch.split(each, OUTPUTS, 1) for each in results)
        for coefficients, *into in zip(self._coefficients, *pieces, strict=True):
            one, two, three = coefficients
            torch.add(one, two, alpha=alpha, out=into[0]).add_(three, alpha=alpha * alpha)
            if len(into) > 1:
                torch.add(two, three, alpha=2 * alpha, out=into[1])
            if len(into) > 2:
                torch.mul(three, 2, out=into[2])

    def _begin(self) -> None:
        """Coefficients at the first α, and which units switch before which α: sorted by α, then by example."""
        start, (rows, units) = self._start, self._start.shape
        change = self._end - start if self._change is None else self._change
        first, last = (torch.lerp(start, self._end, float(self._alphas[each])) > 0 for each in (0, -1))
        switching = (first != last).view(-1).nonzero().view(-1)
        starts, changes = start.reshape(-1)[switching], change.reshape(-1)[switching]
        grid = torch.tensor(self._alphas, dtype=start.dtype, device=start.device)
        # Rounding may put a switch outside the grid; at the point nearest to it the unit is 0 to rounding.
        place = torch.bucketize(-starts / changes, grid).clamp_(1, max(len(grid) - 1, 1))
        row = switching // units
        order = torch.argsort(place.to(torch.int32), stable=True)
        counts = torch.bincount(place * rows + row, minlength=len(grid) * rows)
        offsets = F.pad(counts.cumsum(0), (1, 0))
        sign = torch.where(changes > 0, 1.0, -1.0).to(start.dtype)
        self._units = (switching - row * units)[order].to(torch.int32)
        self._starts, self._changes = (sign * starts)[order], (sign * changes)[order]
        # The middle coefficient takes two columns of each unit: for each example all of W₀'s, then all of Δ's.
        number = torch.arange(len(order), device=start.device)
        bag = (place * rows + row)[order]
        self._middle_units = self._units.new_empty(2 * len(order))
        self._middle = self._starts.new_empty(2 * len(order))
        for before, columns, weights in ((bag, 0, self._changes), (bag + 1, units, self._starts)):
            where = number + offsets[before]
            self._middle_units[where] = self._units + columns
            self._middle[where] = weights
        self._offsets = offsets.to(torch.int32)
        self._bounds = offsets[::rows].tolist()
        on = start * first, change * first
        biases = (torch.split(each, OUTPUTS) for each in (self._layer.bias, self._layer.shift))
        self._coefficients = [self._at_first(*on, *each) for each in zip(self._layer.columns, *biases, strict=True)]
        self._reached = 0

    def _at_first(self, start: Tensor, change: Tensor, columns: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        weight, moved = columns.tensor_split(2)
        found = start.new_empty(3, len(start), columns.shape[1])
        torch.addmm(bias, start, weight, out=found[0])
        torch.addmm(shift, change, weight, out=found[1])
        found[1].addmm_(start, moved)
        torch.mm(change, moved, out=found[2])
        return found

    def _switch(self, place: int) -> None:
        """Add what the units give that switch on before this place, and take away what those gave that switch off."""
        first, last = self._bounds[place], self._bounds[place + 1]
        count, units, rows = last - first, self._layer.units, len(self._start)
        if not count:
            return
        offsets = self._offsets[place * rows : (place + 1) * rows + 1] - first
        own, middle = slice(first, last), slice(2 * first, 2 * last)
        numbers = torch.cat([self._units[own], self._middle_units[middle], self._units[own] + units])
        weights = torch.cat([self._starts[own], self._middle[middle], self._changes[own]])
        bags = torch.cat([offsets[:-1], 2 * offsets[:-1] + count, offsets + 3 * count])
        for columns, coefficients in zip(self._layer.columns, self._coefficients, strict=True):
            added = F.embedding_bag(
                numbers, columns, bags, mode="sum", per_sample_weights=weights, include_last_offset=True
            )
            coefficients.view(added.shape).add_(added)


def may_sweep(first: Shared, outputs: int, points: int, *, derivative: bool) -> bool:
    """Whether a sweep is possible and pays.

    Products are cheaper on a GPU; in float64 torch adds up columns four times slower, and multiplies only twice.
    """
    return (
        first.start.dim() == 2
        and first.start.device.type == "cpu"
        and first.start.dtype == torch.float32
        and worth_sweeping(first, outputs, points, derivative=derivative)
    )


def worth_sweeping(first: Shared, outputs: int, points: int, *, derivative: bool) -> bool:
    """Whether to sweep over so many α, as far as one can tell by how often units of a few examples switch.

    >>> moving = Shared(torch.full((1, 512), -1.0), torch.ones(1, 512), None)
    >>> still = Shared(torch.ones(1, 512), torch.ones(1, 512), None)
    >>> [worth_sweeping(each, 512, 20, derivative=False) for each in (moving, still)]
    [False, True]
    """
    units = first.start.shape[1]
    switches = float(((first.start > 0) != (first.end > 0)).sum()) / len(first.start)
    product = units * outputs
    reading = READING + READING_SLOPE if derivative else READING
    sweeping = 4 * product + FINDING * units + outputs * (SWITCHING * switches + reading * points)
    return sweeping < WORTH_SWEEPING * points * product * (3 if derivative else 1)
