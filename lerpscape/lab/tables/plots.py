"""Figures of many runs: the heat map of a table, and all loss curves by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lerpscape.lab.tables.formats import value_label
from lerpscape.lab.tables.records import Record
from lerpscape.lab.tables.table import Layout, Table, field_label, within_rule
from lerpscape.plots.style import style

LONGEST = 8  # letters of a column's label that fit above its cells


def heat_map(table: Table) -> Figure:
    """The cells of a table as colours with their numbers; an empty cell is white."""
    values = table.values()
    with style():
        figure = Figure(figsize=(1.6 + 0.8 * len(table.columns), 1.5 + 0.45 * len(table.rows)), layout="constrained")
        ax = figure.subplots()
        high = 1.0 if table.layout.kind == "share" else float(np.nanmax(values, initial=0.0))
        low = min(0.0, float(np.nanmin(values, initial=0.0)))
        image = ax.imshow(np.ma.masked_invalid(values), cmap="viridis", aspect="auto", vmin=low, vmax=high or 1.0)
        heads = [", ".join(map(value_label, key)) for key in table.columns]
        ax.set_xticks(range(len(heads)), heads)
        if max(map(len, heads), default=0) > LONGEST:  # side by side they would collide
            ax.tick_params("x", labelrotation=35)
            for label in ax.get_xticklabels():
                label.set_horizontalalignment("right")
        ax.set_yticks(range(len(table.rows)), [", ".join(map(value_label, key)) for key in table.rows])
        ax.set_xlabel(", ".join(field_label(name) for name in table.layout.columns))
        ax.set_ylabel(", ".join(field_label(name) for name in table.layout.rows))
        ax.set_title(table.title, fontsize="medium")
        ax.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            cell = table.cells.get((table.rows[row], table.columns[column]))
            if cell is not None:
                ink = "white" if value < (low + high) / 2 else "black"
                text = f"{cell.hits}/{cell.n}" if cell.hits is not None else f"{value:.2g}"
                ax.annotate(text, (column, row), ha="center", va="center", color=ink, fontsize="small")
        figure.colorbar(image, ax=ax)
    return figure


def curves(records: Sequence[Record], layout: Layout, counts_below: float | None = None) -> Figure:
    """The loss curve of every counted run, a panel for each combination of `layout.rows`; rising curves in red."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        profile = record.profile(layout.part)
        if profile is not None and not profile.invalid and within_rule(record, counts_below):
            flat = record.config.flat()
            labels = (_panel_label(name, flat.get(name)) for name in layout.rows)
            groups.setdefault(" · ".join(labels), []).append(record)
    with style():
        across = min(3, max(1, len(groups)))
        down = max(1, -(-len(groups) // across))
        figure = Figure(figsize=(2.9 * across, 2.3 * down), layout="constrained")
        panels = list(figure.subplots(down, across, sharex=True, squeeze=False).flat)
        for ax, (name, group) in zip(panels, groups.items(), strict=False):
            rising = 0
            for record in group:
                profile = record.profile(layout.part)
                assert profile is not None
                rises = profile.max_rise > layout.tolerance
                rising += rises
                ax.plot(
                    profile.alphas, profile.loss, color="C3" if rises else "C0", alpha=0.6, lw=0.9, zorder=2 + rises
                )
            ax.set_title(f"{name}\n{rising} of {len(group)} rise", fontsize="small")
        for ax in panels[len(groups) :]:
            ax.set_visible(False)
        figure.supxlabel("α", fontsize="medium")
        figure.supylabel("loss", fontsize="medium")
    return figure


def _panel_label(name: str, value: Any) -> str:
    """The label of a value, preceded by its field unless the value is a word: sgd, but batch_norm yes."""
    label = value_label(tuple(value) if isinstance(value, list) else value)
    return label if isinstance(value, str) else f"{field_label(name)} {label}"
