"""Draw how fast profile() is, from benchmarks/results/engine.json and models.json.

usage: python benchmarks/plot_engine.py docs/images
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lerpscape.plots.style import COLOURS, INK, save_figure, style

Ways = dict[str, dict[str, Any]]
RESULTS = Path(__file__).parent / "results"


def bars(ax: Axes, rows: dict[str, dict[str, Any]], reference: str) -> None:
    """How many times faster than the reference: medians, and the range over rounds."""
    for place, (name, row) in enumerate(reversed(rows.items())):
        low, high = row["times_faster_range"]
        ours = "lerpscape" in name or not reference
        ax.barh(place, row["times_faster"], color=COLOURS[0] if ours else "#bbbbbb", height=0.7)
        ax.plot([low, high], [place, place], color=INK, linewidth=1)
        ax.annotate(
            f"{row['times_faster']:.2f}",
            (max(high, row["times_faster"]), place),
            textcoords="offset points",
            xytext=(4, 0),
            va="center",
            fontsize=8,
        )
    ax.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=8)
    ax.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    ax.set_xlim(0, 1.15 * max(row["times_faster_range"][1] for row in rows.values()))
    ax.set_xlabel("times faster than the plain loop")


def grown(ax: Axes, found: dict[str, Ways], label: str) -> None:
    """Seconds of the loop and of profile() as something grows."""
    for index, (way, colour) in enumerate((("plain loop over tensors", "#999999"), ("lerpscape", COLOURS[0]))):
        seconds = [ways[way]["median_seconds"] for ways in found.values()]
        ax.plot([float(value) for value in found], seconds, "o-", color=colour, label=way, markersize=3 + index)
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
    ax.set_xticks([float(value) for value in found], [f"{int(value):,}" for value in found])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def main() -> None:
    engine = json.loads((RESULTS / "engine.json").read_text())
    models = json.loads((RESULTS / "models.json").read_text())
    folder = Path(sys.argv[1])
    with style():
        figure = Figure(figsize=(9.6, 6.2), layout="constrained")
        axes = figure.subplots(2, 2)
        mlp = engine["mlp"]["found"]
        bars(axes[0, 0], mlp["ways"], "the loop")
        axes[0, 0].set_title(
            f"{mlp['network']}, {mlp['examples']:,} {mlp['data']} images, {mlp['points']} α", fontsize=9
        )
        found = engine["growth"]["found"]["found"]
        for ax, name in zip(axes.flat[1:], ("points", "examples", "layers"), strict=True):
            grown(ax, found[name], {"points": "α", "examples": "images", "layers": "hidden layers of 256"}[name])
        axes[0, 1].legend()
        save_figure(figure, str(folder / "engine-growth.png"))

        rows = {
            (name if way == "lerpscape" else f"{name}: {way.removeprefix('lerpscape, ')}"): row
            for name, found in models.items()
            if name != "what"
            for way, row in found["ways"].items()
            if way.startswith("lerpscape")
        }
        figure = Figure(figsize=(9.6, 0.26 * len(rows) + 1), layout="constrained")
        bars(figure.subplots(), rows, "")
        save_figure(figure, str(folder / "engine-models.png"))


if __name__ == "__main__":
    main()
