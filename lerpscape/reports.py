"""Results as one HTML file that explains itself: verdict, picture, numbers, and how they were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lerpscape.partial import check_writable
from lerpscape.plots import as_svg, profile_figure
from lerpscape.profiles import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, words, profiles along one path, and a further picture."""

    title: str
    words: str = ""
    profiles: tuple[Profile, ...] = ()
    figure: Figure | None = None
    caption: str = ""


def report(
    items: Sequence[Profile | Section], path: str | Path, *, title: str = "Along the line", tolerance: float = 0.0
) -> Path:
    """Write results into one self-contained HTML file; returns its path.

    Profiles along the same path (training and held-out data, say) share a section. The file needs no network, follows
    the reader's light or dark setting, and prints the tolerance of its verdicts, which has the unit of the loss.

    Raises `ValueError` for nothing to report, `OSError` where the file cannot be written.

    >>> import lerpscape as ls, tempfile
    >>> line = ls.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    >>> x = torch.ones(4, 1)
    >>> found = ls.profile(nn.Linear(1, 1, bias=False), line, [(x, x)], loss="squared_error", alphas=5)
    >>> folder = tempfile.TemporaryDirectory()
    >>> report([found], folder.name + "/report.html").name
    'report.html'
    >>> folder.cleanup()
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    if not items:
        raise ValueError("expected: at least one profile or section.\ngot: none.\ntry: report([profile], path).")
    check_writable(path)
    sections = _sections(items)
    environment = Environment(loader=PackageLoader("lerpscape"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html").render(
        title=title,
        tolerance=tolerance,
        sections=[
            {
                "title": each.title,
                "words": each.words,
                "caption": each.caption,
                "verdicts": [(p.label, p.verdict(tolerance), _mood(p, tolerance)) for p in each.profiles],
                "curves": Markup(as_svg(profile_figure(each.profiles))) if each.profiles else "",  # noqa: S704
                "figure": Markup(as_svg(each.figure)) if each.figure else "",  # noqa: S704
                "labels": [p.label or "value" for p in each.profiles],
                "rows": number_rows(each.profiles) if each.profiles else [],
                "how": [(p.label, _how(p)) for p in each.profiles],
            }
            for each in sections
        ],
    )
    path = Path(path)
    path.write_text(page)
    return path


def number_rows(profiles: Sequence[Profile]) -> list[tuple[str, list[str], str, str]]:
    """The table of numbers: name, one value per profile, unit, and what the number means."""
    columns = [_numbers(each) for each in profiles]
    rows = []
    for name, (unit, meaning) in MEANINGS.items():
        values = [column.get(name, "–") for column in columns]
        if any(value != "–" for value in values):
            rows.append((name, values, profiles[0].unit if unit == "unit" else unit, meaning))
    return rows


def _numbers(each: Profile) -> dict[str, str]:
    found = {"examples": f"{each.examples:,}"}
    for end in (0.0, 1.0):
        here = [i for i, alpha in enumerate(each.alphas) if alpha == end]
        if here:
            found[f"loss at α = {end:.0f}"] = _number(float(each.loss[here[0]]))
            if each.accuracy is not None:
                found[f"accuracy at α = {end:.0f}"] = f"{100 * each.accuracy[here[0]]:.2f}"
    if each.invalid:
        return found
    found |= {name: "undefined" if value is None else _number(value) for name, value in each.readings().items()}
    if each.examples > 1:
        interval = each.rise_interval()
        found["95 % interval"] = f"{_number(interval.lower)} to {_number(interval.upper)}"
        found["p-value"] = f"{interval.p_value:.3g}"
    found["rises"] = str(len(each.rises))
    if each.derivative is not None:
        largest = max((rise.estimate for rise in each.hidden_rises), default=0.0)
        found["hidden rises"] = f"{len(each.hidden_rises)}" + (f" (≤ about {largest:.2g})" if largest else "")
    return found


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def _mood(each: Profile, tolerance: float) -> str:
    if each.invalid:
        return "none"
    return "falls" if each.is_monotonic(tolerance) else "rises"


def _how(each: Profile) -> list[tuple[str, str]]:
    how = {
        "points": f"{len(each.alphas)} from α = {each.alphas.min():g} to {each.alphas.max():g}",
        "loss": f"{each.loss_name}, one value per example, averaged over n = {each.examples:,} in float64",
        "derivative": "exact, by forward-mode differentiation"
        if each.derivative is not None
        else each.derivative_reason,
        **each.how,
    }
    versions = how.pop("versions", {})
    how["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    how["batch_norm"] = how.get("batch_norm") or "none in this model"
    return [(name.replace("_", " "), str(value)) for name, value in how.items()]


def _sections(items: Sequence[Profile | Section]) -> list[Section]:
    """Sections as they are; profiles of one path gathered into one, in the order of their first."""
    sections: list[Section | str] = []
    groups: dict[str, list[Profile]] = {}
    for item in items:
        if isinstance(item, Section):
            sections.append(item)
            continue
        key = str(item.how.get("path_digest", id(item)))
        if key not in groups:
            sections.append(key)
        groups.setdefault(key, []).append(item)
    return [
        each
        if isinstance(each, Section)
        else Section(title=str(groups[each][0].how.get("path", "path")), profiles=tuple(groups[each]))
        for each in sections
    ]
