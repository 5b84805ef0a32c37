"""Pictures of verdicts from a part of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lerpscape.plots.style import COLOURS, INK, RISE_COLOUR, axes_or_new, legend_above, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.profiles.sequential_verdicts import SequentialVerdict


def plot_looks(found: SequentialVerdict, ax: Axes | None = None) -> Axes:
    """Draw the bracket of the largest rise at every look against the examples seen, with the tolerance."""
    with style():
        ax = axes_or_new(ax)
        counts = [each.examples for each in found.looks]
        lower, upper = ([getattr(each, end) for each in found.looks] for end in ("lower", "upper"))
        ax.vlines(counts, lower, upper, color=COLOURS[0], linewidth=2, label="largest rise over all examples")
        ax.plot(counts, lower, "_", counts, upper, "_", color=COLOURS[0], markersize=9)
        ax.axhline(found.tolerance, color=RISE_COLOUR, linewidth=1.2, label="tolerance")
        ax.axvline(found.of, color=INK, linewidth=0.8, linestyle=":", label="all examples")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set(xlabel="examples seen", ylabel=f"largest rise ({found.unit or 'loss'})")
        legend_above(ax, 3)
    return ax
