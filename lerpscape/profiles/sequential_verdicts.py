"""The result of `sequential_verdict`: a verdict on a path from a sample of the data, and the interim analyses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lerpscape.base.arrays import Floats
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.profiles import interim_analyses
from lerpscape.profiles.interim_analyses import InterimAnalysis

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class SequentialVerdict(Result):
    """Whether the largest rise of the mean loss over all `of` examples exceeds `tolerance`, judged from `examples`.

    `verdict` is `monotonic` (upper ≤ tolerance), `violated` (lower > tolerance), or `undecided` where the budget was
    used up first. Over the random order of the examples it is wrong with a probability of at most 1 − `confidence`,
    under the assumption that `basis` names. `lower` and `upper` are those of the last of the `analyses`; each holds
    with that confidence at all analyses together. Once all examples are measured, both equal the largest rise.

    `loss` (points,) is the mean over the measured examples, `loss_error` (points,) its standard error as an estimate
    of the mean over all. The loss rises by at least `lower` from α = `opens` to α = `peaks`. Losses are in `unit`.
    """

    FORMAT = "lerpscape sequential verdict 2"
    PLOT = "profiles.plot_sequential"
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
    analyses: tuple[InterimAnalysis, ...]
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
        """Share of all examples that were measured."""
        return self.examples / self.of

    @property
    def basis(self) -> str:
        """What the confidence assumes.

        `all examples`: nothing, as there is no sampling error. `bounds`: that every example's loss is within them.
        `normal means`: that the sample is large enough for means to be normally distributed.
        """
        if self.examples == self.of:
            return "all examples"
        return "normal means" if self.bounds is None else "bounds"

    @property
    def unseen(self) -> int:
        """Size of the largest group that the sample may miss entirely with a probability of more than 1 − confidence.

        A verdict with the basis `normal means` assumes that no group of this size changes the mean by itself.
        """
        return interim_analyses.unseen(self.examples, self.of, 1 - self.confidence)

    @property
    def summary(self) -> str:
        """The verdict in a sentence."""
        unit = f" {self.unit}".rstrip()
        complete = self.examples == self.of
        sample = (
            f"all {self.of:,} examples, no sampling error"
            if complete
            else f"{self.examples:,} of {self.of:,} examples, {100 * self.share:.2g} %"
        )
        where = f"on {len(self.alphas)} points, tolerance {self.tolerance:g}{unit}, {sample}"
        sure = "" if complete else f" at {100 * self.confidence:g} % confidence"
        bracket = f"{self.lower:.4g}" if complete else f"between {self.lower:.4g} and {self.upper:.4g}"
        if self.verdict == "violated":
            return (
                f"Not monotonic{sure}: the largest rise is {bracket}{unit}, one is from α = {self.opens:.4g} to "
                f"{self.peaks:.4g} ({where})."
            )
        if self.verdict == "undecided":
            return f"Undecided{sure}: the largest rise is {bracket}{unit} ({where}). More examples would decide it."
        unseen = f" A group of {self.unseen:,} examples may have gone unseen." if self.basis == "normal means" else ""
        most = f"no later loss exceeds an earlier one by more than {self.upper:.4g}{unit}"
        return f"Monotonic{sure}: {most} ({where}).{unseen}"

    def to_pandas(self) -> pandas.DataFrame:
        """One row per interim analysis. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        return data_frame(
            {
                "examples": [analysis.examples for analysis in self.analyses],
                "lower": [analysis.lower for analysis in self.analyses],
                "upper": [analysis.upper for analysis in self.analyses],
                "opens": [float(self.alphas[analysis.first]) for analysis in self.analyses],
                "peaks": [float(self.alphas[analysis.second]) for analysis in self.analyses],
            }
        )
