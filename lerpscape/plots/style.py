"""The common style of all figures: colours, lines, axes and legends; figures as SVG and as files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from lerpscape.base.saving import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): distinguishable for colour-blind readers, on white and on black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
RISE_COLOUR = "#D55E00"
ALPHA = "α   (0: start, 1: end)"
# The colour of axes and text; in SVG it is replaced by the colour of the surrounding text, light or dark.
INK = "#444444"
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 11.0,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "lerpscape",
    "text.color": INK,
    "text.parse_math": False,  # file names may contain a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """Use lerpscape's style for everything drawn inside."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def page(plot: Callable[[Axes], object], size: tuple[float, float]) -> Figure:
    """A figure of the given size (width, height) in inches with one plot."""
    with style():
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.subplots())
    return figure


def as_svg(figure: object) -> str:
    """A figure as an SVG element for an HTML page, in the text colour of the page and without external links.

    Raises `TypeError` for anything but a matplotlib figure.
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"expected a matplotlib Figure, got {type(figure).__name__}")
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    return svg.replace(INK, "currentColor")


def save_figure(figure: Figure, path: str) -> None:
    """Write a figure in the format of the file's suffix (svg, pdf, png; png without one)."""
    file = Path(path) if Path(path).suffix else Path(f"{path}.png")
    with style(), replacing(file) as draft:
        figure.savefig(draft, format=file.suffix[1:], dpi=200, facecolor="white")


def with_unit(name: str, unit: str) -> str:
    """A label with its unit in brackets, if there is one."""
    return f"{name} ({unit})" if unit else name


def line_style(index: int) -> tuple[str, str]:
    """Colour and dashes of line number `index` of many; the first 24 all differ."""
    return COLOURS[index % len(COLOURS)], ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def comparison_style(index: int) -> tuple[str, str]:
    """Colour and dashes of result number `index` of several in one plot: the first is solid, the others are dashed."""
    return COLOURS[index % len(COLOURS)], "--" if index else "-"


def legend_above(ax: Axes, columns: int, **options: Any) -> None:
    """Draw the legend above the axes, where it hides nothing."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **options)


def colour_bar(ax: Axes, image: Any, label: str, **options: Any) -> None:
    """Draw the colour bar of an image or of contours beside the axes."""
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=ax, label=label, **options).outline.set_visible(False)


def axes_or_new(ax: Axes | None) -> Axes:
    """The given axes, or those of a new pyplot figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7.2, 4.2))[1]
