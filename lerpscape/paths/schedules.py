"""Interpolation schedules φ: a tensor with schedule φ is at θ(φ(α)) when the other tensors of a path are at θ(α)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lerpscape.base.errors import explain
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.paths.checkpoints import Checkpoint
from lerpscape.paths.matching import abbreviated
from lerpscape.paths.patterns import Pattern, pattern_text, tensors_matching

# A function φ of α, or a number at which the tensor is held.
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


def value_and_rate(schedule: Schedule, alpha: float) -> tuple[float, float]:
    """φ(α) and φ′(α) of a schedule, in float64.

    Raises `ValueError` for values that are not finite, `TypeError` for a function that is not differentiable by torch.

    >>> value_and_rate(lambda a: a**3, 0.5), value_and_rate(1.0, 0.5)
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
                    got=f"{type(time).__name__} from {_in_words(schedule)}.",
                    hint="Write it with arithmetic or torch functions, as lambda a: a**2, or give a number.",
                )
            )
        (rate,) = torch.autograd.grad(time, point) if time.requires_grad else (torch.zeros(()),)
    value, slope = float(time.detach()), float(rate)
    if not (math.isfinite(value) and math.isfinite(slope)):
        raise ValueError(
            explain(
                expected="a schedule that is finite and has a finite derivative at every α that is measured.",
                got=f"φ({alpha:g}) = {value}, φ′({alpha:g}) = {slope} from {_in_words(schedule)}.",
                hint="The square root, for example, has no derivative at 0: leave 0 out, or choose another schedule.",
            )
        )
    return value, slope


def schedules_by_name(
    times: Mapping[Pattern, Schedule], start: Checkpoint, end: Checkpoint
) -> tuple[dict[str, Schedule], str]:
    """The schedule of each tensor that matches a pattern, by name, and a description of all of them.

    Raises `ValueError` for a pattern that matches nothing, and for a name that matches two patterns.
    """
    schedules: dict[str, Schedule] = {}
    words = []
    for pattern, schedule in times.items():
        names = tensors_matching([pattern], start, end)
        twice = [name for name in names if name in schedules]
        if twice:
            raise ValueError(
                explain(
                    expected="patterns of which each name matches at most one.",
                    got=f"{abbreviated(twice)}, which match two.",
                    hint="Make them narrower.",
                )
            )
        schedules |= dict.fromkeys(names, schedule)
        words.append(f"{pattern_text(pattern)!r} {_in_words(schedule)}")
    if not schedules:
        raise ValueError(
            explain(expected="at least one pattern with a schedule.", got="none.", hint='{"*.bias": lambda a: a**2}')
        )
    return schedules, "; ".join(words)


def homogeneous_schedules(
    model: nn.Module, depths: Mapping[Pattern, int] | None, start: Checkpoint, end: Checkpoint
) -> tuple[dict[str, Schedule], str]:
    """The schedule α^h of the biases of each layer, h its depth, by name, and a description of all of them."""
    if depths is None:
        by_name = {name: depth for name, depth in bias_depths(model).items() if name in start.tensors}
    else:
        by_name = {name: depth for pattern, depth in depths.items() for name in tensors_matching([pattern], start, end)}
    powers: dict[int, Schedule] = {depth: Power(depth) for depth in set(by_name.values())}
    words = f"biases at α^h, h from {min(by_name.values())} to {max(by_name.values())}" if by_name else "no biases"
    return {name: powers[depth] for name, depth in by_name.items()}, words


def _in_words(schedule: Schedule) -> str:
    if isinstance(schedule, (int, float)):
        return f"held at α = {schedule:g}"
    if hasattr(schedule, "__name__") and schedule.__name__ != "<lambda>":
        return f"by {schedule.__name__}"
    point = torch.tensor(0.5, dtype=torch.float64)
    return f"by a schedule that is {float(schedule(point)):.4g} at α = ½"
