"""The order of hidden units that makes one network most like another: linear assignments, space by space."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.symmetries import Symmetry, Tie, in_order
from lerpscape.paths.checkpoints import STATISTICS, Params

# A sweep over all spaces that gains less than this, relative to the sum, is the last.
_GAIN = 1e-12
_SWEEPS = 100

Orders = dict[int, Tensor]


def by_weights(found: Symmetry, a: Params, b: Params, names: Mapping[str, str], seed: int) -> Orders:
    """The orders of b's units that maximise Σ ⟨θ_a, P θ_b⟩ over the parameters, as far as coordinate descent finds.

    Of three starts the best: front to back, in which each space sees only what spaces before it have settled and
    which recovers a permuted copy exactly; the order as it is; and a random one.
    """
    pairs = {
        tie.name: (a[names[tie.name]].double(), b[names[tie.name]].double())
        for ties in found.ties
        for tie in ties
        if tie.name.rpartition(".")[2] not in STATISTICS
    }
    generator = torch.Generator().manual_seed(seed)
    starts = [
        _front_to_back(found, pairs),
        {space: torch.arange(size) for space, size in enumerate(found.sizes)},
        {space: torch.randperm(size, generator=generator) for space, size in enumerate(found.sizes)},
    ]
    ends = [_descended(found, pairs, orders) for orders in starts]
    return max(ends, key=lambda orders: _likeness(found, pairs, orders))


def by_activations(model: nn.Module, found: Symmetry, a: Params, b: Params, data: Data) -> Orders:
    """The orders of b's units that maximise the summed correlation of the units' values on the data.

    A unit has a value for each example and position, wherever a layer with parameters writes it.
    """
    sums = [_Correlation(size) for size in found.sizes]
    for batch in Reader(data).batches():
        values = [_values(model, found, state, batch.inputs) for state in (a, b)]
        for space, places in enumerate(found.nodes):
            for node, axis, repeat in places:
                sums[space].add(node, *(_by_unit(each[node], axis, repeat) for each in values))
    return {space: _assigned(each.total()) for space, each in enumerate(sums)}


class _Correlation:
    """Correlations between the units of two networks, summed over the places where the units have values."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, place: str, one: Tensor, other: Tensor) -> None:
        parts = [
            torch.tensor(float(one.shape[1]), dtype=torch.float64),
            *(one.sum(1), other.sum(1), one.square().sum(1), other.square().sum(1), one @ other.T),
        ]
        known = self._sums.get(place)
        self._sums[place] = parts if known is None else [old + new for old, new in zip(known, parts, strict=True)]

    def total(self) -> Tensor:
        total = torch.zeros(self._size, self._size, dtype=torch.float64)
        for count, one, other, one_square, other_square, product in self._sums.values():
            covariance = product / count - torch.outer(one / count, other / count)
            spreads = [
                (square / count - (mean / count) ** 2).clamp(min=0).sqrt()
                for square, mean in ((one_square, one), (other_square, other))
            ]
            scale = torch.outer(*spreads)
            total += torch.where(scale > 0, covariance / scale.clamp(min=1e-300), 0.0).cpu()  # constant units: 0
        return total


def _values(model: nn.Module, found: Symmetry, state: Params, inputs: Tensor) -> dict[str, Tensor]:
    """What every node of the graph gives on the inputs at these tensors."""
    wanted = {node for places in found.nodes for node, _, _ in places}
    kept: dict[str, Tensor] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Tensor:
            value: Tensor = super().run_node(node)
            if node.name in wanted:
                kept[node.name] = value.detach().double()
            return value

    class Walked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, given: Tensor) -> Tensor:
            return Keeping(self.model, graph=found.graph).run(given)  # type: ignore[no-any-return]

    functional_call(Walked(), {f"model.{name}": tensor for name, tensor in state.items()}, (inputs,))
    return kept


def _by_unit(values: Tensor, axis: int, repeat: int) -> Tensor:
    """One row per unit, with its values over examples and positions."""
    units = values.movedim(axis, 0)
    return units.reshape(len(units) // repeat, -1)


def _front_to_back(found: Symmetry, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Orders:
    orders: Orders = {}
    for space, ties in enumerate(found.ties):
        open_ = {other for other in range(len(found.sizes)) if other not in orders and other != space}
        unsettled = {tie.name for other in open_ for tie in found.ties[other]}
        settled = [tie for tie in ties if tie.name not in unsettled and tie.name in pairs]
        orders[space] = _assigned(_products(found, pairs, orders, space, settled))
    return orders


def _descended(found: Symmetry, pairs: Mapping[str, tuple[Tensor, Tensor]], orders: Orders) -> Orders:
    orders, best = dict(orders), _likeness(found, pairs, orders)
    for _ in range(_SWEEPS):
        for space, ties in enumerate(found.ties):
            known = [tie for tie in ties if tie.name in pairs]
            orders[space] = _assigned(_products(found, pairs, orders, space, known))
        now = _likeness(found, pairs, orders)
        if now <= best + _GAIN * abs(best):
            break
        best = now
    return orders


def _products(
    found: Symmetry, pairs: Mapping[str, tuple[Tensor, Tensor]], orders: Orders, space: int, ties: list[Tie]
) -> Tensor:
    """Entry (i, j): what it adds to the sum to put b's unit j where a's unit i is, all other spaces in order."""
    size = found.sizes[space]
    total = torch.zeros(size, size, dtype=torch.float64)
    for tie in ties:
        one, other = pairs[tie.name]
        for another, order in orders.items():
            if another != space:
                for each in found.ties[another]:
                    if each.name == tie.name:
                        other = in_order(other, each, order)
        rows = [tensor.movedim(tie.axis, 0).reshape(size, -1) for tensor in (one, other)]
        total += (rows[0] @ rows[1].T).cpu()
    return total


def _likeness(found: Symmetry, pairs: Mapping[str, tuple[Tensor, Tensor]], orders: Orders) -> float:
    total = 0.0
    for name, (one, other) in pairs.items():
        for space, order in orders.items():
            for tie in found.ties[space]:
                if tie.name == name:
                    other = in_order(other, tie, order)
        total += float((one * other).sum())
    return total


def _assigned(gains: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(gains.numpy(), maximize=True)[1])
