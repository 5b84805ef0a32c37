"""Pictures of studies: each function draws into given matplotlib axes and returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lerpscape.plots.style import ALPHA, COLOURS, INK, RISE_COLOUR, axes_or_new, legend_above, style, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.studies.layers import Layerwise
    from lerpscape.studies.loss_planes import LossPlane
    from lerpscape.studies.onsets import Onset
    from lerpscape.studies.pairs import Pairwise
    from lerpscape.studies.start_comparisons import StartComparison
    from lerpscape.studies.trajectories import Trajectory

MAP = "viridis"
_OWN, _OTHER, _ROAD = COLOURS[0], COLOURS[2], RISE_COLOUR


def plot_starts(found: StartComparison, ax: Axes | None = None) -> Axes:
    """Draw the mean loss of each family of starts against α, over the band of its lines."""
    with style():
        ax = axes_or_new(ax)
        for index, family in enumerate(dict.fromkeys(found.families)):
            curves, colour = found.curves(family), COLOURS[index % len(COLOURS)]
            count = f" (n = {len(curves)})" if len(curves) > 1 else ""
            ax.plot(found.alphas, curves.mean(0), "-" if index == 0 else "--", color=colour, label=f"{family}{count}")
            if len(curves) > 1:
                ax.fill_between(found.alphas, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
        ax.set(xlabel=ALPHA, ylabel=with_unit("loss", found.unit))
        legend_above(ax, 2)
    return ax


def plot_onset(found: Onset, ax: Axes | None = None) -> Axes:
    """Draw the largest rise of each snapshot's line, those above the tolerance marked."""
    with style():
        ax = axes_or_new(ax)
        places = np.arange(len(found.labels))
        fine = np.array(found.monotonic)
        ax.plot(places, found.max_rise, "-", color=INK, linewidth=0.8)
        ax.plot(places[fine], found.max_rise[fine], "o", color=COLOURS[0], label="rises no more than the tolerance")
        ax.plot(places[~fine], found.max_rise[~fine], "s", color=RISE_COLOUR, label="rises")
        ax.axhline(found.tolerance, color=INK, linestyle=":", linewidth=1)
        if found.onset is not None:
            ax.axvline(found.labels.index(found.onset), color=COLOURS[0], linewidth=1, label=f"onset: {found.onset}")
        ax.set(xlabel="line from this snapshot to the end", ylabel=with_unit("max_rise", found.unit))
        _ticks(ax, found.labels)
        legend_above(ax, 3)
    return ax


def plot_matrix(found: Pairwise, ax: Axes | None = None, which: Literal["max_rise", "barrier"] = "max_rise") -> Axes:
    """Draw one reading of every line as a matrix, from row to column, groups ruled off."""
    with style():
        ax = axes_or_new(ax)
        values = getattr(found, which)
        image = ax.imshow(values, cmap=MAP)
        _write_cells(ax, values)
        for index in range(1, len(found.groups)):
            if found.groups[index] != found.groups[index - 1]:
                for rule in (ax.axhline, ax.axvline):
                    rule(index - 0.5, color="white", linewidth=2)
        places = range(len(found.labels))
        ax.set_xticks(places, found.labels, rotation=45, ha="right")
        ax.set_yticks(places, found.labels)
        name = f"barrier_{found.kind}" if which == "barrier" else which
        ax.set(xlabel="to", ylabel="from")
        _colour_bar(ax, image, with_unit(name, found.unit))
    return ax


def pairwise_figure(found: Pairwise) -> Figure:
    """Both matrices side by side."""
    with style():
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_matrix(found, left)
        plot_matrix(found, right, "barrier")
    return figure


def plot_layerwise(found: Layerwise, ax: Axes | None = None) -> Axes:
    """Draw the loss as a heat map, one row for each layer that moves alone, and one where all move."""
    with style():
        ax = axes_or_new(ax)
        rows = np.vstack([found.losses, found.together])
        names = [*found.layers, "all layers"]
        shown = ax.pcolormesh(found.alphas, np.arange(len(rows)), rows, cmap=MAP, shading="nearest", rasterized=True)
        ax.axhline(len(rows) - 1.5, color="white", linewidth=3)
        rises = [f"  rises {rise:.2g}" if not rise <= 0 else "" for rise in found.max_rise]
        for place, text in enumerate(rises):
            ax.annotate(text, (1, place), xycoords=("axes fraction", "data"), va="center", fontsize="x-small")
        ax.set_yticks(range(len(rows)), names)
        ax.invert_yaxis()
        ax.set(xlabel=f"{ALPHA}, all other layers at the {found.rest}")
        _colour_bar(ax, shown, with_unit("loss", found.unit), pad=0.12 if any(rises) else 0.02)
    return ax


