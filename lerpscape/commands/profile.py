"""`lerpscape profile` and `lerpscape report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lerpscape.commands.arguments import (
    BatchNorm,
    Device,
    Dtype,
    End,
    Json,
    Name,
    OptionalFile,
    OptionalName,
    Start,
    Switch,
    alphas_of,
    called,
    dtype_of,
    print_written,
    require_writable,
)
from lerpscape.commands.roads import STRAIGHT, OnRoad
from lerpscape.names import named

if TYPE_CHECKING:
    from lerpscape.crosswalk import Readings
    from lerpscape.profiles import Profile


def profile_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    held_out: OptionalName = None,
    loss: str = "cross_entropy",
    alphas: str = "50",
    batch_norm: BatchNorm = None,
    derivative: bool = True,
    precision: float = 1e-3,
    workers: int = 1,
    tolerance: float = 0.0,
    readings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    report: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Measure the loss along the line between two checkpoints.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        held_out: Further data, measured and drawn beside the first.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        alphas: Number of points on [0, 1], first:last:count such as -0.25:1.25:61, or adaptive.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm. Recalibrate and
            pooled estimate statistics anew at every α from DATA.
        derivative: Also dL/dα, exact, for about twice the time more.
        precision: With adaptive alphas, how well the curve is to be known, as a share of its range (an estimate).
        workers: Processes that divide the work, each on one core.
        tolerance: Rise that the verdict forgives, in the unit of the loss.
        readings: Also every published reading with who uses it, on half the grid too, and where they disagree.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        out: File for the profile of DATA (JSON). A stopped measurement of fixed alphas goes on when
            the command is repeated.
        plot: File for the picture (svg, pdf, png).
        report: File for the HTML report.
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.batch_norm import named_policy
    from lerpscape.measure import profile

    require_writable(out, plot, report)
    built = called(model)
    path = road.path(start, end, built)
    choices: dict[str, Any] = {
        "loss": named(loss) if ":" in loss else loss,
        "alphas": alphas if alphas == "adaptive" else alphas_of(alphas),
        "derivative": derivative,
        "tolerance": precision,
        "workers": workers,
        "device": device,
        "dtype": dtype_of(dtype),
        "progress": progress,
    }
    measured = called(data)
    policy = named_policy(batch_norm, measured)
    parts = {"train": measured} | ({"held-out": called(held_out)} if held_out else {})
    keeping = out is not None and alphas != "adaptive"
    unfinished = {label: out.with_name(f"{out.name}.{label}.partial") if out and keeping else None for label in parts}
    profiles = [
        profile(built, path, part, batch_norm=policy, label=label, partial=unfinished[label], **choices)
        for label, part in parts.items()
    ]
    if out:
        profiles[0].save(out)
    _show(profiles, tolerance, readings=readings, json_=json_, plot=plot, report=report, saved=out)
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
    from lerpscape.profiles import Profile
    from lerpscape.reports import report

    print(report([Profile.load(file) for file in profiles], out, title=title, tolerance=tolerance))


def _show(
    profiles: list[Profile],
    tolerance: float,
    *,
    readings: bool,
    json_: bool,
    plot: Path | None,
    report: Path | None,
    saved: Path | None,
) -> None:
    if plot:
        from lerpscape.plots import profile_figure, save_figure

        save_figure(profile_figure(profiles), str(plot))
    if report:
        from lerpscape.reports import report as write_report

        write_report(profiles, report, tolerance=tolerance)
    if json_:
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
    print_written(saved, plot, report)


def print_table(profiles: list[Profile] | tuple[Profile, ...]) -> None:
    """Print the readings of profiles side by side."""
    from rich.console import Console
    from rich.table import Table

    from lerpscape.readings import number_rows

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

    from lerpscape.readings import reading_rows

    table = Table(box=None, pad_edge=False)
    for heading in ("reading", "value", f"half: {found.half_points}", "unit", "verdict", "who uses it"):
        table.add_column(heading, no_wrap=heading in ("reading", "unit"))
    for *shown, _ in reading_rows(found):
        table.add_row(*shown)
    Console().print(table)
    for sentence in found.sentences():
        print(sentence)
