"""Which hidden units of a network can change places without changing its function, found by tracing.

Every tensor on the way from input to output carries a space of units along one of its axes. Layers with weights open a
new space; what works on each unit alone passes it on; additions make two spaces one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from lerpscape.base.errors import explain
from lerpscape.networks.fx_tracing import traced
from lerpscape.networks.layer_kinds import (
    BATCH_NORM,
    CONCATENATE,
    CONV1D,
    CONV2D,
    CONV3D,
    EMBEDDING,
    FLATTEN,
    GROUP_NORM,
    KINDS,
    LAYER_NORM,
    LINEAR,
    LOG_SOFTMAX,
    MEAN,
    PAD,
    PRELU,
    RESHAPE,
    SOFTMAX,
    Kind,
    kind_of,
    settings_of,
)

_ADVICE = (
    "Units are followed through linear, convolution, embedding and norm layers, activations, pooling, flatten, "
    "and additions; they stay in their place where channels are padded or concatenated."
)


@dataclass(frozen=True)
class Units:
    """Where units lie in a tensor: which space, along which axis, and how many neighbours belong to one unit."""

    space: int
    axis: int
    repeat: int = 1


@dataclass(frozen=True)
class Tie:
    """A tensor's axis along which the units of a space lie, `repeat` neighbours to a unit."""

    name: str
    axis: int
    repeat: int


@dataclass(frozen=True)
class Symmetry:
    """The spaces of interchangeable hidden units, from input to output, with the tensors that each is tied to.

    `sizes` has the units of every space, `ties` its tensors by the names of the module, `nodes` the places in the
    graph where a layer with parameters gives values of that space, and their axis.
    """

    graph: fx.Graph
    sizes: tuple[int, ...]
    ties: tuple[tuple[Tie, ...], ...]
    nodes: tuple[tuple[tuple[str, int, int], ...], ...]


def symmetry(model: nn.Module, inputs: Tensor) -> Symmetry:
    """Find the hidden units of a model that can change places; `inputs` is a batch to learn shapes from.

    Raises `TypeError` that names the layer or operation where units cannot be followed.

    >>> swaps = symmetry(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
    >>> swaps.sizes, [tie.name for tie in swaps.ties[0]]
    ((3,), ['0.weight', '0.bias', '2.weight'])
    """
    trace = traced(model, _ADVICE)
    if inputs.is_floating_point():
        inputs = inputs.to(next((each.dtype for each in model.parameters() if each.is_floating_point()), inputs.dtype))
    ShapeProp(trace.module).propagate(inputs.clone())
    follower = _Follower(model)
    for node in trace.graph.nodes:
        follower.follow(node)
    return follower.symmetry(trace.graph)


