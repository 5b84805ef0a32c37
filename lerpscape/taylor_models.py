"""First-order Taylor models in one variable with a rigorous remainder, element by element, sound in floating point.

A `Form` stands for every function f of t on |t| ≤ reach with |f(t) − centre − tilt·t| ≤ remainder. A `TaylorModel`
encloses a function and its derivative, each in a form of its own: what is true of a ReLU's value (it is continuous)
is not true of its derivative (it jumps).

Rounding. Everything is float64, with unit roundoff u = 2⁻⁵³. Each rule adds to the remainder a bound of the rounding
errors it commits in the centre and the tilt, a small multiple of u times the magnitudes that enter, and enlarges the
remainder by the relative error of its own computation: a sum of n non-negative terms in any order is off by at most
a factor 1 ± γ_n, γ_n = nu/(1 − nu) (Higham 2002, sections 3.1 and 4.2). Nothing is enlarged that is exactly zero,
so that a flat function is proved flat; non-zero factors in remainders are kept above `TINY`, whose square exceeds
every error that underflow can cause. Values of exp, tanh, erf and sqrt are taken to be within 4 units in the last
place. NaN and infinities pass through to the end, where they count as knowing nothing.

Sources: Moore (1966); Makino & Berz (2003), "Taylor models and other validated functional inclusion methods".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

UNIT = 2.0**-53
TINY = 1e-140


@dataclass(frozen=True)
class Noise:
    """Where a remainder comes from: the part of f beyond its line is a linear function of its sources.

    A source is a pair (leaf, size): something unknown, at most `size` in absolute value at any t. `shift` is made of
    zeros that depends on the leaves as f does: its derivative is the effect of each source, with its sign.
    """

    shift: Tensor
    sources: tuple[tuple[Tensor, Tensor], ...]

    def map(self, linear: Callable[[Tensor], Tensor]) -> Noise:
        """The noise after a linear map."""
        with torch.enable_grad():
            return Noise(linear(self.shift), self.sources)


@dataclass(frozen=True)
class Form:
    """All f with |f(t) − centre − tilt·t| ≤ remainder for |t| ≤ reach; None stands for zero, and is exact.

    >>> Form(torch.tensor([1.0]), torch.tensor([2.0]), None, reach=0.25).magnitude()
    tensor([1.5000])
    """

    centre: Tensor
    tilt: Tensor | None
    remainder: Tensor | None
    reach: float
    noise: Noise | None = None

    def magnitude(self) -> Tensor:
        """|centre| + reach·|tilt|: the largest size of the line, rounded to nearest."""
        size = self.centre.abs()
        return size if self.tilt is None else size + self.reach * self.tilt.abs()

    def spread(self) -> Tensor:
        """reach·|tilt| + remainder, rounded up: how far f may be from its centre."""
        parts = [part for part in (_scaled(self.tilt, self.reach, absolute=True), self.remainder) if part is not None]
        return enlarged(plus(*parts), 4) if parts else torch.zeros_like(self.centre)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Bounds of f on the whole interval, rounded outwards."""
        if self.tilt is None and self.remainder is None:
            return self.centre, self.centre
        spread = self.spread()
        margin = (2 * UNIT) * (self.centre.abs() + spread)
        return self.centre - spread - margin, self.centre + spread + margin

    def map(self, reshape: Callable[[Tensor], Tensor]) -> Form:
        """The form with its elements rearranged, which commits no rounding."""
        tilt, remainder = (None if part is None else reshape(part) for part in (self.tilt, self.remainder))
        noise = None if self.noise is None else self.noise.map(reshape)
        return Form(reshape(self.centre), tilt, remainder, self.reach, noise)

    def tracked(self, shape: torch.Size) -> Noise | None:
        """The noise of a form of this shape: its own, or one new source; None for a form that will be broadcast.

        A source is one example's. What is shared by examples must become new noise of each of them.
        """
        if self.remainder is None or self.centre.shape != shape:
            return None
        return joined(self.remainder, self.remainder) if self.noise is None else self.noise


