"""A path through parameter space, and the paths made from it: some tensors alone, at other times, over a stretch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import Checkpoint, Params, digest
from lerpscape.paths.matching import listed
from lerpscape.paths.patterns import Pattern, selected
from lerpscape.paths.schedules import Schedule, chosen_times, homogeneous_times, text_of, time_and_rate

Rest: TypeAlias = Literal["start", "end"]
# Where a schedule is looked at to tell it from others.
_SAMPLES = tuple(step / 64 for step in range(65))


class ParamPath(Protocol):
    """A path through parameter space: where it is at α, and how it moves there.

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
        chosen = set(selected(patterns, self.start, self.end))
        held = {name: float(rest == "end") for name in self.start.tensors if name not in chosen}
        words = f"only {listed([text_of(each) for each in patterns])}, the rest at the {rest}"
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
        found, words = homogeneous_times(model, depths, self.start, self.end)
        return Retimed(self, found, words)

    def between(self, first: float, last: float) -> Path:
        """The stretch of the path from α = `first` to α = `last`, also beyond [0, 1], as a path of its own.

        >>> Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}).between(-0.5, 1.5).at(0.25)
        {'w': tensor([0.])}
        """
        return Stretch(self, first, last)

    def reversed(self) -> Path:
        """The path from its end to its start.

        >>> Line({"w": torch.zeros(1)}, {"w": torch.ones(1)}).reversed().at(0.25)
        {'w': tensor([0.7500])}
        """
        return self.between(1.0, 0.0)


class Retimed(Path):
    """A path whose tensors keep different times: where the path is at α, a tensor with schedule φ is at φ(α)."""

    def __init__(self, path: Path, times: Mapping[str, Schedule], words: str) -> None:
        self._path = path
        self._times = dict(times)
        self._words = words
        source = f"{path.describe()} ({words})"
        self.start, self.end = (
            Checkpoint(self.at(alpha), path.start.parameters, f"the {side} of the {source}")
            for alpha, side in ((0.0, "start"), (1.0, "end"))
        )

    def at(self, alpha: float) -> Params:
        """Every tensor, each at its own time."""
        tensors = self._path.at(alpha)
        for schedule, names in self._groups():
            there = self._path.at(time_and_rate(schedule, alpha)[0])
            tensors |= {name: there[name] for name in names}
        return tensors

    def velocity(self, alpha: float) -> Params:
        """dθ/dα = φ′(α) θ′(φ(α)) of the tensors that move."""
        found = {name: tensor for name, tensor in self._path.velocity(alpha).items() if name not in self._times}
        for schedule, names in self._groups():
            if isinstance(schedule, (int, float)):
                continue
            time, rate = time_and_rate(schedule, alpha)
            there = self._path.velocity(time)
            found |= {name: rate * there[name] for name in names if name in there}
        return found

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Retimed:
        """The same path with its tensors on a device, the floating-point ones in `dtype` where one is given."""
        return Retimed(self._path.to(device, dtype), self._times, self._words)

    def describe(self) -> str:
        """Where the path runs, in words."""
        return f"{self._path.describe()}, {self._words}"

    def digest(self) -> str:
        """12 hex digits over the path and the values of every schedule at 65 points of [0, 1]."""
        values = {
            f"time:{name}": torch.tensor([time_and_rate(schedule, alpha)[0] for alpha in _SAMPLES]).double()
            for schedule, names in self._groups()
            for name in names
        }
        return digest({**values, f"retimed:{self._path.digest()}": torch.empty(0)})

    def _groups(self) -> list[tuple[Schedule, list[str]]]:
        groups: dict[float | str, tuple[Schedule, list[str]]] = {}
        for name, schedule in self._times.items():
            key = schedule if isinstance(schedule, (int, float)) else f"function {id(schedule)}"
            groups.setdefault(key, (schedule, []))[1].append(name)
        return list(groups.values())


class Stretch(Path):
    """The stretch of a path from α = `first` to α = `last` as a path of its own."""

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
        """Every tensor at α of the stretch; both ends exactly those of the path there."""
        return self._path.at(self._inside(alpha))

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the tensors that move: that of the path times the length of the stretch."""
        length = self._last - self._first
        return {name: length * tensor for name, tensor in self._path.velocity(self._inside(alpha)).items()}

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Stretch:
        """The same stretch with its tensors on a device, the floating-point ones in `dtype` where one is given."""
        return Stretch(self._path.to(device, dtype), self._first, self._last)

    def describe(self) -> str:
        """Where the path runs, in words."""
        if (self._first, self._last) == (1.0, 0.0):
            return f"reversed {self._path.describe()}"
        return f"{self._path.describe()}, from α = {self._first:g} to {self._last:g}"

    def digest(self) -> str:
        """12 hex digits over the path and both values of α."""
        ends = torch.tensor([self._first, self._last], dtype=torch.float64)
        return digest({f"stretch:{self._path.digest()}": ends})

    def _inside(self, alpha: float) -> float:
        if alpha in (0, 1):
            return self._last if alpha else self._first
        return self._first + alpha * (self._last - self._first)
