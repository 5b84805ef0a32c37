"""Figures of the theory, one for each of the four models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import ALPHA, COLOURS, INK, RISE_COLOUR, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.base.arrays import Floats
    from lerpscape.papers.lucas2021.theory.linear_networks import LinearModel, TwoLayer
    from lerpscape.papers.lucas2021.theory.noisy_quadratic import NoisyQuadratic, Simulation
    from lerpscape.papers.lucas2021.theory.width import WidthStudy

DASHES = ("-", "--", "-.", ":")


def quadratic_figure(models: Sequence[tuple[str, NoisyQuadratic, Simulation]]) -> Figure:
    """Closed form and simulated SGD, one column per model: losses above, their difference below.

    The difference between simulated mean and closed form is in units of the Monte-Carlo standard error. The means at
    all α come from the same runs, so that the errors at neighbouring α are correlated.
    """
    with style():
        figure = Figure(figsize=(4.1 * len(models), 4.9), layout="constrained")
        grid = figure.subplots(2, len(models), height_ratios=[2.6, 1], sharex=True, sharey="row", squeeze=False)
        fine = np.linspace(0, 1, 201)
        for (top, bottom), (name, model, simulation) in zip(grid.T, models, strict=True):
            top.plot(fine, simulation.lines(12, fine).T, color=INK, alpha=0.2, linewidth=0.8)
            top.plot([], [], color=INK, alpha=0.4, linewidth=0.8, label="single runs")
            top.plot(fine, model.expected_loss(fine), color=COLOURS[0], label="E L, closed form")
            top.plot(
                simulation.alphas,
                simulation.loss,
                "o",
                color=COLOURS[1],
                markersize=4,
                label=f"mean of {simulation.runs:,} runs",
            )
            after_start = simulation.alphas > 0  # the start is the same in every run
            difference = (simulation.loss - model.expected_loss(simulation.alphas))[after_start]
            difference /= simulation.stderr[after_start]
            bottom.plot(simulation.alphas[after_start], difference, "o-", color=COLOURS[1], markersize=4, linewidth=0.8)
            bottom.axhline(0, color=COLOURS[0])
            if not model.is_monotonic:
                for ax in (top, bottom):
                    ax.axvspan(model.vertex, 1, color=RISE_COLOUR, alpha=0.15, linewidth=0, label="rise of E L")
            verdict = "E L falls" if model.is_monotonic else f"E L rises by {model.max_rise:.3g}"
            top.set_title(f"{name}: {verdict};\n{100 * simulation.share_monotonic:.0f} % of the runs never rise")
            bottom.set(xlabel=ALPHA, ylim=(-4, 4))
        grid[0, 0].set(ylabel="loss", ylim=(0, None))
        grid[1, 0].set(ylabel="difference (SE)")
        _legend(figure, [grid[0, -1]])
    return figure


def linear_figure(models: Sequence[LinearModel]) -> Figure:
    """Models linear in their parameters: measured losses and their parabolas, and the straight output paths."""
    with style():
        figure = Figure(figsize=(8.8, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        fine = np.linspace(0, 1, 201)
        for index, model in enumerate(models):
            colour = COLOURS[index]
            left.plot(
                fine, model.expected_loss(fine), color=colour, linewidth=1, label=f"parabola, c = {model.overshoot:g}"
            )
            left.plot(
                model.profile.alphas[::2], model.profile.loss[::2], "o", color=colour, markersize=3.5, label="measured"
            )
            if model.profile.max_rise:
                left.axvspan(1 / model.overshoot, 1, color=RISE_COLOUR, alpha=0.12, linewidth=0, label="rise")
        left.axhline(models[0].best, color=INK, linewidth=0.8, linestyle=":", label="least squares")
        left.set(xlabel=ALPHA, ylabel="squared error", ylim=(0, None))
        left.set_title("Line ends at c times the way to least squares")
        paths = models[0].paths.projected
        for row in range(paths.shape[1]):
            right.plot(*paths[:, row].T, "-", color=COLOURS[row % len(COLOURS)], linewidth=1.2)
            right.plot(*paths[:1, row].T, "o", color=COLOURS[row % len(COLOURS)], markersize=4)
            right.plot(*paths[-1:, row].T, "s", color=COLOURS[row % len(COLOURS)], markersize=5)
        right.plot([], [], "o", color=INK, markersize=4, label="α = 0")
        right.plot([], [], "s", color=INK, markersize=5, label="α = 1")
        right.set(xlabel="output, component 1", ylabel="output, component 2")
        right.set_title(f"{paths.shape[1]} output paths: Gauss length {models[0].gauss.per_example.max():.1g} rad")
        left.legend(loc="upper right", fontsize="small")
        right.legend(loc="best", fontsize="small")
    return figure


def two_layer_figure(models: Sequence[TwoLayer], mode: int = 0) -> Figure:
    """Two linear layers: losses on the lines, and the trajectory and the line of one mode's weights in their plane."""
    with style():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        fine = np.linspace(0, 1, 201)
        reach = 1.15 * max(float(np.abs(weights[:, mode]).max()) for model in models for weights in model.layer_weights)
        target = float(models[0].targets[mode])
        for index, model in enumerate(models):
            colour, dash = COLOURS[index], DASHES[index]
            left.plot(fine, model.expected_loss(fine), dash, color=colour, linewidth=1.4, label=model.profile.label)
            left.plot(model.profile.alphas[::5], model.profile.loss[::5], "o", color=colour, markersize=3.5)
            for rise in model.profile.rises:
                left.axvspan(rise.opens, rise.closes, color=RISE_COLOUR, alpha=0.12, linewidth=0)
            first, second = (weights[:, mode] for weights in model.layer_weights)
            right.plot(first, second, ".", color=colour, markersize=3 if len(first) > 500 else 7, alpha=0.6)
            right.plot(first[[0, -1]], second[[0, -1]], dash, color=colour, linewidth=1.4)
            size = 10 - 1.5 * index  # smaller for later models, which may start or end at the same point
            right.plot(first[0], second[0], "o", color=colour, markersize=size)
            right.plot(first[-1], second[-1], "s", color=colour, markersize=size)
        positive = np.linspace(target / reach, reach, 200)
        for sign in (1, -1):
            right.plot(sign * positive, sign * target / positive, color=INK, linewidth=1)
        left.axvspan(0, 0, color=RISE_COLOUR, alpha=0.12, linewidth=0, label="rise")
        left.set_yscale("function", functions=(_root, np.square))
        left.set(xlabel=ALPHA, ylabel="squared error (scale of square roots)", ylim=(0, None))
        left.set_yticks([0, 0.25, 1, 4, 9, 16], labels=["0", "¼", "1", "4", "9", "16"])
        left.set_title("Loss on the line: dots are measured")
        right.axhline(0, color=INK, linewidth=0.5)
        right.axvline(0, color=INK, linewidth=0.5)
        right.plot([], [], color=INK, linewidth=1, label=f"solutions, ab = {target:g}")
        right.plot([], [], ".", color=INK, markersize=4, label="training")
        right.plot([], [], "o", color=INK, markersize=6, label="start")
        right.plot([], [], "s", color=INK, markersize=6, label="end")
        right.set(xlabel="first layer's weight a", ylabel="second layer's weight b", aspect="equal")
        right.set(xlim=(-reach, reach), ylim=(-reach, reach))
        right.set_title("The same lines in the weight plane of one mode")
        _legend(figure, [left, right])
    return figure


