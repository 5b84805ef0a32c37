"""How dL/dα is taken: in forward mode, by backward passes, or not at all, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from lerpscape.base.errors import explain
from lerpscape.engine.derivative_check import why_no_derivative
from lerpscape.engine.execution import Objective
from lerpscape.engine.moving_tensors import Mode
from lerpscape.networks.batches import Batch

# What a caller may ask for: True leaves the mode to `chosen_derivative`.
Derivative: TypeAlias = bool | Literal["forward", "backward"]


@dataclass(frozen=True)
class DerivativeChoice:
    """The mode in which dL/dα is taken, None for not at all, and why it is no other.

    >>> DerivativeChoice("backward", "as asked").describe()
    'backward passes, each batch: as asked'
    """

    mode: Mode | None
    why: str

    def describe(self) -> str:
        """The choice in words, for `how["derivative"]`."""
        words = {None: "none", "forward": "forward mode, each example", "backward": "backward passes, each batch"}
        return f"{words[self.mode]}: {self.why}" if self.why else words[self.mode]


def check_derivative(asked: object) -> None:
    """Raise `ValueError` for anything that cannot be asked for.

    >>> check_derivative("reverse")
    Traceback (most recent call last):
    ValueError: expected: derivative as True, False, "forward" or "backward".
    got: 'reverse'.
    try: True chooses the mode that suits the model.
    """
    if not isinstance(asked, bool) and asked not in ("forward", "backward"):
        raise ValueError(
            explain(
                expected='derivative as True, False, "forward" or "backward".',
                got=f"{asked!r}.",
                hint="True chooses the mode that suits the model.",
            )
        )


def chosen_derivative(
    objective: Objective,
    batches: list[Batch],
    asked: Derivative,
    *,
    order: Sequence[Mode] = ("forward", "backward"),
    workers: int | str = 1,
) -> DerivativeChoice:
    """How to take dL/dα, as tried on a few examples of these batches (see `why_no_derivative`).

    Left to choose, it is the first mode of `order` that works. In a profile that is forward mode, as it gives every
    example its own derivative, and so a standard error; where it has no rule for an operation, or gives a wrong number,
    backward passes.
    """
    if asked is False:
        return DerivativeChoice(None, "not asked for")
    reasons: dict[Mode, str] = {}
    for mode in order if asked is True else [asked]:
        reason = _why_not(replace(objective, derivative=mode), batches, workers)
        if reason is None:
            return DerivativeChoice(mode, "; ".join(reasons.values()) if asked is True else "as asked")
        reasons[mode] = reason
    return DerivativeChoice(None, "; ".join(dict.fromkeys(reasons.values())))


def _why_not(objective: Objective, batches: list[Batch], workers: int | str) -> str | None:
    forks = isinstance(workers, int) and workers > 1
    if objective.derivative == "backward" and forks and torch.accelerator.is_available():
        return "torch runs no backward pass in forked processes where it has a GPU: workers=1, or Ray"
    return why_no_derivative(objective, batches)
