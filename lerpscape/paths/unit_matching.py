"""Permutations of hidden units that make one network most similar to another, by linear assignment problems.

A space is a set of units that must be permuted together, such as the outputs of one layer; see `symmetries`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from lerpscape.networks.lending import Lender
from lerpscape.networks.reading import Data, Reader
from lerpscape.networks.symmetries import Symmetry, Tie, in_order
from lerpscape.paths.checkpoints import STATISTICS, Params

# Coordinate descent ends after a round over all spaces that increases the sum by less than this share, or so many.
_GAIN = 1e-12
_ROUNDS = 100

# The order of the units of each space.
Orders = dict[int, Tensor]
# Every parameter in the first and in the second network, by name.
Pairs = Mapping[str, tuple[Tensor, Tensor]]


def match_by_weights(symmetries: Symmetry, a: Params, b: Params, seed: int) -> Orders:
    """Orders of the units of b that maximise Σ ⟨θ_a, P θ_b⟩ over the parameters, by coordinate descent.

    The best result from three starting points: spaces matched one after the other, each by the parameters whose other
    spaces are matched already, which recovers a permuted copy exactly; the given order; and a random order.
    """
    pairs = {
        tie.name: (a[tie.name].double(), b[tie.name].double())
        for ties in symmetries.ties
        for tie in ties
        if tie.name.rpartition(".")[2] not in STATISTICS
    }
    generator = torch.Generator().manual_seed(seed)
    starts = [
        _first_to_last(symmetries, pairs),
        {space: torch.arange(size) for space, size in enumerate(symmetries.sizes)},
        {space: torch.randperm(size, generator=generator) for space, size in enumerate(symmetries.sizes)},
    ]
    ends = [_coordinate_descent(symmetries, pairs, orders) for orders in starts]
    return max(ends, key=lambda orders: _inner_product(symmetries, pairs, orders))


def match_by_activations(model: nn.Module, symmetries: Symmetry, a: Params, b: Params, data: Data) -> Orders:
    """Orders of the units of b that maximise the sum of the correlations between activations of matched units.

    A unit has one activation for each example and position, at every layer with parameters that writes it; the
    correlations of these layers are added.
    """
    correlations = [_Correlation(size) for size in symmetries.sizes]
    for batch in Reader(data).batches():
        first, second = (_activations(model, symmetries, state, batch.cloned().inputs) for state in (a, b))
        for correlation, layers in zip(correlations, symmetries.nodes, strict=True):
            for node, axis, repeat in layers:
                correlation.add(node, _by_unit(first[node], axis, repeat), _by_unit(second[node], axis, repeat))
    return {space: _assignment(correlation.total()) for space, correlation in enumerate(correlations)}


class _Correlation:
    """Correlations between the units of two networks, summed over the layers that write the units."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, layer: str, one: Tensor, other: Tensor) -> None:
        """Add activations of both networks, of shape (units, examples and positions)."""
        parts = [
            torch.tensor(float(one.shape[1]), dtype=torch.float64),
            *(one.sum(1), other.sum(1), one.square().sum(1), other.square().sum(1), one @ other.T),
        ]
        sums = self._sums.get(layer)
        self._sums[layer] = parts if sums is None else [old + new for old, new in zip(sums, parts, strict=True)]

    def total(self) -> Tensor:
        """The correlations of every pair of units, shape (units, units), 0 for units that are constant."""
        total = torch.zeros(self._size, self._size, dtype=torch.float64)
        for count, one, other, one_square, other_square, product in self._sums.values():
            covariance = product / count - torch.outer(one / count, other / count)
            spreads = [
                (square / count - (mean / count) ** 2).clamp(min=0).sqrt()
                for square, mean in ((one_square, one), (other_square, other))
            ]
            scale = torch.outer(*spreads)
            total += torch.where(scale > 0, covariance / scale.clamp(min=1e-300), 0.0).cpu()
        return total


def _activations(model: nn.Module, symmetries: Symmetry, state: Params, inputs: Tensor) -> dict[str, Tensor]:
    """Outputs of the nodes that write units, with the given tensors of the model, by the name of the node."""
    names = {node for layers in symmetries.nodes for node, _, _ in layers}
    activations: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Tensor:
            value: Tensor = super().run_node(node)
            if node.name in names:
                activations[node.name] = value.detach().double()
            return value

    with Lender(model).lend({name: tensor.clone() for name, tensor in state.items()}):
        Recorder(model, graph=symmetries.graph).run(inputs)
    return activations


def _by_unit(values: Tensor, axis: int, repeat: int) -> Tensor:
    """One row per unit, with its values over examples and positions."""
    units = values.movedim(axis, 0)
    return units.reshape(len(units) // repeat, -1)


def _first_to_last(symmetries: Symmetry, pairs: Pairs) -> Orders:
    """Match one space after the other, each by the parameters that no unmatched space permutes as well."""
    orders: Orders = {}
    for space, ties in enumerate(symmetries.ties):
        unmatched = {other for other in range(len(symmetries.sizes)) if other not in orders and other != space}
        undetermined = {tie.name for other in unmatched for tie in symmetries.ties[other]}
        determined = [tie for tie in ties if tie.name not in undetermined and tie.name in pairs]
        orders[space] = _assignment(_gains(symmetries, pairs, orders, space, determined))
    return orders


def _coordinate_descent(symmetries: Symmetry, pairs: Pairs, orders: Orders) -> Orders:
    """Optimise the order of one space at a time, until a round over all spaces gains nothing."""
    orders, best = dict(orders), _inner_product(symmetries, pairs, orders)
    for _ in range(_ROUNDS):
        for space, ties in enumerate(symmetries.ties):
            parameters = [tie for tie in ties if tie.name in pairs]
            orders[space] = _assignment(_gains(symmetries, pairs, orders, space, parameters))
        product = _inner_product(symmetries, pairs, orders)
        if product <= best + _GAIN * abs(best):
            break
        best = product
    return orders


def _gains(symmetries: Symmetry, pairs: Pairs, orders: Orders, space: int, ties: list[Tie]) -> Tensor:
    """Entry (i, j) is what matching unit j of b to unit i of a adds to Σ ⟨θ_a, P θ_b⟩, with all other orders fixed."""
    size = symmetries.sizes[space]
    total = torch.zeros(size, size, dtype=torch.float64)
    others = {other: order for other, order in orders.items() if other != space}
    for tie in ties:
        one, other = pairs[tie.name]
        other = _permuted(symmetries, tie.name, other, others)
        rows = [tensor.movedim(tie.axis, 0).reshape(size, -1) for tensor in (one, other)]
        total += (rows[0] @ rows[1].T).cpu()
    return total


def _inner_product(symmetries: Symmetry, pairs: Pairs, orders: Orders) -> float:
    """Σ ⟨θ_a, P θ_b⟩ for these orders P."""
    return sum(float((one * _permuted(symmetries, name, other, orders)).sum()) for name, (one, other) in pairs.items())


def _permuted(symmetries: Symmetry, name: str, tensor: Tensor, orders: Orders) -> Tensor:
    """A parameter with the units of every space in the given order."""
    for space, order in orders.items():
        for tie in symmetries.ties[space]:
            if tie.name == name:
                tensor = in_order(tensor, tie, order)
    return tensor


def _assignment(gains: Tensor) -> Tensor:
    """The permutation with the largest sum of gains."""
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(gains.numpy(), maximize=True)[1])
