"""Calls of the caller's own code: what goes wrong there is said with the batch, the α and the function."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lerpscape.base.errors import CallFailed, explain

_NOT_THE_CALLERS = tuple(str(Path(module).parent) for module in (torch.__file__, Path(__file__).parent))
# What torch says where something is differentiated that was computed without gradients.
_NO_GRADIENT = "does not require grad and does not have a grad_fn"


@contextmanager
def located(function: str, place: str) -> Iterator[None]:
    """Exceptions that pass say where they come from: `function` is what was called, `place` the batch and the α.

    lerpscape's own keep their type; all others become a `CallFailed` from the original one.

    >>> with located("the loss", "batch 3 at α = 0"):
    ...     1 / 0
    Traceback (most recent call last):
    lerpscape.base.errors.CallFailed: expected: the loss to work on batch 3 at α = 0.
    got: ZeroDivisionError: division by zero.
    try: Call it on that batch by hand; the traceback above shows where it failed.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        if isinstance(error, CallFailed):
            raise
        if text.startswith("expected: ") and text.count("\ntry: ") == 1:
            if place in text or len(error.args) != 1:
                raise
            before, after = text.split("\ntry: ")
            error.args = (f"{before.removesuffix('.')}, in {place}.\ntry: {after}",)
            raise
        where = _frame(error)
        raise CallFailed(
            explain(
                expected=f"{function} to work on {place}.",
                got=f"{type(error).__name__}{f' in {where}' if where else ''}: {text.strip() or 'no message'}.",
                hint="Call it on that batch by hand; the traceback above shows where it failed.",
            )
        ) from error


def place_of(number: int | None, alpha: float | None = None) -> str:
    """A batch by its number in the data, and the α, in words.

    >>> place_of(3, 0.0), place_of(None, 0.25)
    ('batch 3 at α = 0 (the start)', 'a batch at α = 0.25')
    """
    batch = "a batch" if number is None else f"batch {number}"
    if alpha is None:
        return batch
    return f"{batch} at α = {alpha:.6g}{ {0.0: ' (the start)', 1.0: ' (the end)'}.get(alpha, '') }"


def needs_gradients(error: BaseException) -> bool:
    """Whether a call failed because it differentiates what was computed without gradients."""
    return isinstance(error.__cause__, RuntimeError) and _NO_GRADIENT in str(error.__cause__)


def _frame(error: Exception) -> str:
    """The innermost function of the caller's own that an exception passed."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_NOT_THE_CALLERS, "<")):
            return f"{frame.name} ({Path(frame.filename).name}:{frame.lineno})"
    return ""
