"""Figure of a sweet spot: the curves of all data sets, their limits, and the best α with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lerpscape.plots.style import ALPHA, INK, axes_or_new, legend_above, line_style, style, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.studies.sweet_spots import SweetSpot


def plot_sweet_spot(spot: SweetSpot, ax: Axes | None = None) -> Axes:
    """Draw the change of every mean loss against α, limits as dotted lines, and the best α with its interval."""
    with style():
        ax = axes_or_new(ax)
        origin = int(np.argmin(np.abs(spot.alphas - spot.rise_from)))
        for index, change in enumerate(spot.changes):
            colour, dashes = line_style(index)
            curve, errors = spot.losses[index] - spot.losses[index][origin], np.nan_to_num(spot.errors[index])
            label = f"{change.name} (best)" if change.name == spot.best else change.name
            ax.plot(spot.alphas, curve, dashes, color=colour, marker=".", markersize=4, label=label)
            ax.fill_between(spot.alphas, curve - errors, curve + errors, color=colour, alpha=0.15, linewidth=0)
            if change.limit is not None:
                ax.axhline(change.limit, color=colour, linestyle=":", linewidth=1, label=f"limit of {change.name}")
        if np.isfinite(spot.alpha):
            ax.axvline(spot.alpha, color=INK, linewidth=1, label=f"α = {spot.alpha:.3f}")
            if np.isfinite(spot.low):
                ax.axvspan(spot.low, spot.high, color=INK, alpha=0.12, linewidth=0)
        units = {change.unit for change in spot.changes}
        unit = units.pop() if len(units) == 1 else ""
        ax.set(xlabel=ALPHA, ylabel=with_unit(f"change from α = {spot.rise_from:g}", unit))
        legend_above(ax, 3)
    return ax