@dataclass
class _Follower:
    """Follows units through a graph; space 0 holds what must stay in its place: inputs and outputs."""

    model: nn.Module
    sizes: list[int] = field(default_factory=lambda: [0])
    parents: list[int] = field(default_factory=lambda: [0])
    ties: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    units: dict[fx.Node, Units | None] = field(default_factory=dict)
    written: list[tuple[str, Units]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules())
        state = self.model.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        self.names = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}

    def follow(self, node: fx.Node) -> None:
        """Say where the units of a node's value lie; None for a value that is no tensor."""
        if node.op == "placeholder":
            self.units[node] = Units(0, 1)
        elif node.op == "output":
            for each in node.all_input_nodes:
                units = self.units[each]
                if units is not None:
                    self._join(units.space, 0)
        elif not _shape(node):
            self.units[node] = None  # a number, as such or in a tensor, or a shape
        elif node.op == "get_attr":
            raise _refusal(f"{node.target!r}, a tensor used outside a layer")
        else:
            kind = kind_of(node, self.modules)
            if node.op == "call_module" and kind in _LAYERS:
                self.units[node] = self._layer(_LAYERS[kind], node, str(node.target))
            elif kind in _OPERATIONS:
                self.units[node] = _OPERATIONS[kind](self, node, self._describe(node))
            else:
                raise _refusal(self._describe(node))

    def symmetry(self, graph: fx.Graph) -> Symmetry:
        """The spaces found, without the spaces that must stay in place."""
        roots = sorted({self._root(space) for space in range(len(self.sizes))} - {self._root(0)})
        return Symmetry(
            graph,
            tuple(self.sizes[root] for root in roots),
            tuple(
                tuple(
                    Tie(name, axis, repeat)
                    for (name, axis), (space, repeat) in self.ties.items()
                    if self._root(space) == root
                )
                for root in roots
            ),
            tuple(
                tuple(
                    (node, units.axis, units.repeat) for node, units in self.written if self._root(units.space) == root
                )
                for root in roots
            ),
        )

    def _describe(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target!r}, a {type(self.modules[str(node.target)]).__name__}"
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"{node.name!r}, the operation {name!r}"

    def _layer(self, rule: LayerRule, node: fx.Node, name: str) -> Units:
        """A layer with tensors of its own: its bias lies as its result does."""
        outputs = rule(self, node, self._only(node), name, self.modules[name])
        self._tie(f"{name}.bias", 0, outputs)
        self.written.append((node.name, outputs))
        return outputs

    def _linear(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        units = self._expect(units, node, _last_axis(node), self._describe(node))
        self._tie(f"{name}.weight", 1, units)
        outputs = self._open(layer.out_features, units.axis)
        self._tie(f"{name}.weight", 0, outputs)
        return outputs

    def _embedding(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        outputs = self._open(layer.embedding_dim, _last_axis(node))
        self._tie(f"{name}.weight", 1, outputs)
        return outputs

    def _convolution(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        units = self._expect(units, node, 1, self._describe(node))
        if layer.groups == 1:
            self._tie(f"{name}.weight", 1, units)
            outputs = self._open(layer.out_channels, 1)
        elif layer.groups == layer.in_channels == layer.out_channels:
            outputs = units
        else:
            raise _refusal(f"{self._describe(node)} in {layer.groups} groups of several channels")
        self._tie(f"{name}.weight", 0, outputs)
        return outputs

    def _batch_norm(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        outputs = self._expect(units, node, 1, self._describe(node))
        for own in ("weight", "running_mean", "running_var"):
            self._tie(f"{name}.{own}", 0, outputs)
        return outputs

    def _layer_norm(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        if len(layer.normalized_shape) != 1:
            raise _refusal(self._describe(node))
        outputs = self._expect(units, node, _last_axis(node), self._describe(node))
        self._tie(f"{name}.weight", 0, outputs)
        return outputs

    def _group_norm(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        """One group of all channels, or of each alone: the channels of other groups would have to stay together."""
        if layer.num_groups not in (1, layer.num_channels):
            raise _refusal(f"{self._describe(node)} in {layer.num_groups} groups of several channels")
        outputs = self._expect(units, node, 1, self._describe(node))
        self._tie(f"{name}.weight", 0, outputs)
        return outputs

    def _prelu(self, node: fx.Node, units: Units, name: str, layer: Any) -> Units:
        if layer.num_parameters == 1:
            return units
        outputs = self._expect(units, node, 1, self._describe(node))
        self._tie(f"{name}.weight", 0, outputs)
        return outputs

    def _pooled(self, node: fx.Node, what: str) -> Units:
        return self._expect(self._only(node), node, 1, what)

    def _pinned(self, node: fx.Node, what: str) -> Units:
        """Units that stay in their place, before and after."""
        for each in node.all_input_nodes:
            units = self.units[each]
            if units is not None:
                self._join(units.space, 0)
        return Units(0, 1)

    def _same_place(self, node: fx.Node, what: str) -> Units:
        """Tensors of one shape that are combined unit by unit: their spaces are one."""
        tensors = [each for each in node.all_input_nodes if self.units[each] is not None]
        first = self.units[tensors[0]]
        assert first is not None
        for each in tensors[1:]:
            other = self.units[each]
            if other is None or _shape(each) != _shape(tensors[0]):
                raise _refusal(f"{what}, of shapes {_shape(tensors[0])} and {_shape(each)}")
            fixed = 0 in (self._root(first.space), self._root(other.space))
            if not fixed and (first.axis, first.repeat) != (other.axis, other.repeat):
                raise _refusal(f"{what}, of units along different axes")
            self._join(first.space, other.space)
        return first

    def _flattened(self, node: fx.Node, what: str) -> Units:
        """All axes but the first made one; a unit's positions stay neighbours."""
        units = self._only(node)
        before, after = _shape(node.all_input_nodes[0]) or (), _shape(node) or ()
        if after == before or self._root(units.space) == 0:
            return units
        size = 1
        for length in before[2:]:
            size *= length
        if len(after) != 2 or after[0] != before[0] or units.axis != 1:
            raise _refusal(f"{what}, from shape {before} to {after}")
        return Units(units.space, 1, units.repeat * size)

    def _averaged(self, node: fx.Node, what: str) -> Units:
        units, before, after = self._only(node), _shape(node.all_input_nodes[0]) or (), _shape(node) or ()
        axes: Any = settings_of(node, self.modules).get("dim", ())
        gone = {axis % len(before) for axis in (axes if isinstance(axes, (tuple, list)) else [axes])}
        if not gone or units.axis in gone:
            raise _refusal(f"{what}, over the units")
        kept = len(before) == len(after)
        return Units(units.space, units.axis - (0 if kept else sum(axis < units.axis for axis in gone)), units.repeat)

    def _only(self, node: fx.Node) -> Units:
        tensors = [units for each in node.all_input_nodes if (units := self.units[each]) is not None]
        if len(tensors) != 1:
            raise _refusal(f"{node.name!r}, which takes {len(tensors)} tensors")
        return tensors[0]

    def _expect(self, units: Units, node: fx.Node, axis: int, what: str) -> Units:
        if self._root(units.space) == 0:
            return Units(units.space, axis, units.repeat)
        if units.axis != axis:
            raise _refusal(f"{what}, which works along axis {axis} while the units lie along axis {units.axis}")
        return units

    def _open(self, size: int, axis: int) -> Units:
        self.sizes.append(size)
        self.parents.append(len(self.parents))
        return Units(len(self.sizes) - 1, axis)

    def _tie(self, name: str, axis: int, units: Units) -> None:
        if name not in self.names:
            return  # no bias, no statistics
        key = self.names[name], axis
        space, repeat = self.ties.setdefault(key, (units.space, units.repeat))
        self._join(space, units.space)
        if repeat != units.repeat:
            raise _refusal(f"{name!r}, used with {repeat} and with {units.repeat} positions to a unit")

    def _join(self, one: int, other: int) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        self.parents[high] = low

    def _root(self, space: int) -> int:
        while self.parents[space] != space:
            space = self.parents[space]
        return space


LayerRule: TypeAlias = Callable[[_Follower, fx.Node, Units, str, Any], Units]
# Layers with tensors along whose axes units lie.
_LAYERS: dict[Kind | None, LayerRule] = {
    LINEAR: _Follower._linear,
    EMBEDDING: _Follower._embedding,
    CONV1D: _Follower._convolution,
    CONV2D: _Follower._convolution,
    CONV3D: _Follower._convolution,
    BATCH_NORM: _Follower._batch_norm,
    LAYER_NORM: _Follower._layer_norm,
    GROUP_NORM: _Follower._group_norm,
    PRELU: _Follower._prelu,
}
# Operations without tensors of their own: what works on each unit alone, and what reads all units alike.
_OPERATIONS: dict[Kind | None, Callable[[_Follower, fx.Node, str], Units]] = {
    **{kind: _Follower._same_place for kind in KINDS if kind.elementwise},
    **{kind: _Follower._pooled for kind in KINDS if kind.pools},
    SOFTMAX: _Follower._same_place,
    LOG_SOFTMAX: _Follower._same_place,
    FLATTEN: _Follower._flattened,
    RESHAPE: _Follower._flattened,
    MEAN: _Follower._averaged,
    # each position has a meaning of its own
    PAD: _Follower._pinned,
    CONCATENATE: _Follower._pinned,
}


def rearranged(
    tensors: Mapping[str, Tensor], symmetry: Symmetry, orders: Mapping[int, Tensor], names: Mapping[str, list[str]]
) -> dict[str, Tensor]:
    """The tensors with the units of each space in a new order: unit i is what was unit order[i].

    `names` gives all names under which a tied tensor of the module is among the tensors.
    """
    moved = dict(tensors)
    for space, order in orders.items():
        for tie in symmetry.ties[space]:
            known = names[tie.name]
            tensor = in_order(moved[known[0]], tie, order)
            moved |= dict.fromkeys(known, tensor)
    return moved


def in_order(tensor: Tensor, tie: Tie, order: Tensor) -> Tensor:
    """A tensor with the units along a tie's axis in a new order."""
    index = (order[:, None] * tie.repeat + torch.arange(tie.repeat)).flatten().to(tensor.device)
    return tensor.index_select(tie.axis, index)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def _last_axis(node: fx.Node) -> int:
    return len(_shape(node) or ()) - 1


def _refusal(what: str) -> TypeError:
    return TypeError(
        explain(expected="an architecture whose hidden units can be followed.", got=f"{what}.", hint=_ADVICE)
    )


__all__ = ["Symmetry", "Tie", "Units", "in_order", "rearranged", "symmetry"]
