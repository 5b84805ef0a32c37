"""Derivatives and their bounds for the activations without kinks, and for the inverse square root in batch norm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.certificates.enclosures import Smooth
from lerpscape.certificates.rounding import COARSE, TINY, UNIT, coarse

Values = tuple[Tensor, Tensor, Tensor, Tensor | float, Tensor | float, Tensor | float]
Bounds = tuple[Tensor, Tensor, Tensor, Tensor]
# Bounds computed in float32 from rounded values of size about 1 are moved outwards by this much.
SLACK = 64 * COARSE


def _tanh_at(x: Tensor) -> Values:
    """y′ = 1 − y², y″ = −2y(1 − y²)."""
    y = torch.tanh(x)
    first = 1 - y * y
    return y, first, -2 * y * first, 16 * UNIT, 32 * UNIT, 64 * UNIT


def _tanh_around(low: Tensor, high: Tensor) -> Bounds:
    """With q = y² in [a, b]: y′ = 1 − q, |y″| ≤ 2√b(1 − a), |y‴| = (1 − q)|6q − 2|, its two factors bounded apart."""
    ends = torch.tanh(low), torch.tanh(high)
    most = torch.maximum(ends[0].abs(), ends[1].abs())
    least = torch.maximum(ends[0], -ends[1]).clamp(min=0)
    a, b = least * least, most * most
    second = 2 * most * (1 - a)
    third = (1 - a) * torch.maximum((6 * a - 2).abs(), (6 * b - 2).abs())
    return 1 - b - SLACK, 1 - a + SLACK, second + SLACK, third + SLACK


def _sigmoid_at(x: Tensor) -> Values:
    """s′ = s(1 − s), s″ = s′(1 − 2s)."""
    s = torch.sigmoid(x)
    first = s * (1 - s)
    return s, first, first * (1 - 2 * s), 16 * UNIT, 16 * UNIT, 32 * UNIT


def _sigmoid_around(low: Tensor, high: Tensor) -> Bounds:
    """With s′ in [a, b]: |s″| ≤ b·max|1 − 2s|, |s‴| = s′|1 − 6s′| ≤ b·max(|1 − 6a|, |1 − 6b|)."""
    ends = torch.sigmoid(low), torch.sigmoid(high)
    at_ends = ends[0] * (1 - ends[0]), ends[1] * (1 - ends[1])
    a = torch.minimum(*at_ends)
    b = torch.where((low <= 0) & (high >= 0), 0.25, torch.maximum(*at_ends))
    second = b * torch.maximum((1 - 2 * ends[0]).abs(), (1 - 2 * ends[1]).abs())
    third = b * torch.maximum((1 - 6 * a).abs(), (1 - 6 * b).abs())
    return a - SLACK, b + SLACK, second + SLACK, third + SLACK


def _gelu_at(x: Tensor) -> Values:
    """For f = xΦ(x): f′ = Φ + xφ, f″ = φ(2 − x²), with the normal distribution's Φ and density φ."""
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    below = 0.5 * torch.erfc(-x / math.sqrt(2))
    values = x * below, below + x * density, density * (2 - x * x)
    return *values, 32 * UNIT * coarse(x), 64 * UNIT, 128 * UNIT


def _gelu_around(low: Tensor, high: Tensor) -> Bounds:
    """The range of f′ is [−0.12891, 1.12891]; |f″| ≤ 2φ(0) < 0.7979, |f‴| = φ|x||x² − 4| < 0.7788 (at 0.79)."""
    one = torch.ones_like(low)
    return -0.1290 * one, 1.1290 * one, 0.7979 * one, 0.78 * one


def _silu_at(x: Tensor) -> Values:
    """For f = xs: f′ = s + xs(1 − s), f″ = s(1 − s)(2 + x(1 − 2s)), with the sigmoid s."""
    s, rest = torch.sigmoid(x), torch.sigmoid(-x)
    values = x * s, s + x * s * rest, s * rest * (2 + x * (rest - s))
    return *values, 32 * UNIT * coarse(x), 64 * UNIT, 128 * UNIT


def _silu_around(low: Tensor, high: Tensor) -> Bounds:
    """The derivative is in [−0.0999, 1.0999], |f″| ≤ ½ (at 0), |f‴| < 0.31 (0.3082 at 1.03)."""
    one = torch.ones_like(low)
    return -0.0999 * one, 1.0999 * one, 0.5 * one + SLACK, 0.31 * one


