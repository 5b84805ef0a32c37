"""Paths between checkpoints: from α to the tensors of a network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from lerpscape.checkpoints import Checkpoint, Params, Source, checkpoint, digest, storage
from lerpscape.errors import EndpointMismatch, three_parts


class ParamPath(Protocol):
    """A road through parameter space: where it is at α, and how it moves there.

    `at(α)` gives every tensor of the network, `velocity(α)` the derivative of those that move. `start` and `end`
    are the checkpoints at α = 0 and α = 1.
    """

    start: Checkpoint
    end: Checkpoint

    def at(self, alpha: float) -> Params: ...  # noqa: D102

    def velocity(self, alpha: float) -> Params: ...  # noqa: D102

    def to(self, device: torch.device, dtype: torch.dtype | None) -> ParamPath: ...  # noqa: D102

    def describe(self) -> str: ...  # noqa: D102


class Line:
    """The straight line θ(α) = (1−α)θ₀ + αθ_T between two checkpoints; α outside [0, 1] extrapolates.

    Ends are modules, mappings of names to tensors, or files (see `checkpoint`), copied when the line is made.
    At α = 0 and α = 1 it gives their tensors bit for bit. Floating-point tensors that differ are interpolated,
    buffers too; what cannot be interpolated (integers) or does not differ is taken from the nearer end. Where one
    tensor has two dtypes, the wider one holds.

    Raises `EndpointMismatch` for names or shapes that differ, and for two ends that are the same network.

    Source: Goodfellow, Vinyals & Saxe (2014).

    >>> line = Line({"w": torch.tensor([0.0, 3.0])}, {"w": torch.tensor([4.0, 0.0])})
    >>> line.at(0.5)["w"], line.distance(), round(line.relative_distance(), 4)
    (tensor([2.0000, 1.5000]), 5.0, 1.6667)
    """

    def __init__(self, start: Source, end: Source) -> None:
        self.start, self.end = _matched(checkpoint(start), checkpoint(end))
        self._moving = tuple(
            name
            for name, tensor in self.start.tensors.items()
            if tensor.is_floating_point() and not torch.equal(tensor, self.end.tensors[name])
        )
        if not self._moving:
            raise EndpointMismatch(
                three_parts(
                    "two different checkpoints.",
                    f"{self.start.source} and {self.end.source}, equal in all {len(self.start.tensors)} tensors.",
                    "state_dict() shares memory with its module: keep copy.deepcopy(model.state_dict()) of the start.",
                )
            )

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α, by `torch.lerp`; tied names share one tensor.

        >>> Line({"w": torch.zeros(2)}, {"w": torch.ones(2)}).at(0.25)
        {'w': tensor([0.2500, 0.2500])}
        """
        nearer = self.start if alpha < 0.5 else self.end
        tensors = dict(nearer.tensors)
        for name in self._moving:
            tensors[name] = torch.lerp(self.start.tensors[name], self.end.tensors[name], alpha)
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move: θ_T − θ₀, whatever α.

        >>> Line({"w": torch.zeros(1), "v": torch.ones(1)}, {"w": torch.ones(1), "v": torch.ones(1)}).velocity(0.3)
        {'w': tensor([1.])}
        """
        return {name: self.end.tensors[name] - self.start.tensors[name] for name in self._moving}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Line:
        """The same line with its tensors on a device, the floating-point ones in `dtype` where one is given."""
        return Line(_placed(self.start, device, dtype), _placed(self.end, device, dtype))

    def describe(self) -> str:
        """Where the line runs, in words."""
        return f"line from {self.start.source} to {self.end.source}"

    def distance(self) -> float:
        """‖θ_T − θ₀‖₂ over all parameters, tied ones once, accumulated in float64."""
        return distance(self.start, self.end, self.start.parameters)

    def relative_distance(self) -> float:
        """‖θ_T − θ₀‖ / ‖θ₀‖ over all parameters; the paper's normalisation. inf from a start of zero."""
        return relative_distance(self.start, self.end, self.start.parameters)

    def layer_distances(self, relative: bool = False) -> dict[str, float]:
        """‖θ_T − θ₀‖₂ of every parameter by name, or relative to ‖θ₀‖ of the same parameter.

        >>> Line({"a": torch.ones(4), "b": torch.ones(1)}, {"a": torch.zeros(4), "b": torch.ones(1)}).layer_distances()
        {'a': 2.0, 'b': 0.0}
        """
        measure = relative_distance if relative else distance
        return {name: measure(self.start, self.end, [name]) for name in self.start.parameters}


