"""The studies of many lines: starts, onset, pairwise, layerwise, plane, trajectory, connect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lerpscape.base.errors import explain
from lerpscape.cli.arguments import (
    UNLESS_RUN,
    Device,
    End,
    Files,
    Flag,
    Folder,
    Json,
    Loss,
    OptionalFile,
    OptionalFolder,
    Progress,
    Start,
    device_of,
    optional,
    print_written,
    require_writable,
)
from lerpscape.cli.options import HERE, EndArguments, EvaluationOptions, NetworkArguments, OutputOptions, StudyOptions
from lerpscape.cli.reports import print_profiles


def starts_command(
    network: Annotated[EndArguments, HERE],
    fresh: int = 5,
    noise: int = 5,
    zero: Flag = True,
    permuted: int = 0,
    seed: int = 0,
    measurement: StudyOptions = StudyOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Compare the line from START with lines from other starts.

    The others are fresh initialisations, Gaussian noise with the norms of START, and zero.

    Args:
        network: The network and its ends.
        fresh: Number of fresh initialisations, drawn by MODEL (by its argument `seed`, if it has one).
        noise: Number of Gaussian starts; each tensor has the norm that it has in START.
        zero: Leave out the line from all parameters zero.
        permuted: Number of starts that are START with its hidden units in a random order.
        seed: Seed of the first fresh start, noise and order.
        measurement: How each line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study starts init.pt final.pt --model nets:build --data loaders:train --fresh 3 --plot starts.svg
    """
    from lerpscape.studies.start_comparisons import starts

    output.require_writable()
    model, data = network.load()
    result = starts(
        model,
        *network.ends(),
        data,
        fresh=fresh,
        noise=noise,
        zero=zero,
        permuted=permuted,
        factory=network.factory(),
        seed=seed,
        **network.keywords(measurement, data),
    )
    output.write_summary(result)


