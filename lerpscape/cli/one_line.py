"""The studies of one path: verdict, examples, attribute, batch-norm, plateaus, scale."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from lerpscape.base.errors import explain
from lerpscape.cli.arguments import (
    Between,
    OptionalInt,
    OptionalName,
    OptionalText,
    Workers,
    alphas_of,
    between_of,
    called,
    optional,
    workers_of,
)
from lerpscape.cli.options import HERE, EndArguments, OutputOptions, PathArguments, ProfileOptions, StudyOptions


def verdict_command(
    network: Annotated[PathArguments, HERE],
    tolerance: float,
    confidence: float = 0.99,
    bounds: Annotated[tuple[float, float] | None, optional("LOW HIGH")] = None,
    first: int = 1024,
    budget: OptionalInt = None,
    seed: int = 0,
    workers: Workers = "1",
    measurement: ProfileOptions = ProfileOptions(alphas="50"),
    output: OutputOptions = OutputOptions(),
) -> None:
    r"""Decide from few examples whether the loss rises.

    Measures a growing random sample of the examples until the answer has the confidence asked for.

    Args:
        network: The network, its data and the path.
        tolerance: Largest increase that still counts as monotonic, in the unit of the loss.
        confidence: Least probability that the answer is right, over the random order of the examples.
        bounds: Smallest and largest possible loss of one example; the confidence then holds for any number of examples.
        first: Examples at the first interim analysis; each further one has twice as many.
        budget: Largest number of examples; by default all.
        seed: Seed of the random order.
        workers: Processes that divide the work.
        measurement: How the line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study verdict init.pt final.pt --model nets:build --data loaders:train --tolerance 0.01
        lerpscape study verdict init.pt final.pt --model nets:build --data loaders:train --tolerance 0.05 \
            --confidence 0.999 --plot verdict.svg
    """
    from lerpscape.profiles.sequential import sequential_verdict

    output.require_writable()
    model, path, data = network.load_path()
    verdict = sequential_verdict(
        model,
        path,
        data,
        tolerance=tolerance,
        confidence=confidence,
        bounds=bounds,
        first=first,
        budget=budget,
        seed=seed,
        workers=workers_of(workers),
        **network.keywords(measurement, data),
    )
    output.write_summary(verdict)


def attribute_command(
    network: Annotated[PathArguments, HERE],
    between: Between = None,
    by: Literal["module", "block", "tensor"] = "module",
    precision: float = 1e-2,
    budget: int = 65,
    measurement: ProfileOptions = ProfileOptions(alphas="50"),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Split a rise of the loss into one part for each layer.

    The parts add up to the change of the loss between two α.

    Args:
        network: The network, its data and the path.
        between: The two α; by default those of the largest rise on the grid of --alphas.
        by: One part for each module that owns parameters, each block (such as a transformer's), or each tensor.
        precision: Halve the grid until the parts add up to within this share of Σ |parts|.
        budget: Largest number of α to integrate over.
        measurement: How the line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study attribute init.pt final.pt --model nets:build --data loaders:train --plot layers.svg
        lerpscape study attribute init.pt final.pt --model nets:build --data loaders:train --between 0:1 --by tensor
    """
    from lerpscape.studies.attribution import layer_contributions

    output.require_writable()
    model, path, data = network.load_path()
    interval, keywords = between_of(between), network.keywords(measurement, data)
    contributions = layer_contributions(
        model, path, data, between=interval, by=by, precision=precision, budget=budget, **keywords
    )
    lines = [f"{part:+12.5g}  {name}" for name, part in contributions.ranked()]
    summary = contributions.summary
    output.write(contributions, {"verdict": summary} | contributions.to_dict(), [*lines, summary])