def distance(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> float:
    """‖θ_T − θ₀‖₂ over the named tensors, accumulated in float64."""
    return _norm(end.tensors[name].double() - start.tensors[name].double() for name in names)


def relative_distance(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> float:
    """‖θ_T − θ₀‖ / ‖θ₀‖ over the named tensors; inf from a start of zero, 0 where nothing moves."""
    names = list(names)
    moved, length = distance(start, end, names), _norm(start.tensors[name] for name in names)
    if length:
        return moved / length
    return float("inf") if moved else 0.0


def path_digest(path: ParamPath) -> str:
    """First 12 hex digits of a sha256 over both ends and the kind of path."""
    ends = {
        f"{side}:{name}": tensor for side in ("start", "end") for name, tensor in getattr(path, side).tensors.items()
    }
    return digest({**ends, f"kind:{type(path).__name__}": torch.empty(0)})


def _placed(end: Checkpoint, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    tensors = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in end.tensors.items()
    }
    return Checkpoint(tensors, end.parameters, end.source)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _matched(start: Checkpoint, end: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Both ends with the same names, shapes and dtypes in the same order."""
    start, end = _with_tied_names(start, end), _with_tied_names(end, start)
    missing = [name for name in start.tensors if name not in end.tensors]
    extra = [name for name in end.tensors if name not in start.tensors]
    if missing or extra:
        raise EndpointMismatch(
            three_parts(
                "two checkpoints of one network, with the same names.",
                "; ".join(
                    f"{_listed(names)} only in {where.source}"
                    for names, where in ((missing, start), (extra, end))
                    if names
                )
                + ".",
                "Save both from the same model class, or load each into a module and pass the modules.",
            )
        )
    shapes = [name for name in start.tensors if start.tensors[name].shape != end.tensors[name].shape]
    if shapes:
        name = shapes[0]
        raise EndpointMismatch(
            three_parts(
                "the same shape for each name at both ends.",
                f"{_listed(shapes)}; {name!r} is {tuple(start.tensors[name].shape)} in {start.source} "
                f"and {tuple(end.tensors[name].shape)} in {end.source}.",
                "Give two checkpoints of networks with the same layer sizes.",
            )
        )
    # A module knows its parameters better than a file does; with two files both know the same.
    knowing = start if start.source.startswith("module ") else end
    tensors: tuple[Params, Params] = ({}, {})
    for name in start.tensors:
        ends = (start.tensors[name], end.tensors[name].to(start.tensors[name].device))
        dtype = torch.promote_types(ends[0].dtype, ends[1].dtype)
        for side, tensor in zip(tensors, ends, strict=True):
            side[name] = tensor.to(dtype)
    return (
        Checkpoint(tensors[0], knowing.parameters, start.source),
        Checkpoint(tensors[1], knowing.parameters, end.source),
    )


def _with_tied_names(one: Checkpoint, other: Checkpoint) -> Checkpoint:
    """Add names that `one` lacks where `other` shows them to be a second name of a tensor that `one` has.

    safetensors keeps one name of tied weights; a module or a .pt file has them all.
    """
    tensors = dict(one.tensors)
    for name, tensor in other.tensors.items():
        if name in tensors:
            continue
        for twin, candidate in other.tensors.items():
            if twin in tensors and storage(tensor) == storage(candidate):
                tensors[name] = tensors[twin]
                break
    return Checkpoint(tensors, one.parameters, one.source)


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
