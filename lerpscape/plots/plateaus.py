"""Pictures of plateaus: where they end, what biases do to them, and how scale and noise share a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import COLOURS, INK, axes_or_new, legend_above, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.studies.biases import BiasStudy
    from lerpscape.studies.plateaus import Plateaus
    from lerpscape.studies.scaling import ScaleInvariance

MARKS = ("o", "s", "^", "x")


def plot_plateaus(found: Plateaus, ax: Axes | None = None) -> Axes:
    """Draw observed against predicted plateau ends for examples right at the end; on the line: as predicted."""
    with style():
        ax = axes_or_new(ax)
        ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        for index, each in enumerate(np.unique(found.targets)):
            members = (found.targets == each) & found.known
            ax.plot(
                found.predicted[members],
                found.observed[members],
                MARKS[index // len(COLOURS) % len(MARKS)],
                color=COLOURS[index % len(COLOURS)],
                markersize=3.5,
                alpha=0.6,
                label=f"{each} (b = {found.bias[each]:+.2g})",
            )
        ax.set(xlabel="predicted by the last biases (α)", ylabel="observed end of the plateau (α)")
        legend_above(ax, 3, title="class", title_fontsize="small")
    return ax


def plot_biases(found: BiasStudy, ax: Axes | None = None) -> Axes:
    """Draw the error of every variant against α, or the loss where it has no right answer; plateau ends as ticks."""
    with style():
        ax = axes_or_new(ax)
        for index, each in enumerate(found):
            colour = COLOURS[index % len(COLOURS)]
            values = each.profile.loss if each.profile.accuracy is None else 100 * (1 - each.profile.accuracy)
            ax.plot(each.profile.alphas, values, "-" if index < 3 else "--", color=colour, label=each.name)
            end = each.loss_plateau if each.profile.accuracy is None else each.error_plateau
            if np.isfinite(end):
                ax.plot([end], [np.interp(end, each.profile.alphas, values)], "o", color=colour, markersize=6)
        unit = (
            "error (%)"
            if found.variants[0].profile.accuracy is not None
            else f"loss ({found.variants[0].profile.unit})"
        )
        ax.set(xlabel="α   (dots: where the plateau ends)", ylabel=unit)
        legend_above(ax, 2)
    return ax


def plot_scaling(found: ScaleInvariance, ax: Axes | None = None) -> Axes:
    """Draw the error of every start against log₁₀ of how large it is beside the end (zero: at the own start's)."""
    with style():
        ax = axes_or_new(ax)
        for index, each in enumerate(found):
            moving = each.ratio > 0
            label = f"{each.name} (the end scaled down)" if each.norm == 0 else each.name
            ax.plot(
                np.log10(each.ratio[moving]),
                100 * each.error[moving],
                ".-" if index else "o-",
                color=COLOURS[index % len(COLOURS)],
                markersize=4,
                label=label,
            )
        ax.axhline(100 * found.curves[0].error[-1], color=INK, linewidth=0.8, linestyle=":", label="the end")
        ax.set(xlabel="log₁₀ κ‖ε‖/‖θ_T‖   (right: nearer to the start)", ylabel="error (%)")
        legend_above(ax, 2)
    return ax


def plateaus_figure(plateaus: Plateaus, biases: BiasStudy | None = None) -> Figure:
    """A page with plateau ends and, where it was measured, what biases do."""
    with style():
        figure = Figure(figsize=(10.4 if biases else 5.4, 4.6), layout="constrained")
        axes = figure.subplots(1, 2 if biases else 1, squeeze=False)[0]
        plot_plateaus(plateaus, axes[0])
        if biases:
            plot_biases(biases, axes[1])
    return figure


def scaling_figure(found: ScaleInvariance) -> Figure:
    """A page with scale invariance: errors at the left, agreement of predictions with the end at the right."""
    with style():
        figure = Figure(figsize=(10.4, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_scaling(found, left)
        for index, each in enumerate(found):
            right.plot(found.alphas, 100 * each.agreement, ".-", color=COLOURS[index % len(COLOURS)], label=each.name)
        right.set(xlabel="α", ylabel="examples with the end's prediction (%)", ylim=(-2, 102))
    return figure