def onset_command(
    snapshots: Folder = None,
    /,
    *,
    network: Annotated[NetworkArguments, HERE],
    tolerance: float,
    end: OptionalFile = None,
    measurement: StudyOptions = StudyOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Find the earliest snapshot from which the line to the final network is monotonic, and stays so.

    Args:
        snapshots: Folder of checkpoints of one run, in the order of the numbers in their names.
        network: The network and its data.
        tolerance: Largest increase that still counts as monotonic, in the unit of the loss.
        end: The final network; by default the last snapshot.
        measurement: How each line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study onset snapshots/ --model nets:build --data loaders:train --tolerance 1e-3 --plot onset.svg
    """
    from lerpscape.studies.onsets import onset

    output.require_writable()
    model, data = network.load()
    keywords = network.keywords(measurement, data)
    output.write_summary(onset(model, network.snapshots(snapshots), data, tolerance=tolerance, end=end, **keywords))


def pairwise_command(
    checkpoints: Files = (),
    /,
    *,
    network: Annotated[NetworkArguments, HERE],
    group: Annotated[tuple[str, ...], optional("GLOB=GROUP…")] = (),
    kind: Literal["mean", "chord", "max", "midpoint", "signed"] = "mean",
    measurement: StudyOptions = StudyOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    r"""Measure rises and barriers between all pairs of checkpoints.

    Args:
        checkpoints: Checkpoint files, or one folder of them.
        network: The network and its data.
        group: Average over groups: "init*=init" puts the files whose names match into the group init.
        kind: Definition of the barrier.
        measurement: How each line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study pairwise init0.pt init1.pt opt0.pt opt1.pt --model nets:build --data loaders:train \
            --group "init*=init" "opt*=opt" --plot pairs.svg
    """
    from lerpscape.paths.snapshots import snapshots
    from lerpscape.studies.pairs import pairwise

    output.require_writable()
    single = network.snapshots(checkpoints[0] if checkpoints else None) if len(checkpoints) < 2 else None
    files = {file.stem: file for file in checkpoints}
    by_name = snapshots(files if single is None else single, ordered=False)
    if single is None and len(by_name) < len(checkpoints):
        raise ValueError(
            explain(
                expected="files with different names, which label the results.",
                got=f"{len(checkpoints)} files with {len(by_name)} names.",
                hint="Rename one of them.",
            )
        )
    model, data = network.load()
    groups = _groups(list(by_name), group) if group else None
    output.write_summary(
        pairwise(model, by_name, data, groups=groups, kind=kind, **network.keywords(measurement, data))
    )


def _groups(names: list[str], patterns: tuple[str, ...]) -> dict[str, str]:
    """The group of each name that a GLOB=GROUP matches."""
    from fnmatch import fnmatchcase

    groups: dict[str, str] = {}
    for pattern in patterns:
        glob, _, group = pattern.partition("=")
        matching = [name for name in names if fnmatchcase(name, glob)]
        if not group or not matching:
            raise ValueError(
                explain(
                    expected="GLOB=GROUP with a glob that matches.",
                    got=f"{pattern!r}.",
                    hint=f"The names are {', '.join(names)}.",
                )
            )
        groups |= dict.fromkeys(matching, group)
    return groups


def layerwise_command(
    network: Annotated[EndArguments, HERE],
    rest: Literal["start", "end"],
    by: Literal["module", "block"] = "module",
    measurement: StudyOptions = StudyOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Move one layer at a time from START to END, all others held.

    Args:
        network: The network and its ends.
        rest: The checkpoint that all other layers are held at.
        by: A layer is a module that owns parameters, or a block, such as a transformer's.
        measurement: How each line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study layerwise init.pt final.pt --model nets:build --data loaders:train --rest end --plot layers.svg
    """
    from lerpscape.studies.layers import layerwise

    output.require_writable()
    model, data = network.load()
    keywords = network.keywords(measurement, data)
    output.write_summary(layerwise(model, *network.ends(), data, rest=rest, by=by, **keywords))


def plane_command(
    start: Start = None,
    other: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER", help_behavior_hint=UNLESS_RUN)
    ] = None,
    end: End = None,
    /,
    *,
    network: Annotated[NetworkArguments, HERE],
    trajectory: OptionalFolder = None,
    points: int = 25,
    margin: float = 0.2,
    measurement: StudyOptions = StudyOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    r"""Measure the loss on the plane through three checkpoints.

    The lines from START to END and from OTHER to END lie on it, and are measured too.

    Args:
        start: Checkpoint of the network's initialisation.
        other: Checkpoint of another initialisation.
        end: Checkpoint of the trained network.
        network: The network and its data.
        trajectory: Folder of snapshots of training, to project on the plane.
        points: Points along each side of the grid.
        margin: Margin of the grid around checkpoints and trajectory, as a share of their extent.
        measurement: How each line is measured.
        output: Where the result goes.

    Examples:
        lerpscape study plane init.pt other.pt final.pt --model nets:build --data loaders:train \
            --trajectory snapshots/ --plot plane.svg
    """
    from lerpscape.studies.loss_planes import plane

    output.require_writable()
    model, data = network.load()
    keywords = network.keywords(measurement, data)
    corners: tuple[Any, ...] = (start, other, end)
    path: Any = trajectory
    if subject := network.trained.subject:
        corners = (subject.start, subject.other, subject.end) if corners == (None, None, None) else corners
        path = trajectory or (subject.trajectory if subject.snapshots else None)
    if None in corners:
        raise ValueError(
            explain(expected="START, OTHER and END, or --run.", got="fewer.", hint="--run results/KEY/SEED")
        )
    first, second, third = corners
    result = plane(model, first, second, third, data, trajectory=path, points=points, margin=margin, **keywords)
    output.write_summary(result)


def landscape_command(
    center: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="CENTER", help_behavior_hint=UNLESS_RUN)
    ] = None,
    /,
    *,
    network: Annotated[NetworkArguments, HERE],
    seed: int = 0,
    scale: Literal["filter", "layer"] = "filter",
    radius: float = 1.0,
    points: int = 25,
    trajectory: OptionalFolder = None,
    loss: Loss = None,
    measurement: EvaluationOptions = EvaluationOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure the loss around one network, along two random directions.

    Directions have the norms of the network's own weights (Li et al., 2018). A picture, no proof of anything.

    Args:
        center: Checkpoint in the middle.
        network: The network and its data.
        seed: Seed of the directions.
        scale: Norms are those of each unit or filter, or of each weight as a whole.
        radius: How far to go to each side, in units of the directions.
        points: Points along each side of the grid, an odd number.
        trajectory: Folder of snapshots of training, to project on the plane.
        loss: Loss of one example.
        measurement: How the network is evaluated.
        output: Where the result goes.

    Examples:
        lerpscape study landscape final.pt --model nets:build --data loaders:train --plot landscape.svg
        lerpscape study landscape final.pt --model nets:build --data loaders:train --radius 0.5 --points 51
    """
    from lerpscape.studies.landscapes import landscape

    output.require_writable()
    model, data = network.load()
    subject = network.trained.subject
    middle: Any = subject.end if center is None and subject else center
    if middle is None:
        raise ValueError(explain(expected="CENTER, or --run.", got="neither.", hint="--run results/KEY/SEED"))
    options = {**network.loss(loss), **network.keywords(measurement, data)}
    directions: dict[str, Any] = {"seed": seed, "scale": scale, "radius": radius, "points": points}
    output.write_summary(landscape(model, middle, data, trajectory=trajectory, **directions, **options))


def trajectory_command(
    snapshots: Folder = None,
    /,
    *,
    network: Annotated[NetworkArguments, HERE],
    loss: Loss = None,
    measurement: EvaluationOptions = EvaluationOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Compare the training trajectory with the line.

    Measures the distance of each snapshot from the line between the first and the last, and the loss on both.

    Args:
        snapshots: Folder of checkpoints of one run, in the order of the numbers in their names.
        network: The network and its data.
        loss: Loss of one example.
        measurement: How the network is evaluated.
        output: Where the result goes.

    Examples:
        lerpscape study trajectory snapshots/ --model nets:build --data loaders:train --plot trajectory.svg
    """
    from lerpscape.studies.trajectories import trajectory

    output.require_writable()
    model, data = network.load()
    output.write_summary(
        trajectory(
            model, network.snapshots(snapshots), data, **network.loss(loss), **network.keywords(measurement, data)
        )
    )


