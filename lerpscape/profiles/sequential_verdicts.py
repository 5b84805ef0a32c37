"""A verdict on a line from as few examples as it takes, with the looks that led to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lerpscape.base.arrays import Floats
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.profiles import interim_analyses as samples_seen
from lerpscape.profiles.interim_analyses import Look

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class SequentialVerdict(Result):
    """Is the largest rise of the mean loss over all `of` examples, on the grid, above `tolerance`? From `examples`.

    `verdict` is `monotonic` (upper ≤ tolerance), `violated` (lower > tolerance) or, where the budget ended first,
    `undecided`. A wrong verdict has a probability of at most 1 − `confidence` over the random order, as far as `basis`
    goes; `lower` and `upper`, those of the last of the `looks`, each hold with that confidence at all looks together.
    With all examples both are the largest rise itself.

    `loss` (points,) is the mean over the examples seen, `loss_error` (points,) its standard error about the mean over
    all. `opens` and `peaks` are the α between which the loss rises by at least `lower`.
    """

    FORMAT = "lerpscape sequential verdict 1"
    PLOT = "sequential.plot_looks"
    PAGE = (5.8, 3.4)

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

    def to_pandas(self) -> pandas.DataFrame:
        """One row per look. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        return data_frame(
            {
                "examples": [each.examples for each in self.looks],
                "lower": [each.lower for each in self.looks],
                "upper": [each.upper for each in self.looks],
                "opens": [float(self.alphas[each.first]) for each in self.looks],
                "peaks": [float(self.alphas[each.second]) for each in self.looks],
            }
        )
