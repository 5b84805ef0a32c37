"""`lerpscape report`, and profiles as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lerpscape.cli.arguments import Files, print_written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lerpscape.profiles.results import Profile
    from lerpscape.readings.results import Readings


def report_command(
    profiles: Files,
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html"),
    title: str = "Along the line",
    tolerance: float = 0.0,
) -> None:
    """Collect saved profiles in one HTML page.

    Args:
        profiles: Profiles written by `lerpscape profile --out`.
        out: The page to write.
        title: Heading of the page.
        tolerance: Largest increase that still counts as monotonic, in the unit of the loss.

    Examples:
        lerpscape report lerpscape-demo/plain-train.json lerpscape-demo/plain-held-out.json --out both.html
    """
    from lerpscape.plots.report import report
    from lerpscape.profiles.results import Profile

    print_written(report([Profile.load(file) for file in profiles], out, title=title, tolerance=tolerance))


def print_profiles(profiles: Sequence[Profile]) -> None:
    """Print the readings of profiles side by side."""
    from lerpscape.plots.number_tables import number_rows

    headings = ("", *(profile.label or "value" for profile in profiles), "unit")
    _print_table(headings, ((name, *values, unit) for name, values, unit, _ in number_rows(profiles)))


def print_readings(readings: Readings) -> None:
    """Print every reading of one profile, and where definitions disagree."""
    from lerpscape.plots.number_tables import reading_rows

    headings = ("reading", "value", f"half: {readings.half_points}", "unit", "verdict", "who uses it")
    _print_table(headings, (row[:-1] for row in reading_rows(readings)), no_wrap=("reading", "unit"))
    for sentence in readings.sentences():
        print(sentence)


def _print_table(headings: Iterable[str], rows: Iterable[Sequence[str]], no_wrap: Sequence[str] = ()) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in no_wrap)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