def _elu_at(x: Tensor) -> Values:
    """Where x > 0: f = x, f′ = 1 and f″ = 0; else f = e^x − 1, f′ = f″ = e^x."""
    below = torch.exp(x.clamp(max=0))
    f = torch.where(x > 0, x, torch.expm1(x.clamp(max=0)))
    return f, below, torch.where(x > 0, 0.0, below), 16 * UNIT * coarse(f), 16 * UNIT, 16 * UNIT


def _elu_around(low: Tensor, high: Tensor) -> Bounds:
    """f′ = e^min(x, 0) increases and is Lipschitz; f″ jumps at 0 and is not, where x may have both signs."""
    first, last = torch.exp(low.clamp(max=0)), torch.exp(high.clamp(max=0))
    above = low > 0
    third = torch.where(above, 0.0, torch.where(high <= 0, last + SLACK, torch.inf))
    return first - SLACK, last + SLACK, torch.where(above, 0.0, last + SLACK), third


def softplus(beta: float, threshold: float) -> Smooth:
    """The softplus of torch: log(1 + e^βx)/β where βx ≤ threshold, and x above.

    It jumps by log(1 + e^−threshold)/β there. Where βx may lie on both sides nothing is known (infinite bounds).
    """

    def at(x: Tensor) -> Values:
        """With the sigmoid s of βx: f′ = s, f″ = βs(1 − s)."""
        y = beta * x
        straight = y > threshold
        f = torch.where(straight, x, (y.clamp(min=0) + torch.log1p(torch.exp(-y.abs()))) / beta)
        s, slope, *_ = _sigmoid_at(y)
        first, second = torch.where(straight, 1.0, s), torch.where(straight, 0.0, beta * slope)
        return f, first, second, 32 * UNIT * (coarse(f) + coarse(x)), 32 * UNIT, 64 * UNIT * beta

    def around(low: Tensor, high: Tensor) -> Bounds:
        """f′ = s increases, f″ = βs′, f‴ = β²s″."""
        low, high = beta * low, beta * high
        low, high = low - 8 * COARSE * low.abs() - TINY, high + 8 * COARSE * high.abs() + TINY
        _, slope, curvature, _ = _sigmoid_around(low, high)
        below, above = high < threshold * (1 - SLACK), low > threshold * (1 + SLACK)

        def known(under: Tensor, over: float, unknown: float) -> Tensor:
            return torch.where(below, under, torch.where(above, over, unknown))

        outward = 1 + SLACK
        return (
            known(torch.sigmoid(low) - SLACK, 1.0, -torch.inf),
            known(torch.sigmoid(high) + SLACK, 1.0, torch.inf),
            known(slope * (beta * outward), 0.0, torch.inf),
            known(curvature * (beta * beta * outward), 0.0, torch.inf),
        )

    return Smooth(at, around)


def _rsqrt_at(x: Tensor) -> Values:
    """For f = x^(−1/2): f′ = −½x^(−3/2), f″ = ¾x^(−5/2)."""
    f = 1 / torch.sqrt(x)
    first, second = -0.5 * f / x, 0.75 * f / (x * x)
    return f, first, second, 16 * UNIT * coarse(f), 32 * UNIT * coarse(first), 64 * UNIT * coarse(second)


def _rsqrt_around(low: Tensor, high: Tensor) -> Bounds:
    """All derivatives shrink in size as x grows; where x may be 0 or less, nothing is known (infinite bounds)."""
    low = torch.where(low > 0, low, 0.0)
    f = 1 / torch.sqrt(low)
    first, second = -0.5 * f / low, 0.75 * f / (low * low)
    third = (15 / 8) * f / low**3
    outward = 1 + SLACK
    upper = -0.5 / (torch.sqrt(high) * high) / outward
    return first * outward, upper, second * outward, third * outward


TANH = Smooth(_tanh_at, _tanh_around, increasing=torch.tanh)
SIGMOID = Smooth(_sigmoid_at, _sigmoid_around, increasing=torch.sigmoid)
GELU = Smooth(_gelu_at, _gelu_around)
SILU = Smooth(_silu_at, _silu_around)
# Above 0 the float32 value is exact, below it is at most 1 in size: its error is within what `increasing` allows.
ELU = Smooth(_elu_at, _elu_around, increasing=F.elu)
RSQRT = Smooth(_rsqrt_at, _rsqrt_around)
