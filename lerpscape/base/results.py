"""The base class of all results: saving and loading exactly, comparing, and drawing."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lerpscape.base.saving import from_json, read_json, to_json, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Result(ABC):
    """Base class of results, which are frozen dataclasses with `eq=False`, as equality is defined here.

    * `FORMAT` names the format of saved files, with a number that changes when the fields change. A file is read by the
      types of the fields; see `saving.from_json`.
    * `PLOT` names the function that draws the result into axes, as "module.function" in `lerpscape.plots`, which is
      imported when the result is drawn.
    * `FIGURE` names the function that draws a whole figure. Without it, `figure` draws the plot alone, on a page of
      `PAGE` inches.
    """

    FORMAT: ClassVar[str]
    PLOT: ClassVar[str] = ""
    FIGURE: ClassVar[str] = ""
    PAGE: ClassVar[tuple[float, float]] = (6.4, 3.8)

    @property
    @abstractmethod
    def summary(self) -> str:
        """The result in one or a few sentences."""

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the result into matplotlib axes, by default those of a new pyplot figure; returns the axes.

        The function that `PLOT` names takes the options and documents what is drawn.

        Raises `AttributeError` for results without a plot.
        """
        axes: Axes = self._drawing(self.PLOT)(self, ax, **options)
        return axes

    def figure(self, **options: Any) -> Figure:
        """The result as a new matplotlib figure.

        The function that `FIGURE` names, or else the one that `PLOT` names, takes the options.

        Raises `AttributeError` for results without a figure.
        """
        draw = self._drawing(self.FIGURE or self.PLOT)
        page = self._drawing("style.page")
        figure: Figure = draw(self, **options) if self.FIGURE else page(lambda ax: draw(self, ax, **options), self.PAGE)
        return figure

    @classmethod
    def _drawing(cls, name: str) -> Callable[..., Any]:
        if not name:
            raise AttributeError(f"a {cls.__name__} has no such picture; see its `summary`")
        module, _, function = name.partition(".")
        draw: Callable[..., Any] = getattr(import_module(f"lerpscape.plots.{module}"), function)
        return draw

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as numbers, lists and strings for JSON; NaN and infinities become strings."""
        fields: dict[str, Any] = to_json(self)
        return fields

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, from which `load` restores exactly the same numbers.

        Raises `OSError` if the file cannot be written.
        """
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result written by `save`.

        Raises `FileNotFoundError`, and `ValueError` for a file of another format.
        """
        return cls.from_dict(read_json(path, cls.FORMAT))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The result from which `to_dict` made this dictionary.

        Raises `ValueError` that names a missing field.
        """
        result: Self = from_json(saved, cls)
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.FORMAT, *(value for value in vars(self).values() if isinstance(value, (str, int)))))

    def _repr_html_(self) -> str:
        """The figure and the summary as HTML, which notebooks show."""
        words = html.escape(self.summary)
        if not (self.PLOT or self.FIGURE):
            return f"<p>{words}</p>"
        as_svg = self._drawing("style.as_svg")
        return f"<figure>{as_svg(self.figure())}<figcaption>{words}</figcaption></figure>"
