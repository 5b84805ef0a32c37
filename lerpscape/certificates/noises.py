"""Remainders as linear functions of the unknown quantities that they come from, so that their signs are kept.

Multiplying remainders by absolute weights ignores that their effects cancel. But the unknown part of a derivative is a
linear function of the unknown quantities at earlier layers, here called noise. One pass backwards through these linear
maps gives the effect of every source of noise on a weighted sum of the outputs, including its sign.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from lerpscape.certificates.rounding import COARSE

# Added to every coefficient, whose weights are at most 1: a bound of what underflow can remove from it.
UNDERFLOW = 2.0**-100

Transposed = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Noise:
    """The part of a function beyond its line: an unknown tensor of size at most `fresh`, plus linear images of noises.

    Each of `parts` is another noise, and the transpose (in float32) of the linear map applied to it. `operations` is
    the number of roundings in the longest chain of maps.
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
        """The noise after a linear map, whose transpose is computed by differentiation."""

        def transposed(weights: Tensor) -> Tensor:
            with torch.enable_grad():
                start = torch.zeros(self.shape, dtype=torch.float32).requires_grad_()
                return torch.autograd.grad(linear(start), start, weights)[0]

        return self.through(transposed, shape, operations)

    def scaled(self, factor: Tensor) -> Noise:
        """The noise of a product with known numbers, whose shape broadcasts to that of the noise."""
        factor = factor.float()
        return self.through(lambda weights: weights * factor, self.shape, 2)


def joined(fresh: Tensor | None, *noises: Noise) -> Noise:
    """The sum of noises of one shape and of an unknown tensor of size at most `fresh` (float32)."""
    shape = noises[0].shape if fresh is None else fresh.shape
    operations = len(noises) + 1 + max([noise.operations for noise in noises], default=0)
    return Noise(shape, fresh, tuple((noise, _same) for noise in noises), operations)


def signed_effect(noise: Noise, weights: Tensor) -> Tensor | None:
    """For each example a bound of |Σ weights·(f − its line)|, up to rounding; None if examples share a source of noise.

    `rounding_share` bounds the rounding. Weights are scaled to at most 1, so that they do not overflow in float32, and
    effects are summed in float64. A noise is visited after all noises that depend on it.
    """
    examples = len(weights)
    most = weights.reshape(examples, -1).abs().amax(1)
    scale = torch.where(most > 0, most, torch.ones_like(most))
    unit = (weights / scale.reshape(-1, *([1] * (weights.dim() - 1)))).float()
    effect = torch.zeros(examples, dtype=torch.float64)
    coefficients = {noise.number: (noise, unit)}
    waiting = [-noise.number]
    while waiting:
        source, unit = coefficients.pop(-heapq.heappop(waiting))
        if source.shape[:1] != (examples,):
            return None
        if source.fresh is not None:
            effect += ((unit.abs() + UNDERFLOW) * source.fresh).reshape(examples, -1).sum(1, dtype=torch.float64)
        for part, transposed in source.parts:
            back = transposed(unit)
            if part.number in coefficients:
                back = back + coefficients[part.number][1]
            else:
                heapq.heappush(waiting, -part.number)
            coefficients[part.number] = (part, back)
    return effect * scale * (1 + 32 * COARSE)


def rounding_share(noise: Noise) -> float:
    """A bound of the rounding errors of `signed_effect`, relative to Σ |weights|·remainder."""
    return 4 * (noise.operations + 32) * COARSE


def _same(weights: Tensor) -> Tensor:
    return weights
