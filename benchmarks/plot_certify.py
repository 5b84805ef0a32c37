"""Draw how the cost of certify() grows, from benchmarks/results/certify.json.

usage: python benchmarks/plot_certify.py docs/images
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lerpscape.plots.style import COLOURS, INK, save_figure, style

Row = dict[str, Any]
SECONDS = (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)
MARKERS = {"monotonic": "o", "violated": "s", "undecided": "x"}


def hidden(name: str) -> list[int]:
    """Widths of the hidden layers that a name tells."""
    found = re.search(r"\b\d+(?:-\d+)+\b", name)
    return [int(size) for size in found.group().split("-")[1:-1]] if found else []


def series(rows: dict[str, Row], pattern: str, place: Callable[[str, Row], float]) -> list[tuple[float, Row]]:
    """The rows of the names that fit, each with its place on the axis, in order."""
    found = [(place(name, row), row) for name, row in rows.items() if re.fullmatch(pattern, name)]
    return sorted(found, key=lambda each: each[0])


def draw(ax: Axes, points: list[tuple[float, Row]], slope: float | None = None) -> None:
    """CPU seconds with the range over rounds, how many intervals were enclosed, and what came of it."""
    places, seconds = [x for x, _ in points], [row["median_cpu_seconds"] for _, row in points]
    ax.plot(places, seconds, color=COLOURS[0], linewidth=1)
    for x, row in points:
        low, high = row["cpu_seconds_range"]
        ax.plot([x, x], [low, high], color=COLOURS[0], linewidth=3, alpha=0.5)
        ax.plot(x, row["median_cpu_seconds"], MARKERS[row["verdict"]], color=COLOURS[0])
        where = {"textcoords": "offset points", "xytext": (0, 8), "ha": "center", "fontsize": 8, "color": INK}
        ax.annotate(str(row["evaluations"]), (x, row["median_cpu_seconds"]), **where)
    if slope is not None:
        line = [seconds[0] * (x / places[0]) ** slope for x in places]
        ax.plot(places, line, ":", color=INK, linewidth=1, label="in proportion")
    ax.set(yscale="log", ylabel="CPU seconds")
    ax.margins(x=0.08, y=0.25)
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in SECONDS if low <= tick <= high])
    ax.set_yticklabels([f"{tick:g}" for tick in ax.get_yticks()])


def main() -> None:
    rows = json.loads((Path(__file__).parent / "results" / "certify.json").read_text())
    plain = r"digits [\d-]+ ReLU, SGD 0\.05"
    depths = series(rows, plain, lambda name, _: len(hidden(name)))
    widths = series(rows, plain, lambda name, _: hidden(name)[0])
    panels = {
        "depth": [(x, row) for x, row in depths if row in [r for w, r in widths if w == 128]],
        "width": [(x, row) for x, row in widths if row in [r for d, r in depths if d == 2]],
        "data": series(rows, r"data: .*", lambda _, row: row["examples"]),
        "bracket": series(rows, r"bracket: .*", lambda _, row: 1 / (row["upper"] / row["lower"] - 1)),
    }
    with style():
        figure = Figure(figsize=(9.6, 6.4), layout="constrained")
        for ax, (name, points) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
            draw(ax, points, slope=1.0 if name == "data" else None)
            if name != "depth":
                ax.set(xscale="log")
            ax.set_xticks([x for x, _ in points] if name != "bracket" else [1, 2, 5, 10, 20, 50])
            ax.set_xticklabels([f"{each:,.0f}" for each in ax.get_xticks()])
            ax.minorticks_off()
            ax.set(xlabel=LABELS[name])
        handles = [
            figure.axes[0].plot([], [], mark, color=COLOURS[0], label=word)[0]
            for word, mark in MARKERS.items()
            if any(row["verdict"] == word for points in panels.values() for _, row in points)
        ]
        figure.axes[0].legend(handles=handles)
        figure.axes[2].legend()
    save_figure(figure, str(Path(sys.argv[1]) / "certify-cost.png"))


LABELS = {
    "depth": "hidden layers of 128, digits",
    "width": "width of two hidden layers, digits",
    "data": "Fashion-MNIST images, 784-256-256-10",
    "bracket": "1 / (upper/lower − 1), digits, a violation",
}


if __name__ == "__main__":
    main()
