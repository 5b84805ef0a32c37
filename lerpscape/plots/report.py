"""Results as one HTML file that explains itself: verdict, picture, numbers, and how they were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lerpscape.base.saving import check_writable
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
    """A part of a report: a heading, words, results along one path, and a further picture."""

    title: str
    words: str = ""
    results: tuple[Reported, ...] = ()
    figure: Figure | None = None
    caption: str = ""


@dataclass(frozen=True)
class Crosswalk:
    """Every published reading of one profile, and where they disagree."""

    label: str
    sentences: list[str]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """What a section shows of one kind of result: sentences, a picture, a table, and how it was measured.

    `verdicts` are (label, sentence, mood), the mood being `falls`, `rises` or `none`.
    """

    verdicts: list[tuple[str, str, str]]
    picture: str
    labels: list[str]
    rows: Rows
    how: list[tuple[str, list[tuple[str, str]]]]
    crosswalks: list[Crosswalk] = field(default_factory=list)


def report(
    items: Sequence[Reported | Section], path: str | Path, *, title: str = "Along the line", tolerance: float = 0.0
) -> Path:
    """Write results into one self-contained HTML file; returns its path.

    Results along the same path (profiles of training and held-out data, a Gauss length, a proof) share a section. The
    file needs no network, follows the reader's light or dark setting, and prints the tolerance of its verdicts, which
    has the unit of the loss.

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
        raise ValueError("expected: at least one result or section.\ngot: none.\ntry: report([profile], path).")
    check_writable(path)
    environment = Environment(loader=PackageLoader("lerpscape.plots"), autoescape=True, undefined=StrictUndefined)
    environment.filters["svg"] = Markup  # pictures come from `as_svg`, which escapes what it shows
    page = environment.get_template("report.html").render(
        title=title,
        tolerance=tolerance,
        sections=[
            {
                "title": each.title,
                "words": each.words,
                "caption": each.caption,
                "figure": as_svg(each.figure) if each.figure else "",
                "parts": list(_parts(each.results, tolerance)),
            }
            for each in _sections(items)
        ],
    )
    path = Path(path)
    path.write_text(page)
    return path


def _parts(results: Sequence[Reported], tolerance: float) -> Iterator[Part]:
    """Profiles side by side, then one part for each other result."""
    profiles = [each for each in results if isinstance(each, Profile)]
    if profiles:
        yield Part(
            verdicts=[(each.label, each.verdict(tolerance), _mood(each, tolerance)) for each in profiles],
            picture=as_svg(profiles[0].figure(beside=profiles[1:])),
            labels=[each.label or "value" for each in profiles],
            rows=number_rows(profiles),
            how=[(each.label, _how_profile(each)) for each in profiles],
            crosswalks=[_crosswalk(each, tolerance) for each in profiles if not each.invalid],
        )
    for each in results:
        if isinstance(each, GaussLength):
            yield Part(
                verdicts=[(each.label, each.summary, "none")],
                picture=as_svg(each.figure()),
                labels=["value"],
                rows=gauss_rows(each),
                how=[(each.label or "Gauss length", _how({"method": each.method} | each.how))],
            )
        elif isinstance(each, Certificate):
            mood = {"monotonic": "falls", "violated": "rises"}.get(each.verdict, "none")
            yield Part(
                verdicts=[("certificate", each.summary, mood)],
                picture=as_svg(each.figure()),
                labels=["value"],
                rows=certificate_rows(each),
                how=[("certificate", _how({"loss": each.loss_name} | each.how))],
            )


def _crosswalk(each: Profile, tolerance: float) -> Crosswalk:
    found = each.readings(tolerance)
    return Crosswalk(each.label, found.sentences(), list(reading_rows(found)))


def _mood(each: Profile, tolerance: float) -> str:
    if each.invalid:
        return "none"
    return "falls" if each.is_monotonic(tolerance) else "rises"


def _how_profile(each: Profile) -> list[tuple[str, str]]:
    exact = "exact, by forward-mode differentiation"
    points = f"{len(each.alphas)} from α = {each.alphas.min():g} to {each.alphas.max():g}"
    loss = f"{each.loss_name}, one value per example, averaged over n = {each.examples:,} in float64"
    derivative = each.derivative_reason if each.derivative is None else exact
    return _how({"points": points, "loss": loss, "derivative": derivative} | each.how)


def _how(facts: dict[str, Any]) -> list[tuple[str, str]]:
    shown = {name: value for name, value in facts.items() if name != "versions"}
    versions = facts.get("versions", {})
    shown["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    shown["batch_norm"] = shown.get("batch_norm") or "none in this model"
    return [(name.replace("_", " "), str(value)) for name, value in shown.items()]


def _sections(items: Sequence[Reported | Section]) -> list[Section]:
    """Sections as they are; results along one path gathered into one, in the order of their first."""
    sections: list[Section | str] = []
    groups: dict[str, list[Reported]] = {}
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
        else Section(title=str(groups[each][0].how.get("path", "path")), results=tuple(groups[each]))
        for each in sections
    ]
