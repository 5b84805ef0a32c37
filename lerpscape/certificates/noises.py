"""Remainders that keep their signs: where the unknown part of a derivative comes from, and what each source does.

Propagated by absolute weights, remainders forget that effects cancel. The unknown part of a derivative is, however, a
linear function of what was unknown at the layers before: going back once through these linear maps gives the effect
of every source on any weighted sum of the outputs, signs included.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from lerpscape.certificates.rounding import COARSE

# Added to every coefficient of a way back whose weights are at most 1: what underflow can take away.
UNDERFLOW = 2.0**-100

Transposed = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Noise:
    """The part of f beyond its line: something new, at most `fresh` in size, and linear images of other noises.

    Each part is a noise with the transpose of the map that it went through (float32). `operations` counts the
    roundings of the longest chain of maps.
    """

    shape: torch.Size
    fresh: Tensor | None = field(repr=False)
    parts: tuple[tuple[Noise, Transposed], ...] = field(repr=False)
    operations: int
    number: int = field(default_factory=count().__next__)

    def through(self, transposed: Transposed, shape: torch.Size, operations: int) -> Noise:
        """The noise after a linear map with outputs of this shape, given its transpose."""
        return Noise(shape, None, ((self, transposed),), self.operations + operations)

    def map(self, linear: Callable[[Tensor], Tensor], shape: torch.Size, operations: int = 0) -> Noise:
        """The noise after a linear map, which is transposed by differentiation."""

        def transposed(weights: Tensor) -> Tensor:
            with torch.enable_grad():
                start = torch.zeros(self.shape).requires_grad_()
                return torch.autograd.grad(linear(start), start, weights)[0]

        return self.through(transposed, shape, operations)

    def scaled(self, factor: Tensor) -> Noise:
        """The noise of a product with known numbers, which do not widen the shape."""
        factor = factor.float()
        return self.through(lambda weights: weights * factor, self.shape, 2)


def joined(fresh: Tensor | None, *noises: Noise) -> Noise:
    """The sum of noises of one shape and of something new of the given size (float32)."""
    shape = noises[0].shape if fresh is None else fresh.shape
    operations = len(noises) + 1 + max([noise.operations for noise in noises], default=0)
    return Noise(shape, fresh, tuple((noise, _same) for noise in noises), operations)


def signed_effect(noise: Noise, weights: Tensor) -> Tensor | None:
    """A bound of |Σ weights·(f − its line)| for each example but for `rounding_share`; None where sources are shared.

    Weights are scaled to at most 1, so that float32 holds them; sums of effects are float64. Noises are visited from
    the last to the first, each when all that depend on it have been.
    """
    examples = len(weights)
    most = weights.reshape(examples, -1).abs().amax(1)
    scale = torch.where(most > 0, most, torch.ones_like(most))
    unit = (weights / scale.reshape(-1, *([1] * (weights.dim() - 1)))).float()
    effect = torch.zeros(examples, dtype=torch.float64)
    known = {noise.number: (noise, unit)}
    waiting = [-noise.number]
    while waiting:
        each, unit = known.pop(-heapq.heappop(waiting))
        if each.shape[:1] != (examples,):
            return None
        if each.fresh is not None:
            effect += ((unit.abs() + UNDERFLOW) * each.fresh).reshape(examples, -1).sum(1, dtype=torch.float64)
        for part, transposed in each.parts:
            back = transposed(unit)
            if part.number in known:
                back = back + known[part.number][1]
            else:
                heapq.heappush(waiting, -part.number)
            known[part.number] = (part, back)
    return effect * scale * (1 + 32 * COARSE)


def rounding_share(noise: Noise) -> float:
    """What the rounding of the way back can cost, relative to Σ |weights|·remainder."""
    return 4 * (noise.operations + 32) * COARSE


def _same(weights: Tensor) -> Tensor:
    return weights
