"""Distances between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from lerpscape.paths.checkpoints import Checkpoint, as_vector

# Elements of a tensor that are compared at a time, so that their float64 copies stay in the processor's cache.
PIECE = 1 << 16


def distance(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> float:
    """‖θ_T − θ₀‖₂ over the named tensors, accumulated in float64."""
    return distances(start, end, names)[0]


def distances(start: Checkpoint, end: Checkpoint, names: Iterable[str]) -> tuple[float, float]:
    """‖θ_T − θ₀‖₂ over the named tensors, and ‖θ_T − θ₀‖ / ‖θ₀‖, accumulated in float64.

    If θ₀ = 0, the second one is inf, or 0 if the tensors are equal.
    """
    change_norms, start_norms = [], []
    for name in names:
        ends = (torch.split(checkpoint.tensors[name].reshape(-1), PIECE) for checkpoint in (start, end))
        for first, last in zip(*ends, strict=True):
            base = as_vector(first)
            change_norms.append(torch.linalg.vector_norm(as_vector(last) - base))
            start_norms.append(torch.linalg.vector_norm(base))
    change, norm = (math.hypot(*map(float, norms)) for norms in (change_norms, start_norms))
    if norm:
        return change, change / norm
    return change, float("inf") if change else 0.0