@dataclass(frozen=True)
class TaylorModel:
    """A function of t and its derivative, each in a form; `slope` None is a function that does not move."""

    value: Form
    slope: Form | None

    def map(self, reshape: Callable[[Tensor], Tensor]) -> TaylorModel:
        """The model with its elements rearranged."""
        return TaylorModel(self.value.map(reshape), None if self.slope is None else self.slope.map(reshape))


@dataclass(frozen=True)
class Parameter:
    """A tensor that moves on a straight line: exactly middle + t·change, but for |error| ≤ grain·size.

    `size` bounds |middle + t·change| over the interval. `change` is None for a tensor that does not move, and
    `change_size` is |change|; the last two are kept above `TINY` where they are not zero. With `alpha`, `start` and
    `whole_change` the middle is start + alpha·whole_change.
    """

    middle: Tensor
    change: Tensor | None
    size: Tensor
    change_size: Tensor | None
    grain: float
    reach: float
    alpha: float = 0.0
    start: Tensor | None = None
    whole_change: Tensor | None = None

    def model(self) -> TaylorModel:
        """The parameter as a Taylor model, for products element by element."""
        value = Form(self.middle, self.change, self.grain * self.size if self.grain else None, self.reach)
        if self.change is None or self.change_size is None:
            return TaylorModel(value, None)
        return TaylorModel(value, Form(self.change, None, (2 * UNIT) * self.change_size, self.reach))


def moving(
    middle: Tensor, change: Tensor | None, reach: float, alpha: float = 0.0, start: Tensor | None = None
) -> Parameter:
    """θ(m + t) for |t| ≤ reach, from θ(m) as `torch.lerp` gives it and θ_T − θ₀ as subtraction does.

    lerp adds a rounded multiple of the rounded difference to one end and rounds: off by at most
    u|θ(m)| + 3u|θ_T − θ₀|. So |error| ≤ 4u(|middle| + |change|) ≤ (4u/s)·size with size = |middle| + s|change|,
    for any s in [reach, 1]; s = 1 for a single point, and at least 1/256 otherwise, to keep the factor small.
    """
    if change is None:
        return Parameter(middle, None, kept_above(middle.abs()), None, 0.0, reach)
    share = 1.0 if reach == 0 else max(reach, 2.0**-8)
    size = kept_above(enlarged(middle.abs() + share * change.abs(), 4))
    grain = 8 * UNIT / share
    if reach == 0:
        return Parameter(middle, None, size, None, grain, reach, alpha, start, change)
    return Parameter(middle, change, size, kept_above(change.abs()), grain, reach, alpha, start, change)


def constant(values: Tensor, reach: float) -> TaylorModel:
    """A tensor that does not depend on t, exactly."""
    return TaylorModel(Form(values, None, None, reach), None)


def add(one: TaylorModel, other: TaylorModel) -> TaylorModel:
    """The sum of two models."""
    slope = one.slope or other.slope
    if one.slope is not None and other.slope is not None:
        slope = add_forms(one.slope, other.slope, follow=True)
    elif slope is not None:  # the value of one that stands still may widen the shape
        result = one.value.centre + other.value.centre
        if slope.centre.shape != result.shape:  # what is shared by examples is no source of one of them
            slope = replace(slope, noise=None)
        slope = slope.map(lambda part: part.expand_as(result))
    return TaylorModel(add_forms(one.value, other.value), slope)


def scale(model: TaylorModel, factor: float) -> TaylorModel:
    """A model times a number."""
    return TaylorModel(
        scale_form(model.value, factor), None if model.slope is None else scale_form(model.slope, factor)
    )


def multiply(one: TaylorModel, other: TaylorModel) -> TaylorModel:
    """The product of two models element by element, with (fg)′ = f′g + fg′."""
    parts = [
        multiply_forms(slope, value)
        for slope, value in ((one.slope, other.value), (other.slope, one.value))
        if slope is not None
    ]
    slope = None if not parts else parts[0] if len(parts) == 1 else add_forms(*parts, follow=True)
    return TaylorModel(multiply_forms(one.value, other.value), slope)


def add_forms(one: Form, other: Form, *, follow: bool = False) -> Form:
    """The sum of two forms, and of their noises; addition rounds relative to its result."""
    assert one.reach == other.reach, "forms of one interval"
    centre = one.centre + other.centre
    tilt = total(one.tilt, other.tilt)
    size = Form(centre, tilt, None, one.reach).magnitude()
    remainder = enlarged(plus((2 * UNIT) * size, one.remainder, other.remainder), 4)
    if not follow:
        return Form(centre, _like(tilt, centre), remainder, one.reach)
    noises = [(form.tracked(centre.shape), form.remainder) for form in (one, other)]
    parts = [(noise, known) for noise, known in noises if noise is not None and known is not None]
    noise = joined(remainder, *(known for _, known in parts), noises=[noise for noise, _ in parts])
    return Form(centre, _like(tilt, centre), remainder, one.reach, noise)


def scale_form(form: Form, factor: float) -> Form:
    """A form times a number; multiplication rounds relative to its result."""
    centre, tilt = form.centre * factor, _scaled(form.tilt, factor)
    size = kept_above(form.magnitude()) * (4 * UNIT * abs(factor))
    remainder = enlarged(plus(size, _scaled(form.remainder, abs(factor))), 4)
    return Form(centre, tilt, remainder, form.reach, through(form, centre.new_tensor(factor), remainder))


def multiply_forms(one: Form, other: Form) -> Form:
    """The product of two forms: t² lies in [0, r²], so its term goes half to the centre, half to the remainder.

    (c₁ + d₁t ± R₁)(c₂ + d₂t ± R₂) = c₁c₂ + ½r²d₁d₂ + (c₁d₂ + d₁c₂)t ± (½r²|d₁d₂| + m₁R₂ + m₂R₁ + R₁R₂) with
    m = |c| + r|d|; rounding stays below 8u·m₁m₂.
    """
    assert one.reach == other.reach, "forms of one interval"
    centre = one.centre * other.centre
    tilt = total(
        None if other.tilt is None else one.centre * other.tilt, None if one.tilt is None else one.tilt * other.centre
    )
    sizes = kept_above(one.magnitude()), kept_above(other.magnitude())
    parts = [(16 * UNIT) * (sizes[0] * sizes[1])]
    if one.tilt is not None and other.tilt is not None:
        square = (0.5 * one.reach**2) * (one.tilt * other.tilt)
        centre = centre + square
        parts.append(square.abs())
    if other.remainder is not None:
        parts.append(sizes[0] * kept_above(other.remainder))
    if one.remainder is not None:
        inner = sizes[1] if other.remainder is None else sizes[1] + other.remainder
        parts.append(inner * kept_above(one.remainder))
    remainder = enlarged(plus(*parts), 16)
    if one.noise is not None and one.centre.shape == centre.shape:
        noise = through(one, other.centre, remainder)
    elif other.noise is not None and other.centre.shape == centre.shape:
        noise = through(other, one.centre, remainder)
    else:
        noise = None
    return Form(centre, _like(tilt, centre), remainder, one.reach, noise)


def hull(low: Tensor, high: Tensor, reach: float) -> Form:
    """Every function that stays between two bounds."""
    remainder = enlarged((high - low) * 0.5 + (2 * UNIT) * torch.maximum(low.abs(), high.abs()), 4)
    return Form((low + high) * 0.5, None, remainder, reach)


def choose(where: Tensor, one: Form, other: Form) -> Form:
    """Element by element, one form or the other; both must hold."""
    return Form(
        torch.where(where, one.centre, other.centre),
        _chosen(where, one.tilt, other.tilt),
        _chosen(where, one.remainder, other.remainder),
        one.reach,
        _chosen_noise(where, one, other),
    )


