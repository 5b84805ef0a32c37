"""`lerpscape gauss` and `lerpscape condition`: how far outputs turn, from the command line."""

from __future__ import annotations

import json
from typing import Literal

from lerpscape.commands.arguments import (
    BatchNorm,
    Device,
    Dtype,
    End,
    Json,
    Name,
    OptionalFile,
    Start,
    Switch,
    alphas_of,
    called,
    dtype_of,
    policy_of,
    print_written,
    require_writable,
)
from lerpscape.commands.roads import STRAIGHT, OnRoad


def gauss_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    method: Literal["turning", "integral", "polygon"] = "turning",
    alphas: str | None = None,
    tolerance: float | None = 0.01,
    budget: int = 513,
    per: Literal["example", "position"] | None = None,
    batch_norm: BatchNorm = None,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    report: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Measure how far output paths turn along the line between two checkpoints, in radians.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        method: turning counts kinks; integral is the published estimator, blind to them; polygon needs no derivative.
        alphas: First grid: a number of points, or first:last:count; 33 by default.
        tolerance: The grid is halved until no example changes by more than this (rad); None keeps the first grid.
        budget: The most α that halving may use.
        per: One length per example, or per entry of the outputs' second dimension; positions for sequences.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        out: File for the result (JSON).
        plot: File for the picture (svg, pdf, png).
        report: File for the HTML report.
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.gauss import gauss_length

    require_writable(out, plot, report)
    built, measured = called(model), called(data)
    path = road.path(start, end, built)
    found = gauss_length(
        built,
        path,
        measured,
        method=method,
        alphas=None if alphas is None else alphas_of(alphas),
        tolerance=tolerance,
        budget=budget,
        per=per,
        batch_norm=policy_of(batch_norm, measured),
        device=device,
        dtype=dtype_of(dtype),
        progress=progress,
    )
    if out:
        found.save(out)
    if plot:
        from lerpscape.plots import save_figure
        from lerpscape.plots_gauss import gauss_figure

        save_figure(gauss_figure([found]), str(plot))
    if report:
        from lerpscape.reports import report as write_report

        write_report([found], report, title="Gauss length")
    if json_:
        print(json.dumps({"verdict": found.verdict(), "mean": found.mean, **found.to_dict()}, allow_nan=False))
        return
    print(found.verdict())
    print_written(out, plot, report)


def condition_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    loss: str = "squared_error",
    alphas: str | None = None,
    tolerance: float | None = 0.01,
    budget: int = 513,
    batch_norm: BatchNorm = None,
    device: Device = None,
    json_: Json = False,
    progress: Switch = None,
) -> None:
    """Compare the sufficient condition for a falling squared error with what each example's error does.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: batches of (inputs, targets) with targets shaped like the outputs.
        road: Which path.
        loss: squared_error or mean_squared_error; the condition says nothing about others.
        alphas: First grid: a number of points, or 0:1:count; 33 by default.
        tolerance: The grid is halved until no example's length changes by more than this (rad).
        budget: The most α that halving may use.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        json_: Print the numbers as JSON.
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.conditions import sufficient_condition

    built, measured = called(model), called(data)
    path = road.path(start, end, built)
    found = sufficient_condition(
        built,
        path,
        measured,
        loss,
        alphas=None if alphas is None else alphas_of(alphas),
        tolerance=tolerance,
        budget=budget,
        batch_norm=policy_of(batch_norm, measured),
        device=device,
        progress=progress,
    )
    if json_:
        print(json.dumps({"verdict": found.verdict(), **found.to_dict()}, allow_nan=False))
        return
    print(found.table())
    print(found.verdict())
