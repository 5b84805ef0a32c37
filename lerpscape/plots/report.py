"""`report()`: results as one HTML file, with verdicts, figures, explained numbers and metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lerpscape.base.errors import explain
from lerpscape.base.saving import check_writable, write_file
from lerpscape.certificates.results import Certificate
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.plots.number_tables import Rows, certificate_rows, gauss_rows, number_rows, reading_rows
from lerpscape.plots.style import as_svg
from lerpscape.profiles.results import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reported: TypeAlias = Profile | GaussLength | Certificate


@dataclass(frozen=True)
class Section:
    """A section of a report: a title, a text, results along one path, and a further figure with its caption."""

    title: str
    words: str = ""
    results: tuple[Reported, ...] = ()
    figure: Figure | None = None
    caption: str = ""


@dataclass(frozen=True)
class ReadingsTable:
    """Every published reading of one profile, and the sentences about those that disagree."""

    label: str
    sentences: list[str]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """The part of a section about one or several results: verdicts, a figure, a table of numbers, and metadata.

    `verdicts` are (label, sentence, direction), where the direction `falls`, `rises` or `none` determines the colour.
    """

    verdicts: list[tuple[str, str, str]]
    picture: str
    labels: list[str]
    rows: Rows
    how: list[tuple[str, list[tuple[str, str]]]]
    readings: list[ReadingsTable] = field(default_factory=list)


def report(
    items: Sequence[Reported | Section], path: str | Path, *, title: str = "Along the line", tolerance: float = 0.0
) -> Path:
    """Write results into one HTML file, which needs no other files and no network; returns its path.

    Results along the same path, such as profiles on training and held-out data, a Gauss length and a certificate, share
    a section. `tolerance`, in the unit of the loss, is that of the verdicts. The page follows the reader's light or
    dark setting.

    Raises `ValueError` for an empty list, `OSError` if the file cannot be written.

    >>> import lerpscape as ls, tempfile
    >>> line = ls.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    >>> x = torch.ones(4, 1)
    >>> profile = ls.profile(nn.Linear(1, 1, bias=False), line, [(x, x)], loss="squared_error", alphas=5)
    >>> folder = tempfile.TemporaryDirectory()
    >>> report([profile], folder.name + "/report.html").name
    'report.html'
    >>> folder.cleanup()
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    if not items:
        raise ValueError(
            explain(expected="at least one result or section.", got="none.", hint="report([profile], path).")
        )
    check_writable(path)
    environment = Environment(loader=PackageLoader("lerpscape.plots"), autoescape=True, undefined=StrictUndefined)
    environment.filters["svg"] = Markup  # figures come from `as_svg`, in which matplotlib escapes all text
    page = environment.get_template("report.html").render(
        title=title,
        tolerance=tolerance,
        sections=[
            {
                "title": section.title,
                "words": section.words,
                "caption": section.caption,
                "figure": as_svg(section.figure) if section.figure else "",
                "parts": list(_parts(section.results, tolerance)),
            }
            for section in _sections(items)
        ],
    )
    path = Path(path)
    write_file(path, page.encode())
    return path


def _parts(results: Sequence[Reported], tolerance: float) -> Iterator[Part]:
    """One part for all profiles, then one part for each other result."""
    profiles = [result for result in results if isinstance(result, Profile)]
    if profiles:
        yield Part(
            verdicts=[(curve.label, curve.verdict(tolerance), _direction(curve, tolerance)) for curve in profiles],
            picture=as_svg(profiles[0].figure(beside=profiles[1:])),
            labels=[curve.label or "value" for curve in profiles],
            rows=number_rows(profiles),
            how=[(curve.label, _how_profile(curve)) for curve in profiles],
            readings=[_readings_table(curve, tolerance) for curve in profiles if not curve.invalid],
        )
    for result in results:
        if isinstance(result, GaussLength):
            yield Part(
                verdicts=[(result.label, result.summary, "none")],
                picture=as_svg(result.figure()),
                labels=["value"],
                rows=gauss_rows(result),
                how=[(result.label or "Gauss length", _how({"method": result.method} | result.how))],
            )
        elif isinstance(result, Certificate):
            direction = {"monotonic": "falls", "violated": "rises"}.get(result.verdict, "none")
            yield Part(
                verdicts=[("certificate", result.summary, direction)],
                picture=as_svg(result.figure()),
                labels=["value"],
                rows=certificate_rows(result),
                how=[("certificate", _how({"loss": result.loss_name} | result.how))],
            )


def _readings_table(profile: Profile, tolerance: float) -> ReadingsTable:
    readings = profile.readings(tolerance)
    return ReadingsTable(profile.label, readings.sentences(), reading_rows(readings))


def _direction(profile: Profile, tolerance: float) -> str:
    if profile.invalid:
        return "none"
    return "falls" if profile.is_monotonic(tolerance) else "rises"


def _how_profile(profile: Profile) -> list[tuple[str, str]]:
    exact = "exact, by forward-mode differentiation"
    points = f"{len(profile.alphas)} from α = {profile.alphas.min():g} to {profile.alphas.max():g}"
    loss = f"{profile.loss_name}, one value per example, averaged over n = {profile.examples:,} in float64"
    derivative = profile.derivative_reason if profile.derivative is None else exact
    return _how({"points": points, "loss": loss, "derivative": derivative} | profile.how)


def _how(facts: dict[str, Any]) -> list[tuple[str, str]]:
    shown = {name: value for name, value in facts.items() if name != "versions"}
    versions = facts.get("versions", {})
    shown["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    shown["batch_norm"] = shown.get("batch_norm") or "none in this model"
    return [(name.replace("_", " "), str(value)) for name, value in shown.items()]


def _sections(items: Sequence[Reported | Section]) -> list[Section]:
    """The given sections, and a section for the results along each path, in the order in which they first occur."""
    sections: list[Section | str] = []
    by_path: dict[str, list[Reported]] = {}
    for item in items:
        if isinstance(item, Section):
            sections.append(item)
            continue
        path = str(item.how.get("path_digest", id(item)))
        if path not in by_path:
            sections.append(path)
        by_path.setdefault(path, []).append(item)
    return [
        section
        if isinstance(section, Section)
        else Section(title=str(by_path[section][0].how.get("path", "path")), results=tuple(by_path[section]))
        for section in sections
    ]