def connect_command(
    network: Annotated[EndArguments, HERE],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    loss: Loss = None,
    epochs: int = 20,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    seed: int = 0,
    batch_norm: Annotated[Literal["batch", "interpolate", "end"] | None, optional("{batch,interpolate,end}")] = None,
    device: Device = None,
    progress: Progress = None,
    json_: Json = False,
    plot: OptionalFile = None,
) -> None:
    """Train a Bezier curve of low loss between two checkpoints.

    Prints the profiles of the curve and of the line.

    Args:
        network: The network and its ends.
        out: Write the control point of the curve (.safetensors), for `lerpscape profile --control`.
        loss: Loss of one example.
        epochs: Passes over the data.
        learning_rate: Initial learning rate of SGD.
        momentum: Momentum of SGD.
        seed: Seed of the order of the batches and of the α of each batch.
        batch_norm: Batch-norm statistics, in training and for the profiles. Required if the model has batch norm.
        device: Where to compute.
        progress: Progress bar.
        json_: Print JSON.
        plot: Draw both profiles (svg, pdf, png).

    Examples:
        lerpscape study connect a.pt b.pt --model nets:build --data loaders:train --out control.safetensors
        lerpscape profile a.pt b.pt --control control.safetensors --model nets:build --data loaders:train
    """
    from safetensors.torch import save_file

    from lerpscape.base.saving import replacing
    from lerpscape.networks.batch_norm import named_policy
    from lerpscape.paths.line import Line
    from lerpscape.paths.matching import first_tied_names
    from lerpscape.profiles.profile import profile
    from lerpscape.studies.connections import connect

    require_writable(out, plot)
    model, data = network.load()
    policy, device = named_policy(batch_norm, network.statistics(data)), device_of(device)
    curve = connect(
        model,
        *network.ends(),
        data,
        **network.loss(loss),
        epochs=epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        seed=seed,
        batch_norm=policy,
        device=device,
        progress=progress,
    )
    first = first_tied_names(curve.control)
    with replacing(out) as draft:
        save_file({name: tensor for name, tensor in curve.control.tensors.items() if first[name] == name}, draft)
    profiles = [
        profile(
            model, path, data, **network.loss(loss), batch_norm=policy, device=device, label=label, progress=progress
        )
        for label, path in (("curve", curve), ("line", Line(curve.start, curve.end)))
    ]
    if plot:
        from lerpscape.plots.style import save_figure

        save_figure(profiles[0].figure(beside=profiles[1:]), str(plot))
    if json_:
        print(json.dumps([result.to_dict() for result in profiles], allow_nan=False))
        return
    print_profiles(profiles)
    print_written(out, plot)
