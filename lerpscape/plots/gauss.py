"""Pictures of how outputs move: how far their paths turn, and the paths themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import COLOURS, INK, RISE_COLOUR, axes_or_new, legend_above, look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.geometry.gauss_length_results import GaussLength
    from lerpscape.geometry.output_projections import OutputPaths

HALF_PI = np.pi / 2


def plot_gauss(found: GaussLength, ax: Axes | None = None, beside: Sequence[GaussLength] = ()) -> Axes:
    """Draw what share of the rows has at most so much Gauss length, with π/2 marked; dashed: results `beside` it.

    The faint band beside a line is the change at the last halving: the line of the true lengths lies to the right.
    """
    with style():
        ax = axes_or_new(ax)
        for index, each in enumerate([found, *beside]):
            colour, dash = COLOURS[index % len(COLOURS)], "-" if index == 0 else "--"
            share = 100 * np.arange(1, len(each.per_example) + 1) / len(each.per_example)
            lengths, later = np.sort(each.per_example), np.sort(each.per_example + each.error)
            ax.step(lengths, share, dash, where="post", color=colour, label=each.label or each.method)
            ax.fill_betweenx(share, lengths, later, step="pre", color=colour, alpha=0.15, linewidth=0)
        ax.axvline(HALF_PI, color=RISE_COLOUR, linewidth=1, linestyle=":", label="π/2")
        rows = "examples" if found.position is None else "positions"
        ax.set(xlabel="Gauss length (rad)", ylabel=f"share of {rows} up to there (%)", ylim=(0, 102))
        ax.set_xlim(left=0)
        legend_above(ax, 4)
    return ax


def gauss_figure(found: GaussLength, beside: Sequence[GaussLength] = ()) -> Figure:
    """One page: how lengths are distributed, and how their mean grows as the grid is refined."""
    with style():
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        plot_gauss(found, left, beside).get_legend().remove()  # type: ignore[union-attr]
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        for index, each in enumerate([found, *beside]):
            points = [level.points for level in each.levels]
            right.plot(points, [level.mean for level in each.levels], ".-", color=COLOURS[index % len(COLOURS)])
        right.set_xscale("log", base=2)
        most = max((each.levels for each in (found, *beside)), key=len)
        right.set_xticks([level.points for level in most], [str(level.points) for level in most], fontsize="small")
        right.minorticks_off()
        right.set(xlabel="number of α", ylabel="mean (rad)", ylim=(0, None))
    return figure


def output_paths_figure(
    found: OutputPaths, beside: Sequence[OutputPaths] = (), axes: Sequence[Axes] | None = None
) -> Figure:
    """Draw projected output paths, and others `beside` them in panels of their own: monotone beside non-monotone.

    A dot where α = 0, an arrowhead along the velocity at α = ½, a square where α = 1; one colour per class.
    """
    every = [found, *beside]
    with style():
        if axes is None:
            three = {"projection": "3d"} if found.projected.shape[2] == 3 else {}
            drawn = Figure(figsize=(5.2 * len(every), 4.8), layout="constrained")
            axes = list(drawn.subplots(1, len(every), squeeze=False, subplot_kw=three)[0])
        labels = sorted({label for each in every for label in each.labels}, key=lambda label: (len(label), label))
        for each, ax in zip(every, axes, strict=True):
            for row, label in enumerate(each.labels):
                _draw_path(each, row, *look(labels.index(label)), ax)
            _name_axes(each, ax)
        for index, label in enumerate(labels):
            colour, dash = look(index)
            axes[0].plot([], [], dash, color=colour, label=label)
        axes[0].plot([], [], "o", color=INK, markersize=4, label="α = 0")
        axes[0].plot([], [], "s", color=INK, markersize=5, label="α = 1")
        figure = axes[0].get_figure()
        assert figure is not None
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(8, len(names)))
    return figure  # type: ignore[return-value]


def _draw_path(found: OutputPaths, row: int, colour: str, dash: str, ax: Any) -> None:
    path = found.projected[:, row]
    ax.plot(*path.T, dash, color=colour, linewidth=1.3)
    ax.plot(*path[:1].T, "o", color=colour, markersize=4)
    ax.plot(*path[-1:].T, "s", color=colour, markersize=5)
    if found.projected_velocity is None:
        return
    middle = len(path) // 2
    where, velocity = path[middle], found.projected_velocity[middle, row]
    span = float(np.ptp(found.projected.reshape(-1, path.shape[1]), axis=0).max())
    length = float(np.linalg.norm(velocity))
    if length and span:
        arrow = 0.12 * span / length * velocity
        if len(where) == 3:
            ax.quiver(*where, *arrow, color=colour, linewidth=1, arrow_length_ratio=0.4)
        else:
            ax.annotate("", where + arrow, where, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2})


def _name_axes(found: OutputPaths, ax: Any) -> None:
    for name, number, share in zip("xyz", range(found.projected.shape[2]), found.explained, strict=False):
        kind = "component" if found.projection == "pca" else "direction"
        getattr(ax, f"set_{name}label")(f"{kind} {number + 1} ({100 * share:.0f} % of the movement)")
    ax.set_title(found.label)
