"""What every result can do: become plain numbers and a file, come back exactly, be compared, be looked at."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lerpscape.saving import plain, read_json, restored, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result(ABC):
    """What measuring gives: a frozen dataclass (`eq=False`: equality is here) whose fields say what they hold.

    The types of the fields are how a file is read back: see `saving.restored`. `FORMAT` names the file's content, with
    a number that changes when the fields do. A result with a `plot(ax)` has a page of `PAGE` inches.
    """

    FORMAT: ClassVar[str]
    PAGE: ClassVar[tuple[float, float]] = (6.4, 3.8)

    @property
    @abstractmethod
    def summary(self) -> str:
        """What was found, in a sentence or a few."""

    def figure(self) -> Figure | None:
        """The result as a picture on a page of its own; None for results that have none."""
        plot = getattr(self, "plot", None)
        if plot is None:
            return None
        from lerpscape.plots import page

        return page(plot, self.PAGE)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON; NaN and inf become strings."""
        found: dict[str, Any] = plain(self)
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
        found: Self = restored(saved, cls)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.FORMAT, *(value for value in vars(self).values() if isinstance(value, (str, int)))))

    def _repr_html_(self) -> str:
        """The picture over the summary, which a notebook shows for a result at the end of a cell."""
        words, figure = html.escape(self.summary), self.figure()
        if figure is None:
            return f"<p>{words}</p>"
        from lerpscape.plots import as_svg

        return f"<figure>{as_svg(figure)}<figcaption>{words}</figcaption></figure>"
