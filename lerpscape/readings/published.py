"""Every published definition of monotonicity, barriers, convexity and plateaus, and all of them read off one curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.readings import monotonicity
from lerpscape.readings.monotonicity import BarrierKind
from lerpscape.readings.results import Question, Reading, Readings
from lerpscape.readings.rises_between_points import hidden_rises


@dataclass(frozen=True)
class Curve:
    """The points of a profile on [0, 1], from which readings are taken; arrays of shape (points,).

    `error` (%) is None for losses without right answers, `derivative` (dL/dα) if it was not measured.
    """

    alphas: Floats
    loss: Floats
    error: Floats | None
    derivative: Floats | None

    @property
    def has_ends(self) -> bool:
        """Whether the grid starts at exactly 0 and ends at exactly 1."""
        return len(self.alphas) > 1 and self.alphas[0] == 0 and self.alphas[-1] == 1

    def half(self) -> Curve:
        """The curve at every second point, and at the last one."""
        index = np.union1d(np.arange(0, len(self.alphas), 2), [len(self.alphas) - 1])
        error, derivative = (None if part is None else part[index] for part in (self.error, self.derivative))
        return Curve(self.alphas[index], self.loss[index], error, derivative)


@dataclass(frozen=True)
class _Definition:
    """How a reading is taken and used: it answers `question` with `passes(value, tolerance)`, None for no answer.

    `needs` names what a curve must have: both ends, errors (and both ends), or derivatives.
    """

    name: str
    unit: Literal["loss", "%", "α", ""]
    source: str
    formula: str
    read: Callable[[Curve], float]
    question: Question | None = None
    passes: Callable[[float, float], bool | None] = lambda value, tolerance: value <= tolerance
    needs: Literal["ends", "error", "derivative", ""] = ""

    def on(self, curve: Curve) -> float | None:
        """The value of the reading, None if it is undefined for this curve or its grid."""
        if self.needs in ("ends", "error") and not curve.has_ends:
            return None
        value = float(self.read(curve))
        return None if np.isnan(value) else value


def published_readings(curve: Curve, *, tolerance: float, unit: str) -> Readings:
    """Every published monotonicity, barrier, convexity and plateau reading of a curve, and of every second point of it.

    `tolerance`, in the unit of the loss, is the largest rise or barrier of the loss that verdicts still count as none;
    errors and convexity are judged without one. Readings of errors or derivatives that the curve lacks are left out.

    Raises `NonFiniteLoss` for NaN or inf, `ValueError` for a negative tolerance.

    >>> curve = Curve(np.linspace(0, 1, 5), np.array([2.0, 1.0, 1.5, 0.5, 0.0]), None, None)
    >>> readings = published_readings(curve, tolerance=0.0, unit="nats")
    >>> readings["max_rise"].value, readings["max_rise"].half, readings["max_rise"].source
    (0.5, 0.0, 'Lucas et al. 2021')
    >>> readings.decided_by_the_grid[:2]
    ('max_rise', 'monotonic_0')
    """
    if not tolerance >= 0:
        raise ValueError(
            explain(expected="a tolerance ≥ 0, in the unit of the loss.", got=f"{tolerance}.", hint="Use 0 for strict.")
        )
    half = curve.half()
    rows = []
    for definition in DEFINITIONS:
        if definition.needs in ("error", "derivative") and getattr(curve, definition.needs) is None:
            continue
        value, half_value = definition.on(curve), definition.on(half)
        verdict, half_verdict = (
            None if definition.question is None or number is None else definition.passes(number, tolerance)
            for number in (value, half_value)
        )
        rows.append(
            Reading(
                definition.name,
                value,
                half_value,
                unit if definition.unit == "loss" else definition.unit,
                definition.source,
                definition.formula,
                definition.question,
                verdict,
                half_verdict,
            )
        )
    return Readings(tuple(rows), len(curve.alphas), len(half.alphas), tolerance)


def _barrier(kind: BarrierKind, of: Literal["loss", "error"] = "loss") -> Callable[[Curve], float]:
    def read(curve: Curve) -> float:
        if kind == "midpoint" and not np.any(np.abs(curve.alphas - 0.5) < 1e-12):
            return float("nan")
        return monotonicity.barrier(getattr(curve, of), kind, curve.alphas)

    return read


def _monotonic(tolerance: float) -> _Definition:
    return _Definition(
        f"monotonic_{tolerance:g}",
        "",
        "Lucas et al., scripts",
        f"max_rise ≤ {tolerance:g}"
        + (" (the MLI property, for the training loss from the initialisation)" * (not tolerance)),
        lambda curve: float(monotonicity.is_monotonic(curve.loss, tolerance)),
        "unobstructed",
        lambda value, _: value == 1,
    )


def _hidden(curve: Curve) -> float:
    assert curve.derivative is not None
    rises = hidden_rises(curve.loss, curve.derivative, curve.alphas)
    return max((rise.estimate for rise in rises), default=0.0)


EPS = 0.05
_FALLS: Question = "unobstructed"
DEFINITIONS = (
    _Definition(
        "max_rise",
        "loss",
        "Lucas et al. 2021",
        "max over i ≤ j of L_j − L_i (the paper's min Δ)",
        lambda curve: monotonicity.max_rise(curve.loss),
        _FALLS,
    ),
    *(_monotonic(tolerance) for tolerance in (0.0, 1e-3, 1e-2)),
    _Definition(
        "rises",
        "",
        "Lucas et al. 2021",
        "number of bumps: maximal excursions above the running minimum",
        lambda curve: len(monotonicity.rises(curve.loss, curve.alphas)),
    ),
    _Definition(
        "widest_rise",
        "α",
        "Lucas et al. 2021",
        "largest width of a bump, to one grid step at either side",
        lambda curve: max((rise.width for rise in monotonicity.rises(curve.loss, curve.alphas)), default=0.0),
    ),
    _Definition(
        "relative_rise",
        "",
        "derived",
        "max_rise / (L(0) − L(1))",
        lambda curve: monotonicity.relative_rise(curve.loss),
        needs="ends",
    ),
    _Definition(
        "max_step",
        "loss",
        "Lim et al. 2024",
        "max_i (L_{i+1} − L_i), their Δ, on 25 points",
        lambda curve: monotonicity.max_step(curve.loss),
        _FALLS,
    ),
    _Definition(
        "hidden_rise",
        "loss",
        "derived",
        "largest rise between two grid points, on the cubic through their losses and derivatives",
        _hidden,
        _FALLS,
        lambda value, tolerance: False if value > tolerance else None,  # without hidden rises, other readings decide
        needs="derivative",
    ),
    _Definition(
        "barrier_mean",
        "loss",
        "Frankle et al. 2020",
        "max L − (L(0) + L(1))/2 (linear mode connectivity)",
        _barrier("mean"),
        _FALLS,
        needs="ends",
    ),
    _Definition(
        "barrier_mean_error",
        "%",
        "Frankle et al. 2020",
        "the same of the error (error barrier, instability)",
        _barrier("mean", "error"),
        _FALLS,
        lambda value, _: value <= 0,
        needs="error",
    ),
    _Definition(
        "barrier_chord",
        "loss",
        "Ainsworth et al. 2023",
        "max [L(α) − ((1−α)L(0) + αL(1))]",
        _barrier("chord"),
        _FALLS,
        needs="ends",
    ),
    _Definition("barrier_max", "loss", "several", "max L − max(L(0), L(1))", _barrier("max"), _FALLS, needs="ends"),
    _Definition(
        "barrier_midpoint",
        "loss",
        "Lim et al. 2024",
        "L(½) − (L(0) + L(1))/2; needs ½ on the grid",
        _barrier("midpoint"),
        _FALLS,
        needs="ends",
    ),
    _Definition(
        "barrier_signed",
        "loss",
        "Yang et al. 2021",
        "(L(0) + L(1))/2 − L(t*), t* farthest from that mean; negative: a barrier; theirs along a Bezier curve",
        _barrier("signed"),
        _FALLS,
        lambda value, tolerance: value >= -tolerance,
        needs="ends",
    ),
    _Definition(
        "barrier_signed_error",
        "%",
        "Yang et al. 2021",
        "the same of the error (mode connectivity, of the training error)",
        _barrier("signed", "error"),
        _FALLS,
        lambda value, _: value >= 0,
        needs="error",
    ),
    _Definition(
        "local_convexity",
        "",
        "Lim et al. 2024",
        "share of interior points with slopes that do not fall",
        lambda curve: monotonicity.local_convexity(curve.loss, curve.alphas),
        "convex",
        lambda value, _: value == 1,
    ),
    _Definition(
        "global_convexity",
        "",
        "Lim et al. 2024",
        "share of interior points with L(α) ≤ (1−α)L(0) + αL(1)",
        lambda curve: monotonicity.global_convexity(curve.loss, curve.alphas),
        "convex",
        lambda value, _: value == 1,
        needs="ends",
    ),
    _Definition(
        f"plateau_{EPS:g}",
        "α",
        "Frankle 2020, Wang 2022",
        f"sup{{α : |L(β) − L(0)| ≤ {EPS:g}·(L(0) − L(1)) for all β ≤ α}}",
        lambda curve: monotonicity.plateau(curve.loss, EPS, curve.alphas),
        needs="ends",
    ),
    _Definition(
        f"plateau_error_{EPS:g}",
        "α",
        "Frankle 2020, Wang 2022",
        "the same of the error",
        lambda curve: monotonicity.plateau(curve.error, EPS, curve.alphas) if curve.error is not None else float("nan"),
        needs="error",
    ),
    _Definition(
        "area",
        "",
        "derived",
        "∫ (L(α) − L(1)) / (L(0) − L(1)) dα",
        lambda curve: monotonicity.area(curve.loss, curve.alphas),
        needs="ends",
    ),
)
