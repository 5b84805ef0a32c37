"""`lerpscape attribute`, `examples` and `policies`: what makes a rise, from the command line."""

from __future__ import annotations

import json
from typing import Any, Literal

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
    between_of,
    called,
    dtype_of,
    named,
    policy_of,
    print_written,
    require_writable,
)


def attribute_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    loss: str = "cross_entropy",
    between: str | None = None,
    by: Literal["module", "tensor"] = "module",
    alphas: int = 50,
    tolerance: float = 1e-2,
    budget: int = 65,
    batch_norm: BatchNorm = None,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Which layers make a rise: its parts, layer by layer, which add up to it.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        between: The stretch to take apart, a:b; by default the largest rise.
        by: One part per module that owns parameters, or per tensor.
        alphas: Points on which the largest rise is looked for.
        tolerance: Share of the parts' sizes within which they must add up.
        budget: The most α to integrate on.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        out: File for the result (JSON).
        plot: File for the picture (svg, pdf, png).
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.attribution import layer_contributions
    from lerpscape.paths import Line

    require_writable(out, plot)
    measured = called(data)
    found = layer_contributions(
        called(model),
        Line(start, end),
        measured,
        loss=named(loss) if ":" in loss else loss,
        between=between_of(between),
        by=by,
        alphas=alphas,
        tolerance=tolerance,
        budget=budget,
        batch_norm=policy_of(batch_norm, measured),
        device=device,
        dtype=dtype_of(dtype),
        progress=progress,
    )
    if out:
        found.save(out)
    if plot:
        from lerpscape.plots import save_figure
        from lerpscape.plots_attribution import contributions_figure

        save_figure(contributions_figure(found), str(plot))
    if json_:
        print(json.dumps({"verdict": found.verdict(), **found.to_dict()}, allow_nan=False))
        return
    for name, part in found.ranked():
        print(f"{part:+12.5g}  {name}")
    print(found.verdict())
    print_written(out, plot)


def examples_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    loss: str = "cross_entropy",
    alphas: str = "50",
    tolerance: float = 0.0,
    most: int = 10,
    batch_norm: BatchNorm = None,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Which classes and examples rise along the line, and what the average hides.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        alphas: Number of points on [0, 1], or first:last:count.
        tolerance: Rise of one example or class that is forgiven, in the unit of the loss.
        most: How many examples to list, those that raise the mean most.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON, every example's curve among them.
        out: File for the result (JSON).
        plot: File for the picture (svg, pdf, png).
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.examples import example_curves
    from lerpscape.paths import Line

    require_writable(out, plot)
    measured = called(data)
    found = example_curves(
        called(model),
        Line(start, end),
        measured,
        loss=named(loss) if ":" in loss else loss,
        alphas=alphas_of(alphas),
        batch_norm=policy_of(batch_norm, measured),
        device=device,
        dtype=dtype_of(dtype),
        progress=progress,
    )
    if out:
        found.save(out)
    if plot:
        from lerpscape.plots import save_figure
        from lerpscape.plots_attribution import examples_figure

        save_figure(examples_figure(found), str(plot))
    if json_:
        print(json.dumps({"verdict": found.verdict(tolerance), **found.to_dict()}, allow_nan=False))
        return
    for each in found.by_class(tolerance):
        print(
            f"class {each.number}: n = {each.examples}, max_rise {each.rise:.4g}, "
            f"{100 * each.share_rising:.3g} % of its examples rise, part of the change {each.part:+.4g}"
        )
    for number, part in found.ranked(found.stretch)[:most]:
        print(f"example {number}: {part:+.4g}")
    print(found.verdict(tolerance))
    print_written(out, plot)


def policies_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    estimate_from: OptionalName = None,
    loss: str = "cross_entropy",
    between: str | None = None,
    alphas: str = "50",
    tolerance: float = 1e-2,
    budget: int = 65,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    plot: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Every batch-norm policy in one sweep, and how much of each change is weights and how much statistics.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        estimate_from: Data to estimate statistics from where a policy does; by default DATA.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        between: The stretch to split, a:b; by default each curve's largest rise, or all of it.
        alphas: Number of points on [0, 1], or first:last:count.
        tolerance: Share of the parts' sizes within which they must add up.
        budget: The most α to integrate on.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        plot: File for the picture (svg, pdf, png).
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.paths import Line
    from lerpscape.policies import batch_norm_sweep

    require_writable(plot)
    measured = called(data)
    found = batch_norm_sweep(
        called(model),
        Line(start, end),
        measured,
        estimate_from=called(estimate_from) if estimate_from else measured,
        loss=named(loss) if ":" in loss else loss,
        between=between_of(between),
        alphas=alphas_of(alphas),
        tolerance=tolerance,
        budget=budget,
        device=device,
        dtype=dtype_of(dtype),
        progress=progress,
    )
    if plot:
        from lerpscape.plots import save_figure
        from lerpscape.plots_attribution import policies_figure

        save_figure(policies_figure(found), str(plot))
    if json_:
        print(json.dumps({"verdict": found.verdict(), **found.to_dict()}, allow_nan=False))
        return
    _print_rows(found.table())
    print(found.verdict())
    print_written(plot)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    headings = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "policy")
    for row in rows:
        cells = [row.get(heading, "–") for heading in headings]
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console().print(table)
