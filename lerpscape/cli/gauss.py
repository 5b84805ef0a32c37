"""`lerpscape gauss` and `lerpscape condition`: how far outputs turn, from the command line."""

from __future__ import annotations

from typing import Literal

from lerpscape.cli.arguments import BatchNorm, Device, Json, Switch, alphas_of
from lerpscape.cli.options import NO_PAGE, PLACED, AlongAsked, HowPlaced, OnPage, Output


def gauss_command(
    along: AlongAsked,
    method: Literal["turning", "integral", "polygon"] = "turning",
    alphas: str | None = None,
    tolerance: float | None = 0.01,
    budget: int = 513,
    per: Literal["example", "position"] | None = None,
    placed: HowPlaced = PLACED,
    output: OnPage = NO_PAGE,
) -> None:
    """Measure how far output paths turn along the line between two checkpoints, in radians.

    Args:
        along: Which path.
        method: turning counts kinks; integral is the published estimator, blind to them; polygon needs no derivative.
        alphas: First grid: a number of points, or first:last:count; 33 by default.
        tolerance: The grid is halved until no example changes by more than this (rad); None keeps the first grid.
        budget: The most α that halving may use.
        per: One length per example, or per entry of the outputs' second dimension; positions for sequences.
        placed: How.
        output: Where to.
    """
    from lerpscape.geometry.gauss_length import gauss_length

    output.check()
    model, path, data = along.opened()
    found = gauss_length(
        model,
        path,
        data,
        method=method,
        alphas=None if alphas is None else alphas_of(alphas),
        precision=tolerance,
        budget=budget,
        per=per,
        **placed.choices(data),
    )
    if output.report:
        from lerpscape.plots.report import report

        report([found], output.report, title="Gauss length")
    output.write(found, {"verdict": found.summary, "mean": found.mean} | found.to_dict(), [found.summary])


def condition_command(
    along: AlongAsked,
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
        along: Which path.
        loss: squared_error or mean_squared_error, of targets shaped like the outputs; on others it says nothing.
        alphas: First grid: a number of points, or 0:1:count; 33 by default.
        tolerance: The grid is halved until no example's length changes by more than this (rad).
        budget: The most α that halving may use.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        json_: Print the numbers as JSON.
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.geometry.conditions import sufficient_condition
    from lerpscape.networks.batch_norm import named_policy

    model, path, data = along.opened()
    found = sufficient_condition(
        model,
        path,
        data,
        loss,
        alphas=None if alphas is None else alphas_of(alphas),
        precision=tolerance,
        budget=budget,
        batch_norm=named_policy(batch_norm, data),
        device=device,
        progress=progress,
    )
    shown = {"verdict": found.summary} | found.to_dict()
    Output(json=json_).write(found, shown, [found.table(), found.summary])
