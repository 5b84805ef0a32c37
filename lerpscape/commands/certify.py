"""`lerpscape certify`: a proof over every α."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, cast

from lerpscape.commands.arguments import (
    End,
    Json,
    Name,
    OptionalFile,
    Start,
    Switch,
    called,
    policy_of,
    print_written,
    require_writable,
)
from lerpscape.commands.roads import STRAIGHT, OnRoad

if TYPE_CHECKING:
    from lerpscape.paths import Line


def certify_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    loss: Literal["cross_entropy", "squared_error", "mean_squared_error", "binary_cross_entropy"] = "cross_entropy",
    tolerance: float = 0.0,
    budget: int = 500,
    batch_norm: Literal["interpolate", "end"] | None = None,
    json_: Json = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    report: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Prove how much the loss can rise along the line, over every α and not only on a grid.

    Args:
        start: Checkpoint at α = 0.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets).
        road: Which path; only straight ones can be certified.
        loss: What the certificate is of.
        tolerance: Rise that the verdict forgives, in the unit of the loss.
        budget: Most intervals to enclose.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        json_: Print the certificate as JSON.
        out: File for the certificate (JSON).
        plot: File for the picture (svg, pdf, png).
        report: File for the HTML report.
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.certification import certify

    require_writable(out, plot, report)
    built = called(model)
    found = certify(
        built,
        cast("Line", road.path(start, end, built)),  # certify refuses what is bent
        called(data),
        loss=loss,
        tolerance=tolerance,
        budget=budget,
        batch_norm=policy_of(batch_norm, None),
        progress=progress,
    )
    if out:
        found.save(out)
    if plot:
        from lerpscape.plots import certificate_figure, save_figure

        save_figure(certificate_figure(found), str(plot))
    if report:
        from lerpscape.reports import report as write_report

        write_report([found], report, title="A proof", tolerance=tolerance)
    if json_:
        print(json.dumps(found.to_dict(), allow_nan=False))
        return
    print(found.summary)
    print_written(out, plot, report)
