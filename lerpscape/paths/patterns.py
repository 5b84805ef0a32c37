"""Which tensors a pattern means: by name, by module, by regular expression, or by kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import STATISTICS, Checkpoint
from lerpscape.paths.matching import listed, twins

Pattern: TypeAlias = "str | re.Pattern[str]"
KINDS = ("kind:weights", "kind:biases", "kind:norms")


def selected(patterns: Iterable[Pattern], start: Checkpoint, end: Checkpoint) -> list[str]:
    """Names of the tensors that any of the patterns means, in the checkpoint's order; tied names come together.

    Raises `ValueError` for a pattern that matches no name (the nearest are shown), and for patterns whose tensors are
    equal at both ends, so that nothing would move.

    >>> import torch
    >>> from lerpscape.paths.checkpoints import checkpoint
    >>> start, end = (checkpoint({"head.weight": torch.ones(2, 2) * k, "head.bias": torch.ones(2) * k}) for k in (0, 1))
    >>> selected(["head"], start, end), selected(["kind:biases"], start, end), selected([re.compile("w")], start, end)
    (['head.weight', 'head.bias'], ['head.bias'], ['head.weight'])
    """
    patterns = list(patterns)
    found: set[str] = set()
    for pattern in patterns:
        found |= set(names_of(pattern, start))
    if not patterns:
        raise ValueError(
            explain(expected="at least one pattern.", got="none.", hint='Name a layer, such as "layer3.*".')
        )
    first = twins(start, end)
    chosen = {first[name] for name in found}
    names = [name for name in start.tensors if first[name] in chosen]
    if all(start.tensors[name].equal(end.tensors[name]) for name in names):
        raise ValueError(
            explain(
                expected="patterns for tensors that differ between the ends.",
                got=f"{listed(names)}, equal at both.",
                hint="Choose tensors that training has moved.",
            )
        )
    return names


def names_of(pattern: Pattern, of: Checkpoint) -> list[str]:
    """Names of the tensors that one pattern means.

    A kind goes by shape: norms are one-dimensional weights, with the bias and the running statistics of their module;
    biases are the other parameters whose own name starts with bias; weights are the other parameters.

    Raises `ValueError` for a pattern that matches no name, with the nearest names.
    """
    names = list(of.tensors)
    if isinstance(pattern, re.Pattern):
        found = [name for name in names if pattern.search(name)]
    elif pattern.startswith("kind:"):
        if pattern not in KINDS:
            raise ValueError(
                explain(expected=f"one of {', '.join(KINDS)}.", got=f"{pattern!r}.", hint="Spell it like these.")
            )
        found = [name for name in names if _kind(name, of) == pattern]
    else:
        found = [name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]
    if not found:
        text = pattern if isinstance(pattern, str) else pattern.pattern
        modules = sorted({name.rpartition(".")[0] for name in names} - {""})
        nearest = get_close_matches(text, [*names, *modules], n=3, cutoff=0.3) or names[:3]
        raise ValueError(
            explain(
                expected=f"a pattern that matches some of the {len(names)} names.",
                got=f"{text!r}, which matches none.",
                hint=f"Nearest: {', '.join(repr(name) for name in nearest)}. "
                'A pattern is a name, a module, a glob ("layer3.*"), re.compile(...), or one of '
                f"{', '.join(KINDS)}.",
            )
        )
    return found


def _kind(name: str, of: Checkpoint) -> str | None:
    module, _, own = name.rpartition(".")
    prefix = f"{module}." if module else ""
    weight = of.tensors.get(f"{prefix}weight")
    if (weight is not None and weight.dim() == 1) or f"{prefix}running_mean" in of.tensors:
        return "kind:norms"
    if own in STATISTICS or not of.tensors[name].is_floating_point():
        return None
    return "kind:biases" if own.startswith("bias") else "kind:weights"
