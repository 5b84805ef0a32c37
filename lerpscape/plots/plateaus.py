"""Figures of plateaus: their ends, the effect of biases on them, and predictions along lines from scaled noise."""

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


def plot_plateaus(plateaus: Plateaus, ax: Axes | None = None) -> Axes:
    """Draw observed against predicted plateau ends of examples that the end predicts correctly, and the diagonal."""
    with style():
        ax = axes_or_new(ax)
        ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        for index, target in enumerate(np.unique(plateaus.targets)):
            members = (plateaus.targets == target) & plateaus.known
            ax.plot(
                plateaus.predicted[members],
                plateaus.observed[members],
                MARKS[index // len(COLOURS) % len(MARKS)],
                color=COLOURS[index % len(COLOURS)],
                markersize=3.5,
                alpha=0.6,
                label=f"{target} (b = {plateaus.bias[target]:+.2g})",
            )
        ax.set(xlabel="predicted by the last biases (α)", ylabel="observed end of the plateau (α)")
        legend_above(ax, 3, title="class", title_fontsize="small")
    return ax


def plot_biases(study: BiasStudy, ax: Axes | None = None) -> Axes:
    """Draw the error of every variant against α (the loss, if it has no correct predictions), and plateau ends."""
    with style():
        ax = axes_or_new(ax)
        for index, variant in enumerate(study):
            colour, profile = COLOURS[index % len(COLOURS)], variant.profile
            values = profile.loss if profile.accuracy is None else 100 * (1 - profile.accuracy)
            ax.plot(profile.alphas, values, "-" if index < 3 else "--", color=colour, label=variant.name)
            end = variant.loss_plateau if profile.accuracy is None else variant.error_plateau
            if np.isfinite(end):
                ax.plot([end], [np.interp(end, profile.alphas, values)], "o", color=colour, markersize=6)
        first = study.variants[0].profile
        label = f"loss ({first.unit})" if first.accuracy is None else "error (%)"
        ax.set(xlabel="α   (dots: where the plateau ends)", ylabel=label)
        legend_above(ax, 2)
    return ax


def plot_scaling(scaling: ScaleInvariance, ax: Axes | None = None) -> Axes:
    """Draw the error along the line from every start against log₁₀ of the start's size relative to the end's.

    The zero start is drawn at the relative sizes of the network's own start.
    """
    with style():
        ax = axes_or_new(ax)
        for index, curve in enumerate(scaling):
            positive = curve.ratio > 0
            ax.plot(
                np.log10(curve.ratio[positive]),
                100 * curve.error[positive],
                ".-" if index else "o-",
                color=COLOURS[index % len(COLOURS)],
                markersize=4,
                label=f"{curve.name} (the end scaled down)" if curve.norm == 0 else curve.name,
            )
        ax.axhline(100 * scaling.curves[0].error[-1], color=INK, linewidth=0.8, linestyle=":", label="the end")
        ax.set(xlabel="log₁₀ κ‖ε‖/‖θ_T‖   (right: nearer to the start)", ylabel="error (%)")
        legend_above(ax, 2)
    return ax


def plateaus_figure(plateaus: Plateaus, biases: BiasStudy | None = None) -> Figure:
    """A figure of plateau ends and, if given, of the effect of biases."""
    with style():
        figure = Figure(figsize=(10.4 if biases else 5.4, 4.6), layout="constrained")
        axes = figure.subplots(1, 2 if biases else 1, squeeze=False)[0]
        plot_plateaus(plateaus, axes[0])
        if biases:
            plot_biases(biases, axes[1])
    return figure


def scaling_figure(scaling: ScaleInvariance) -> Figure:
    """A figure of errors along lines from scaled starts (left), and of agreement with the end's predictions (right)."""
    with style():
        figure = Figure(figsize=(10.4, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_scaling(scaling, left)
        for index, curve in enumerate(scaling):
            colour = COLOURS[index % len(COLOURS)]
            right.plot(scaling.alphas, 100 * curve.agreement, ".-", color=colour, label=curve.name)
        right.set(xlabel="α", ylabel="examples with the end's prediction (%)", ylim=(-2, 102))
    return figure
