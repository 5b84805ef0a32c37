"""What a layer does to a Taylor model: affine maps, kinks, smooth functions, maxima.

Each rule takes every function and derivative that its input encloses to a model that encloses the layer's output and
its derivative in t, rounding included. Derivatives hold for almost every t: at a kink the loss has none, and its
increase is still the integral of the derivative, because it is Lipschitz in t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lerpscape.taylor_models import (
    UNIT,
    Form,
    Parameter,
    TaylorModel,
    choose,
    enlarged,
    hull,
    joined,
    kept_above,
    multiply_forms,
    plus,
    through,
    total,
)

# A linear map: (inputs, weights) -> outputs, linear in both and without bias.
Map = Callable[[Tensor, Tensor], Tensor]
# Products of the data with the ends' weights, kept while the same data meet the same layer around another α.
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class _Images:
    """What the matrices make of a model: W and Δ of (c, d, g, e), A of R and of S, |Δ| of R, with rounding in it."""

    middle: Tensor
    by_middle: list[Tensor | None]
    by_change: list[Tensor | None]
    in_value: Tensor
    in_slope: Tensor | None
    moved: Tensor | None


def affine(
    model: TaylorModel, weight: Parameter, bias: Parameter | None, apply: Map, terms: int, memory: Memory | None = None
) -> TaylorModel:
    """The layer z = W(t)·h + b(t), z′ = W(t)·h′ + ΔW·h + Δb, for a linear map whose sums have so many terms.

    With h = c + dt ± R, h′ = g + et ± S and W(t) = W + tΔ:
    z = Wc + b + ½r²Δd + (Wd + Δc + β)t ± (½r²|Δd| + A·R), z′ = Wg + Δc + β + ½r²Δe + (We + Δg + Δd)t
    ± (½r²|Δe| + A·S + |Δ|·R), where A ≥ |W| + r|Δ|. Every rounding error of these sums is at most κ times the same
    sum of absolute values, κ = 2γ_{2n+8} + grain, so κ(|c| + r|d|) joins R and κ(|g| + r|e|) joins S before A is
    applied, and no other matrix product is needed.
    """
    value, slope, reach = model.value, model.slope, model.value.reach
    kappa = (4 * terms + 64) * UNIT + 2 * weight.grain
    still = slope is None and value.tilt is None and value.remainder is None
    if still and memory is not None and weight.start is not None:
        found = _images_of_data(value.centre, weight, apply, terms, memory)
    else:
        found = _images(value, slope, weight, apply, kappa)
    tilt = total(found.by_middle[1], found.by_change[0])
    centre, remainder = _with_square(found.middle, found.in_value, found.by_change[1], reach)
    flank = total(found.in_slope, found.moved)
    rate, rate_tilt = (
        total(found.by_middle[2], found.by_change[0]),
        total(found.by_middle[3], found.by_change[2], found.by_change[1]),
    )
    if rate is not None and flank is not None:
        rate, flank = _with_square(rate, flank, found.by_change[3], reach)
    if bias is not None:
        shape = (-1, *([1] * (centre.dim() - 2)))
        centre = centre + bias.middle.view(shape)
        remainder = remainder + bias.size.view(shape) * (kappa + 2 * bias.grain)
        if bias.change is not None and bias.change_size is not None:
            change = bias.change.view(shape).expand_as(centre)
            tilt, rate = plus(change, tilt), plus(change, rate)
            flank = plus(bias.change_size.view(shape).expand_as(centre) * (2 * kappa), flank)
    steps = terms + 32
    noise = None
    if flank is not None:
        flank = enlarged(flank, steps)
        if slope is not None and slope.remainder is not None:
            # what the middle weights make of old noise is followed; the rest is new
            (old,) = _apply_all(apply, [slope.remainder], weight.middle.abs())
            followed = slope.tracked(slope.centre.shape)
            if old is not None and followed is not None:
                passed = followed.map(lambda shift: apply(shift, weight.middle))
                noise = joined(flank, old * (1 - 4 * steps * UNIT), noises=[passed])
    result = Form(centre, tilt, enlarged(remainder, steps), reach)
    if rate is None:
        return TaylorModel(result, None)
    return TaylorModel(result, Form(rate, rate_tilt, flank, reach, noise))


def _images(value: Form, slope: Form | None, weight: Parameter, apply: Map, kappa: float) -> _Images:
    inputs = [value.centre, value.tilt, *((slope.centre, slope.tilt) if slope else (None, None))]
    by_middle = _apply_all(apply, inputs, weight.middle)
    by_change = _apply_all(apply, inputs, weight.change)
    rounded = _with_rounding(value, kappa)
    in_value, in_slope = _apply_all(
        apply, [rounded, None if slope is None else _with_rounding(slope, kappa)], weight.size
    )
    (moved,) = _apply_all(apply, [rounded], weight.change_size)
    assert by_middle[0] is not None
    assert in_value is not None
    return _Images(by_middle[0], by_middle, by_change, in_value, in_slope, moved)


def _images_of_data(data: Tensor, weight: Parameter, apply: Map, terms: int, memory: Memory) -> _Images:
    """The same for inputs that do not move, from products with the start's weights and the change, computed once.

    W(m)·x = W₀·x + mΔ·x; both products are off by γ_n times |W₀|·|x| and |Δ|·|x|, the sum by two more roundings.
    """
    assert weight.start is not None
    assert weight.whole_change is not None
    if not memory:
        size = kept_above(data.abs())
        memory["start"] = apply(data, weight.start)
        memory["change"] = apply(data, weight.whole_change)
        memory["start size"] = apply(size, kept_above(weight.start.abs())) * ((8 * terms + 128) * UNIT)
        memory["change size"] = apply(size, kept_above(weight.whole_change.abs())) * ((8 * terms + 128) * UNIT)
    middle = memory["start"] + weight.alpha * memory["change"]
    moving = weight.change is not None
    return _Images(
        middle,
        [middle, None, None, None],
        [memory["change"] if moving else None, None, None, None],
        memory["start size"] + memory["change size"],
        None,
        memory["change size"] if moving else None,
    )


def _apply_all(apply: Map, inputs: list[Tensor | None], weight: Tensor | None) -> list[Tensor | None]:
    """The map of every input that is there, in one call: the inputs share the weights."""
    there = [part for part in inputs if part is not None]
    if weight is None or not there:
        return [None] * len(inputs)
    if len(there) == 1:
        outputs = iter([apply(there[0], weight)])
    else:
        outputs = iter(apply(torch.cat(there), weight).chunk(len(there)))
    return [None if part is None else next(outputs) for part in inputs]


def _with_rounding(form: Form, kappa: float) -> Tensor:
    """A form's remainder with room for the rounding of sums over its line."""
    size = kappa * form.magnitude()
    return kept_above(size if form.remainder is None else size + (1 + kappa) * form.remainder)


