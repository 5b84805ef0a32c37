"""`lerpscape attribute`, `examples` and `policies`: what makes a rise, from the command line."""

from __future__ import annotations

from typing import Any, Literal

from lerpscape.commands.arguments import End, Name, OptionalName, Start, between_of, called
from lerpscape.commands.measured import PRINTED, HowMeasured, Measured, WhereTo
from lerpscape.commands.roads import STRAIGHT, OnRoad

FIFTY = Measured(alphas="50")


def attribute_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    between: str | None = None,
    by: Literal["module", "tensor"] = "module",
    tolerance: float = 1e-2,
    budget: int = 65,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Which layers make a rise: its parts, layer by layer, which add up to it.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        between: The stretch to take apart, a:b; by default the largest rise on the grid of --alphas.
        by: One part per module that owns parameters, or per tensor.
        tolerance: Share of the parts' sizes within which they must add up.
        budget: The most α to integrate on.
        measured: How.
        output: Where to.
    """
    from lerpscape.attribution import layer_contributions
    from lerpscape.plots_attribution import contributions_figure

    output.check()
    built, batches = called(model), called(data)
    found = layer_contributions(
        built,
        road.path(start, end, built),
        batches,
        between=between_of(between),
        by=by,
        tolerance=tolerance,
        budget=budget,
        **measured.choices(batches),
    )
    lines = [f"{part:+12.5g}  {name}" for name, part in found.ranked()]
    output.write(
        {"verdict": found.verdict()} | found.to_dict(),
        found.save,
        lambda: contributions_figure(found),
        [*lines, found.verdict()],
    )


def examples_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    tolerance: float = 0.0,
    most: int = 10,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Which classes and examples rise along the line, and what the average hides.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        tolerance: Rise of one example or class that is forgiven, in the unit of the loss.
        most: How many examples to list, those that raise the mean most.
        measured: How.
        output: Where to; JSON holds every example's curve.
    """
    from lerpscape.examples import example_curves
    from lerpscape.plots_attribution import examples_figure

    output.check()
    built, batches = called(model), called(data)
    found = example_curves(built, road.path(start, end, built), batches, **measured.choices(batches))
    lines = [
        f"class {each.number}: n = {each.examples}, max_rise {each.rise:.4g}, "
        f"{100 * each.share_rising:.3g} % of its examples rise, part of the change {each.part:+.4g}"
        for each in found.by_class(tolerance)
    ]
    lines += [f"example {number}: {part:+.4g}" for number, part in found.ranked(found.stretch)[:most]]
    verdict = found.verdict(tolerance)
    output.write({"verdict": verdict} | found.to_dict(), found.save, lambda: examples_figure(found), [*lines, verdict])


def policies_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    estimate_from: OptionalName = None,
    between: str | None = None,
    tolerance: float = 1e-2,
    budget: int = 65,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Every batch-norm policy in one sweep, and how much of each change is weights and how much statistics.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        estimate_from: Data to estimate statistics from where a policy does; by default DATA.
        between: The stretch to split, a:b; by default each curve's largest rise, or all of it.
        tolerance: Share of the parts' sizes within which they must add up.
        budget: The most α to integrate on.
        measured: How; --batch-norm has no say here.
        output: Where to.
    """
    from lerpscape.plots_attribution import policies_figure
    from lerpscape.policies import batch_norm_sweep

    output.check()
    built, batches = called(model), called(data)
    choices = measured.choices(batches)
    del choices["batch_norm"]
    found = batch_norm_sweep(
        built,
        road.path(start, end, built),
        batches,
        estimate_from=called(estimate_from) if estimate_from else batches,
        between=between_of(between),
        tolerance=tolerance,
        budget=budget,
        **choices,
    )
    output.write(
        {"verdict": found.verdict()} | found.to_dict(),
        found.save,
        lambda: policies_figure(found),
        [*map(_row, found.table()), found.verdict()],
    )


def _row(row: dict[str, Any]) -> str:
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items())
    return ", ".join(shown)
