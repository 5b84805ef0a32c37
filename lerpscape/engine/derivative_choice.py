"""How dL/dα is taken: in forward mode, by backward passes, or not at all, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from lerpscape.base.errors import explain
from lerpscape.engine.derivative_check import PROBE_ALPHAS, few_examples, losses_at, why_no_derivative
from lerpscape.engine.execution import Objective
from lerpscape.engine.moving_tensors import Mode
from lerpscape.networks.batches import Batch

# Attention scores of a batch that forward mode may hold, with their derivatives, for the sake of a standard error.
LARGEST_SCORES = 1 << 26
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
    example its own derivative, and so a standard error. Backward passes are taken where it has no rule for an
    operation or gives a wrong number, and before it where fused attention, which has no rule either, would have to be
    replaced by one that holds scores of more than 64 MiB at once.
    """
    if asked is False:
        return DerivativeChoice(None, "not asked for")
    reasons: dict[Mode, str] = {}
    if asked is True and order[0] == "forward" and len(order) > 1:
        scores = attention_bytes(objective, batches)
        if scores > LARGEST_SCORES:
            reasons["forward"] = f"attention scores of {scores / 2**20:,.0f} MiB, which forward mode would hold"
            order = ["backward", "forward"]
    for mode in order if asked is True else [asked]:
        reason = _why_not(replace(objective, derivative=mode), batches, workers)
        if reason is None:
            return DerivativeChoice(mode, "; ".join(reasons.values()) if asked is True else "as asked")
        reasons[mode] = reason
    return DerivativeChoice(None, "; ".join(dict.fromkeys(reasons.values())))


def attention_bytes(objective: Objective, batches: list[Batch]) -> int:
    """Bytes of the largest matrix of attention scores that fused attention avoids, for a whole batch of these.

    It is measured on a few examples, without derivatives; 0 where the model calls none, or fails on them.
    """
    probe = few_examples(batches)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # as in both modes
    try:
        with _Attention() as attention:
            losses_at(objective, probe)(PROBE_ALPHAS[0], False)
    except Exception:  # the caller's forward or loss, on a batch that was cut: it decides nothing here
        return 0
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    largest = max((batch.examples or 1) for batch in batches)
    return int(attention.scores * largest / (probe.examples or largest))


class _Attention(TorchFunctionMode):
    """Notes the bytes of the largest matrix of scores, queries by keys, that attention would make.

    (A mode of torch's dispatcher would load torch's compiler, which takes two seconds.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rows = keys = 0
        if func is F.scaled_dot_product_attention:
            query, key = args[:2]
            rows, keys = query.shape[:-1].numel(), key.shape[-2]
        elif func is F.multi_head_attention_forward:  # what it calls is not seen; sequences are the first dimension
            query, key, heads = args[0], args[1], args[4]
            rows, keys = query.shape[:-1].numel() * heads, key.shape[0]
        if rows:
            self.scores = max(self.scores, rows * keys * query.element_size())
        return func(*args, **(kwargs or {}))


def _why_not(objective: Objective, batches: list[Batch], workers: int | str) -> str | None:
    forks = isinstance(workers, int) and workers > 1
    if objective.derivative == "backward" and forks and torch.accelerator.is_available():
        return "torch runs no backward pass in forked processes where it has a GPU: workers=1, or Ray"
    return why_no_derivative(objective, batches)