def _with_square(centre: Tensor, remainder: Tensor, square: Tensor | None, reach: float) -> tuple[Tensor, Tensor]:
    """Take in square·t² with t² ∈ [0, r²]: half to the centre, half to the remainder."""
    if square is None:
        return centre, remainder
    half = (0.5 * reach**2) * square
    return centre + half, remainder + half.abs()


def kink(model: TaylorModel, slope_below: float) -> TaylorModel:
    """max(z, a·z) for 0 ≤ a ≤ 1: ReLU (a = 0) and leaky ReLU.

    Where the sign of z is known on the interval the map is a multiplication, exact for 1 and 0. Elsewhere, with z in
    [l, u], the value lies between λz and λz + max((λ−a)(−l), (1−λ)u) for any λ in [a, 1]; the chord's λ makes both
    equal. The derivative is z′ or a·z′: their hull.
    """
    value, slope = model.value, model.slope
    low, high = value.bounds()
    above, open_ = low >= 0, ~((low >= 0) | (high <= 0))
    # torch.where of two Python numbers would be float32
    active = torch.where(above, torch.ones_like(low), torch.full_like(low, slope_below))
    chord = ((high - slope_below * low) / (high - low)).clamp(slope_below, 1.0)
    factor = torch.where(open_, chord, active)
    gap = torch.maximum((chord - slope_below) * -low, (1 - chord) * high) * (0.5 * (1 + 64 * UNIT))
    # 1 − λ and λ − a are computed with an absolute error of u: without this the gap could lose its last digits
    gap = torch.where(open_, gap + (4 * UNIT) * (high - low), torch.zeros_like(gap))
    rounding = torch.where(above, 0.0, (8 * UNIT) * (factor * value.magnitude() + gap))
    centre = factor * value.centre + gap
    tilt = None if value.tilt is None else factor * value.tilt
    remainder = plus(gap + rounding, None if value.remainder is None else factor * value.remainder)
    result = Form(centre, tilt, enlarged(remainder, 8), value.reach)
    if slope is None:
        return TaylorModel(result, None)
    # h′ = ρz′ with ρ in [a, 1]: half-way, and half of what lies between
    half = torch.where(open_, torch.full_like(low, 0.5 * (1 + slope_below)), active)
    new = torch.where(open_, 0.5 * (1 - slope_below) * (slope.centre.abs() + slope.spread()), torch.zeros_like(low))
    rounding = torch.where(above, 0.0, (4 * UNIT) * (half * slope.magnitude()) + (4 * UNIT) * new)
    rest = enlarged(plus(new + rounding, None if slope.remainder is None else half * slope.remainder), 8)
    rate = Form(half * slope.centre, None if slope.tilt is None else half * slope.tilt, rest, value.reach)
    return TaylorModel(result, replace(rate, noise=through(_followed(slope), half, rest)))


