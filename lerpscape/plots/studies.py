"""Figures of studies: starts, onset, pairs, layers, planes and trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lerpscape.plots.style import (
    ALPHA,
    COLOURS,
    INK,
    RISE_COLOUR,
    axes_or_new,
    colour_bar,
    comparison_style,
    legend_above,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.studies.landscapes import Landscape
    from lerpscape.studies.layers import Layerwise
    from lerpscape.studies.loss_planes import LossPlane
    from lerpscape.studies.onsets import Onset
    from lerpscape.studies.pairs import Pairwise
    from lerpscape.studies.start_comparisons import StartComparison
    from lerpscape.studies.trajectories import Trajectory

COLOUR_MAP = "viridis"
_OWN, _OTHER, _TRAJECTORY = COLOURS[0], COLOURS[2], RISE_COLOUR


def plot_starts(starts: StartComparison, ax: Axes | None = None) -> Axes:
    """Draw the mean loss of the lines from each family of starts against α, over the range of their losses."""
    with style():
        ax = axes_or_new(ax)
        for index, family in enumerate(dict.fromkeys(starts.families)):
            curves, (colour, dashes) = starts.curves(family), comparison_style(index)
            count = f" (n = {len(curves)})" if len(curves) > 1 else ""
            ax.plot(starts.alphas, curves.mean(0), dashes, color=colour, label=f"{family}{count}")
            if len(curves) > 1:
                ax.fill_between(starts.alphas, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
        ax.set(xlabel=ALPHA, ylabel=with_unit("loss", starts.unit))
        legend_above(ax, 2)
    return ax


def plot_onset(onset: Onset, ax: Axes | None = None) -> Axes:
    """Draw the largest rise of the line from each snapshot to the end, marked if it is above the tolerance."""
    with style():
        ax = axes_or_new(ax)
        places = np.arange(len(onset.labels))
        monotonic = np.array(onset.monotonic)
        ax.plot(places, onset.max_rise, "-", color=INK, linewidth=0.8)
        for where, mark, colour, label in (
            (monotonic, "o", COLOURS[0], "rises no more than the tolerance"),
            (~monotonic, "s", RISE_COLOUR, "rises"),
        ):
            ax.plot(places[where], onset.max_rise[where], mark, color=colour, label=label)
        ax.axhline(onset.tolerance, color=INK, linestyle=":", linewidth=1)
        if onset.onset is not None:
            ax.axvline(onset.labels.index(onset.onset), color=COLOURS[0], linewidth=1, label=f"onset: {onset.onset}")
        ax.set(xlabel="line from this snapshot to the end", ylabel=with_unit("max_rise", onset.unit))
        _ticks(ax, onset.labels)
        legend_above(ax, 3)
    return ax


def plot_matrix(pairs: Pairwise, ax: Axes | None = None, which: Literal["max_rise", "barrier"] = "max_rise") -> Axes:
    """Draw one reading of the line from each checkpoint (row) to each other one (column), with groups separated."""
    with style():
        ax = axes_or_new(ax)
        values = getattr(pairs, which)
        image = ax.imshow(values, cmap=COLOUR_MAP)
        _write_cells(ax, values)
        for index in range(1, len(pairs.groups)):
            if pairs.groups[index] != pairs.groups[index - 1]:
                for rule in (ax.axhline, ax.axvline):
                    rule(index - 0.5, color="white", linewidth=2)
        places = range(len(pairs.labels))
        ax.set_xticks(places, pairs.labels, rotation=45, ha="right")
        ax.set_yticks(places, pairs.labels)
        name = f"barrier_{pairs.kind}" if which == "barrier" else which
        ax.set(xlabel="to", ylabel="from")
        colour_bar(ax, image, with_unit(name, pairs.unit))
    return ax


def pairwise_figure(pairs: Pairwise) -> Figure:
    """A figure of the largest rises (left) and barriers (right) of the lines between all pairs of checkpoints."""
    with style():
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_matrix(pairs, left)
        plot_matrix(pairs, right, "barrier")
    return figure


def plot_layerwise(layerwise: Layerwise, ax: Axes | None = None) -> Axes:
    """Draw the loss against α as a heat map: a row for each layer that moves alone, and one for all layers together."""
    with style():
        ax = axes_or_new(ax)
        rows = np.vstack([layerwise.losses, layerwise.together])
        names, places = [*layerwise.layers, "all layers"], np.arange(len(rows))
        image = ax.pcolormesh(layerwise.alphas, places, rows, cmap=COLOUR_MAP, shading="nearest", rasterized=True)
        ax.axhline(len(rows) - 1.5, color="white", linewidth=3)
        rises = [f"  rises {rise:.2g}" if not rise <= 0 else "" for rise in layerwise.max_rise]
        for place, text in enumerate(rises):
            ax.annotate(text, (1, place), xycoords=("axes fraction", "data"), va="center", fontsize="x-small")
        ax.set_yticks(range(len(rows)), names)
        ax.invert_yaxis()
        ax.set(xlabel=f"{ALPHA}, all other layers at the {layerwise.rest}")
        colour_bar(ax, image, with_unit("loss", layerwise.unit), pad=0.12 if any(rises) else 0.02)
    return ax


def plot_plane(plane: LossPlane, ax: Axes | None = None) -> Axes:
    """Draw contours of the loss on the plane, both lines to the end, and the projection of the trajectory."""
    with style():
        ax = axes_or_new(ax)
        losses = np.ma.masked_invalid(plane.losses)
        low, high = float(losses.min()), float(losses.max())
        # Quadratic levels, which are close together where losses are small.
        levels = low + (high - low) * np.linspace(0, 1, 19) ** 2
        contours = ax.contourf(plane.x, plane.y, losses, levels=levels, cmap=_greys())
        start, other, end = plane.corners
        for corner, colour in ((start, _OWN), (other, _OTHER)):
            ax.plot(*np.stack([corner, end]).T, "-", color=colour, linewidth=2)
        if len(plane.trajectory):
            ax.plot(*plane.trajectory.T, ".-", color=_TRAJECTORY, linewidth=1.4, markersize=4)
        for corner, text, colour in ((start, "init", _OWN), (other, "other init", _OTHER), (end, "optimum", INK)):
            ax.plot(*corner, "o", color=colour, markeredgecolor="white", markersize=8)
            above = corner[1] > plane.corners[:, 1].mean()
            ax.annotate(
                text,
                corner,
                (0, 9 if above else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
            )
        ax.set(xlabel="distance in parameter space", ylabel="distance", aspect="equal")
        colour_bar(ax, contours, with_unit("loss", plane.unit), format="%.2g", ticks=levels[::3], shrink=0.8)
    return ax


def plot_landscape(landscape: Landscape, ax: Axes | None = None) -> Axes:
    """Draw contours of the loss around a network, the network, the lowest point and the projected trajectory."""
    with style():
        ax = axes_or_new(ax)
        losses = np.ma.masked_invalid(landscape.losses)
        low, high = float(losses.min()), float(losses.max())
        levels = low + max(high - low, 1e-12) * np.linspace(0, 1, 19) ** 2  # close together where losses are small
        contours = ax.contourf(landscape.at, landscape.at, losses, levels=levels, cmap=_greys())
        if len(landscape.trajectory):
            ax.plot(*landscape.trajectory.T, ".-", color=_TRAJECTORY, linewidth=1.4, markersize=4, label="training")
        ax.plot(0, 0, "o", color=INK, markeredgecolor="white", markersize=8, label="the network")
        ax.plot(*landscape.lowest, "*", color=_OWN, markeredgecolor="white", markersize=11, label="lowest on the grid")
        reach = float(landscape.at[-1])
        ax.set(xlabel="s, first direction", ylabel="t, second direction", aspect="equal")
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
        legend_above(ax, 3)
        colour_bar(ax, contours, with_unit("loss", landscape.unit), format="%.2g", ticks=levels[::3], shrink=0.8)
    return ax


def plot_plane_lines(plane: LossPlane, ax: Axes | None = None) -> Axes:
    """Draw the losses along both lines and along the trajectory against the share of each one's length."""
    with style():
        ax = axes_or_new(ax)
        if len(plane.along):
            label = "training (left: its projection)"
            ax.plot(plane.travelled, plane.along, ".-", color=_TRAJECTORY, markersize=5, label=label)
        ax.plot(plane.alphas, plane.lines[0], color=_OWN, label="line from init")
        ax.plot(plane.alphas, plane.lines[1], color=_OTHER, label="line from other init")
        ax.set(xlabel="share of the length (line: α)", ylabel=with_unit("loss", plane.unit))
        ax.set_ylim(bottom=min(0, float(np.nanmin(plane.lines))))
        legend_above(ax, 1)
    return ax


