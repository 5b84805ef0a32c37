"""A verdict on a line from as few examples as it takes, with the looks that led to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerpscape import looks as samples_seen
from lerpscape.looks import Look
from lerpscape.monotonicity import Floats
from lerpscape.saving import array, as_dict, optional, read_json, write_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

FORMAT = "lerpscape sequential verdict 1"


@dataclass(frozen=True)
class SequentialVerdict:
    """Is the largest rise of the mean loss over all `of` examples, on the grid, above `tolerance`? From `examples`.

    `verdict` is `monotonic` (upper ≤ tolerance), `violated` (lower > tolerance) or, where the budget ended first,
    `undecided`. A wrong verdict has a probability of at most 1 − `confidence` over the random order, as far as `basis`
    goes; `lower` and `upper`, those of the last of the `looks`, each hold with that confidence at all looks together.
    With all examples both are the largest rise itself.

    `loss` (points,) is the mean over the examples seen, `loss_error` (points,) its standard error about the mean over
    all. `opens` and `peaks` are the α between which the loss rises by at least `lower`.
    """

    verdict: str
    tolerance: float
    confidence: float
    lower: float
    upper: float
    opens: float
    peaks: float
    examples: int
    of: int
    looks: tuple[Look, ...]
    alphas: Floats
    loss: Floats
    loss_error: Floats
    unit: str
    loss_name: str
    bounds: tuple[float, float] | None
    seed: int
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def share(self) -> float:
        """Share of all examples that was measured."""
        return self.examples / self.of

    @property
    def basis(self) -> str:
        """What the confidence rests on: `all examples`, `bounds` of every loss, or `normal means` of many examples."""
        if self.examples == self.of:
            return "all examples"
        return "normal means" if self.bounds is None else "bounds"

    @property
    def unseen(self) -> int:
        """A group of so many examples may have gone unseen with a probability of more than 1 − confidence.

        Means of a sample know nothing of what it misses: a verdict with the basis `normal means` takes for granted that
        no group of this size moves the mean by itself.
        """
        return samples_seen.unseen(self.examples, self.of, 1 - self.confidence)

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        unit = f" {self.unit}".rstrip()
        complete = self.examples == self.of
        seen = (
            f"all {self.of:,} examples, no sampling error"
            if complete
            else f"{self.examples:,} of {self.of:,} examples, {100 * self.share:.2g} %"
        )
        where = f"on {len(self.alphas)} points, tolerance {self.tolerance:g}{unit}, {seen}"
        sure = "" if complete else f" at {100 * self.confidence:g} % confidence"
        bracket = f"{self.lower:.4g}" if complete else f"between {self.lower:.4g} and {self.upper:.4g}"
        if self.verdict == "violated":
            return (
                f"Not monotonic{sure}: the largest rise is {bracket}{unit}, one is from α = {self.opens:.4g} to "
                f"{self.peaks:.4g} ({where})."
            )
        if self.verdict == "undecided":
            return f"Undecided{sure}: the largest rise is {bracket}{unit} ({where}). More examples would decide it."
        blind = "" if self.basis != "normal means" else f" A group of {self.unseen:,} examples may have gone unseen."
        most = f"no later loss exceeds an earlier one by more than {self.upper:.4g}{unit}"
        return f"Monotonic{sure}: {most} ({where}).{blind}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the bracket of the largest rise against the examples seen; returns the matplotlib axes."""
        from lerpscape.plots_sequential import plot_looks

        return plot_looks(self, ax)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per look. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        frame: pandas.DataFrame = optional("pandas", "pandas").DataFrame(
            {
                "examples": [each.examples for each in self.looks],
                "lower": [each.lower for each in self.looks],
                "upper": [each.upper for each in self.looks],
                "opens": [float(self.alphas[each.first]) for each in self.looks],
                "peaks": [float(self.alphas[each.second]) for each in self.looks],
            }
        )
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON."""
        return as_dict(self, FORMAT)

    def save(self, path: str | Path) -> None:
        """Write the verdict as JSON; `SequentialVerdict.load` gives back exactly the same numbers."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> SequentialVerdict:
        """Read a verdict written by `save`.

        Raises `ValueError` for a file of another kind.
        """
        saved = read_json(path, FORMAT)
        for name in ("alphas", "loss", "loss_error"):
            saved[name] = array(saved[name])
        for name in ("upper", "lower"):
            saved[name] = float(saved[name])
        seen = [each | {"lower": float(each["lower"]), "upper": float(each["upper"])} for each in saved["looks"]]
        saved["looks"] = tuple(Look(**each) for each in seen)
        saved["bounds"] = None if saved["bounds"] is None else tuple(saved["bounds"])
        return cls(**saved)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SequentialVerdict) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.alphas.tobytes(), self.loss.tobytes(), self.verdict))