@dataclass(frozen=True)
class Smooth:
    """A twice differentiable function with what is needed to enclose it.

    `at(x)` gives f, f′, f″ and bounds of the errors of these three numbers. `around(low, high)` bounds f′ from below
    and above, |f″| and |f‴| on [low, high]. `increasing` functions are also bounded by their values at both ends.
    """

    at: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]
    around: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    increasing: bool


def smooth(model: TaylorModel, function: Smooth) -> TaylorModel:
    """f(z) by its Taylor polynomial about the centre of z with Lagrange's remainder, or by its range where smaller.

    With σ = r|d| + R: f(z) ∈ f + f′dt ± (|f′|R + ½M₂σ²) and f′(z) ∈ f′ + f″dt ± (|f″|R + ½M₃σ²).
    """
    value, slope = model.value, model.slope
    low, high = value.bounds()
    spread = value.spread() * (1 + 8 * UNIT)
    f, f1, f2, e0, e1, e2 = function.at(value.centre)
    low1, high1, bound2, bound3 = function.around(low, high)
    drift = None if value.tilt is None else value.reach * value.tilt.abs()
    remainder = plus(
        0.5 * bound2 * spread**2 + (e0 + e1 * spread),
        None if value.remainder is None else f1.abs() * value.remainder,
        None if drift is None else (8 * UNIT) * f1.abs() * drift,
    )
    tilt = None if value.tilt is None else f1 * value.tilt
    result = Form(f, tilt, enlarged(remainder, 16), value.reach)
    if function.increasing:
        (at_low, *_, error_low, _, _), (at_high, *_, error_high, _, _) = function.at(low), function.at(high)
        result = _tighter(result, hull(at_low - error_low, at_high + error_high, value.reach))
    if slope is None:
        return TaylorModel(result, None)
    remainder = plus(
        0.5 * bound3 * spread**2 + (e1 + e2 * spread),
        None if value.remainder is None else f2.abs() * value.remainder,
        None if drift is None else (8 * UNIT) * f2.abs() * drift,
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
    return choose(line.remainder <= span.remainder, line, span)


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
    if value.remainder is not None and leader.remainder is not None:
        ahead = ahead + (value.remainder + leader.remainder)
    ahead = ahead + (32 * UNIT) * (value.magnitude() + leader.magnitude() + value.spread() + leader.spread())
    ahead = torch.where(torch.zeros_like(ahead, dtype=torch.bool).scatter(-1, best, True), 0.0, ahead)
    candidate = (ahead > 0).scatter(-1, best, True)
    gap = 0.5 * ahead.clamp(min=0).amax(-1)
    leader = leader.map(lambda part: part.squeeze(-1))
    rounding = torch.where(gap > 0, (4 * UNIT) * (leader.centre.abs() + gap), 0.0)
    result = Form(leader.centre + gap, leader.tilt, enlarged(plus(gap + rounding, leader.remainder), 4), value.reach)
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
