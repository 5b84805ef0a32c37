"""The numbers of a result as a table: name, value, unit, and what it means in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from lerpscape.certificates.results import Certificate
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.profiles.results import Profile
from lerpscape.readings.results import Readings

Rows: TypeAlias = list[tuple[str, list[str], str, str]]

MEANINGS = {
    "examples": ("", "How many examples each number is an average over (n)."),
    "loss at α = 0": ("unit", "The start: the network before training, or whatever the line starts from."),
    "loss at α = 1": ("unit", "The end: the trained network."),
    "accuracy at α = 0": ("%", "Share of examples that the start gets right."),
    "accuracy at α = 1": ("%", "Share of examples that the end gets right."),
    "max_rise": ("unit", "Most that a later loss exceeds an earlier one (min Δ of Lucas et al.). 0: never rises."),
    "95 % interval": ("unit", "Of max_rise, were these examples a sample of many more. Not needed for the whole data."),
    "p-value": ("", "Chance of so clear a rise in a sample, where the expected loss never rises."),
    "relative_rise": ("", "max_rise as a share of the drop from end to end: compares losses of different units."),
    "max_step": ("unit", "Largest increase from one point to the next. Shrinks with the grid: compare like with like."),
    "rises": ("", "How many times the loss climbs above everything before it."),
    "hidden rises": ("", "Grid intervals where the derivative shows a rise that the points do not."),
    "barrier_mean": ("unit", "Highest loss over the mean of both ends (linear mode connectivity)."),
    "barrier_chord": ("unit", "Highest loss over the straight line between both end losses."),
    "barrier_max": ("unit", "Highest loss over the worse of both ends."),
    "plateau_0.05": ("α", "How far the loss stays within 5 % of its drop from the start."),
    "area": ("", "Area under the normalised curve: ½ straight, near 1 a long plateau, below ½ convex."),
    "local_convexity": ("", "Share of points where the curve bends upwards."),
    "global_convexity": ("", "Share of points at or below the straight line between the ends."),
    "distance": ("", "‖θ_T − θ₀‖: how far the end lies from the start."),
    "relative_distance": ("", "‖θ_T − θ₀‖ / ‖θ₀‖: the same in lengths of the start."),
}
GAUSS_MEANINGS = {
    "paths": ("", "How many output paths were measured: one per example or, for sequences, per position."),
    "mean": ("rad", "Mean Gauss length: the angle through which an output path turns. 0 is a straight line."),
    "standard error": ("rad", "Of the mean, were these examples a sample of many more."),
    "last change": ("rad", "Change of the mean at the last halving of the grid. Estimates grow from below."),
    "under π/2": ("%", "Share of paths that turn by less than a right angle: enough for a falling squared error."),
    "max_angle under π/2": ("%", "Share of paths of which no two velocities are a right angle apart: enough as well."),
    "stood still": ("", "Paths that did not move for a while; that stretch has no direction and is passed over."),
}
CERTIFICATE_MEANINGS = {
    "examples": ("", "How many examples the loss is an average over (n)."),
    "lower": ("unit", "A rise of at least this much exists between two α, proved."),
    "upper": ("unit", "No rise over any two α of [0, 1] is larger, proved. 0: the loss never rises."),
    "intervals": ("", "Pieces of [0, 1] that the proof is made of."),
    "never rises on": ("%", "Share of [0, 1] on which the loss provably does not rise."),
    "undecided": ("", "Pieces on which the derivative may have both signs."),
    "decisions known": ("%", "Share of examples, averaged over α, whose rightness provably stays on its piece."),
    "step of 1/24, at most": (
        "unit",
        "The loss rises by no more than this over any α and α + 1/24 (25 points), proved.",
    ),
    "enclosed": (
        "",
        "Pieces that were enclosed on the way: the work, in passes over the data of several times the usual price.",
    ),
}


def number_rows(profiles: Sequence[Profile]) -> Rows:
    """The table of numbers: name, one value per profile, unit, and what the number means."""
    columns = [_profile_numbers(each) for each in profiles]
    rows = []
    for name, (unit, meaning) in MEANINGS.items():
        values = [column.get(name, "–") for column in columns]
        if any(value != "–" for value in values):
            rows.append((name, values, profiles[0].unit if unit == "unit" else unit, meaning))
    return rows


def _profile_numbers(each: Profile) -> dict[str, str]:
    found = {"examples": f"{each.examples:,}"}
    for end in (0.0, 1.0):
        here = [i for i, alpha in enumerate(each.alphas) if alpha == end]
        if here:
            found[f"loss at α = {end:.0f}"] = _number(float(each.loss[here[0]]))
            if each.accuracy is not None:
                found[f"accuracy at α = {end:.0f}"] = f"{100 * each.accuracy[here[0]]:.2f}"
    if each.invalid:
        return found
    found |= {name: _number(value) for name, value in each.readings().values().items() if name in MEANINGS}
    found |= {"distance": _number(each.distance), "relative_distance": _number(each.relative_distance)}
    if each.examples > 1:
        interval = each.rise_interval()
        found["95 % interval"] = f"{_number(interval.lower)} to {_number(interval.upper)}"
        found["p-value"] = f"{interval.p_value:.3g}"
    if each.derivative is not None:
        largest = max((rise.estimate for rise in each.hidden_rises), default=0.0)
        found["hidden rises"] = f"{len(each.hidden_rises)}" + (f" (≤ about {largest:.2g})" if largest else "")
    return found


def reading_rows(found: Readings) -> list[tuple[str, str, str, str, str, str, str]]:
    """The cross-walk as a table: name, value, on half the grid, unit, verdict, who uses it, formula."""
    answers = {None: "", True: "yes", False: "no"}
    rows = []
    for each in found:
        verdict = answers[each.verdict]
        if each.half_verdict is not each.verdict:
            verdict += f" (half: {answers[each.half_verdict] or 'undefined'})"
        rows.append((each.name, _number(each.value), _number(each.half), each.unit, verdict, each.source, each.formula))
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def gauss_rows(found: GaussLength) -> Rows:
    """The table of a Gauss length."""
    values = {
        "paths": f"{len(found.per_example):,}",
        "mean": _number(found.mean),
        "standard error": _number(found.stderr),
        "last change": _number(found.mean_error),
        "under π/2": f"{100 * found.share_below_half_pi:.4g}",
        "max_angle under π/2": f"{100 * found.share_max_angle_below_half_pi:.4g}",
        "stood still": str(int((found.degenerate > 0).sum())),
    }
    return [(name, [values[name]], unit, meaning) for name, (unit, meaning) in GAUSS_MEANINGS.items()]


def certificate_rows(found: Certificate) -> Rows:
    """The table of a certificate."""
    values = {
        "examples": f"{found.examples:,}",
        "lower": _number(found.lower),
        "upper": _number(found.upper),
        "intervals": str(found.intervals),
        "never rises on": f"{100 * found.certified_share:.4g}",
        "undecided": str(len(found.undecided)),
        "enclosed": str(found.evaluations),
        "step of 1/24, at most": _number(found.max_step(1 / 24)[1]),
    }
    if found.accuracy_low is not None and found.accuracy_high is not None:
        doubt = np.diff(found.edges) @ (found.accuracy_high - found.accuracy_low)
        values["decisions known"] = f"{100 * (1 - doubt):.4g}"
    return [
        (name, [values[name]], found.unit if unit == "unit" else unit, meaning)
        for name, (unit, meaning) in CERTIFICATE_MEANINGS.items()
        if name in values
    ]
