"""Bounds of each example's loss ℓ at a point, and of its derivative on an interval, from Taylor models of the output.

A `Slope` bounds dℓ/dt by two lines in t, from below and from above. Lines are better than constants because the changes
of the derivative in different examples mostly cancel in the mean, which is what has to be bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.certificates.noises import rounding_share, signed_effect
from lerpscape.certificates.rounding import UNIT, coarse, enlarged, plus
from lerpscape.certificates.taylor_models import Form, TaylorModel, multiply_forms, scale_form

# Largest number of elements of a table over pairs of classes; more examples are processed in pieces.
PAIRS = 1 << 18


@dataclass(frozen=True)
class Slope:
    """Bounds low + low_tilt·t ≤ dℓ/dt ≤ high + high_tilt·t for each example; tensors of shape (examples,)."""

    low: Tensor
    low_tilt: Tensor
    high: Tensor
    high_tilt: Tensor


@dataclass(frozen=True)
class LossRule:
    """The rules to bound a loss: `value` for outputs at a point, and `slope` for outputs on an interval.

    `correct`, for losses with correct predictions, gives two tensors of zeros and ones, shape (examples,): whether an
    example is predicted correctly for all outputs in a form, and whether it is for some. It gives no tensors for
    targets without correct predictions.
    """

    value: Callable[[Form, Tensor], tuple[Tensor, Tensor]]
    slope: Callable[[TaylorModel, Tensor], Slope]
    correct: Callable[[Form, Tensor], list[Tensor]] | None = None


def cross_entropy_value(outputs: Form, targets: Tensor) -> tuple[Tensor, Tensor]:
    """−Σ_k y_k log softmax(z)_k and a bound of its error, both of shape (examples,).

    With Y = Σ_k y_k the absolute values of the gradient Yp − y sum to at most 2Y, so an error of at most R in every
    logit changes the loss by at most 2Y·R.
    """
    weights = _class_weights(outputs.centre, targets)
    logits = outputs.centre
    mass = weights.sum(1)
    logs = torch.logsumexp(logits, 1, keepdim=True) - logits
    values = (weights * logs).sum(1)
    size = logits.abs().amax(1) + values.abs() + 1
    error = (8 * logits.shape[1] + 128) * UNIT * size * (mass + 1)
    if outputs.remainder is not None:
        error = error + 2 * mass * outputs.remainder.amax(1)
    return values, enlarged(error, 16)


def cross_entropy_slope(outputs: TaylorModel, targets: Tensor) -> Slope:
    """dℓ/dt = Σ_k (Yp_k − y_k) z′_k with p = softmax(z) and Y = Σ_k y_k."""
    weights = _class_weights(outputs.value.centre, targets)
    examples, classes = weights.shape
    if outputs.slope is None:
        zero = torch.zeros(examples, dtype=torch.float64)
        return Slope(zero, zero, zero, zero)
    reference = weights.sum(1, keepdim=True) * outputs.value.centre.softmax(1) - weights
    noise = outputs.slope.noise
    signed = None if noise is None else signed_effect(noise, reference)
    share = 0.0 if noise is None else rounding_share(noise)
    if signed is None:
        signed = torch.full((examples,), torch.inf, dtype=torch.float64)
    outputs = TaylorModel(outputs.value, replace(outputs.slope, noise=None))
    step = max(1, PAIRS // classes**2)
    pieces = []
    for start in range(0, examples, step):
        piece = slice(start, start + step)
        part = outputs.map(lambda tensor, piece=piece: tensor[piece])  # type: ignore[misc]
        assert part.slope is not None
        pieces.append(_softmax_slope(part.value, part.slope, weights[piece], reference[piece], signed[piece], share))
    return Slope(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def class_decisions(outputs: Form, targets: Tensor) -> list[Tensor]:
    """Whether the target's logit is proved to be the largest on the interval, and whether it may be the largest."""
    if targets.is_floating_point():
        return []
    own = targets.long().unsqueeze(1)
    chosen = outputs.map(lambda part: part.gather(1, own))
    lead = chosen.centre - outputs.centre
    room = enlarged((4 * UNIT) * (outputs.magnitude + chosen.magnitude), 4)
    if outputs.tilt is not None and chosen.tilt is not None:
        room = room + enlarged(coarse(chosen.tilt - outputs.tilt) * outputs.reach, 2)
    if outputs.remainder is not None and chosen.remainder is not None:
        room = enlarged(room + outputs.remainder + chosen.remainder, 4)
    other = torch.ones_like(lead, dtype=torch.bool).scatter(1, own, False)
    surely = ((lead > room) | ~other).all(1)
    possibly = ~((lead < -room.double()) & other).any(1)
    return [surely.double(), possibly.double()]


