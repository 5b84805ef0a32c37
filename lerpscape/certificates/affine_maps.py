"""Taylor models of linear layers and convolutions whose weights depend on α."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lerpscape.certificates.moving_parameters import Parameter
from lerpscape.certificates.noises import Noise, joined
from lerpscape.certificates.rounding import COARSE, UNIT, coarse, enlarged, lifted, plus, total
from lerpscape.certificates.taylor_models import Form, TaylorModel

# Products of a layer's constant inputs with the start's weights and their change, for reuse on other intervals.
Memory = dict[str, Tensor]
# For t up to at least this, terms in t are multiplied in float32, because their rounding errors are relative to t.
WIDE = 2.0**-8


@dataclass(frozen=True)
class LinearMap:
    """A map (inputs, weights) → outputs that is linear in both; each output is a sum of `terms` products.

    `exact` computes it in float64, by direct summation. `plain` maps, which are matrix products, are computed by direct
    summation in float32 too. For others, such as convolutions, torch may choose other algorithms in float32, so they
    are always computed in float64.
    """

    exact: Callable[[Tensor, Tensor], Tensor]
    terms: int
    plain: bool

    def in_float32(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """The map of float32 tensors, with the rounding errors of direct summation in float32."""
        if self.plain:
            return self.exact(inputs, weights)
        return self.exact(inputs.double(), weights.double()).float()

    def of_noise(self, noise: Noise, weights: Tensor, shape: torch.Size) -> Noise:
        """The noise after the map."""
        if self.plain:
            return noise.through(lambda back: back @ weights, shape, len(weights) + 8)
        return noise.map(lambda shift: self.in_float32(shift, weights), shape, weights.numel() + 8)


@dataclass(frozen=True)
class _Products:
    """Products of the parts of a Taylor model with the weights, in the notation of `affine`.

    `by_middle` are W·c, W·d, W·g, W·e, and `by_change` the same with Δ. With ρ and σ bounds of the rounding errors of
    sums over the value and the slope, `value_room` is |W|·(R + ρ), `slope_room` is |W|·S, `slope_rounding` is |W|·σ,
    and `moved` is |Δ|·(R + ρ + s·(S + σ)).
    """

    by_middle: list[Tensor | None]
    by_change: list[Tensor | None]
    value_room: Tensor
    slope_room: Tensor | None
    slope_rounding: Tensor | None
    moved: Tensor | None


def affine(
    model: TaylorModel, weight: Parameter, bias: Parameter | None, apply: LinearMap, memory: Memory | None = None
) -> TaylorModel:
    """The Taylor model of a layer z = W(t)·h + b(t), with z′ = W(t)·h′ + Δ·h + β, for a linear map.

    Let h = c + dt ± R, h′ = g + et ± S, W(t) = W + tΔ, b(t) = b + tβ and |t| ≤ r. Then
    z = Wc + b + ½r²Δd + (Wd + Δc + β)t ± (½r²|Δd| + A·R) and
    z′ = Wg + Δc + β + ½r²Δe + (We + Δg + Δd)t ± (½r²|Δe| + A·S + |Δ|·R), where A ≥ |W| + s|Δ| with s ≥ r.

    Every rounding error of these sums is at most κ = 2γ_{2n+8} + grain times the same sum of absolute values. So
    κ(|c| + r|d|) is added to R and κ(|g| + r|e|) to S before they are multiplied by |W|, which needs no further matrix
    product. On wide intervals the products with d and e, and Δg, are computed in float32, and κ′r|d|, κ′r|e| and
    κ′r|g|, with the unit roundoff v of float32 in κ′, are added in the same way.
    """
    value, slope, reach = model.value, model.slope, model.value.reach
    kappa = (4 * apply.terms + 64) * UNIT + 2 * weight.grain
    if slope is None and value.tilt is None and value.remainder is None and memory is not None:
        products = _products_of_constant(value.centre, weight, apply, memory)
    else:
        products = _products(model, weight, apply, kappa)
    steps = apply.terms + 32
    shape = (-1, *([1] * (products.value_room.dim() - 2)))
    square = _half_square(products.by_change[1], reach)
    assert products.by_middle[0] is not None
    centre = plus(products.by_middle[0], square, None if bias is None else bias.middle.view(shape))
    tilt, change = total(products.by_middle[1], products.by_change[0]), None if bias is None else bias.change
    remainder = plus(
        products.value_room,
        None if products.moved is None else weight.share * products.moved,
        None if square is None else coarse(square),
        None if bias is None else bias.size.view(shape) * (kappa + 2 * bias.grain),
    )
    if change is not None:
        change = change.view(shape).expand_as(centre)
        tilt = plus(change, tilt)
    result = Form(centre, tilt, enlarged(remainder, steps), reach)
    rate = total(products.by_middle[2], products.by_change[0], change)
    if rate is None:
        return TaylorModel(result, None)
    square = _half_square(products.by_change[3], reach)
    rate_tilt = total(products.by_middle[3], products.by_change[2], products.by_change[1])
    size = None if bias is None or change is None else bias.movement.change_size
    new = total(
        products.moved,
        products.slope_rounding,
        None if square is None else coarse(square),
        None if size is None else size.view(shape).expand_as(result.centre) * (2 * kappa),
    )
    assert new is not None
    new = enlarged(new, steps)
    flank = new if products.slope_room is None else enlarged(new + products.slope_room, steps)
    # The slope's noise, multiplied by the middle weights, keeps its signs; the rest, with the rounding, is new noise.
    old = None if slope is None else slope.tracked(slope.centre.shape)
    noise = None if old is None else joined(new, apply.of_noise(old, weight.middle_coarse, new.shape))
    return TaylorModel(result, Form(rate if square is None else rate + square, rate_tilt, flank, reach, noise))


def _products(model: TaylorModel, weight: Parameter, apply: LinearMap, kappa: float) -> _Products:
    value, slope = model.value, model.slope
    c, d = value.centre, value.tilt
    g, e = (None, None) if slope is None else (slope.centre, slope.tilt)
    change, line = weight.change, weight.movement
    rough = _rough_share(apply.terms) if apply.plain and weight.reach >= WIDE else 0.0
    if rough:
        wc, wg = _apply_all(apply.exact, [c, g], weight.middle)
        (dc,) = _apply_all(apply.exact, [c], change)
        wd, we = _in_float32(apply, [d, e], weight.middle_coarse)
        dd, dg, de = _in_float32(apply, [d, g, e], None if change is None else line.change_coarse)
    else:
        wc, wd, wg, we = _apply_all(apply.exact, [c, d, g, e], weight.middle)
        dc, dd, dg, de = _apply_all(apply.exact, [c, d, g, e], change)
    room = _rounding(value, kappa, rough)
    room = room if value.remainder is None else enlarged(room + value.remainder, 4)
    slope_room = None if slope is None else slope.remainder
    slope_rounding = None if slope is None else _rounding(slope, kappa, rough)
    # At a single point the change matters only for the rounding error of the middle, which is relative to `size`.
    sizes = weight.size if change is None else weight.middle_size
    rooms = [None if part is None else lifted(part) for part in (room, slope_room, slope_rounding)]
    by_size = _apply_all(apply.in_float32, rooms, sizes)
    moved = None
    if change is not None:
        moving = room
        if slope is not None and slope_rounding is not None:
            slope_size = plus(slope_rounding, slope.remainder)
            moving = moving + weight.share * slope_size + (rough * weight.reach) * slope.magnitude
        (moved,) = _apply_all(apply.in_float32, [lifted(enlarged(moving, 8))], line.change_size)
    assert by_size[0] is not None
    return _Products([wc, wd, wg, we], [dc, dd, dg, de], by_size[0], by_size[1], by_size[2], moved)


def _products_of_constant(data: Tensor, weight: Parameter, apply: LinearMap, memory: Memory) -> _Products:
    """The same for constant inputs x, from W(m)·x = W₀·x + m·(Δ·x), whose two products are computed once for all m.

    Their rounding errors are at most γ_n·|W₀|·|x| and γ_n·|Δ|·|x|; the sum adds two more roundings.
    """
    line = weight.movement
    if not memory:
        size, share = coarse(data), (8 * apply.terms + 128) * UNIT
        memory["start"] = apply.exact(data, line.start)
        memory["start size"] = enlarged(apply.in_float32(size, line.start_size), apply.terms + 8) * share
        if line.change is not None and line.change_size is not None:
            memory["change"] = apply.exact(data, line.change)
            memory["change size"] = enlarged(apply.in_float32(size, line.change_size), apply.terms + 8) * share
    change, change_size = memory.get("change"), memory.get("change size")
    middle = memory["start"] if change is None else torch.add(memory["start"], change, alpha=weight.alpha)
    moves = weight.change is not None
    return _Products(
        [middle, None, None, None],
        [change if moves else None, None, None, None],
        plus(memory["start size"], change_size),
        None,
        None,
        change_size if moves else None,
    )


def _apply_all(
    apply: Callable[[Tensor, Tensor], Tensor], inputs: list[Tensor | None], weight: Tensor | None
) -> list[Tensor | None]:
    """The map of every input that is not None, in one call."""
    there = [part for part in inputs if part is not None]
    if weight is None or not there:
        return [None] * len(inputs)
    if len(there) == 1:
        outputs = iter([apply(there[0], weight)])
    else:
        outputs = iter(apply(torch.cat(there), weight).chunk(len(there)))
    return [None if part is None else next(outputs) for part in inputs]


def _in_float32(apply: LinearMap, inputs: list[Tensor | None], weight: Tensor | None) -> list[Tensor | None]:
    outputs = _apply_all(apply.exact, [None if part is None else part.float() for part in inputs], weight)
    return [None if part is None else part.double() for part in outputs]


def _rough_share(terms: int) -> float:
    """Relative rounding error of a float32 sum of absolute values of `terms` products of rounded factors."""
    return (4 * terms + 64) * COARSE


def _rounding(form: Form, kappa: float, rough: float) -> Tensor:
    """A bound of the rounding errors of sums over a form: `kappa` times its size, and `rough` times its drift."""
    room = kappa * form.size
    if rough and form.drift is not None:
        room = room + rough * form.drift
    return enlarged(room, 4)


def _half_square(square: Tensor | None, reach: float) -> Tensor | None:
    """½r²·square, as square·t² is in ½r²·square ± ½r²·|square| for |t| ≤ r = reach."""
    return None if square is None else (0.5 * reach**2) * square
