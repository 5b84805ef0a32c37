"""Figures of what contributes to a rise: layers, examples and classes, weights and batch-norm statistics."""

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
    line_style,
    page,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.profiles.per_example import ExampleCurves
    from lerpscape.studies.batch_norm_sweeps import PolicySweep
    from lerpscape.studies.contributions import Contributions


def plot_contributions(contributions: Contributions, ax: Axes | None = None, most: int = 30) -> Axes:
    """Draw the `most` largest contributions as bars with their quadrature errors; orange: it raises the loss."""
    with style():
        ax = axes_or_new(ax)
        largest = np.sort(np.argsort(-np.abs(contributions.parts), kind="stable")[:most])
        values, errors = contributions.parts[largest], contributions.errors[largest]
        colours = [RISE_COLOUR if value > 0 else COLOURS[0] for value in values]
        rows = np.arange(len(largest))[::-1]
        ax.barh(rows, values, xerr=errors, color=colours, height=0.7, error_kw={"ecolor": INK, "lw": 0.8})
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(rows, [contributions.names[i] for i in largest])
        left, right = contributions.between
        change = f"part of L({right:.3g}) − L({left:.3g}) = {contributions.change:+.4g}"
        ax.set(xlabel=with_unit(change, contributions.unit))
        if len(largest) < len(contributions.parts):
            ax.set_title(f"the {len(largest)} largest of {len(contributions.parts)} parts")
    return ax


def contributions_figure(contributions: Contributions, most: int = 30) -> Figure:
    """A figure of the `most` largest contributions, with a height in proportion to their number."""
    bars = min(most, len(contributions.parts))
    return page(lambda ax: plot_contributions(contributions, ax, most), (6.4, 1.2 + 0.26 * bars))


def plot_examples(curves: ExampleCurves, ax: Axes | None = None) -> Axes:
    """Draw the mean loss, bands with 50 and 90 % of the examples' losses, and thin lines for up to 24 classes."""
    with style():
        ax = axes_or_new(ax)
        low, lower, upper, high = np.percentile(curves.losses, [5, 25, 75, 95], axis=1)
        ax.fill_between(curves.alphas, low, high, color=INK, alpha=0.12, linewidth=0, label="90 % of examples")
        ax.fill_between(curves.alphas, lower, upper, color=INK, alpha=0.2, linewidth=0, label="50 %")
        for index, of_class in enumerate(curves.by_class(0.0)[:24]):
            colour, dashes = line_style(index)
            label = f"class {of_class.number}"
            ax.plot(curves.alphas, of_class.curve, dashes, color=colour, linewidth=0.9, label=label)
        ax.plot(curves.alphas, curves.mean, color=INK, linewidth=2.2, label="mean")
        ax.set(xlabel=ALPHA, ylabel=with_unit("loss", curves.unit))
        legend_above(ax, 5)
    return ax


def plot_policies(sweep: PolicySweep, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw the loss under every batch-norm policy, and the parts of weights and statistics in its change as bars."""
    with style():
        curves, bars = axes
        unit = sweep.policies[0].profile.unit
        for index, row in enumerate(sweep):
            colour, dashes = COLOURS[index % len(COLOURS)], ("-", "--", ":")[index % 3]
            curves.plot(row.profile.alphas, row.profile.loss, dashes, color=colour, label=row.name)
        curves.set(xlabel=ALPHA, ylabel=with_unit("loss", unit))
        legend_above(curves, 3)
        splits = {row.name: row.split for row in sweep if row.split is not None}
        places = np.arange(len(splits))[::-1]
        for shift, part, colour in ((0.2, "weights", COLOURS[0]), (-0.2, "statistics", COLOURS[1])):
            values = [float(split.parts[split.names.index(part)]) for split in splits.values()]
            bars.barh(places + shift, values, height=0.36, color=colour, label=part)
        bars.axvline(0, color=INK, linewidth=0.8)
        labels = [f"{name}\n{split.between[0]:.2g} to {split.between[1]:.2g}" for name, split in splits.items()]
        bars.set_yticks(places, labels)
        bars.set(xlabel=with_unit("part of the change of the loss", unit))
        legend_above(bars, 2)
    return axes


def policies_figure(sweep: PolicySweep) -> Figure:
    """A figure of a sweep of batch-norm policies."""
    with style():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        plot_policies(sweep, figure.subplots(1, 2))
    return figure