def _softmax_slope(
    value: Form, slope: Form, y: Tensor, reference: Tensor, signed: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounds of Σ_k (Yp_k − y_k) z′_k, for each example the better of two methods.

    Let z = a(t) + ρ with a = c + dt and |ρ| ≤ R, and z′ = v(t) + σ with v = g + et and |σ| ≤ S. The sum is φ + A + B
    with φ(t) = Σ_k (Yp_k(a) − y_k) v_k, A = Y Σ_k (p_k(z) − p_k(a)) v_k and B = Σ_k (Yp_k(z) − y_k) σ_k.
    As Σ_k (Yp_k − y_k) = 0, one number may be subtracted from all v_k; it is that of the class with the largest y.

    * |B| ≤ Σ_k S_k sup|Yp_k − y_k| over the box that contains p. Also |B| ≤ |Σ_k q_k σ_k| + Σ_k S_k sup|Yp_k − y_k −
      q_k| for any q, here `reference`, where |Σ_k q_k σ_k| ≤ `signed` + `share`·Σ_k |q_k| S_k.
    * |A| ≤ Y Σ_k p̄_k R_k sup|v_k − Σ_j p_j v_j|, since d/ds Σ_k p_k(a + sρ) v_k = Σ_k p_k (v_k − Σ_j p_j v_j) ρ_k.
    * First method: φ(t) ∈ φ(0) + t·[φ′] by the mean value theorem, where [φ′] encloses
      φ′ = Y·½ Σ_jk p_j p_k (d_j − d_k)(v_j − v_k) + Σ_k (Yp_k − y_k) e_k over the box; A and B are added.
    * Second method: the box of Yp − y times the range of v; B is added. If one class has the whole target, φ + A is an
      average of Y(v_k − v_chief), so it is also within the range of these.

    Probabilities are computed with a relative error below `slack`, because exp magnifies a relative rounding error of
    its argument at most 745 times before it under- or overflows; differences of centres with a relative error of u.
    """
    reach, classes = value.reach, y.shape[1]
    slack = (2048 + 16 * classes) * UNIT
    mass = y.sum(1, keepdim=True)
    spread = value.spread.double() + (4 * UNIT) * value.magnitude
    low, high = value.centre - spread, value.centre + spread
    p_low = (_share(low, high) * (1 - slack) - 1e-300).clamp(min=0)
    p_high = (_share(high, low) * (1 + slack) + 1e-300).clamp(max=1)
    weight_low = mass * p_low - y - slack * (mass * p_low + y)
    weight_high = mass * p_high - y + slack * (mass * p_high + y)
    weight_size = torch.maximum(weight_low.abs(), weight_high.abs())
    # If one class has the whole target, the sum of the other probabilities is more accurate than 1 − p. Weights are
    # counted, not summed: a sum may lose a small one to rounding.
    sole = (y > 0) & ((y > 0).sum(1, keepdim=True) == 1)
    others = mass * (p_high @ (1 - torch.eye(classes, dtype=torch.float64))) * (1 + slack)
    weight_size = torch.where(sole, torch.minimum(weight_size, others), weight_size)

    drift = torch.zeros_like(low) if value.tilt is None else value.tilt
    tilt = torch.zeros_like(low) if slope.tilt is None else slope.tilt
    chief = y.argmax(1, keepdim=True)
    lead, lead_tilt = slope.centre - slope.centre.gather(1, chief), tilt - tilt.gather(1, chief)
    lead_room = reach * lead_tilt.abs()
    lead_size = (lead.abs() + lead_room) * (1 + 16 * UNIT)
    zero = torch.zeros_like(mass.squeeze(1))
    unsure = zero
    if slope.remainder is not None:
        off = torch.maximum((weight_high - reference).abs(), (weight_low - reference).abs()) * (1 + 8 * UNIT)
        by_sign = signed + ((off + share * reference.abs()) * slope.remainder).sum(1)
        unsure = torch.minimum((weight_size * slope.remainder).sum(1), enlarged(by_sign, 4))

    # Tables over pairs of classes
    v_gap, d_gap = _gaps(slope.centre), _gaps(drift)
    v_room = reach * _gaps(tilt).abs()
    v_size = (v_gap.abs() + v_room) * (1 + 16 * UNIT)
    product = d_gap * v_gap
    room = d_gap.abs() * (v_room + (64 * UNIT) * v_size)
    pair_low, pair_high = p_low.unsqueeze(2) * p_low.unsqueeze(1), p_high.unsqueeze(2) * p_high.unsqueeze(1)
    most, least = product + room, product - room
    rate_high = torch.where(most > 0, pair_high, pair_low) * most
    rate_low = torch.where(least > 0, pair_low, pair_high) * least
    half = 0.5 * mass.squeeze(1)
    pair_margin = (8 * classes**2 + 256) * UNIT * (pair_high * (product.abs() + room)).sum((1, 2))
    turn_high, turn_low = _weighted(weight_low, weight_high, lead_tilt, lead_tilt)
    margin = half * pair_margin + 2 * slack * (weight_size * lead_tilt.abs()).sum(1)
    rate_high = half * rate_high.sum((1, 2)) + turn_high + margin
    rate_low = half * rate_low.sum((1, 2)) + turn_low - margin

    centre_rate, room_rate = (rate_high + rate_low) * 0.5, (rate_high - rate_low) * 0.5
    middle = _share(value.centre, value.centre)
    start = ((mass * middle - y) * lead).sum(1)
    start_margin = (2 * slack * (mass * middle + y + 1e-290) * lead_size).sum(1)
    apart = zero
    if value.remainder is not None:
        neighbour = torch.minimum((p_high.unsqueeze(1) * v_size).sum(2), v_size.amax(2))
        apart = mass.squeeze(1) * (p_high * neighbour * value.remainder).sum(1)
    rounding = (8 * UNIT) * reach * (rate_high.abs() + rate_low.abs())
    rest = enlarged(start_margin + reach * room_rate + rounding + apart + unsure, classes**2 + 32)

    box_high, box_low = _weighted(weight_low, weight_high, lead - lead_room, lead + lead_room)
    box_margin = enlarged(2 * slack * ((weight_size + mass * p_high) * lead_size).sum(1) + unsure, classes + 32)
    averaged = sole.any(1)
    top = (mass * (lead + lead_room)).amax(1).clamp(min=0) * (1 + 16 * UNIT)
    bottom = (mass * (lead - lead_room)).amin(1).clamp(max=0) * (1 + 16 * UNIT)
    box_high = torch.where(averaged, torch.minimum(box_high, top), box_high) + box_margin
    box_low = torch.where(averaged, torch.maximum(box_low, bottom), box_low) - box_margin

    by_line = start + rest + reach * centre_rate.abs() <= box_high
    above = torch.where(by_line, start + rest, box_high), torch.where(by_line, centre_rate, zero)
    by_line = start - rest - reach * centre_rate.abs() >= box_low
    below = torch.where(by_line, start - rest, box_low), torch.where(by_line, centre_rate, zero)
    return *below, *above


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _gaps(values: Tensor) -> Tensor:
    """values_k − values_j for every pair of classes, shape (examples, k, j)."""
    return values.unsqueeze(2) - values.unsqueeze(1)


def squared_error_value(outputs: Form, targets: Tensor) -> tuple[Tensor, Tensor]:
    """‖z − y‖² and a bound of its error, both of shape (examples,)."""
    gap = _rows(outputs.centre - _same_shape(outputs.centre, targets))
    values = gap.square().sum(1)
    error = (4 * gap.shape[1] + 64) * UNIT * values
    if outputs.remainder is not None:
        room = _rows(outputs.remainder)
        error = error + ((2 * gap.abs() + room) * room).sum(1)
    return values, enlarged(error, gap.shape[1] + 16)


def squared_error_slope(outputs: TaylorModel, targets: Tensor) -> Slope:
    """dℓ/dt = 2 Σ_k (z_k − y_k) z′_k, a product of forms."""
    value, slope = outputs.value, outputs.slope
    _same_shape(value.centre, targets)
    if slope is None:
        zero = torch.zeros(len(targets), dtype=torch.float64)
        return Slope(zero, zero, zero, zero)
    gap = value.centre - targets
    rounding = (2 * UNIT) * coarse(gap)
    distance = Form(gap, value.tilt, enlarged(plus(rounding, value.remainder), 4), value.reach)
    product = scale_form(multiply_forms(distance, slope), 2.0).map(_rows)
    terms = product.centre.shape[1]
    tilt = torch.zeros_like(product.centre) if product.tilt is None else product.tilt
    margin = (2 * terms + 16) * UNIT * product.magnitude.sum(1, dtype=torch.float64)
    room = margin
    if product.remainder is not None:
        room = product.remainder.sum(1, dtype=torch.float64)
        if product.noise is not None:
            signed = signed_effect(product.noise, torch.ones_like(product.centre))
            by_sign = room if signed is None else enlarged(signed + rounding_share(product.noise) * room, 4)
            room = torch.minimum(room, by_sign)
        room = margin + room
    room = enlarged(room, terms + 16)
    centre, tilt = product.centre.sum(1), tilt.sum(1)
    return Slope(centre - room, tilt, centre + room, tilt)


def mean_squared_error_value(outputs: Form, targets: Tensor) -> tuple[Tensor, Tensor]:
    """‖z − y‖² / d and a bound of its error."""
    values, error = squared_error_value(outputs, targets)
    share = outputs.centre[0].numel()
    return values / share, enlarged(error / share + UNIT * values, 8)


def mean_squared_error_slope(outputs: TaylorModel, targets: Tensor) -> Slope:
    """The derivative of ‖z − y‖² / d."""
    return _divided(squared_error_slope(outputs, targets), outputs.value.centre[0].numel(), outputs.value.reach)


def binary_cross_entropy_value(outputs: Form, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the two logits (0, z), averaged over labels."""
    two, weights, labels = _two_classes(TaylorModel(outputs, None), targets)
    values, errors = cross_entropy_value(two.value, weights)
    values, errors = values.view(-1, labels), errors.view(-1, labels)
    return values.mean(1), enlarged(errors.mean(1) + (labels + 4) * UNIT * values.mean(1), labels + 4)


def binary_cross_entropy_slope(outputs: TaylorModel, targets: Tensor) -> Slope:
    """The derivative of the cross-entropy of (0, z), averaged over labels."""
    two, weights, labels = _two_classes(outputs, targets)
    slope = cross_entropy_slope(two, weights)
    parts = (part.view(-1, labels) for part in (slope.low, slope.low_tilt, slope.high, slope.high_tilt))
    low, low_tilt, high, high_tilt = parts
    margin = (labels + 8) * UNIT * torch.maximum(low.abs() + low_tilt.abs(), high.abs() + high_tilt.abs()).sum(1)
    summed = Slope(low.sum(1) - margin, low_tilt.sum(1), high.sum(1) + margin, high_tilt.sum(1))
    return _divided(summed, labels, outputs.value.reach)


LOSS_RULES = {
    "cross_entropy": LossRule(cross_entropy_value, cross_entropy_slope, class_decisions),
    "squared_error": LossRule(squared_error_value, squared_error_slope),
    "mean_squared_error": LossRule(mean_squared_error_value, mean_squared_error_slope),
    "binary_cross_entropy": LossRule(binary_cross_entropy_value, binary_cross_entropy_slope),
}


def _share(own: Tensor, other: Tensor) -> Tensor:
    """The softmax with class k at `own` and every other class at `other`."""
    odds = torch.exp(other.unsqueeze(1) - own.unsqueeze(2))
    diagonal = torch.eye(own.shape[1], dtype=torch.bool)
    return 1 / (1 + odds.masked_fill(diagonal, 0.0).sum(2))


def _weighted(weight_low: Tensor, weight_high: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (upper, lower) of Σ w_k x_k over boxes of w and x."""
    products = torch.stack([weight_low * low, weight_low * high, weight_high * low, weight_high * high])
    return products.amax(0).sum(1), products.amin(0).sum(1)


def _divided(slope: Slope, by: int, reach: float) -> Slope:
    def room(bound: Tensor, tilt: Tensor) -> Tensor:
        return (4 * UNIT) * (bound.abs() + reach * tilt.abs()) / by

    return Slope(
        slope.low / by - room(slope.low, slope.low_tilt),
        slope.low_tilt / by,
        slope.high / by + room(slope.high, slope.high_tilt),
        slope.high_tilt / by,
    )


def _class_weights(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets as one non-negative weight for each class, shape (examples, classes)."""
    if logits.dim() == 2 and targets.shape == logits.shape and targets.is_floating_point():
        if bool((targets >= 0).all()):
            return targets
    elif (logits.dim() == 2 and targets.shape == logits.shape[:1] and not targets.is_floating_point()) and bool(
        ((targets >= 0) & (targets < logits.shape[1])).all()
    ):
        return F.one_hot(targets.long(), logits.shape[1]).to(torch.float64)
    raise ValueError(
        explain(
            expected="logits of shape (examples, classes) with class numbers, or with non-negative weights of "
            "that shape.",
            got=f"outputs {tuple(logits.shape)} and targets {tuple(targets.shape)}, {targets.dtype}.",
            hint="Certificates do not cover sequences, nor positions to leave out (−100).",
        )
    )


def _two_classes(outputs: TaylorModel, targets: Tensor) -> tuple[TaylorModel, Tensor, int]:
    """Models of the logits (0, z) of two classes, their target weights, and the number of labels of an example.

    There is one row for each label of each example.
    """
    centre = outputs.value.centre
    if centre.dim() == targets.dim() + 1 and centre.shape[-1] == 1:
        outputs, centre = outputs.map(lambda part: part.squeeze(-1)), centre.squeeze(-1)
    labels = _same_shape(centre, targets).to(torch.float64).flatten()
    two = outputs.map(lambda part: torch.stack([torch.zeros_like(part).flatten(), part.flatten()], 1))
    return two, torch.stack([1 - labels, labels], 1), max(1, centre[0].numel())


def _same_shape(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise ValueError(
            explain(
                expected="targets shaped like the outputs (nothing is broadcast).",
                got=f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}.",
                hint="Reshape the targets in the data.",
            )
        )
    return targets
