"""Both ends of a line, one tensor at a time: read together once, with what a result tells of them noted on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lerpscape.networks.deferred import Deferred, stored
from lerpscape.paths.checkpoints import Checkpoint, joined_digest, tensor_digest
from lerpscape.paths.distances import change_and_norm


@dataclass(frozen=True)
class Facts:
    """Of one tensor at both ends: digests, whether they are equal, ‖θ_T − θ₀‖ and ‖θ₀‖."""

    digests: tuple[bytes, bytes]
    equal: bool
    change: float
    norm: float


class Pairs:
    """The tensors of two checkpoints with the same names; `lie_in_files` says whether any has to be read.

    `tied` has the first name of the tensor under each name.

    >>> ends = (Checkpoint({"w": torch.tensor([3.0, number])}, ("w",), "") for number in (4.0, 6.0))
    >>> Pairs(*ends, {"w": "w"}).distances(["w"])
    (2.0, 0.4)
    """

    def __init__(self, start: Checkpoint, end: Checkpoint, tied: Mapping[str, str]) -> None:
        self._start, self._end, self._tied = start.tensors, end.tensors, tied
        self._facts: dict[str, Facts] = {}
        self.lie_in_files = any(isinstance(each, Deferred) for side in (start, end) for each in side.tensors.values())

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """The tensor at both ends; one object where they are one and the same."""
        name = self._tied[name]
        start, end = self._start[name], self._end[name]
        same = start is end or (isinstance(start, Deferred) and isinstance(end, Deferred) and start.place == end.place)
        first = stored(start)
        last = first if same else stored(end)
        if name not in self._facts:
            self._facts[name] = _facts(first, last)
        return first, last

    def facts(self, name: str) -> Facts:
        """What is noted of a tensor; it is read where nothing is yet."""
        name = self._tied[name]
        if name not in self._facts:
            self.read(name)
        return self._facts[name]

    def distances(self, names: Iterable[str]) -> tuple[float, float]:
        """‖θ_T − θ₀‖ over these tensors, and the same relative to ‖θ₀‖; see `distances.distances`."""
        facts = [self.facts(name) for name in names]
        change, norm = math.hypot(*(each.change for each in facts)), math.hypot(*(each.norm for each in facts))
        if norm:
            return change, change / norm
        return change, float("inf") if change else 0.0

    def digest(self, kind: str) -> str:
        """12 hex digits over both ends and the kind of path, those of `ends_digest`."""
        digests = {f"kind:{kind}": tensor_digest(torch.empty(0, dtype=torch.float32))}
        for name in self._start:
            for role, each in zip(("start", "end"), self.facts(name).digests, strict=True):
                digests[f"{role}:{name}"] = each
        return joined_digest(digests)


def _facts(start: Tensor, end: Tensor) -> Facts:
    first = tensor_digest(start)
    change, norm = change_and_norm(start, end)
    if start is end:
        return Facts((first, first), True, 0.0, norm)
    return Facts((first, tensor_digest(end)), torch.equal(start, end), change, norm)
