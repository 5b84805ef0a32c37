"""Pictures of who makes a rise: layers, examples and classes, weights and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import (
    ALPHA,
    COLOURS,
    INK,
    RISE_COLOUR,
    axes_or_new,
    legend_above,
    look,
    page,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.profiles.per_example import ExampleCurves
    from lerpscape.studies.batch_norm_sweeps import PolicySweep
    from lerpscape.studies.contributions import Contributions


def plot_contributions(found: Contributions, ax: Axes | None = None, most: int = 30) -> Axes:
    """Draw one bar per part with its quadrature error, the largest `most` of them; orange parts raise the loss."""
    with style():
        ax = axes_or_new(ax)
        largest = np.sort(np.argsort(-np.abs(found.parts), kind="stable")[:most])
        values, errors = found.parts[largest], found.errors[largest]
        colours = [RISE_COLOUR if value > 0 else COLOURS[0] for value in values]
        rows = np.arange(len(largest))[::-1]
        ax.barh(rows, values, xerr=errors, color=colours, height=0.7, error_kw={"ecolor": INK, "lw": 0.8})
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(rows, [found.names[i] for i in largest])
        left, right = found.between
        ax.set(xlabel=with_unit(f"part of L({right:.3g}) − L({left:.3g}) = {found.change:+.4g}", found.unit))
        if len(largest) < len(found.parts):
            ax.set_title(f"the {len(largest)} largest of {len(found.parts)} parts")
    return ax


def contributions_figure(found: Contributions, most: int = 30) -> Figure:
    """A page as high as there are parts to draw."""
    return page(lambda ax: plot_contributions(found, ax, most), (6.4, 1.2 + 0.26 * min(most, len(found.parts))))


def plot_examples(found: ExampleCurves, ax: Axes | None = None) -> Axes:
    """Draw the mean loss over bands of the examples' own losses, and thin lines for the classes (24 at most)."""
    with style():
        ax = axes_or_new(ax)
        low, lower, upper, high = np.percentile(found.losses, [5, 25, 75, 95], axis=1)
        ax.fill_between(found.alphas, low, high, color=INK, alpha=0.12, linewidth=0, label="90 % of examples")
        ax.fill_between(found.alphas, lower, upper, color=INK, alpha=0.2, linewidth=0, label="50 %")
        for index, each in enumerate(found.by_class(0.0)[:24]):
            colour, dash = look(index)
            ax.plot(found.alphas, each.curve, dash, color=colour, linewidth=0.9, label=f"class {each.number}")
        ax.plot(found.alphas, found.mean, color=INK, linewidth=2.2, label="mean")
        ax.set(xlabel=ALPHA, ylabel=with_unit("loss", found.unit))
        legend_above(ax, 5)
    return ax


def plot_policies(found: PolicySweep, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw the loss under every batch-norm policy, and beside it what weights and statistics add to its change."""
    with style():
        curves, bars = axes
        for index, each in enumerate(found):
            colour = COLOURS[index % len(COLOURS)]
            curves.plot(
                each.profile.alphas, each.profile.loss, ("-", "--", ":")[index % 3], color=colour, label=each.name
            )
        curves.set(xlabel=ALPHA, ylabel=with_unit("loss", found.policies[0].profile.unit))
        legend_above(curves, 3)
        known = [each for each in found if each.split is not None]
        rows = np.arange(len(known))[::-1]
        for shift, part in ((0.2, "weights"), (-0.2, "statistics")):
            values = [float(each.split.parts[each.split.names.index(part)]) for each in known if each.split]
            bars.barh(rows + shift, values, height=0.36, color=COLOURS[0 if part == "weights" else 1], label=part)
        bars.axvline(0, color=INK, linewidth=0.8)
        labels = [
            f"{each.name}\n{each.split.between[0]:.2g} to {each.split.between[1]:.2g}" for each in known if each.split
        ]
        bars.set_yticks(rows, labels)
        bars.set(xlabel=with_unit("part of the change of the loss", found.policies[0].profile.unit))
        legend_above(bars, 2)
    return axes


def policies_figure(found: PolicySweep) -> Figure:
    """A page with one sweep of batch-norm policies."""
    with style():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        plot_policies(found, figure.subplots(1, 2))
    return figure
