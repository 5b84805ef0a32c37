"""Schedules φ: where a tensor is on its path when the others are at α."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lerpscape.base.errors import explain
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.paths.checkpoints import Checkpoint
from lerpscape.paths.matching import listed
from lerpscape.paths.patterns import Pattern, selected

# When a tensor is where: a function of α, or one value for good.
Schedule: TypeAlias = "Callable[[Tensor], Any] | float"


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
                explain(
                    expected="a schedule from α, a float64 tensor of shape (), to such a tensor.",
                    got=f"{type(time).__name__} from {_name(schedule)}.",
                    hint="Write it with arithmetic or torch functions: lambda a: a**2; a number holds a tensor.",
                )
            )
        (rate,) = torch.autograd.grad(time, point) if time.requires_grad else (torch.zeros(()),)
    found = float(time.detach()), float(rate)
    if not all(map(math.isfinite, found)):
        raise ValueError(
            explain(
                expected="a schedule that is finite, with a finite derivative, where it is looked at.",
                got=f"φ({alpha:g}) = {found[0]}, φ′({alpha:g}) = {found[1]} from {_name(schedule)}.",
                hint="The square root, for one, has no derivative at 0: choose α beyond, or another schedule.",
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
                explain(
                    expected="patterns of which each name matches one.",
                    got=f"{listed(twice)} under two.",
                    hint="Make them narrower.",
                )
            )
        found |= dict.fromkeys(names, schedule)
        text = pattern if isinstance(pattern, str) else pattern.pattern
        words.append(f"{text!r} {_name(schedule)}")
    if not found:
        raise ValueError(
            explain(expected="at least one pattern with a schedule.", got="none.", hint='{"*.bias": lambda a: a**2}')
        )
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


def text_of(pattern: Pattern) -> str:
    """A pattern as the user wrote it."""
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern


def _name(schedule: Schedule) -> str:
    if isinstance(schedule, (int, float)):
        return f"held at α = {schedule:g}"
    if hasattr(schedule, "__name__") and schedule.__name__ != "<lambda>":
        return f"by {schedule.__name__}"
    point = torch.tensor(0.5, dtype=torch.float64)
    return f"by a schedule that is {float(schedule(point)):.4g} at α = ½"
