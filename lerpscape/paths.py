"""Paths between checkpoints: from α to the tensors of a network. The straight line, and what every path can do."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from lerpscape.checkpoints import Checkpoint, Params, Source, checkpoint, digest
from lerpscape.errors import EndpointMismatch, three_parts
from lerpscape.matching import listed, matched, placed, twins
from lerpscape.patterns import Pattern, selected

# When a tensor is where: a function of α, or one value for good.
Schedule: TypeAlias = "Callable[[Tensor], Any] | float"
Rest: TypeAlias = Literal["start", "end"]

# Numbers of two tensors that are compared at once.
PIECE = 1 << 16


class ParamPath(Protocol):
    """A road through parameter space: where it is at α, and how it moves there.

    `at(α)` gives every tensor of the network, `velocity(α)` the derivative of those that move. `start` and `end`
    are the checkpoints at α = 0 and α = 1. `digest()` tells paths apart: a stopped measurement goes on with its own.
    """

    start: Checkpoint
    end: Checkpoint

    def at(self, alpha: float) -> Params: ...  # noqa: D102

    def velocity(self, alpha: float) -> Params: ...  # noqa: D102

    def to(self, device: torch.device, dtype: torch.dtype | None) -> ParamPath: ...  # noqa: D102

    def describe(self) -> str: ...  # noqa: D102

    def digest(self) -> str: ...  # noqa: D102


class Path(ABC):
    """A path that can be taken in parts, at other times, and from the other side; all of these compose."""

    start: Checkpoint
    end: Checkpoint

    @abstractmethod
    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α; tied names share one tensor."""

    @abstractmethod
    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype | None) -> Path:
        """The same path with its tensors on a device, the floating-point ones in `dtype` where one is given."""

    @abstractmethod
    def describe(self) -> str:
        """Where the path runs, in words."""

    @abstractmethod
    def digest(self) -> str:
        """12 hex digits that differ between paths that differ."""

    def only(self, *patterns: Pattern, rest: Rest = "end") -> Path:
        """The path of some tensors alone, all others held at the end or at the start.

        A pattern is a name or a glob (`"layer3.*"`), the name of a module (`"layer3"`), a compiled regular
        expression, or `"kind:weights"`, `"kind:biases"`, `"kind:norms"`. Running statistics follow their module.

        Raises `ValueError` for a pattern that matches nothing, with the nearest names, and where nothing would move.

        Source: Vlaar & Frankle (2021).

        >>> line = Line({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.ones(1), "b": torch.ones(1)})
        >>> line.only("a", rest="start").at(0.5)
        {'a': tensor([0.5000]), 'b': tensor([0.])}
        """
        from lerpscape.refinements import Retimed

        chosen = set(selected(patterns, self.start, self.end))
        held = {name: float(rest == "end") for name in self.start.tensors if name not in chosen}
        words = f"only {listed([_text(each) for each in patterns])}, the rest at the {rest}"
        return Retimed(self, held, words)

    def schedule(self, times: Mapping[Pattern, Schedule]) -> Path:
        """The path with chosen tensors at other times: where the others are at α, these are at φ(α).

        `times` maps patterns (see `only`) to φ, a function of a float64 tensor of shape () written with torch
        operations or plain arithmetic, so that dθ/dα = φ′(α) θ′(φ(α)) is exact; or to one number, which holds them.

        Raises `ValueError` for a pattern that matches nothing, a name matched twice, and φ that is not finite.

        >>> line = Line({"w": torch.zeros(1), "bias": torch.zeros(1)}, {"w": torch.ones(1), "bias": torch.ones(1)})
        >>> line.schedule({"bias": lambda a: a**2}).at(0.5), line.schedule({"bias": 1.0}).at(0.5)["bias"]
        ({'w': tensor([0.5000]), 'bias': tensor([0.2500])}, tensor([1.]))
        """
        from lerpscape.refinements import Retimed, chosen_times

        found, words = chosen_times(times, self.start, self.end)
        return Retimed(self, found, words)

    def homogeneous_biases(self, model: nn.Module, depths: Mapping[Pattern, int] | None = None) -> Path:
        """The path with the biases of layer h at α^h: a network homogeneous of that degree then scales as a whole.

        The depth h of a layer counts the layers with weights on the way to it, found by tracing `model`, or given
        as `depths`, patterns of biases with their h.

        Raises `TypeError` for a model without one depth for each layer (normalisation, branches that join at
        different depths): give `depths`.

        Source: Wang, Wang, Zhou & Ge (2022).

        >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
        >>> zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
        >>> ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
        >>> {name: float(tensor) for name, tensor in Line(zeros, ones).homogeneous_biases(model).at(0.5).items()}
        {'0.weight': 0.5, '0.bias': 0.5, '2.weight': 0.5, '2.bias': 0.25}
        """
        from lerpscape.refinements import Retimed, homogeneous_times

        found, words = homogeneous_times(model, depths, self.start, self.end)
        return Retimed(self, found, words)

    def between(self, first: float, last: float) -> Path:
        """The stretch of the path from α = `first` to α = `last`, also beyond [0, 1], as a path of its own.

        >>> Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}).between(-0.5, 1.5).at(0.25)
        {'w': tensor([0.])}
        """
        from lerpscape.refinements import Stretch

        return Stretch(self, first, last)

    def reversed(self) -> Path:
        """The path from its end to its start.

        >>> Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}).reversed().at(0.25)
        {'w': tensor([0.7500])}
        """
        return self.between(1.0, 0.0)