def plot_plane(found: LossPlane, ax: Axes | None = None) -> Axes:
    """Draw contours of the loss on the plane, both lines to the end, and the trajectory's shadow."""
    with style():
        ax = axes_or_new(ax)
        losses = np.ma.masked_invalid(found.losses)
        low, high = float(losses.min()), float(losses.max())
        # Levels crowd where losses are small: the bottom of a valley is what a line runs into.
        levels = low + (high - low) * np.linspace(0, 1, 19) ** 2
        shown = ax.contourf(found.x, found.y, losses, levels=levels, cmap=_greys())
        start, other, end = found.corners
        for corner, colour in ((start, _OWN), (other, _OTHER)):
            ax.plot(*np.stack([corner, end]).T, "-", color=colour, linewidth=2)
        if len(found.trajectory):
            ax.plot(*found.trajectory.T, ".-", color=_ROAD, linewidth=1.4, markersize=4)
        for corner, text, colour in ((start, "init", _OWN), (other, "other init", _OTHER), (end, "optimum", INK)):
            ax.plot(*corner, "o", color=colour, markeredgecolor="white", markersize=8)
            above = corner[1] > found.corners[:, 1].mean()
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
        _colour_bar(ax, shown, with_unit("loss", found.unit), format="%.2g", ticks=levels[::3], shrink=0.8)
    return ax


def plot_plane_lines(found: LossPlane, ax: Axes | None = None) -> Axes:
    """Draw the losses along both lines and along the trajectory, against the share of each way gone."""
    with style():
        ax = axes_or_new(ax)
        if len(found.along):
            ax.plot(found.travelled, found.along, ".-", color=_ROAD, markersize=5, label="training (left: its shadow)")
        ax.plot(found.alphas, found.lines[0], color=_OWN, label="line from init")
        ax.plot(found.alphas, found.lines[1], color=_OTHER, label="line from other init")
        ax.set(xlabel="share of the way travelled (line: α)", ylabel=with_unit("loss", found.unit))
        ax.set_ylim(bottom=min(0, float(np.nanmin(found.lines))))
        legend_above(ax, 1)
    return ax


def plane_figure(found: LossPlane) -> Figure:
    """The plane, and the curves beside it."""
    with style():
        figure = Figure(figsize=(11.2, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
        plot_plane(found, left)
        plot_plane_lines(found, right)
    return figure


def _greys() -> ListedColormap:
    """Light enough for coloured lines, darkest where the loss is lowest."""
    return ListedColormap(colormaps["Greys_r"](np.linspace(0.35, 1, 256)))


def plot_trajectory(found: Trajectory, ax: Axes | None = None) -> Axes:
    """Draw losses on the road and at the nearest points of the line, and the residual on a second axis."""
    with style():
        ax = axes_or_new(ax)
        ax.plot(found.projection, found.losses, ".-", color=RISE_COLOUR, label="on the road")
        ax.plot(found.projection, found.line, "--", color=INK, label="nearest point of the line")
        ax.set(xlabel="projection on the line, α", ylabel=with_unit("loss", found.unit))
        right = ax.twinx()
        right.spines["right"].set_visible(True)
        right.fill_between(
            found.projection, 0, found.residual / found.length, color=COLOURS[0], alpha=0.15, linewidth=0
        )
        right.set(ylabel="distance from the line / its length (filled)", ylim=(0, None))
        legend_above(ax, 2)
    return ax


def _write_cells(ax: Axes, values: Any) -> None:
    """Numbers in the cells of a small matrix."""
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


def _colour_bar(ax: Axes, shown: Any, label: str, **options: Any) -> None:
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=ax, label=label, **options)
    bar.outline.set_visible(False)
