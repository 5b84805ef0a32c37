"""Figures of the paths of a network's outputs, and of their Gauss lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import (
    COLOURS,
    INK,
    RISE_COLOUR,
    axes_or_new,
    comparison_style,
    legend_above,
    line_style,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.geometry.gauss_length_results import GaussLength
    from lerpscape.geometry.output_projections import OutputPaths

HALF_PI = np.pi / 2


def plot_gauss(gauss: GaussLength, ax: Axes | None = None, beside: Sequence[GaussLength] = ()) -> Axes:
    """Draw the cumulative distribution of Gauss lengths over examples, with π/2 marked; dashed: results `beside` it.

    The faint band has the width of the change at the last halving of the grid. Estimates grow as the grid is refined,
    so the distribution of the true lengths lies to the right.
    """
    with style():
        ax = axes_or_new(ax)
        for index, result in enumerate([gauss, *beside]):
            colour, dashes = comparison_style(index)
            share = 100 * np.arange(1, len(result.per_example) + 1) / len(result.per_example)
            lengths, refined = np.sort(result.per_example), np.sort(result.per_example + result.error)
            ax.step(lengths, share, dashes, where="post", color=colour, label=result.label or result.method)
            ax.fill_betweenx(share, lengths, refined, step="pre", color=colour, alpha=0.15, linewidth=0)
        ax.axvline(HALF_PI, color=RISE_COLOUR, linewidth=1, linestyle=":", label="π/2")
        paths = "examples" if gauss.position is None else "positions"
        ax.set(xlabel="Gauss length (rad)", ylabel=f"share of {paths} with at most this (%)", ylim=(0, 102))
        ax.set_xlim(left=0)
        legend_above(ax, 4)
    return ax


def gauss_figure(gauss: GaussLength, beside: Sequence[GaussLength] = ()) -> Figure:
    """A figure of the distribution of Gauss lengths, and of their mean as the grid is refined."""
    with style():
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        plot_gauss(gauss, left, beside).get_legend().remove()  # type: ignore[union-attr]
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        for index, result in enumerate([gauss, *beside]):
            points = [level.points for level in result.levels]
            right.plot(points, [level.mean for level in result.levels], ".-", color=COLOURS[index % len(COLOURS)])
        right.set_xscale("log", base=2)
        most = max((result.levels for result in (gauss, *beside)), key=len)
        right.set_xticks([level.points for level in most], [str(level.points) for level in most], fontsize="small")
        right.minorticks_off()
        right.set(xlabel="number of α", ylabel="mean (rad)", ylim=(0, None))
    return figure


def output_paths_figure(
    paths: OutputPaths, beside: Sequence[OutputPaths] = (), axes: Sequence[Axes] | None = None
) -> Figure:
    """Draw projected output paths, one panel for each result: `paths`, then those `beside` it.

    A dot marks α = 0, a square α = 1, and an arrow the velocity at α = ½. Colours are classes.
    """
    results = [paths, *beside]
    with style():
        if axes is None:
            three = {"projection": "3d"} if paths.projected.shape[2] == 3 else {}
            new = Figure(figsize=(5.2 * len(results), 4.8), layout="constrained")
            axes = list(new.subplots(1, len(results), squeeze=False, subplot_kw=three)[0])
        labels = sorted({label for result in results for label in result.labels}, key=lambda text: (len(text), text))
        for result, ax in zip(results, axes, strict=True):
            for row, label in enumerate(result.labels):
                _draw_path(result, row, *line_style(labels.index(label)), ax)
            _name_axes(result, ax)
        for index, label in enumerate(labels):
            colour, dashes = line_style(index)
            axes[0].plot([], [], dashes, color=colour, label=label)
        axes[0].plot([], [], "o", color=INK, markersize=4, label="α = 0")
        axes[0].plot([], [], "s", color=INK, markersize=5, label="α = 1")
        figure = axes[0].get_figure()
        assert figure is not None
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(8, len(names)))
    return figure  # type: ignore[return-value]


def _draw_path(paths: OutputPaths, row: int, colour: str, dashes: str, ax: Any) -> None:
    path = paths.projected[:, row]
    ax.plot(*path.T, dashes, color=colour, linewidth=1.3)
    ax.plot(*path[:1].T, "o", color=colour, markersize=4)
    ax.plot(*path[-1:].T, "s", color=colour, markersize=5)
    if paths.projected_velocity is None:
        return
    middle = len(path) // 2
    where, velocity = path[middle], paths.projected_velocity[middle, row]
    span = float(np.ptp(paths.projected.reshape(-1, path.shape[1]), axis=0).max())
    length = float(np.linalg.norm(velocity))
    if length and span:
        arrow = 0.12 * span / length * velocity
        if len(where) == 3:
            ax.quiver(*where, *arrow, color=colour, linewidth=1, arrow_length_ratio=0.4)
        else:
            ax.annotate("", where + arrow, where, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2})


def _name_axes(paths: OutputPaths, ax: Any) -> None:
    kind = "component" if paths.projection == "pca" else "direction"
    for name, number, share in zip("xyz", range(paths.projected.shape[2]), paths.explained, strict=False):
        getattr(ax, f"set_{name}label")(f"{kind} {number + 1} ({100 * share:.0f} % of the movement)")
    ax.set_title(paths.label)
