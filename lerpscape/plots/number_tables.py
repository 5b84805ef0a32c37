"""Tables of the numbers of a result, for reports: name, value, unit, and its meaning in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from lerpscape.certificates.results import Certificate
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.profiles.results import Profile
from lerpscape.readings.intervals import LEAST_EXAMPLES
from lerpscape.readings.results import Readings

Rows: TypeAlias = list[tuple[str, list[str], str, str]]

MEANINGS = {
    "examples": ("", "Number of examples over which the loss is averaged (n)."),
    "loss at α = 0": ("unit", "Loss of the start, usually the network before training."),
    "loss at α = 1": ("unit", "Loss of the end, usually the trained network."),
    "accuracy at α = 0": ("%", "Share of examples that the start predicts correctly."),
    "accuracy at α = 1": ("%", "Share of examples that the end predicts correctly."),
    "max_rise": ("unit", "Largest amount by which a later loss exceeds an earlier one (min Δ of Lucas et al.)."),
    "95 % interval": ("unit", "Confidence interval of max_rise, if the examples are a random sample."),
    "p-value": ("", "p-value under H₀: the expected loss never increases. For examples that are a random sample."),
    "relative_rise": ("", "max_rise divided by the drop of the loss from start to end; it has no unit."),
    "max_step": ("unit", "Largest increase from one point to the next; comparable for equal grids only."),
    "rises": ("", "Number of excursions of the loss above its running minimum."),
    "hidden rises": ("", "Grid intervals with a rise that only the derivative shows."),
    "barrier_mean": ("unit", "Highest loss minus the mean loss of the two ends (linear mode connectivity)."),
    "barrier_chord": ("unit", "Largest height of the loss above the straight line between the two ends' losses."),
    "barrier_max": ("unit", "Highest loss minus the higher loss of the two ends."),
    "plateau_0.05": ("α", "The α up to which the loss stays within 5 % of its total drop."),
    "area": ("", "Area under the normalised curve: ½ for a straight line, near 1 for a long plateau."),
    "local_convexity": ("", "Share of grid points at which the curve is convex."),
    "global_convexity": ("", "Share of grid points at or below the straight line between the two ends' losses."),
    "distance": ("", "‖θ_T − θ₀‖, the distance between start and end."),
    "relative_distance": ("", "‖θ_T − θ₀‖ / ‖θ₀‖, the distance relative to the norm of the start."),
}
GAUSS_MEANINGS = {
    "paths": ("", "Number of output paths: one per example or, for sequences, per position."),
    "mean": ("rad", "Mean Gauss length, the angle through which an output path turns; 0 for a straight line."),
    "standard error": ("rad", "Standard error of the mean, if the examples are a random sample."),
    "last change": ("rad", "Change of the mean at the last halving of the grid. Estimates increase with refinement."),
    "under π/2": ("%", "Share of paths that turn by less than π/2, which suffices for a falling squared error."),
    "max_angle under π/2": ("%", "Share of paths with less than π/2 between any two velocities, which suffices too."),
    "stood still": ("", "Number of paths that did not move on some interval; it does not count towards their length."),
}
CERTIFICATE_MEANINGS = {
    "examples": ("", "Number of examples over which the loss is averaged (n)."),
    "lower": ("unit", "Proved: the loss rises by at least this much between two values of α."),
    "upper": ("unit", "Proved: the loss rises by at most this much between any two values of α in [0, 1]."),
    "intervals": ("", "Number of intervals of [0, 1] that the proof consists of."),
    "never rises on": ("%", "Share of [0, 1] on which the loss is proved not to rise."),
    "undecided": ("", "Number of intervals on which the derivative may have both signs."),
    "decisions known": ("%", "Share of predictions proved constant on their interval."),
    "step of 1/24, at most": (
        "unit",
        "Proved: the loss rises by at most this much from any α to α + 1/24 (25 points).",
    ),
    "enclosed": ("", "Number of intervals bounded, each at several times the cost of one evaluation of the loss."),
}


def number_rows(profiles: Sequence[Profile]) -> Rows:
    """A row for each number: its name, the value for each profile, the unit, and the meaning."""
    columns = [_profile_numbers(profile) for profile in profiles]
    rows = []
    for name, (unit, meaning) in MEANINGS.items():
        values = [column.get(name, "–") for column in columns]
        if any(value != "–" for value in values):
            rows.append((name, values, profiles[0].unit if unit == "unit" else unit, meaning))
    for name in dict.fromkeys(name for profile in profiles for name in profile.metrics):
        for end in (0.0, 1.0):
            values = [_metric_number(profile, name, end) for profile in profiles]
            if any(value != "–" for value in values):
                meaning = "Mean over the examples ± standard error, if they are a random sample."
                rows.append((f"{name} at α = {end:.0f}", values, "", meaning))
    return rows


def _metric_number(profile: Profile, name: str, end: float) -> str:
    at = np.flatnonzero(profile.alphas == end)
    if name not in profile.metrics or not len(at):
        return "–"
    metric = profile.metrics[name]
    return f"{metric.values[at[0]]:.5g} ± {metric.errors[at[0]]:.2g}"


def _profile_numbers(profile: Profile) -> dict[str, str]:
    numbers = {"examples": f"{profile.examples:,}"}
    for end in (0.0, 1.0):
        for index in np.flatnonzero(profile.alphas == end):
            numbers[f"loss at α = {end:.0f}"] = _number(float(profile.loss[index]))
            if profile.accuracy is not None:
                numbers[f"accuracy at α = {end:.0f}"] = f"{100 * profile.accuracy[index]:.2f}"
    if profile.invalid:
        return numbers
    numbers |= {name: _number(value) for name, value in profile.readings().values().items() if name in MEANINGS}
    numbers |= {"distance": _number(profile.distance), "relative_distance": _number(profile.relative_distance)}
    if profile.examples >= LEAST_EXAMPLES:
        interval = profile.rise_interval()
        numbers["95 % interval"] = f"{_number(interval.lower)} to {_number(interval.upper)}"
        numbers["p-value"] = f"{interval.p_value:.3g}"
    if profile.derivative is not None:
        hidden = profile.hidden_rises
        largest = max((rise.estimate for rise in hidden), default=0.0)
        numbers["hidden rises"] = f"{len(hidden)}" + (f" (≤ about {largest:.2g})" if largest else "")
    return numbers


def reading_rows(readings: Readings) -> list[tuple[str, ...]]:
    """A row for each reading: name, value, value on half the grid, unit, verdict, source and formula."""
    answers = {None: "", True: "yes", False: "no"}
    rows: list[tuple[str, ...]] = []
    for row in readings:
        verdict = answers[row.verdict]
        if row.half_verdict is not row.verdict:
            verdict += f" (half: {answers[row.half_verdict] or 'undefined'})"
        rows.append((row.name, _number(row.value), _number(row.half), row.unit, verdict, row.source, row.formula))
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def gauss_rows(gauss: GaussLength) -> Rows:
    """A row for each number of a Gauss length: name, value, unit and meaning."""
    values = {
        "paths": f"{len(gauss.per_example):,}",
        "mean": _number(gauss.mean),
        "standard error": _number(gauss.stderr),
        "last change": _number(gauss.mean_error),
        "under π/2": f"{100 * gauss.share_below_half_pi:.4g}",
        "max_angle under π/2": f"{100 * gauss.share_max_angle_below_half_pi:.4g}",
        "stood still": str(int((gauss.degenerate > 0).sum())),
    }
    return [(name, [values[name]], unit, meaning) for name, (unit, meaning) in GAUSS_MEANINGS.items()]


def certificate_rows(certificate: Certificate) -> Rows:
    """A row for each number of a certificate: name, value, unit and meaning."""
    values = {
        "examples": f"{certificate.examples:,}",
        "lower": _number(certificate.lower),
        "upper": _number(certificate.upper),
        "intervals": str(certificate.intervals),
        "never rises on": f"{100 * certificate.certified_share:.4g}",
        "undecided": str(len(certificate.undecided)),
        "enclosed": str(certificate.evaluations),
        "step of 1/24, at most": _number(certificate.max_step(1 / 24)[1]),
    }
    if certificate.accuracy_low is not None and certificate.accuracy_high is not None:
        unknown = np.diff(certificate.edges) @ (certificate.accuracy_high - certificate.accuracy_low)
        values["decisions known"] = f"{100 * (1 - unknown):.4g}"
    return [
        (name, [values[name]], certificate.unit if unit == "unit" else unit, meaning)
        for name, (unit, meaning) in CERTIFICATE_MEANINGS.items()
        if name in values
    ]
