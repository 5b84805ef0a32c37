"""Studies from the command line: starts, onset, pairwise, layerwise, plane, trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from lerpscape.base.errors import explain
from lerpscape.base.names import import_object
from lerpscape.cli.arguments import End, Start
from lerpscape.cli.options import PRINTED, USUAL, EndsAsked, HowMeasured, NetworkAsked, WhereTo

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]


def starts_command(
    ends: EndsAsked,
    fresh: int = 5,
    noise: int = 5,
    zero: bool = True,
    seed: int = 0,
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """Compare the line from the network's own start with lines from other starts: fresh, noise, zero.

    Args:
        ends: Which ends.
        fresh: How many fresh initialisations, as MODEL draws them.
        noise: How many Gaussian starts with the norms of START.
        zero: Also from zero.
        seed: Seed of the first fresh start and the first noise.
        measured: How each line is measured.
        output: Where the result goes.
    """
    from lerpscape.studies.start_comparisons import starts

    output.check()
    (model, data), factory = ends.called(), import_object(ends.model)
    found = starts(
        model,
        ends.start,
        ends.end,
        data,
        fresh=fresh,
        noise=noise,
        zero=zero,
        factory=None if factory is model else factory,
        seed=seed,
        **measured.choices(data),
    )
    output.show(found)


def onset_command(
    folder: Folder,
    /,
    network: NetworkAsked,
    tolerance: float,
    end: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """Find from when on in training the rest of the road is monotone: the lines from every snapshot to the end.

    Args:
        folder: Snapshots of a run, in the order of the numbers in their names.
        network: What is measured on what.
        tolerance: Rise that a verdict forgives, in the unit of the loss.
        end: The final network; by default the last snapshot.
        measured: How each line is measured.
        output: Where the result goes.
    """
    from lerpscape.studies.onsets import onset

    output.check()
    model, data = network.called()
    output.show(onset(model, folder, data, tolerance=tolerance, end=end, **measured.choices(data)))


def pairwise_command(
    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE…")],
    /,
    network: NetworkAsked,
    group: Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB=GROUP…")] = (),
    kind: Literal["mean", "chord", "max", "midpoint", "signed"] = "mean",
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """Measure the lines between all pairs of checkpoints: rises in both directions, and barriers.

    Args:
        checkpoints: Checkpoint files, or one folder of them.
        network: What is measured on what.
        group: Groups for means over blocks: "init*=init" puts files whose names match into the group init.
        kind: Which barrier.
        measured: How each line is measured.
        output: Where the result goes.
    """
    from lerpscape.paths.snapshots import snapshots
    from lerpscape.studies.pairs import pairwise

    output.check()
    single = checkpoints[0] if len(checkpoints) == 1 else None
    found = snapshots(single if single is not None else {each.stem: each for each in checkpoints})
    if single is None and len(found) < len(checkpoints):
        raise ValueError(
            explain(expected="files with different names.", got="two with one stem.", hint="Rename one of them.")
        )
    model, data = network.called()
    groups = _grouped(list(found), group) if group else None
    output.show(pairwise(model, found, data, groups=groups, kind=kind, **measured.choices(data)))


def layerwise_command(
    ends: EndsAsked,
    rest: Literal["start", "end"],
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """Move every layer alone from start to end, all others held at one end: a heat map, layer against α.

    Args:
        ends: Which ends.
        rest: Where all other layers are held.
        measured: How each line is measured.
        output: Where the result goes.
    """
    from lerpscape.studies.layers import layerwise

    output.check()
    model, data = ends.called()
    output.show(layerwise(model, ends.start, ends.end, data, rest=rest, **measured.choices(data)))


def plane_command(
    start: Start,
    other: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER")],
    end: End,
    /,
    network: NetworkAsked,
    trajectory: OptionalFolder = None,
    points: int = 25,
    margin: float = 0.2,
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """Measure the loss on the plane through a start, another start and an end, with the lines on it.

    Args:
        start: Checkpoint of the network's own initialisation.
        other: Checkpoint of another one.
        end: Checkpoint of the optimum.
        network: What is measured on what.
        trajectory: Folder of snapshots of training, to project on the plane.
        points: Points along each side of the grid.
        margin: How much farther than corners and trajectory the grid reaches, in shares of their extent.
        measured: How each line is measured.
        output: Where the result goes.
    """
    from lerpscape.studies.loss_planes import plane

    output.check()
    model, data = network.called()
    choices = measured.choices(data)
    output.show(plane(model, start, other, end, data, trajectory=trajectory, points=points, margin=margin, **choices))


def trajectory_command(
    folder: Folder,
    /,
    network: NetworkAsked,
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """Measure the real road of training beside the line between its ends: distances and losses.

    Args:
        folder: Snapshots of a run, in the order of the numbers in their names.
        network: What is measured on what.
        measured: How each snapshot is measured; the number of points has no meaning here.
        output: Where the result goes.
    """
    from lerpscape.studies.trajectories import trajectory

    output.check()
    model, data = network.called()
    choices = measured.choices(data)
    del choices["alphas"]
    output.show(trajectory(model, folder, data, **choices))


def _grouped(labels: list[str], groups: tuple[str, ...]) -> dict[str, str]:
    from fnmatch import fnmatchcase

    found: dict[str, str] = {}
    for each in groups:
        glob, sign, name = each.partition("=")
        hits = [label for label in labels if fnmatchcase(label, glob)]
        if not sign or not name or not hits:
            raise ValueError(
                explain(
                    expected="GLOB=GROUP with a glob that matches.",
                    got=f"{each!r}.",
                    hint=f"The names are {', '.join(labels)}.",
                )
            )
        found |= dict.fromkeys(hits, name)
    return found
