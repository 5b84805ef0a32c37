"""Paths made from paths: some tensors alone, at other times, over another stretch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from lerpscape.checkpoints import Checkpoint, Params, digest
from lerpscape.depths import bias_depths
from lerpscape.errors import three_parts
from lerpscape.matching import listed
from lerpscape.paths import Path, Schedule
from lerpscape.patterns import Pattern, selected

# Where a schedule is looked at to tell it from others.
_SAMPLES = tuple(step / 64 for step in range(65))


class Power:
    """The schedule φ(α) = α^p.

    >>> Power(2)(torch.tensor(0.5))
    tensor(0.2500)
    """

    def __init__(self, power: float) -> None:
        self._power = power
        self.__name__ = f"α^{power:g}"

    def __call__(self, alpha: torch.Tensor) -> torch.Tensor:
        """α^p."""
        return alpha**self._power


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
            raise ValueError(three_parts("two different, finite values of α.", f"{first} and {last}.", "between(0, 2)"))
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


def time_and_rate(schedule: Schedule, alpha: float) -> tuple[float, float]:
    """φ(α) and φ′(α) of a schedule, in float64.

    Raises `ValueError` for values that are not finite, `TypeError` for a function that is not differentiable by torch.

    >>> time_and_rate(lambda a: a**3, 0.5), time_and_rate(1.0, 0.5)
    ((0.125, 0.75), (1.0, 0.0))
    """
    if isinstance(schedule, (int, float)):
        return float(schedule), 0.0
    point = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        time = schedule(point)
        if not isinstance(time, torch.Tensor) or time.dim():
            raise TypeError(
                three_parts(
                    "a schedule from α, a float64 tensor of shape (), to such a tensor.",
                    f"{type(time).__name__} from {_name(schedule)}.",
                    "Write it with arithmetic or torch functions: lambda a: a**2; a number holds a tensor.",
                )
            )
        (rate,) = torch.autograd.grad(time, point) if time.requires_grad else (torch.zeros(()),)
    found = float(time.detach()), float(rate)
    if not all(map(math.isfinite, found)):
        raise ValueError(
            three_parts(
                "a schedule that is finite, with a finite derivative, where it is looked at.",
                f"φ({alpha:g}) = {found[0]}, φ′({alpha:g}) = {found[1]} from {_name(schedule)}.",
                "The square root, for one, has no derivative at 0: choose α beyond, or another schedule.",
            )
        )
    return found


def chosen_times(
    times: Mapping[Pattern, Schedule], start: Checkpoint, end: Checkpoint
) -> tuple[dict[str, Schedule], str]:
    """The schedule of each name that a pattern means, and all of it in words.

    Raises `ValueError` for a pattern that matches nothing, and for a name that two patterns match.
    """
    found: dict[str, Schedule] = {}
    words = []
    for pattern, schedule in times.items():
        names = selected([pattern], start, end)
        twice = [name for name in names if name in found]
        if twice:
            raise ValueError(
                three_parts(
                    "patterns of which each name matches one.", f"{listed(twice)} under two.", "Make them narrower."
                )
            )
        found |= dict.fromkeys(names, schedule)
        text = pattern if isinstance(pattern, str) else pattern.pattern
        words.append(f"{text!r} {_name(schedule)}")
    if not found:
        raise ValueError(three_parts("at least one pattern with a schedule.", "none.", '{"*.bias": lambda a: a**2}'))
    return found, "; ".join(words)


def homogeneous_times(
    model: nn.Module, depths: Mapping[Pattern, int] | None, start: Checkpoint, end: Checkpoint
) -> tuple[dict[str, Schedule], str]:
    """α^h for the biases of each layer h, and that in words."""
    if depths is None:
        known = {name: depth for name, depth in bias_depths(model).items() if name in start.tensors}
    else:
        known = {name: depth for pattern, depth in depths.items() for name in selected([pattern], start, end)}
    powers: dict[int, Schedule] = {depth: Power(depth) for depth in set(known.values())}
    words = f"biases at α^h, h from {min(known.values())} to {max(known.values())}" if known else "no biases"
    return {name: powers[depth] for name, depth in known.items()}, words


def _name(schedule: Schedule) -> str:
    if isinstance(schedule, (int, float)):
        return f"held at α = {schedule:g}"
    if hasattr(schedule, "__name__") and schedule.__name__ != "<lambda>":
        return f"by {schedule.__name__}"
    point = torch.tensor(0.5, dtype=torch.float64)
    return f"by a schedule that is {float(schedule(point)):.4g} at α = ½"
