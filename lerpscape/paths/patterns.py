"""Choosing tensors of a checkpoint by patterns: a name, a module, a regular expression, or a kind of tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import STATISTICS, Checkpoint, continuous
from lerpscape.paths.matching import abbreviated, first_tied_names

Pattern: TypeAlias = "str | re.Pattern[str]"
KINDS = ("kind:weights", "kind:biases", "kind:norms")


def tensors_matching(patterns: Iterable[Pattern], start: Checkpoint, end: Checkpoint) -> list[str]:
    """Names of the tensors that match any of the patterns, and of those tied to them, in the order of the checkpoint.

    Raises `ValueError` for a pattern that matches no name (the message has the most similar ones), and if all matching
    tensors are equal at both ends.

    >>> import torch
    >>> from lerpscape.paths.checkpoints import checkpoint
    >>> start, end = (checkpoint({"head.weight": torch.ones(2, 2) * k, "head.bias": torch.ones(2) * k}) for k in (0, 1))
    >>> [tensors_matching([pattern], start, end) for pattern in ("head", "kind:biases", re.compile("w"))]
    [['head.weight', 'head.bias'], ['head.bias'], ['head.weight']]
    """
    patterns = list(patterns)
    matching = [name for pattern in patterns for name in names_matching(pattern, start)]
    if not patterns:
        raise ValueError(
            explain(expected="at least one pattern.", got="none.", hint='Name a layer, such as "layer3.*".')
        )
    first = first_tied_names(start, end)
    chosen = {first[name] for name in matching}
    names = [name for name in start.tensors if first[name] in chosen]
    if all(start.tensors[name].equal(end.tensors[name]) for name in names):
        raise ValueError(
            explain(
                expected="patterns for tensors that differ between the ends.",
                got=f"{abbreviated(names)}, equal at both.",
                hint="Choose tensors that training has changed.",
            )
        )
    return names


def names_matching(pattern: Pattern, checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors that match one pattern.

    "kind:norms" are the tensors of modules with a one-dimensional weight or a running mean. Of the other floating-point
    tensors, "kind:biases" are those whose last part of the name starts with "bias", and "kind:weights" the rest.

    Raises `ValueError` for a pattern that matches no name; the message has the most similar ones.
    """
    names = list(checkpoint.tensors)
    if isinstance(pattern, re.Pattern):
        matching = [name for name in names if pattern.search(name)]
    elif pattern.startswith("kind:"):
        if pattern not in KINDS:
            raise ValueError(
                explain(expected=f"one of {', '.join(KINDS)}.", got=f"{pattern!r}.", hint="Spell it like these.")
            )
        matching = [name for name in names if _kind(name, checkpoint) == pattern]
    else:
        matching = [name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]
    if not matching:
        text = pattern_text(pattern)
        modules = sorted({name.rpartition(".")[0] for name in names} - {""})
        nearest = get_close_matches(text, [*names, *modules], n=3, cutoff=0.3) or names[:3]
        raise ValueError(
            explain(
                expected=f"a pattern that matches some of the {len(names)} names.",
                got=f"{text!r}, which matches none.",
                hint=f"Most similar: {', '.join(repr(name) for name in nearest)}. "
                'A pattern is a name, a module, a glob ("layer3.*"), re.compile(...), or one of '
                f"{', '.join(KINDS)}.",
            )
        )
    return matching


def pattern_text(pattern: Pattern) -> str:
    """A pattern as the user wrote it."""
    return pattern if isinstance(pattern, str) else pattern.pattern


def _kind(name: str, checkpoint: Checkpoint) -> str | None:
    module, _, own = name.rpartition(".")
    prefix = f"{module}." if module else ""
    weight = checkpoint.tensors.get(f"{prefix}weight")
    if (weight is not None and weight.dim() == 1) or f"{prefix}running_mean" in checkpoint.tensors:
        return "kind:norms"
    if own in STATISTICS or not continuous(checkpoint.tensors[name]):
        return None
    return "kind:biases" if own.startswith("bias") else "kind:weights"
