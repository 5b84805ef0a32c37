"""`lerpscape profile`, `certify` and `gauss`: the three measurements of one path."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lerpscape.cli.arguments import (
    Flag,
    Loss,
    Metrics,
    OptionalAlphas,
    OptionalFloat,
    Progress,
    Workers,
    alphas_of,
    metrics_of,
    optional,
    print_written,
    workers_of,
)
from lerpscape.cli.options import HERE, DeviceOptions, PathArguments, ReportOptions
from lerpscape.cli.reports import print_profiles, print_readings

if TYPE_CHECKING:
    from lerpscape.profiles.results import Profile


def profile_command(
    network: Annotated[PathArguments, HERE],
    held_out: Annotated[str | None, optional("PACKAGE.MODULE:NAME|FILE")] = None,
    loss: Loss = None,
    alphas: Annotated[str, tyro.conf.arg(metavar="N|FIRST:LAST:N|adaptive")] = "50",
    derivative: Literal["auto", "forward", "backward", "none"] = "auto",
    metrics: Metrics = None,
    precision: OptionalFloat = None,
    workers: Workers = "1",
    tolerance: float = 0.0,
    readings: Flag = False,
    measurement: DeviceOptions = DeviceOptions(),
    output: ReportOptions = ReportOptions(),
) -> None:
    r"""Measure the loss along the path between two checkpoints.

    If a measurement with --out is stopped, the same command continues it (not with --alphas adaptive).

    Args:
        network: The network, its data and the path.
        held_out: A second data set (with --text, a text), drawn beside the first; of --out NAME.json in
            NAME-held-out.json.
        loss: Loss of one example.
        alphas: Number of points on [0, 1], the first and last α and the number of points, or adaptive.
        derivative: The exact derivative dL/dα, by forward mode or backward passes; none saves two thirds of the time.
        metrics: Other numbers in the same pass.
        precision: With --alphas adaptive: largest estimated error of the curve, as a share of its range (0.001).
        workers: Processes that divide the work.
        tolerance: Largest increase that still counts as monotonic, in the unit of the loss.
        readings: Print every published definition of monotonic, who uses it, and where they disagree.
        measurement: How the network is evaluated.
        output: Where the result goes.

    Examples:
        lerpscape profile init.pt final.pt --model nets:build --data loaders:train --plot line.svg
        lerpscape profile a.safetensors b.safetensors --model nets:build --data loaders:train \
            --held-out loaders:test --batch-norm recalibrate --report report.html
        lerpscape profile base/ tuned/ --text legal.txt --held-out news.txt --report report.html
        lerpscape profile base/ base/+adapter/ --text legal.txt
        lerpscape profile a.pt b.pt --model nets:build --data loaders:train --alphas -0.25:1.25:61 --json
        lerpscape profile a.pt b.pt --model nets:build --data loaders:train --alphas adaptive --precision 1e-4
        lerpscape profile a.pt b.pt --model nets:build --data loaders:train --only "layer3.*" --rest end
        lerpscape profile base/ tuned/ --model nets:build --data loaders:text --loss next_token --metrics perplexity
    """
    from lerpscape.profiles.profile import profile

    output.require_writable()
    model, path, sets = network.load_paths(held_out)
    data, *_ = sets
    keywords: dict[str, Any] = network.keywords(measurement, data) | {
        **network.loss(loss),
        "alphas": alphas if alphas == "adaptive" else alphas_of(alphas),
        "derivative": {"auto": True, "none": False}.get(derivative, derivative),
        "metrics": metrics_of(metrics),
        "workers": workers_of(workers),
    }
    if precision is not None:
        keywords["precision"] = precision
    label = keywords.pop("label", "")
    texts = [Path(file).stem for file in (network.text, held_out) if file is not None] if network.text else []
    named = len(set(texts)) == len(sets)  # two texts of one name are told apart by their roles
    parts = dict(zip(texts if named else ("train", "held-out"), sets, strict=False))
    out = output.out if alphas != "adaptive" else None
    unfinished = {part: out.with_name(f"{out.name}.{part}.partial") if out else None for part in parts}
    profiles = [
        profile(model, path, batches, label=f"{label} {part}".strip(), partial=unfinished[part], **keywords)
        for part, batches in parts.items()
    ]
    _write_profiles(profiles, tolerance, readings, output)
    for file in unfinished.values():
        if file:
            file.unlink(missing_ok=True)


def _write_profiles(profiles: list[Profile], tolerance: float, readings: bool, output: ReportOptions) -> None:
    results = [output.out] if output.out else []
    if output.out and len(profiles) > 1:
        results.append(output.out.with_stem(f"{output.out.stem}-held-out"))
    for profile, file in zip(profiles, results, strict=False):
        profile.save(file)
    if output.plot:
        from lerpscape.plots.style import save_figure

        save_figure(profiles[0].figure(beside=profiles[1:]), str(output.plot))
    output.write_report(profiles, tolerance=tolerance)
    if output.json:
        shown = [
            {"label": profile.label, "verdict": profile.verdict(tolerance), "tolerance": tolerance, **profile.to_dict()}
            | ({"readings": profile.readings(tolerance).to_dict()} if readings else {})
            for profile in profiles
        ]
        print(json.dumps(shown, allow_nan=False))
        return
    print_profiles(profiles)
    for profile in profiles:
        print(f"{profile.label}: {profile.verdict(tolerance)}")
        if profile.loss_name == "next_token":
            print(f"{profile.label}: {_perplexity(profile)}")
        if readings:
            print_readings(profile.readings(tolerance))
    print_written(*results, output.plot, output.report)


def _perplexity(profile: Profile) -> str:
    """The perplexity, exp of the mean loss of a token, at the first α, the last, and where it is lowest."""
    points = (0, -1, int(profile.loss.argmin()))
    first, last, lowest = (f"{math.exp(profile.loss[i]):.4g} at α = {profile.alphas[i]:.4g}" for i in points)
    return f"perplexity {first}, {last}; lowest {lowest}"


def certify_command(
    network: Annotated[PathArguments, HERE],
    loss: Annotated[
        Literal["cross_entropy", "squared_error", "mean_squared_error", "binary_cross_entropy"] | None,
        optional("{cross_entropy,squared_error,mean_squared_error,binary_cross_entropy}"),
    ] = None,
    tolerance: float = 0.0,
    budget: int = 500,
    workers: int = 1,
    batch_norm: Annotated[Literal["interpolate", "end"] | None, optional("{interpolate,end}")] = None,
    progress: Progress = None,
    output: ReportOptions = ReportOptions(),
) -> None:
    """Prove how much the loss can rise, over every α in [0, 1].

    Unlike a grid, the proof leaves no α out. It computes in float64 on the CPU; the path must be linear in α.

    Args:
        network: The network, its data and the path.
        loss: Loss of one example; by default cross_entropy, or that of --run.
        tolerance: Largest increase that still counts as monotonic, in the unit of the loss.
        budget: Largest number of intervals to bound.
        workers: Threads that divide the examples.
        batch_norm: Batch-norm statistics. Required if the model has batch norm.
        progress: Progress bar.
        output: Where the result goes.

    Examples:
        lerpscape certify init.pt final.pt --model nets:build --data loaders:train
        lerpscape certify init.pt final.pt --model nets:build --data loaders:train --tolerance 1e-3 --plot proof.svg
    """
    from lerpscape.certificates.certify import certify
    from lerpscape.networks.batch_norm import named_policy

    output.require_writable()
    model, path, data = network.load_path()
    certificate = certify(
        model,
        path,
        data,
        **network.loss(loss),
        tolerance=tolerance,
        budget=budget,
        workers=workers,
        batch_norm=named_policy(batch_norm, network.statistics(data)),
        progress=progress,
    )
    output.write_report([certificate], title="A proof", tolerance=tolerance)
    output.write(certificate, certificate.to_dict(), [certificate.summary])


def gauss_command(
    network: Annotated[PathArguments, HERE],
    method: Literal["turning", "integral", "polygon"] = "turning",
    alphas: OptionalAlphas = None,
    precision: float | None = 0.01,
    budget: int = 513,
    per: Annotated[Literal["example", "position"] | None, optional("{example,position}")] = None,
    measurement: DeviceOptions = DeviceOptions(),
    output: ReportOptions = ReportOptions(),
) -> None:
    """Measure the Gauss length: how far outputs turn along the path.

    The Gauss length of an example is the angle, in radians, through which the velocity of its output turns.

    Args:
        network: The network, its data and the path.
        method: turning counts kinks too; integral is the published estimator, without kinks; polygon takes secants.
        alphas: First grid: number of points on [0, 1], or the first and last α and the number of points; by default 33.
        precision: Halve the grid until no length changes by more than this (rad); None keeps the first grid.
        budget: Largest number of α.
        per: One length per example, or one per position of a sequence; by default position if outputs are sequences.
        measurement: How the network is evaluated.
        output: Where the result goes.

    Examples:
        lerpscape gauss init.pt final.pt --model nets:build --data loaders:train --plot turning.svg
        lerpscape gauss a.pt b.pt --model nets:build --data loaders:train --method integral --alphas 50 --precision None
    """
    from lerpscape.geometry.gauss_length import gauss_length

    output.require_writable()
    model, path, data = network.load_path()
    lengths = gauss_length(
        model,
        path,
        data,
        method=method,
        alphas=None if alphas is None else alphas_of(alphas),
        precision=precision,
        budget=budget,
        per=per,
        **network.keywords(measurement, data),
    )
    output.write_report([lengths], title="Gauss length")
    output.write(lengths, {"verdict": lengths.summary, "mean": lengths.mean} | lengths.to_dict(), [lengths.summary])
