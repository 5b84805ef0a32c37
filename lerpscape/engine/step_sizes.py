"""Bytes that the steps of a network take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx


@dataclass(frozen=True)
class Step:
    """Bytes of what a step made, of the largest result then held, and of all of them."""

    made: int
    largest: int
    held: int

    @classmethod
    def of(cls, known: Mapping[fx.Node, Any], node: fx.Node) -> Step:
        """The step that made the result of `node`, with all results known then."""
        results = [each for made, each in known.items() if made.op != "get_attr" and isinstance(each, Tensor)]
        held = {id(each): each.numel() * each.element_size() for each in results}
        return cls(held.get(id(known[node]), 0), max(held.values(), default=0), sum(held.values()))
