"""Giving the checkpoints of a path the same names, shapes and dtypes, on one device."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, TypeAlias

import torch

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.networks.deferred import converted
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, checkpoint, tie_key
from lerpscape.paths.fitting_names import fitting_prefixes, prefix_hint
from lerpscape.paths.unlike_vectors import is_float8, refuse_unlike_vectors

OnlyInOne: TypeAlias = Literal["error", "hold"]


def all_matched(sources: list[Source]) -> list[Checkpoint]:
    """Checkpoints of all sources, with the same names in the same order, shapes, and dtypes (the widest of each name).

    Raises `EndpointMismatch` for the first source whose names or shapes differ from those of `sources[0]`.
    """
    checkpoints = [checkpoint(source) for source in sources]
    for _ in range(2):  # after the first round, checkpoint 0 has the widest dtypes; the second gives them to the others
        for index in range(1, len(checkpoints)):
            checkpoints[0], checkpoints[index] = matched(checkpoints[0], checkpoints[index])
    return checkpoints


def first_tied_names(*ends: Checkpoint) -> dict[str, str]:
    """For each name, the first name of the tensor that it is tied to, which is its own for a tensor that is not tied.

    Two names are tied if they share memory in every one of the checkpoints.

    >>> weight = torch.ones(2)
    >>> first_tied_names(checkpoint({"a": weight, "b": weight, "c": torch.ones(2)}))
    {'a': 'a', 'b': 'a', 'c': 'c'}
    """
    first: dict[Hashable, str] = {}
    return {name: first.setdefault(tuple(tie_key(end.tensors[name]) for end in ends), name) for name in ends[0].tensors}


def matched(start: Checkpoint, end: Checkpoint, only_in_one: OnlyInOne = "error") -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints with the same names, shapes and dtypes in the same order; of two dtypes the wider one is used.

    Names that stand under a prefix at one end only are fitted; floating-point numbers of 8 bits become float32. With
    `only_in_one="hold"`, a tensor that one end lacks is added to it, so that it does not move.

    Raises `EndpointMismatch` for names or shapes that differ, and for tensors that have no line between them.

    >>> start, end = matched(checkpoint({"w": torch.ones(1)}), checkpoint({"w": torch.ones(1).double()}))
    >>> start.tensors["w"].dtype
    torch.float64
    """
    given = start.tensors, end.tensors
    start, end = _with_fitting_names(start, end)
    start, end = _with_tied_names(start, end), _with_tied_names(end, start)
    missing = [name for name in start.tensors if name not in end.tensors]
    extra = [name for name in end.tensors if name not in start.tensors]
    if only_in_one == "hold" and len(missing) < len(start.tensors):
        start, end = _holding(start, end, extra), _holding(end, start, missing)
    elif missing or extra:
        raise EndpointMismatch(
            explain(
                expected="two checkpoints of one network, with the same names.",
                got="; ".join(
                    f"{abbreviated(names)} only in {where.source}"
                    for names, where in ((missing, start), (extra, end))
                    if names
                )
                + ".",
                hint=prefix_hint(*given)
                or prefix_hint(*reversed(given))
                or 'Save both from the same model class. Line(..., only_in_one="hold") holds what one end alone has.',
            )
        )
    shapes = [name for name in start.tensors if start.tensors[name].shape != end.tensors[name].shape]
    if shapes:
        name = shapes[0]
        one, other = start.tensors[name].shape, end.tensors[name].shape
        raise EndpointMismatch(
            explain(
                expected="the same shape for each name at both ends.",
                got=f"{abbreviated(shapes)}; {name!r} is {tuple(one)} in {start.source} "
                f"and {tuple(other)} in {end.source}.",
                hint="One end has more tokens or classes: cut its added rows off, or add them to the other end."
                if one[1:] == other[1:] and one and other
                else "Give two checkpoints of networks with the same layer sizes.",
            )
        )
    # A module knows which tensors are parameters; for a file or a mapping they were guessed from names and dtypes.
    reference = start if start.source.startswith("module ") else end
    refuse_unlike_vectors(start.tensors, end.tensors, reference.parameters)
    tensors: tuple[Params, Params] = ({}, {})
    for name in start.tensors:
        ends = start.tensors[name], end.tensors[name]
        dtype = torch.promote_types(*(torch.float32 if is_float8(tensor) else tensor.dtype for tensor in ends))
        for side, tensor in zip(tensors, ends, strict=True):
            side[name] = converted(tensor, ends[0].device, dtype)
    return (
        Checkpoint(tensors[0], reference.parameters, start.source),
        Checkpoint(tensors[1], reference.parameters, end.source),
    )


def _with_fitting_names(start: Checkpoint, end: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints without the prefixes that only one of them has; their sources say so."""
    prefixes = fitting_prefixes(start.tensors, end.tensors)
    return tuple(  # type: ignore[return-value]
        Checkpoint(
            {name.removeprefix(prefix): tensor for name, tensor in side.tensors.items()},
            tuple(name.removeprefix(prefix) for name in side.parameters),
            f"{side.source}, without the prefix {prefix!r}",
        )
        if prefix
        else side
        for side, prefix in zip((start, end), prefixes, strict=True)
    )


def _holding(one: Checkpoint, other: Checkpoint, names: list[str]) -> Checkpoint:
    """`one` with these tensors of the other end, which it lacks."""
    if not names:
        return one
    parameters = (*one.parameters, *(name for name in other.parameters if name in names))
    tensors = one.tensors | {name: other.tensors[name] for name in names}
    return Checkpoint(tensors, parameters, f"{one.source}, with {abbreviated(names)} of {other.source}")


def _with_tied_names(one: Checkpoint, other: Checkpoint) -> Checkpoint:
    """Add to `one` those of its missing names that are tied, in `other`, to a name that it has.

    A safetensors file has one name for tied weights; a module and a .pt file have all names.
    """
    tensors = dict(one.tensors)
    for name, tensor in other.tensors.items():
        if name in tensors:
            continue
        for other_name, candidate in other.tensors.items():
            if other_name in tensors and tie_key(tensor) == tie_key(candidate):
                tensors[name] = tensors[other_name]
                break
    return Checkpoint(tensors, one.parameters, one.source)


def abbreviated(names: list[str], most: int = 3) -> str:
    """The first few of a list of names, and the number of the others, in words.

    >>> abbreviated(list("abcde"))
    "'a', 'b', 'c' and 2 more"
    """
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
