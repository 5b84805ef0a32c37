"""`lerpscape attribute`, `examples` and `policies`: what makes a rise, from the command line."""

from __future__ import annotations

from typing import Any, Literal

from lerpscape.cli.arguments import OptionalName, between_of, called
from lerpscape.cli.options import PRINTED, AlongAsked, HowMeasured, Measured, WhereTo

FIFTY = Measured(alphas="50")


def attribute_command(
    along: AlongAsked,
    between: str | None = None,
    by: Literal["module", "tensor"] = "module",
    tolerance: float = 1e-2,
    budget: int = 65,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Which layers make a rise: its parts, layer by layer, which add up to it.

    Args:
        along: Which path.
        between: The stretch to take apart, a:b; by default the largest rise on the grid of --alphas.
        by: One part per module that owns parameters, or per tensor.
        tolerance: Share of the parts' sizes within which they must add up.
        budget: The most α to integrate on.
        measured: How.
        output: Where to.
    """
    from lerpscape.studies.attribution import layer_contributions

    output.check()
    model, path, data = along.opened()
    stretch, choices = between_of(between), measured.choices(data)
    found = layer_contributions(
        model, path, data, between=stretch, by=by, precision=tolerance, budget=budget, **choices
    )
    lines = [f"{part:+12.5g}  {name}" for name, part in found.ranked()]
    output.write(found, {"verdict": found.summary} | found.to_dict(), [*lines, found.summary])


def examples_command(
    along: AlongAsked,
    tolerance: float = 0.0,
    most: int = 10,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Which classes and examples rise along the line, and what the average hides.

    Args:
        along: Which path.
        tolerance: Rise of one example or class that is forgiven, in the unit of the loss.
        most: How many examples to list, those that raise the mean most.
        measured: How.
        output: Where to; JSON holds every example's curve.
    """
    from lerpscape.profiles.examples import example_curves

    output.check()
    model, path, data = along.opened()
    found = example_curves(model, path, data, **measured.choices(data))
    lines = [
        f"class {each.number}: n = {each.examples}, max_rise {each.rise:.4g}, "
        f"{100 * each.share_rising:.3g} % of its examples rise, part of the change {each.part:+.4g}"
        for each in found.by_class(tolerance)
    ]
    lines += [f"example {number}: {part:+.4g}" for number, part in found.ranked(found.interval)[:most]]
    verdict = found.verdict(tolerance)
    output.write(found, {"verdict": verdict} | found.to_dict(), [*lines, verdict])


def policies_command(
    along: AlongAsked,
    estimate_from: OptionalName = None,
    between: str | None = None,
    tolerance: float = 1e-2,
    budget: int = 65,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Every batch-norm policy in one sweep, and how much of each change is weights and how much statistics.

    Args:
        along: Which path.
        estimate_from: Data to estimate statistics from where a policy does; by default DATA.
        between: The stretch to split, a:b; by default each curve's largest rise, or all of it.
        tolerance: Share of the parts' sizes within which they must add up.
        budget: The most α to integrate on.
        measured: How; --batch-norm has no say here.
        output: Where to.
    """
    from lerpscape.base.saving import to_json
    from lerpscape.studies.batch_norm_sweeps import batch_norm_sweep

    output.check()
    model, path, data = along.opened()
    choices = measured.choices(data) | {"between": between_of(between), "precision": tolerance, "budget": budget}
    del choices["batch_norm"]
    source = called(estimate_from) if estimate_from else data
    found = batch_norm_sweep(model, path, data, estimate_from=source, **choices)
    shown = {"verdict": found.summary} | {each.name: to_json(each) for each in found}
    output.write(found, shown, [*map(_row, found.table()), found.summary])


def _row(row: dict[str, Any]) -> str:
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items())
    return ", ".join(shown)
