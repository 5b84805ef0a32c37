"""What a layer does to a Taylor model: kinks, smooth functions, maxima (affine maps: `affine_maps`).

Each rule takes every function and derivative that its input encloses to a model that encloses the layer's output and
its derivative in t, rounding included. Derivatives hold for almost every t: at a kink the loss has none, and its
increase is still the integral of the derivative, because it is Lipschitz in t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lerpscape.certificates.noises import joined
from lerpscape.certificates.rounding import COARSE, TINY, UNIT, coarse, enlarged, lifted, plus
from lerpscape.certificates.taylor_models import Form, TaylorModel, choose, hull, multiply_forms


def kink(model: TaylorModel, slope_below: float) -> TaylorModel:
    """max(z, a·z) for 0 ≤ a ≤ 1: ReLU (a = 0) and leaky ReLU.

    Where the sign of z is known on the interval the map is a multiplication, exact for 1 and 0. Elsewhere, with z in
    [l, u], the value lies between λz and λz + max((λ−a)(−l), (1−λ)u) for any λ in [a, 1]; the chord's
    λ = a + (1−a)·u/(u−l) makes both equal. The derivative is z′ or a·z′: their hull.

    Masks are products with 0 and 1: several times faster than `torch.where`. A value that is zero on the whole
    interval has derivative zero, so that any factor is right for it.
    """
    value, slope, rest = model.value, model.slope, 1 - slope_below
    low, high = value.bounds()
    below, above = (-low).clamp_(min=0), high.clamp(min=0)
    size = below + above  # of z
    part = above / size.clamp(min=2.0**-126)  # 0 or 1, exactly, where the sign is known
    open_ = below.sign() * above.sign()
    gap = torch.maximum(part * below, (1 - part) * above) * (0.5 * rest * (1 + 32 * COARSE))
    rounding = (8 * UNIT) * size
    gap = gap + open_ * (rounding + TINY)
    rounding = rounding * open_ if slope_below == 0 else rounding
    factor = slope_below + rest * part.double()
    factor_size = slope_below + rest * part
    centre = torch.addcmul(gap.double(), factor, value.centre)
    tilt = None if value.tilt is None else factor * value.tilt
    remainder = plus(gap + rounding, None if value.remainder is None else factor_size * lifted(value.remainder))
    result = Form(centre, tilt, enlarged(remainder, 16), value.reach)
    if slope is None:
        return TaylorModel(result, None)
    # h′ = ρz′ with ρ in [a, 1]: half-way, and half of what lies between
    half = slope_below + rest * torch.add(part * (1 - open_), open_, alpha=0.5)
    new = (0.5 * rest) * (open_ * slope.size)
    if slope_below > 0:
        new = new + (8 * UNIT) * slope.magnitude
    new = enlarged(new, 8)
    flank = new if slope.remainder is None else enlarged(new + half * lifted(slope.remainder), 16)
    exact = half.double() if slope_below == 0 else factor * (1 - open_) + open_ * (slope_below + 0.5 * rest)
    known = slope.tracked(slope.centre.shape)
    noise = None if known is None else joined(new, known.scaled(half))
    rate = Form(exact * slope.centre, None if slope.tilt is None else exact * slope.tilt, flank, value.reach, noise)
    return TaylorModel(result, rate)


@dataclass(frozen=True)
class Smooth:
    """A function whose derivative is continuous but for named places, with what is needed to enclose it.

    `at(x)` gives f, f′, f″ in float64 and bounds of the errors of these three numbers. `around(low, high)` bounds f′
    from below and above, |f″| and |f‴| on [low, high], all float32: Lipschitz constants of f′ and f″ there, infinite
    where there are none. `increasing` functions, here f in float32 with an error of at most `COARSE_ERROR`, are also
    bounded by their values at both ends.
    """

    at: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor | float, Tensor | float, Tensor | float]]
    around: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    increasing: Callable[[Tensor], Tensor] | None = None


# Of tanh, the sigmoid and the negative part of ELU, at most 1 in size, in float32.
COARSE_ERROR = 16 * COARSE


def smooth(model: TaylorModel, function: Smooth) -> TaylorModel:
    """f(z) by its Taylor polynomial about the centre of z with Lagrange's remainder, or by its range where smaller.

    With σ = r|d| + R: f(z) ∈ f + f′dt ± (|f′|R + ½M₂σ²) and f′(z) ∈ f′ + f″dt ± (|f″|R + ½M₃σ²).
    """
    value, slope = model.value, model.slope
    low, high = value.bounds()
    spread = lifted(value.spread)
    f, f1, f2, e0, e1, e2 = function.at(value.centre)
    low1, high1, bound2, bound3 = function.around(low, high)
    size1, size2 = coarse(f1), coarse(f2)
    remainder = plus(
        0.5 * bound2 * spread**2 + (e0 + e1 * spread),
        None if value.remainder is None else size1 * lifted(value.remainder),
        None if value.drift is None else (8 * UNIT) * lifted(size1 * value.drift),
    )
    tilt = None if value.tilt is None else f1 * value.tilt
    result = Form(f, tilt, enlarged(remainder, 16), value.reach)
    if function.increasing is not None:
        at_low, at_high = function.increasing(low) - COARSE_ERROR, function.increasing(high) + COARSE_ERROR
        result = _tighter(result, hull(at_low, at_high, value.reach))
    if slope is None:
        return TaylorModel(result, None)
    remainder = plus(
        0.5 * bound3 * spread**2 + (e1 + e2 * spread),
        None if value.remainder is None else size2 * lifted(value.remainder),
        None if value.drift is None else (8 * UNIT) * lifted(size2 * value.drift),
    )
    factor = Form(f1, None if value.tilt is None else f2 * value.tilt, enlarged(remainder, 16), value.reach)
    factor = _tighter(factor, hull(low1, high1, value.reach))
    return TaylorModel(result, multiply_forms(factor, _followed(slope)))


def _followed(slope: Form) -> Form:
    """The form with its remainder followed from here on."""
    return replace(slope, noise=slope.tracked(slope.centre.shape))


def _tighter(line: Form, span: Form) -> Form:
    """Element by element, the line, unless the range is narrower than what the line leaves open.

    A tilt is knowledge: over examples and units tilts cancel, remainders add up.
    """
    assert line.remainder is not None
    assert span.remainder is not None
    by_line = (line.remainder <= span.remainder).double()
    centre = torch.addcmul(span.centre * (1 - by_line), line.centre, by_line)
    tilt = None if line.tilt is None else line.tilt * by_line
    return Form(centre, tilt, torch.minimum(line.remainder, span.remainder), line.reach)


def largest(model: TaylorModel) -> TaylorModel:
    """The maximum over the last dimension.

    Where one element is the largest on the whole interval, it passes exactly. Elsewhere, with i the element of the
    largest lower bound: the value is z_i plus something in [0, max_j sup(z_j − z_i)], and the derivative is that of
    one of the elements that may be the largest.
    """
    value, slope = model.value, model.slope
    low, _ = value.bounds()
    best = low.argmax(-1, keepdim=True)

    def picked(part: Tensor) -> Tensor:
        return part.gather(-1, best)

    leader = value.map(picked)
    ahead = value.centre - leader.centre
    if value.tilt is not None and leader.tilt is not None:
        ahead = ahead + value.reach * (value.tilt - leader.tilt).abs()
    rounding = (64 * UNIT) * (value.size + leader.size)
    if value.remainder is not None and leader.remainder is not None:
        rounding = rounding + enlarged(value.remainder + leader.remainder, 4)
    ahead = ahead + enlarged(rounding, 8).double()
    ahead = ahead.scatter(-1, best, 0.0)
    candidate = (ahead > 0).scatter(-1, best, True)
    gap = coarse(0.5 * ahead.clamp(min=0).amax(-1))
    leader = leader.map(lambda part: part.squeeze(-1))
    rounding = gap.sign() * (4 * UNIT) * leader.magnitude + (8 * COARSE) * gap
    remainder = enlarged(plus(gap + rounding, leader.remainder), 4)
    result = Form(leader.centre + gap.double(), leader.tilt, remainder, value.reach)
    if slope is None:
        return TaylorModel(result, None)
    rate_low, rate_high = slope.bounds()
    between = hull(
        torch.where(candidate, rate_low, torch.inf).amin(-1),
        torch.where(candidate, rate_high, -torch.inf).amax(-1),
        value.reach,
    )
    alone = candidate.sum(-1) == 1
    passing = slope.map(lambda part: part.gather(-1, best).squeeze(-1))
    return TaylorModel(result, choose(alone, passing, between))
