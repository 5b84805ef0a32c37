"""Paths through parameter space, and paths derived from them: of some tensors alone, with schedules, over a segment."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import Checkpoint, Params, digest
from lerpscape.paths.matching import abbreviated
from lerpscape.paths.patterns import Pattern, pattern_text, tensors_matching
from lerpscape.paths.schedules import Schedule, homogeneous_schedules, schedules_by_name, value_and_rate

Rest: TypeAlias = Literal["start", "end"]
# The values of a schedule at these α identify it in a path's digest.
_SAMPLES = tuple(step / 64 for step in range(65))
# At a knot a path gives the velocity of the piece that follows; so far before the knot, that of the piece before it.
_BEFORE = 1e-12


class ParamPath(Protocol):
    """A path through parameter space: the tensors of a network as a function of α.

    `at(α)` gives every tensor of the network, `velocity(α)` the derivative by α of those that move: at a knot, where
    the derivatives of both sides differ, the one for increasing α, and at α = 1 the one for decreasing α. `start` and
    `end` are the checkpoints at α = 0 and α = 1. `to(device, dtype)` moves the path, `describe()` puts it into words.
    `digest()` differs between different paths, so that an interrupted measurement resumes only along its own path.
    """

    start: Checkpoint
    end: Checkpoint

    def at(self, alpha: float) -> Params: ...  # noqa: D102

    def velocity(self, alpha: float) -> Params: ...  # noqa: D102

    def to(self, device: torch.device, dtype: torch.dtype | None) -> ParamPath: ...  # noqa: D102

    def describe(self) -> str: ...  # noqa: D102

    def digest(self) -> str: ...  # noqa: D102


class Path(ABC):
    """A path with methods that derive other paths from it; derived paths have the same methods."""

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
        """The path on a device, with its floating-point tensors in `dtype` unless that is None."""

    @abstractmethod
    def describe(self) -> str:
        """The path in words."""

    @abstractmethod
    def digest(self) -> str:
        """12 hex digits that differ between different paths."""

    def only(self, *patterns: Pattern, rest: Rest = "end") -> Path:
        """The path along which only the tensors that match a pattern move, with all others held at one end (`rest`).

        A pattern is a name or a glob (`"layer3.*"`), the name of a module (`"layer3"`), a compiled regular
        expression, or `"kind:weights"`, `"kind:biases"`, `"kind:norms"`. A module's name includes its running
        statistics.

        Raises `ValueError` for a pattern that matches nothing (the message has the most similar names), and if all
        matching tensors are equal at both ends.

        Source: Vlaar & Frankle (2021).

        >>> from lerpscape import Line
        >>> line = Line({"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.ones(1), "b": torch.ones(1)})
        >>> line.only("a", rest="start").at(0.5)
        {'a': tensor([0.5000]), 'b': tensor([0.])}
        """
        chosen = set(tensors_matching(patterns, self.start, self.end))
        held = {name: float(rest == "end") for name in self.start.tensors if name not in chosen}
        words = f"only {abbreviated([pattern_text(each) for each in patterns])}, the rest at the {rest}"
        return ScheduledPath(self, held, words)

    def schedule(self, times: Mapping[Pattern, Schedule]) -> Path:
        """Give tensors their own interpolation schedule: θ(φ(α)) in place of θ(α).

        `times` maps patterns (see `only`) to schedules. A schedule is a function φ of α, a float64 tensor of shape (),
        in arithmetic or torch operations, so that dθ/dα = φ′(α) θ′(φ(α)) is exact; or a number, at which the tensors
        are held.

        Raises `ValueError` for a pattern that matches nothing, a name that matches two patterns, and a φ that is not
        finite.

        >>> from lerpscape import Line
        >>> line = Line({"w": torch.zeros(1), "bias": torch.zeros(1)}, {"w": torch.ones(1), "bias": torch.ones(1)})
        >>> line.schedule({"bias": lambda a: a**2}).at(0.5), line.schedule({"bias": 1.0}).at(0.5)["bias"]
        ({'w': tensor([0.5000]), 'bias': tensor([0.2500])}, tensor([1.]))
        """
        schedules, words = schedules_by_name(times, self.start, self.end)
        return ScheduledPath(self, schedules, words)

    def homogeneous_biases(self, model: nn.Module, depths: Mapping[Pattern, int] | None = None) -> Path:
        """Interpolate the biases of layer h by α^h, so that from a zero start the line scales a homogeneous network.

        The depth h of a layer is the number of layers with weights up to and including it. It is determined by tracing
        `model`, or given by `depths`, which maps patterns of biases to their h.

        Raises `TypeError` for a model in which a layer has no single depth, because of normalisation or of branches of
        different depth that join; then give `depths`.

        Source: Wang, Wang, Zhou & Ge (2022).

        >>> from lerpscape import Line
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
        >>> zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
        >>> ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
        >>> {name: float(tensor) for name, tensor in Line(zeros, ones).homogeneous_biases(model).at(0.5).items()}
        {'0.weight': 0.5, '0.bias': 0.5, '2.weight': 0.5, '2.bias': 0.25}
        """
        schedules, words = homogeneous_schedules(model, depths, self.start, self.end)
        return ScheduledPath(self, schedules, words)

    def between(self, first: float, last: float) -> Path:
        """The segment of the path from α = `first` to α = `last`, which may lie outside [0, 1], as a path.

        Raises `ValueError` for two equal values, or one that is not finite.

        >>> from lerpscape import Line
        >>> Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}).between(-0.5, 1.5).at(0.25)
        {'w': tensor([0.])}
        """
        return Segment(self, first, last)

    def reversed(self) -> Path:
        """The path from its end to its start.

        >>> from lerpscape import Line
        >>> Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}).reversed().at(0.25)
        {'w': tensor([0.7500])}
        """
        return self.between(1.0, 0.0)


class ScheduledPath(Path):
    """A path on which some tensors follow their own schedule: θ(φ(α)) in place of θ(α); see `Path.schedule`."""

    def __init__(self, path: Path, schedules: Mapping[str, Schedule], words: str) -> None:
        self._path = path
        self._schedules = dict(schedules)
        self._words = words
        source = f"{path.describe()} ({words})"
        self.start, self.end = (
            Checkpoint(self.at(alpha), path.start.parameters, f"the {side} of the {source}")
            for alpha, side in ((0.0, "start"), (1.0, "end"))
        )

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α."""
        tensors = self._path.at(alpha)
        for schedule, names in self._groups():
            there = self._path.at(value_and_rate(schedule, alpha)[0])
            tensors |= {name: there[name] for name in names}
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα = φ′(α) θ′(φ(α)) of the tensors that move."""
        rates = {name: tensor for name, tensor in self._path.velocity(alpha).items() if name not in self._schedules}
        for schedule, names in self._groups():
            if isinstance(schedule, (int, float)):
                continue
            time, rate = value_and_rate(schedule, alpha)
            there = _passing(self._path, time, rate, alpha)
            rates |= {name: rate * there[name] for name in names if name in there}
        return rates

    def to(self, device: torch.device, dtype: torch.dtype | None) -> ScheduledPath:
        """The path on a device, with its floating-point tensors in `dtype` unless that is None."""
        return ScheduledPath(self._path.to(device, dtype), self._schedules, self._words)

    def describe(self) -> str:
        """The path in words."""
        return f"{self._path.describe()}, {self._words}"

    def digest(self) -> str:
        """12 hex digits over the path and the values of every schedule at 65 points of [0, 1]."""
        values = {
            f"time:{name}": torch.tensor(
                [value_and_rate(schedule, alpha)[0] for alpha in _SAMPLES], dtype=torch.float32
            ).double()
            for schedule, names in self._groups()
            for name in names
        }
        return digest({**values, f"retimed:{self._path.digest()}": torch.empty(0, dtype=torch.float32)})

    def _groups(self) -> list[tuple[Schedule, list[str]]]:
        """Every schedule with the names of its tensors."""
        groups: dict[float | str, tuple[Schedule, list[str]]] = {}
        for name, schedule in self._schedules.items():
            key = schedule if isinstance(schedule, (int, float)) else f"function {id(schedule)}"
            groups.setdefault(key, (schedule, []))[1].append(name)
        return list(groups.values())


class Segment(Path):
    """The part of a path from α = `first` to α = `last`, as a path; see `Path.between`."""

    def __init__(self, path: Path, first: float, last: float) -> None:
        if first == last or not math.isfinite(first) or not math.isfinite(last):
            raise ValueError(
                explain(expected="two different, finite values of α.", got=f"{first} and {last}.", hint="between(0, 2)")
            )
        self._path, self._first, self._last = path, first, last
        self.start, self.end = (
            {0.0: path.start, 1.0: path.end}.get(alpha)
            or Checkpoint(path.at(alpha), path.start.parameters, f"α = {alpha:g} of the {path.describe()}")
            for alpha in (first, last)
        )

    def at(self, alpha: float) -> Params:
        """Every tensor of the network at α of the segment; at 0 and 1 exactly those of the path."""
        return self._path.at(self._path_alpha(alpha))

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move: that of the path times the length of the segment."""
        length = self._last - self._first
        velocity = _passing(self._path, self._path_alpha(alpha), length, alpha)
        return {name: length * tensor for name, tensor in velocity.items()}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Segment:
        """The segment on a device, with its floating-point tensors in `dtype` unless that is None."""
        return Segment(self._path.to(device, dtype), self._first, self._last)

    def describe(self) -> str:
        """The segment in words."""
        if (self._first, self._last) == (1.0, 0.0):
            return f"reversed {self._path.describe()}"
        return f"{self._path.describe()}, from α = {self._first:g} to {self._last:g}"

    def digest(self) -> str:
        """12 hex digits over the path and both values of α."""
        ends = torch.tensor([self._first, self._last], dtype=torch.float64)
        return digest({f"stretch:{self._path.digest()}": ends})

    def _path_alpha(self, alpha: float) -> float:
        """The α of the whole path."""
        if alpha in (0, 1):
            return self._last if alpha else self._first
        return self._first + alpha * (self._last - self._first)


def _passing(path: Path, time: float, rate: float, alpha: float) -> Params:
    """The velocity of a path at `time`, as met by a path made of it that passes there at this `rate` at α.

    At a knot it is that of the piece which the path passes next, and at α = 1 of the piece that it has passed.
    """
    backwards = rate < 0 if alpha < 1 else rate > 0
    return path.velocity(time - _BEFORE if backwards else time)
