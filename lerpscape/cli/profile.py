"""`lerpscape profile` and `lerpscape report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lerpscape.cli.arguments import OptionalName, Workers, alphas_of, called, loss_of, print_written, workers_of
from lerpscape.cli.options import NO_PAGE, PLACED, AlongAsked, HowPlaced, OnPage, Page

if TYPE_CHECKING:
    from lerpscape.profiles.results import Profile
    from lerpscape.readings.crosswalk_results import Readings


def profile_command(
    along: AlongAsked,
    held_out: OptionalName = None,
    loss: str = "cross_entropy",
    alphas: str = "50",
    derivative: bool = True,
    precision: float | None = None,
    workers: Workers = "1",
    tolerance: float = 0.0,
    readings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    placed: HowPlaced = PLACED,
    output: OnPage = NO_PAGE,
) -> None:
    """Measure the loss along the line between two checkpoints.

    Args:
        along: Which path.
        held_out: Further data, measured and drawn beside the first.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        alphas: Number of points on [0, 1], first:last:count such as -0.25:1.25:61, or adaptive. With --out, a stopped
            measurement of a fixed grid goes on when the command is repeated.
        derivative: Also dL/dα, exact, for about twice the time more.
        precision: With adaptive alphas, how well the curve is to be known, as a share of its range; 0.001 by default.
        workers: Processes that divide the work, each on one core; or ray (started here, or the cluster of RAY_ADDRESS).
        tolerance: Rise that the verdict forgives, in the unit of the loss.
        readings: Also every published reading with who uses it, on half the grid too, and where they disagree.
        placed: How.
        output: Where to.
    """
    from lerpscape.profiles.profile import profile

    output.check()
    model, path, data = along.opened()
    choices: dict[str, Any] = placed.choices(data) | {
        "loss": loss_of(loss),
        "alphas": alphas if alphas == "adaptive" else alphas_of(alphas),
        "derivative": derivative,
        "precision": precision,
        "workers": workers_of(workers),
    }
    parts = {"train": data} | ({"held-out": called(held_out)} if held_out else {})
    out = output.out if alphas != "adaptive" else None
    unfinished = {label: out.with_name(f"{out.name}.{label}.partial") if out else None for label in parts}
    profiles = [
        profile(model, path, part, label=label, partial=unfinished[label], **choices) for label, part in parts.items()
    ]
    _show(profiles, tolerance, readings, output)
    for file in unfinished.values():
        if file:
            file.unlink(missing_ok=True)


def report_command(
    profiles: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    out: Path = Path("report.html"),
    title: str = "Along the line",
    tolerance: float = 0.0,
) -> None:
    """Gather saved profiles into one HTML page.

    Args:
        profiles: Files written by `lerpscape profile --out`.
        out: The page to write.
        title: Its heading.
        tolerance: Rise that the verdicts forgive, in the unit of the loss.
    """
    from lerpscape.plots.report import report
    from lerpscape.profiles.results import Profile

    print(report([Profile.load(file) for file in profiles], out, title=title, tolerance=tolerance))


def _show(profiles: list[Profile], tolerance: float, readings: bool, output: Page) -> None:
    if output.out:
        profiles[0].save(output.out)
    if output.plot:
        from lerpscape.plots.style import save_figure

        save_figure(profiles[0].figure(beside=profiles[1:]), str(output.plot))
    if output.report:
        from lerpscape.plots.report import report

        report(profiles, output.report, tolerance=tolerance)
    if output.json:
        verdicts = [
            {"label": each.label, "verdict": each.verdict(tolerance), "tolerance": tolerance, **each.to_dict()}
            for each in profiles
        ]
        if readings:
            for shown, each in zip(verdicts, profiles, strict=True):
                shown["readings"] = each.readings(tolerance).to_dict()
        print(json.dumps(verdicts, allow_nan=False))
        return
    print_table(profiles)
    for each in profiles:
        print(f"{each.label}: {each.verdict(tolerance)}")
        if readings:
            print_readings(each.readings(tolerance))
    print_written(*output.files)


def print_table(profiles: list[Profile] | tuple[Profile, ...]) -> None:
    """Print the readings of profiles side by side."""
    from rich.console import Console
    from rich.table import Table

    from lerpscape.plots.number_tables import number_rows

    table = Table(box=None, pad_edge=False)
    for heading in ("", *(each.label or "value" for each in profiles), "unit"):
        table.add_column(heading)
    for name, values, unit, _ in number_rows(profiles):
        table.add_row(name, *values, unit)
    Console().print(table)


def print_readings(found: Readings) -> None:
    """Print every reading of one profile, and where definitions disagree."""
    from rich.console import Console
    from rich.table import Table

    from lerpscape.plots.number_tables import reading_rows

    table = Table(box=None, pad_edge=False)
    for heading in ("reading", "value", f"half: {found.half_points}", "unit", "verdict", "who uses it"):
        table.add_column(heading, no_wrap=heading in ("reading", "unit"))
    for *shown, _ in reading_rows(found):
        table.add_row(*shown)
    Console().print(table)
    for sentence in found.sentences():
        print(sentence)
