"""Distances between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

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
    parts = [change_and_norm(start.tensors[name], end.tensors[name]) for name in names]
    change, norm = (math.hypot(*each) for each in zip(*parts, strict=True)) if parts else (0.0, 0.0)
    if norm:
        return change, change / norm
    return change, float("inf") if change else 0.0


def change_and_norm(start: Tensor, end: Tensor) -> tuple[float, float]:
    """‖end − start‖₂ and ‖start‖₂ of one tensor, accumulated in float64."""
    change_norms, start_norms = [], []
    for first, last in zip(*(torch.split(each.reshape(-1), PIECE) for each in (start, end)), strict=True):
        base = as_vector(first)
        change_norms.append(torch.linalg.vector_norm(as_vector(last) - base))
        start_norms.append(torch.linalg.vector_norm(base))
    return math.hypot(*map(float, change_norms)), math.hypot(*map(float, start_norms))
