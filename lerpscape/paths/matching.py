"""Checkpoints that are to share a path: the same names, shapes and dtypes, on one device."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, checkpoint, storage


def all_matched(sources: list[Source]) -> list[Checkpoint]:
    """Any number of checkpoints with the same names, shapes and dtypes in the same order.

    Raises `EndpointMismatch` that names the first of them that does not fit the one before all.
    """
    found = [checkpoint(source) for source in sources]
    for _ in range(2):  # the second time, the first has the widest dtype of all
        for index in range(1, len(found)):
            found[0], found[index] = matched(found[0], found[index])
    return found


def placed(end: Checkpoint, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    """A checkpoint on a device, its floating-point tensors in `dtype` where one is given; tied tensors stay one."""
    moved: dict[Hashable, Tensor] = {}
    tensors = {}
    for name, tensor in end.tensors.items():
        key = storage(tensor)
        if key not in moved:
            moved[key] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        tensors[name] = moved[key]
    return Checkpoint(tensors, end.parameters, end.source)


def twins(*ends: Checkpoint) -> dict[str, str]:
    """For each name, the first name of the same tied tensor: one that shares memory with it in every checkpoint.

    >>> weight = torch.ones(2)
    >>> twins(checkpoint({"a": weight, "b": weight, "c": torch.ones(2)}))
    {'a': 'a', 'b': 'a', 'c': 'c'}
    """
    first: dict[Hashable, str] = {}
    return {name: first.setdefault(tuple(storage(end.tensors[name]) for end in ends), name) for name in ends[0].tensors}


def matched(start: Checkpoint, end: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Both ends with the same names, shapes and dtypes in the same order; where one has two dtypes, the wider.

    Raises `EndpointMismatch` for names or shapes that differ.

    >>> start, end = matched(checkpoint({"w": torch.ones(1)}), checkpoint({"w": torch.ones(1).double()}))
    >>> start.tensors["w"].dtype
    torch.float64
    """
    start, end = _with_tied_names(start, end), _with_tied_names(end, start)
    missing = [name for name in start.tensors if name not in end.tensors]
    extra = [name for name in end.tensors if name not in start.tensors]
    if missing or extra:
        raise EndpointMismatch(
            explain(
                expected="two checkpoints of one network, with the same names.",
                got="; ".join(
                    f"{listed(names)} only in {where.source}"
                    for names, where in ((missing, start), (extra, end))
                    if names
                )
                + ".",
                hint="Save both from the same model class, or load each into a module and pass the modules.",
            )
        )
    shapes = [name for name in start.tensors if start.tensors[name].shape != end.tensors[name].shape]
    if shapes:
        name = shapes[0]
        raise EndpointMismatch(
            explain(
                expected="the same shape for each name at both ends.",
                got=f"{listed(shapes)}; {name!r} is {tuple(start.tensors[name].shape)} in {start.source} "
                f"and {tuple(end.tensors[name].shape)} in {end.source}.",
                hint="Give two checkpoints of networks with the same layer sizes.",
            )
        )
    # A module knows its parameters better than a file does; with two files both know the same.
    knowing = start if start.source.startswith("module ") else end
    tensors: tuple[Params, Params] = ({}, {})
    for name in start.tensors:
        ends = (start.tensors[name], end.tensors[name].to(start.tensors[name].device))
        dtype = torch.promote_types(ends[0].dtype, ends[1].dtype)
        for side, tensor in zip(tensors, ends, strict=True):
            side[name] = tensor.to(dtype)
    return (
        Checkpoint(tensors[0], knowing.parameters, start.source),
        Checkpoint(tensors[1], knowing.parameters, end.source),
    )


def _with_tied_names(one: Checkpoint, other: Checkpoint) -> Checkpoint:
    """Add names that `one` lacks where `other` shows them to be a second name of a tensor that `one` has.

    safetensors keeps one name of tied weights; a module or a .pt file has them all.
    """
    tensors = dict(one.tensors)
    for name, tensor in other.tensors.items():
        if name in tensors:
            continue
        for twin, candidate in other.tensors.items():
            if twin in tensors and storage(tensor) == storage(candidate):
                tensors[name] = tensors[twin]
                break
    return Checkpoint(tensors, one.parameters, one.source)


def listed(names: list[str], most: int = 3) -> str:
    """The first few of many names, and how many more.

    >>> listed(list("abcde"))
    "'a', 'b', 'c' and 2 more"
    """
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