def examples_command(
    network: Annotated[PathArguments, HERE],
    tolerance: float = 0.0,
    most: int = 10,
    measurement: ProfileOptions = ProfileOptions(alphas="50"),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Find the classes and examples whose loss rises.

    Args:
        network: The network, its data and the path.
        tolerance: Largest increase of one example or class that still counts as monotonic, in the unit of the loss.
        most: Number of examples to list: those that contribute most to a rise of the mean.
        measurement: How the line is measured.
        output: Where the result goes; --json and --out have the curve of each example.

    Examples:
        lerpscape study examples init.pt final.pt --model nets:build --data loaders:train --plot classes.svg
    """
    from lerpscape.profiles.examples import example_curves

    output.require_writable()
    model, path, data = network.load_path()
    curves = example_curves(model, path, data, **network.keywords(measurement, data))
    lines = [
        f"class {group.number}: n = {group.examples}, max_rise {group.rise:.4g}, "
        f"{100 * group.share_rising:.3g} % of its examples rise, part of the change {group.part:+.4g}"
        for group in curves.by_class(tolerance)
    ]
    lines += [f"example {number}: {part:+.4g}" for number, part in curves.ranked(curves.interval)[:most]]
    verdict = curves.verdict(tolerance)
    output.write(curves, {"verdict": verdict} | curves.to_dict(), [*lines, verdict])


def batch_norm_command(
    network: Annotated[PathArguments, HERE],
    estimate_from: OptionalName = None,
    between: Between = None,
    precision: float = 1e-2,
    budget: int = 65,
    measurement: StudyOptions = StudyOptions(alphas="50"),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure the line with every kind of batch-norm statistics.

    Splits the change of each curve into the part of the weights and the part of the statistics.

    Args:
        network: The network, its data and the path.
        estimate_from: Data that recalibrate and pooled estimate statistics from; by default DATA.
        between: The two α of the change; by default those of each curve's largest rise, or 0:1 if it never rises.
        precision: Halve the grid until the parts add up to within this share of Σ |parts|.
        budget: Largest number of α to integrate over.
        measurement: How the line is measured; without --batch-norm.
        output: Where the result goes.

    Examples:
        lerpscape study batch-norm init.pt final.pt --model nets:build --data loaders:train --plot statistics.svg
    """
    from lerpscape.base.saving import to_json
    from lerpscape.studies.batch_norm_sweeps import batch_norm_sweep

    if measurement.device.batch_norm:
        raise ValueError(
            explain(
                expected="no --batch-norm: this study measures every kind.",
                got=f"--batch-norm {measurement.device.batch_norm}.",
                hint="Leave it out, or use `lerpscape profile` for one kind.",
            )
        )
    output.require_writable()
    model, path, data = network.load_path()
    source = called(estimate_from) if estimate_from else network.statistics(data)
    keywords = network.keywords(measurement, data) | {
        "between": between_of(between),
        "precision": precision,
        "budget": budget,
    }
    sweep = batch_norm_sweep(model, path, data, estimate_from=source, **keywords)
    shown = {"verdict": sweep.summary} | {policy.name: to_json(policy) for policy in sweep}
    output.write(sweep, shown, [*map(_row, sweep.table()), sweep.summary])


def _row(row: dict[str, Any]) -> str:
    cells = (value if isinstance(value, str) else f"{name} {value:.4g}" for name, value in row.items())
    return ", ".join(cells)


def plateaus_command(
    network: Annotated[EndArguments, HERE],
    eps: float = 0.05,
    degree: OptionalInt = None,
    last_layer: OptionalText = None,
    measurement: StudyOptions = StudyOptions(alphas="101"),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Predict plateaus of the loss from the last layer's biases.

    Also measures the line without biases, and with the biases of layer h interpolated with α to the power h.

    Args:
        network: The network and its ends.
        eps: A curve is on its plateau while it is within this share of its drop from the start.
        degree: Number of layers with weights; by default counted by tracing the network.
        last_layer: Module whose bias has one entry per class; by default the last such module.
        measurement: How each line is measured.
        output: Where the result goes; --out has the plateau ends of the examples.

    Examples:
        lerpscape study plateaus init.pt final.pt --model nets:build --data loaders:train --plot plateaus.svg
    """
    from lerpscape.paths.line import Line
    from lerpscape.studies.biases import bias_study
    from lerpscape.studies.plateaus import plateau_ends

    output.require_writable()
    (model, data), line = network.load(), Line(*network.ends())
    traced = {"alphas": alphas_of(measurement.alphas), "degree": degree, "last_layer": last_layer}
    plateaus = plateau_ends(model, line, data, **traced, **measurement.device.keywords(network.statistics(data)))
    biases = bias_study(model, line, data, eps=eps, **network.keywords(measurement, data)) if degree is None else None
    lines = [
        f"class {row['class']:.0f}: n = {row['examples']:.0f}, bias {row['bias']:+.3g}, signal over the best other "
        f"{row['signal_margin']:+.3g}, plateau to {row['predicted']:.3g} predicted, {row['observed']:.3g} observed"
        for row in plateaus.by_class()
    ]
    lines.append(plateaus.summary)
    shown = {"verdict": plateaus.summary} | plateaus.to_dict()
    if biases:
        shown |= {"biases": {"eps": eps} | {variant.name: variant.profile.to_dict() for variant in biases}}
        lines += [
            f"{row['variant']}: error plateau {row['error_plateau']:.3g}, loss plateau {row['loss_plateau']:.3g}"
            for row in biases.table()
        ]
        lines.append(biases.summary)
    output.write(plateaus, shown, lines, biases=biases)


def scale_command(
    network: Annotated[EndArguments, HERE],
    seed: int = 0,
    measurement: StudyOptions = StudyOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Does the trained network alone determine the prediction?

    Compares the lines to END from START, from noise and from zero.

    Args:
        network: The network and its ends.
        seed: Seed of the noise.
        measurement: How each line is measured; a number of --alphas is spaced evenly on (0, 1].
        output: Where the result goes.

    Examples:
        lerpscape study scale init.pt final.pt --model nets:build --data loaders:train --plot scale.svg
    """
    from lerpscape.studies.scaling import scale_invariance

    output.require_writable()
    model, data = network.load()
    comparison = scale_invariance(model, *network.ends(), data, seed=seed, **network.keywords(measurement, data))
    lines = ["start: error (%) and agreement with the end (%) at the first, middle and last α"]
    for curve in comparison:
        at = (0, len(comparison.alphas) // 2, -1)
        cells = "; ".join(f"{100 * curve.error[i]:.4g}, {100 * curve.agreement[i]:.4g}" for i in at)
        lines.append(f"{curve.name}: {cells}")
    output.write(comparison, {"verdict": comparison.summary} | comparison.to_dict(), [*lines, comparison.summary])