class Line(Path):
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
        self.start, self.end = matched(checkpoint(start), checkpoint(end))
        self._moving = moving(self.start, self.end)
        self._twins = twins(self.start, self.end)
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
            twin = self._twins[name]
            tensors[name] = (
                tensors[twin] if twin != name else torch.lerp(self.start.tensors[name], self.end.tensors[name], alpha)
            )
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move: θ_T − θ₀, whatever α.

        >>> Line({"w": torch.zeros(1), "v": torch.ones(1)}, {"w": torch.ones(1), "v": torch.ones(1)}).velocity(0.3)
        {'w': tensor([1.])}
        """
        return {name: self.end.tensors[name] - self.start.tensors[name] for name in self._moving}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Line:
        """The same line with its tensors on a device, the floating-point ones in `dtype` where one is given."""
        return Line(placed(self.start, device, dtype), placed(self.end, device, dtype))

    def describe(self) -> str:
        """Where the line runs, in words."""
        return f"line from {self.start.source} to {self.end.source}"

    def digest(self) -> str:
        """12 hex digits over both ends."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return ends_digest("line", start=self.start, end=self.end)

    def only(self, *patterns: Pattern, rest: Rest = "end") -> Line:
        """The line of some tensors alone, all others held at the end or at the start; see `Path.only`."""
        chosen = set(selected(patterns, self.start, self.end))
        held = self.end if rest == "end" else self.start
        tensors = ({**held.tensors, **{name: end.tensors[name] for name in chosen}} for end in (self.start, self.end))
        words = f" ({listed([_text(each) for each in patterns])} alone, the rest as in {held.source})"
        start, end = (
            Checkpoint(made, end.parameters, end.source + (words if end is not held else ""))
            for made, end in zip(tensors, (self.start, self.end), strict=True)
        )
        return Line(start, end)

    def between(self, first: float, last: float) -> Line:
        """The stretch of the line from α = `first` to α = `last`, also beyond [0, 1]; see `Path.between`."""
        return Line(self._stop(first), self._stop(last))

    def distance(self) -> float:
        """‖θ_T − θ₀‖₂ over all parameters, tied ones once, accumulated in float64."""
        return distance(self.start, self.end, self.start.parameters)

    def relative_distance(self) -> float:
        """‖θ_T − θ₀‖ / ‖θ₀‖ over all parameters; the paper's normalisation. inf from a start of zero."""
        return distances(self.start, self.end, self.start.parameters)[1]

    def layer_distances(self, relative: bool = False) -> dict[str, float]:
        """‖θ_T − θ₀‖₂ of every parameter by name, or relative to ‖θ₀‖ of the same parameter.

        >>> Line({"a": torch.ones(4), "b": torch.ones(1)}, {"a": torch.zeros(4), "b": torch.ones(1)}).layer_distances()
        {'a': 2.0, 'b': 0.0}
        """
        return {name: distances(self.start, self.end, [name])[relative] for name in self.start.parameters}

    def _stop(self, alpha: float) -> Checkpoint:
        if alpha in (0, 1):
            return self.end if alpha else self.start
        return Checkpoint(self.at(alpha), self.start.parameters, f"α = {alpha:g} of the {self.describe()}")


def moving(*ends: Checkpoint) -> tuple[str, ...]:
    """Names of the floating-point tensors that are not the same in all checkpoints."""
    first = ends[0].tensors
    return tuple(
        name
        for name, tensor in first.items()
        if tensor.is_floating_point() and any(not torch.equal(tensor, other.tensors[name]) for other in ends[1:])
    )


def distance(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> float:
    """‖θ_T − θ₀‖₂ over the named tensors, accumulated in float64."""
    return distances(start, end, names)[0]


def distances(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> tuple[float, float]:
    """‖θ_T − θ₀‖₂ over the named tensors, and ‖θ_T − θ₀‖ / ‖θ₀‖: inf from a start of zero, 0 where nothing moves.

    Both from one pass, accumulated in float64, in pieces whose float64 copies stay in a core's cache.
    """
    moved, length = [], []
    for name in names:
        ends = (torch.split(each.tensors[name].reshape(-1), PIECE) for each in (start, end))
        for first, last in zip(*ends, strict=True):
            base = first.double()
            moved.append(torch.linalg.vector_norm(last.double() - base))
            length.append(torch.linalg.vector_norm(base))
    far, whole = (math.hypot(*map(float, norms)) for norms in (moved, length))
    if whole:
        return far, far / whole
    return far, float("inf") if far else 0.0


def ends_digest(kind: str, **ends: Checkpoint) -> str:
    """First 12 hex digits of a sha256 over the checkpoints that make a path, by their part in it, and its kind."""
    tensors = {f"{part}:{name}": tensor for part, end in ends.items() for name, tensor in end.tensors.items()}
    return digest({**tensors, f"kind:{kind}": torch.empty(0)})


def _text(pattern: Pattern) -> str:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern
