"""First-order Taylor models of one variable, elementwise, with remainders that include all rounding errors.

A `Form` stands for every function f of t on |t| ≤ reach with |f(t) − centre − tilt·t| ≤ remainder. A `TaylorModel`
encloses a function and its derivative, each in its own form, because the derivative need not be continuous where the
function is, as for a ReLU.

Centres and tilts are float64, remainders float32 (see `rounding`). Each rule adds to the remainder a bound of its
rounding errors in the centre and the tilt, a small multiple of u times the magnitudes involved, and enlarges the
remainder by the relative error of computing it. Values of exp, expm1, log1p, tanh, erf and sqrt are assumed to be
accurate to 4 units in the last place. NaN and infinities propagate to the result, where they mean that nothing is
known.

Sources: Moore (1966); Makino & Berz (2003), "Taylor models and other validated functional inclusion methods".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lerpscape.certificates.noises import Noise, joined
from lerpscape.certificates.rounding import COARSE, TINY, UNIT, coarse, enlarged, lifted, plus, total


@dataclass(frozen=True)
class Form:
    """All f with |f(t) − centre − tilt·t| ≤ remainder for |t| ≤ reach; a tilt or remainder of None is exactly zero.

    `noise` is the same remainder as a linear function of its sources; see `noises`.

    >>> form = Form(torch.tensor([1.0]).double(), torch.tensor([2.0]).double(), None, reach=0.25)
    >>> [round(float(bound), 5) for bound in form.bounds()]
    [0.5, 1.5]
    """

    centre: Tensor
    tilt: Tensor | None
    remainder: Tensor | None
    reach: float
    noise: Noise | None = None

    @cached_property
    def drift(self) -> Tensor | None:
        """reach·|tilt| in float32, rounded up."""
        return None if self.tilt is None else lifted(coarse(self.tilt) * (self.reach * (1 + 8 * COARSE)))

    @cached_property
    def magnitude(self) -> Tensor:
        """|centre| + reach·|tilt| in float32, rounded up: a bound of the line's absolute value."""
        size = coarse(self.centre)
        return size if self.drift is None else enlarged(size + self.drift, 2)

    @cached_property
    def spread(self) -> Tensor:
        """reach·|tilt| + remainder in float32, rounded up: a bound of |f − centre|."""
        parts = total(self.drift, self.remainder)
        return torch.zeros_like(self.magnitude) if parts is None else enlarged(parts, 2)

    @cached_property
    def size(self) -> Tensor:
        """A bound of |f| on the interval, in float32."""
        return self.magnitude if self.remainder is None else enlarged(self.magnitude + self.remainder, 2)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """A lower and an upper bound of f on the interval in float32, rounded outwards; both zero only if f is zero."""
        centre = self.centre.float()
        room = (1 + 4 * COARSE) * self.spread + (4 * COARSE) * self.magnitude
        return centre - room, centre + room

    def map(self, reshape: Callable[[Tensor], Tensor]) -> Form:
        """The form with its elements rearranged, without rounding."""
        tilt, remainder = (None if part is None else reshape(part) for part in (self.tilt, self.remainder))
        centre = reshape(self.centre)
        noise = None if self.noise is None else self.noise.map(reshape, centre.shape)
        return Form(centre, tilt, remainder, self.reach, noise)

    def tracked(self, shape: torch.Size) -> Noise | None:
        """The noise of the form, or its remainder as a new source; None if it is to be broadcast to this shape.

        A source of noise belongs to one example, so a remainder that examples share is not one source.
        """
        if self.remainder is None or self.centre.shape != shape:
            return None
        return joined(self.remainder) if self.noise is None else self.noise


@dataclass(frozen=True)
class TaylorModel:
    """The forms of a function of t (`value`) and of its derivative (`slope`, None for a constant function)."""

    value: Form
    slope: Form | None

    def map(self, reshape: Callable[[Tensor], Tensor]) -> TaylorModel:
        """The model with its elements rearranged."""
        return TaylorModel(self.value.map(reshape), None if self.slope is None else self.slope.map(reshape))


def constant(values: Tensor, reach: float) -> TaylorModel:
    """The model of a tensor that does not depend on t, without error."""
    return TaylorModel(Form(values, None, None, reach), None)


def add(one: TaylorModel, other: TaylorModel) -> TaylorModel:
    """The sum of two models."""
    slope = one.slope or other.slope
    if one.slope is not None and other.slope is not None:
        slope = add_forms(one.slope, other.slope)
    elif slope is not None:  # the value of the constant model may broadcast the sum to a larger shape
        result = one.value.centre + other.value.centre
        if slope.centre.shape != result.shape:  # noise that examples share is not a source of one example
            slope = replace(slope, noise=None)
        slope = slope.map(lambda part: part.expand_as(result))
    return TaylorModel(add_forms(one.value, other.value, follow=False), slope)


def scale(model: TaylorModel, factor: float) -> TaylorModel:
    """A model times a number."""
    return TaylorModel(
        scale_form(model.value, factor), None if model.slope is None else scale_form(model.slope, factor)
    )


def multiply(one: TaylorModel, other: TaylorModel) -> TaylorModel:
    """The elementwise product of two models, with (fg)′ = f′g + fg′."""
    parts = [
        multiply_forms(slope, value)
        for slope, value in ((one.slope, other.value), (other.slope, one.value))
        if slope is not None
    ]
    slope = None if not parts else parts[0] if len(parts) == 1 else add_forms(*parts)
    return TaylorModel(multiply_forms(one.value, other.value), slope)


def add_forms(one: Form, other: Form, *, follow: bool = True) -> Form:
    """The sum of two forms, with that of their noises if `follow`; rounding errors are relative to the result."""
    assert one.reach == other.reach, "forms of one interval"
    centre = one.centre + other.centre
    tilt = total(one.tilt, other.tilt)
    fresh = (4 * UNIT) * Form(centre, tilt, None, one.reach).magnitude
    remainder = enlarged(plus(fresh, one.remainder, other.remainder), 4)
    if not follow:
        return Form(centre, _like(tilt, centre), remainder, one.reach)
    noises = []
    for form in (one, other):
        noise = form.tracked(centre.shape)
        if noise is not None:
            noises.append(noise)
        else:
            fresh = plus(fresh, form.remainder)
    return Form(centre, _like(tilt, centre), remainder, one.reach, joined(enlarged(fresh, 4), *noises))


def scale_form(form: Form, factor: float) -> Form:
    """A form times a number; rounding errors are relative to the result."""
    tilt = None if form.tilt is None else form.tilt * factor
    fresh = enlarged(form.magnitude * (4 * UNIT * max(abs(factor), TINY)), 4)
    remainder = (
        fresh if form.remainder is None else enlarged(fresh + lifted(form.remainder) * max(abs(factor), TINY), 8)
    )
    noise = None if form.noise is None else joined(fresh, form.noise.scaled(form.centre.new_tensor(factor)))
    return Form(form.centre * factor, tilt, remainder, form.reach, noise)


def multiply_forms(one: Form, other: Form) -> Form:
    """The product of two forms.

    (c₁ + d₁t ± R₁)(c₂ + d₂t ± R₂) = c₁c₂ + ½r²d₁d₂ + (c₁d₂ + d₁c₂)t ± (½r²|d₁d₂| + m₁R₂ + m₂R₁ + R₁R₂) with
    m = |c| + r|d|, because t² is in [0, r²]. Rounding errors are below 8u·m₁m₂. The noise of the first form, or of the
    second if the first has none, is multiplied by the other's centre.
    """
    assert one.reach == other.reach, "forms of one interval"
    centre = one.centre * other.centre
    tilt = total(
        None if other.tilt is None else one.centre * other.tilt, None if one.tilt is None else one.tilt * other.centre
    )
    if one.noise is None and other.noise is not None:
        one, other = other, one
    fresh = (16 * UNIT) * lifted(one.magnitude * other.magnitude)
    if one.tilt is not None and other.tilt is not None:
        square = (0.5 * one.reach**2) * (one.tilt * other.tilt)
        centre = centre + square
        fresh = fresh + coarse(square)
    if other.remainder is not None:
        fresh = fresh + one.size * lifted(other.remainder)
    followed = one.noise is not None and one.centre.shape == centre.shape
    remainder = fresh
    if one.remainder is not None:
        # The remainder times the other's centre keeps its sign; times the rest of the other form, it does not.
        own = lifted(one.remainder)
        still, moving = coarse(other.centre), 0.0 if other.drift is None else other.drift
        fresh = fresh + moving * own
        remainder = plus(fresh, still * own)
    noise = None
    if followed and one.noise is not None:
        noise = joined(enlarged(fresh, 16), one.noise.scaled(other.centre))
    return Form(centre, _like(tilt, centre), enlarged(remainder, 16), one.reach, noise)


def hull(low: Tensor, high: Tensor, reach: float) -> Form:
    """The form of all functions between two float32 bounds."""
    remainder = enlarged((high - low) * 0.5, 4) + (4 * COARSE) * torch.maximum(low.abs(), high.abs())
    return Form((low.double() + high.double()) * 0.5, None, enlarged(remainder, 2), reach)


def choose(where: Tensor, one: Form, other: Form) -> Form:
    """Elementwise `one` if `where` holds and else `other`; both must enclose the same function."""
    return Form(
        torch.where(where, one.centre, other.centre),
        _chosen(where, one.tilt, other.tilt),
        _chosen(where, one.remainder, other.remainder),
        one.reach,
        _chosen_noise(where, one, other),
    )


def _chosen_noise(where: Tensor, one: Form, other: Form) -> Noise | None:
    if one.noise is None and other.noise is None:
        return None
    # A form without noise gets its remainder as a new source, so that no remainder is lost.
    noises = [form.tracked(form.centre.shape) for form in (one, other)]
    masks = [where.float(), 1 - where.float()]
    return joined(None, *(noise.scaled(mask) for noise, mask in zip(noises, masks, strict=True) if noise is not None))


def _like(part: Tensor | None, shape: Tensor) -> Tensor | None:
    return part if part is None or part.shape == shape.shape else part.expand_as(shape)


def _chosen(where: Tensor, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None and other is None:
        return None
    either = other if one is None else one
    assert either is not None
    zero = torch.zeros((), dtype=either.dtype)
    return torch.where(where, zero if one is None else one, zero if other is None else other)