def joined(remainder: Tensor, *known: Tensor, noises: Sequence[Noise] = ()) -> Noise:
    """The sum of noises, of which `known` bounds the sizes, and a new source for the rest of a remainder."""
    rest = remainder if not noises else remainder - (1 - 16 * UNIT) * plus(*known)
    fresh = rest.clamp(min=0) * (1 + 8 * UNIT)
    with torch.enable_grad():
        leaf = torch.zeros_like(fresh).requires_grad_()
        shift = plus(leaf * 1.0, *(noise.shift for noise in noises))
    sources = {id(leaf): (leaf, fresh)} | {id(source[0]): source for noise in noises for source in noise.sources}
    return Noise(shift, tuple(sources.values()))


def through(form: Form, factor: Tensor, remainder: Tensor) -> Noise | None:
    """The noise of factor·f element by element, whose whole remainder is given; None where f is not followed."""
    if form.noise is None or form.remainder is None:
        return None
    return joined(remainder, form.remainder * factor.abs(), noises=[form.noise.map(lambda shift: shift * factor)])


def _chosen_noise(where: Tensor, one: Form, other: Form) -> Noise | None:
    if one.noise is None and other.noise is None:
        return None
    # where one was followed, both must be, lest a remainder be forgotten
    noises = [each.tracked(each.centre.shape) for each in (one, other)]
    zero = torch.zeros((), dtype=torch.float64)
    with torch.enable_grad():
        shifts = [zero if noise is None else noise.shift for noise in noises]
        shift = torch.where(where, shifts[0], shifts[1])
    sources = {id(source[0]): source for noise in noises if noise is not None for source in noise.sources}
    return Noise(shift, tuple(sources.values()))


def signed_effect(noise: Noise, weights: Tensor) -> Tensor | None:
    """A bound of |Σ weights·(f − its line)| for each example; None where a source is not one example's.

    The rounding of the differentiation, relative to the same sums of absolute values, is left to the caller.
    """
    leaves = [leaf for leaf, _ in noise.sources]
    examples = len(weights)
    if any(leaf.dim() == 0 or len(leaf) != examples for leaf in leaves):
        return None
    with torch.enable_grad():
        effects = torch.autograd.grad((noise.shift * weights).sum(), leaves, allow_unused=True)
    parts = [
        (effect.abs() * size).reshape(examples, -1).sum(1)
        for effect, (_, size) in zip(effects, noise.sources, strict=True)
        if effect is not None
    ]
    return plus(*parts) if parts else torch.zeros(examples, dtype=torch.float64)


def total(*parts: Tensor | None) -> Tensor | None:
    """Sum of the parts that are there, None where there is none."""
    there = [part for part in parts if part is not None]
    return plus(there[0], *there[1:]) if there else None


def plus(first: Tensor, *rest: Tensor | None) -> Tensor:
    """Sum of one part and those of the rest that are there."""
    for part in rest:
        if part is not None:
            first = first + part
    return first


def enlarged(bound: Tensor, operations: int) -> Tensor:
    """A non-negative bound that took so many rounded operations, made safe; zero stays zero."""
    return bound * (1 + 4 * operations * UNIT)


def kept_above(size: Tensor) -> Tensor:
    """A non-negative size, with what is not zero lifted by `TINY`, so that products of two do not underflow."""
    return torch.where(size > 0, size + TINY, size)


def _scaled(part: Tensor | None, factor: float, *, absolute: bool = False) -> Tensor | None:
    if part is None:
        return None
    return (part.abs() if absolute else part) * factor


def _like(part: Tensor | None, shape: Tensor) -> Tensor | None:
    return part if part is None or part.shape == shape.shape else part.expand_as(shape)


def _chosen(where: Tensor, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None and other is None:
        return None
    zero = torch.zeros((), dtype=torch.float64)
    return torch.where(where, zero if one is None else one, zero if other is None else other)