def width_figure(studies: Sequence[WidthStudy]) -> Figure:
    """Gauss length, relative distance and max_rise against width: a dot for each run, and the fitted power laws."""
    names = {
        "gauss_length": "Gauss length (rad)",
        "relative_distance": "relative distance",
        "max_rise": "max_rise (squared error)",
    }
    with style():
        figure = Figure(figsize=(11.4, 3.9), layout="constrained")
        for ax, (name, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
            for index, study in enumerate(studies):
                _plot_against_width(study, name, COLOURS[index], "os"[index % 2], 1 + 0.05 * (2 * index - 1), ax)
            widths = studies[0].widths
            ax.set_xscale("log")
            ax.set_xticks(widths, labels=[str(width) for width in widths], minor=False)
            ax.minorticks_off()
            ax.set(xlabel="width", ylabel=label)
            if name == "max_rise" and not any(study.values(name).any() for study in studies):
                ax.set(ylim=(-0.1, 1))
                ax.text(0.5, 0.5, "0 in every run:\nno exponent", ha="center", transform=ax.transAxes)
            elif name != "max_rise":
                ax.set_yscale("log")
                for formatted in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
                    formatted(lambda value, _: f"{value:g}" if f"{value:.1e}"[0] in "125" else "")
                ax.legend(loc="lower left", fontsize="small", title="exponent", title_fontsize="small")
    return figure


def _plot_against_width(study: WidthStudy, name: str, colour: str, marker: str, shift: float, ax: Axes) -> None:
    """Plot the runs of one study as dots, with its fit; `shift` is a factor on the widths that separates two studies.

    For the Gauss length, also plot the published integral, with open dots and a dashed line.
    """
    widths = np.asarray(study.widths, dtype=float)
    for quantity in (name, "integral") if name == "gauss_length" else (name,):
        published = quantity == "integral"
        face, dash = ("none", "--") if published else (colour, "-")
        for column in study.values(quantity).T:
            ax.plot(shift * widths, column, marker, color=colour, markerfacecolor=face, markersize=4, alpha=0.6)
        law = study.fit(quantity)
        if not law.reason:
            label = f"{study.activation}{', integral' if published else ''}"
            error = f"{law.exponent:.2f} ± {(law.upper - law.lower) / 2:.2f}".replace("-", "−")
            ax.plot(widths, law.at(widths), dash, color=colour, linewidth=1.3, label=f"{label}: {error}")


def _root(values: Floats) -> Floats:
    """√max(value, 0); matplotlib also evaluates the scale below 0."""
    return np.sqrt(np.maximum(values, 0))


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries = [entry for ax in axes for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
