"""How far two checkpoints are apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from lerpscape.paths.checkpoints import Checkpoint

# Numbers of two tensors that are compared at once.
PIECE = 1 << 16


def distance(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> float:
    """‖θ_T − θ₀‖₂ over the named tensors, accumulated in float64."""
    return distances(start, end, names)[0]


def distances(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> tuple[float, float]:
    """‖θ_T − θ₀‖₂ over the named tensors, and ‖θ_T − θ₀‖ / ‖θ₀‖: inf from a start of zero, 0 where nothing moves.

    Both from one pass, accumulated in float64, in pieces whose float64 copies stay in a core's cache.
    """
    moved, length = [], []
    for name in names:
        ends = (torch.split(each.tensors[name].reshape(-1), PIECE) for each in (start, end))
        for first, last in zip(*ends, strict=True):
            base = first.double()
            moved.append(torch.linalg.vector_norm(last.double() - base))
            length.append(torch.linalg.vector_norm(base))
    far, whole = (math.hypot(*map(float, norms)) for norms in (moved, length))
    if whole:
        return far, far / whole
    return far, float("inf") if far else 0.0