def plane_figure(plane: LossPlane) -> Figure:
    """A figure of the loss on the plane (left) and along the lines and the trajectory (right)."""
    with style():
        figure = Figure(figsize=(11.2, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
        plot_plane(plane, left)
        plot_plane_lines(plane, right)
    return figure


def _greys() -> ListedColormap:
    """Greys that are light enough for coloured lines, and darkest where the loss is lowest."""
    return ListedColormap(colormaps["Greys_r"](np.linspace(0.35, 1, 256)))


def plot_trajectory(trajectory: Trajectory, ax: Axes | None = None) -> Axes:
    """Draw losses on the trajectory and at the nearest points of the line, and the distance between the two."""
    with style():
        ax = axes_or_new(ax)
        alphas, distance = trajectory.projection, trajectory.residual / trajectory.length
        ax.plot(alphas, trajectory.losses, ".-", color=RISE_COLOUR, label="training trajectory")
        ax.plot(alphas, trajectory.line, "--", color=INK, label="nearest point of the line")
        ax.set(xlabel="projection on the line, α", ylabel=with_unit("loss", trajectory.unit))
        right = ax.twinx()
        right.spines["right"].set_visible(True)
        right.fill_between(alphas, 0, distance, color=COLOURS[0], alpha=0.15, linewidth=0)
        right.set(ylabel="distance from the line / its length (filled)", ylim=(0, None))
        legend_above(ax, 2)
    return ax


def _write_cells(ax: Axes, values: Any) -> None:
    """Write the numbers into the cells of a matrix of up to 12 rows."""
    if len(values) > 12:
        return
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            colour = "black" if value > middle else "white"
            ax.text(column, row, f"{value:.2g}", ha="center", va="center", color=colour, fontsize="x-small")


def _ticks(ax: Axes, labels: tuple[str, ...], most: int = 12) -> None:
    step = -(-len(labels) // most)
    places = range(0, len(labels), step)
    ax.set_xticks(places, [labels[place] for place in places], rotation=30, ha="right")
