"""How every picture looks: colours, the page, axes and legends, and pictures as SVG or files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): told apart by colour-blind readers, on white and on black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
RISE_COLOUR = "#D55E00"
ALPHA = "α   (0: start, 1: end)"
# Lines and text take this colour; in SVG it becomes the colour of the surrounding text, light or dark.
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
    "text.parse_math": False,  # names of files and data may hold a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every picture here, while inside."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def page(plot: Callable[[Axes], object], size: tuple[float, float]) -> Figure:
    """A figure of so many inches with one plot."""
    with style():
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.subplots())
    return figure


def as_svg(figure: object) -> str:
    """A figure as an SVG element to put into a page, in the page's own text colour and free of outside links."""
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
    """Write a figure in the format of the file's ending (svg, pdf, png)."""
    with style():
        figure.savefig(path, dpi=200, facecolor="white")


def with_unit(name: str, unit: str) -> str:
    """A label with its unit in brackets, where there is one."""
    return f"{name} ({unit})" if unit else name


def look(index: int) -> tuple[str, str]:
    """Colour and dash of a line among many: there are few colours, and no two lines look alike up to 24."""
    return COLOURS[index % len(COLOURS)], ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def legend_above(ax: Axes, columns: int, **options: Any) -> None:
    """The legend over the axes, where it hides nothing."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **options)


def axes_or_new(ax: Axes | None) -> Axes:
    """The given axes, or those of a new pyplot figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7.2, 4.2))[1]
