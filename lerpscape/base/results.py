"""What every result can do: become plain numbers and a file, come back exactly, be compared, be looked at."""

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
    """What measuring gives: a frozen dataclass (`eq=False`: equality is here) whose fields say what they hold.

    The types of the fields are how a file is read back: see `saving.from_json`. `FORMAT` names the file's content, with
    a number that changes when the fields do. `PLOT` names the function that draws the result, "module.function" in
    `lerpscape.plots`: the one import that goes upwards, made when somebody looks. `FIGURE` names the one that lays out
    a whole page; without it `figure` puts the plot alone on a page of `PAGE` inches.
    """

    FORMAT: ClassVar[str]
    PLOT: ClassVar[str] = ""
    FIGURE: ClassVar[str] = ""
    PAGE: ClassVar[tuple[float, float]] = (6.4, 3.8)

    @property
    @abstractmethod
    def summary(self) -> str:
        """What was found, in a sentence or a few."""

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the result into matplotlib axes, by default those of a new pyplot figure; returns the axes.

        What is drawn, and which options there are, says the function that `PLOT` names. Raises `AttributeError` for
        results without a picture.
        """
        axes: Axes = self._drawing(self.PLOT)(self, ax, **options)
        return axes

    def figure(self, **options: Any) -> Figure:
        """The result as a picture on a page of its own.

        The function that `FIGURE` names, else the one that `PLOT` names, takes the options. Raises `AttributeError`
        for results without a picture.
        """
        draw = self._drawing(self.FIGURE or self.PLOT)
        page = self._drawing("style.page")
        figure: Figure = draw(self, **options) if self.FIGURE else page(lambda ax: draw(self, ax, **options), self.PAGE)
        return figure

    @classmethod
    def _drawing(cls, name: str) -> Callable[..., Any]:
        if not name:
            raise AttributeError(f"a {cls.__name__} has no such picture; its `summary` says what was found")
        module, _, function = name.partition(".")
        found: Callable[..., Any] = getattr(import_module(f"lerpscape.plots.{module}"), function)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON; NaN and inf become strings."""
        found: dict[str, Any] = to_json(self)
        return found

    def save(self, path: str | Path) -> None:
        """Write the result as JSON; `load` gives back exactly the same numbers.

        Raises `OSError` where the file cannot be written.
        """
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result written by `save`.

        Raises `FileNotFoundError`, and `ValueError` for a file of another kind.
        """
        return cls.from_dict(read_json(path, cls.FORMAT))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The result that `to_dict` made these numbers, lists and strings of.

        Raises `ValueError` that names a field which is not there.
        """
        found: Self = from_json(saved, cls)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.FORMAT, *(value for value in vars(self).values() if isinstance(value, (str, int)))))

    def _repr_html_(self) -> str:
        """The picture over the summary, which a notebook shows for a result at the end of a cell."""
        words = html.escape(self.summary)
        if not (self.PLOT or self.FIGURE):
            return f"<p>{words}</p>"
        as_svg = self._drawing("style.as_svg")
        return f"<figure>{as_svg(self.figure())}<figcaption>{words}</figcaption></figure>"
