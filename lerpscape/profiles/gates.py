"""A gate: whether the largest rise along a path is at most so much, for tests and continuous integration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lerpscape.base.errors import explain
from lerpscape.profiles.results import Profile
from lerpscape.readings.intervals import LEAST_EXAMPLES


@dataclass(frozen=True)
class Gate:
    """Whether a profile rises by at most `most`: `verdict`, and the `reason` in a sentence.

    `rise` is the largest rise that was measured (NaN where a loss is not finite), `lower` and `upper` what it may be by
    rounding and by the draw of the examples.
    """

    verdict: Literal["passes", "fails", "undecided"]
    reason: str
    rise: float
    lower: float
    upper: float
    most: float
    unit: str

    @property
    def passes(self) -> bool:
        """Whether the gate is passed for certain."""
        return self.verdict == "passes"


def gate(profile: Profile, most: float, *, level: float = 0.95, whole: bool = False) -> Gate:
    """Decide whether the largest rise of the loss is at most `most`, in the unit of the loss.

    The examples are taken for a random sample of all that matter: the gate passes if the upper end of the interval of
    `max_rise` at this `level` is at most `most`, fails if the lower end is above it, and is undecided between. Both
    ends are widened by `how["noise_floor"]`, the rounding of the computation. With `whole=True` the examples are all
    that matter, and only rounding leaves it undecided.

    Undecided too: a loss that is NaN or infinite, fewer than 16 examples of a sample, and a rise between two grid
    points that the derivative shows.

    Raises `ValueError` for a negative or infinite `most`.

    >>> import torch, lerpscape as ls
    >>> line = ls.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    >>> x, y = torch.ones(40, 1), torch.full((40, 1), 0.75)  # the loss (α − ¾)² rises by 1/16 at the end
    >>> profile = ls.profile(torch.nn.Linear(1, 1, bias=False), line, [(x, y)], loss="squared_error", alphas=5)
    >>> gate(profile, 0.07).passes, gate(profile, 0.06).verdict
    (True, 'fails')
    """
    if not 0 <= most < float("inf"):
        raise ValueError(explain(expected="a largest rise ≥ 0.", got=f"{most}.", hint="0.01, in the unit of the loss."))
    nan = float("nan")

    def undecided(reason: str, rise: float = nan, lower: float = nan, upper: float = nan) -> Gate:
        return Gate("undecided", reason, rise, lower, upper, most, profile.unit)

    if profile.invalid:
        return undecided(profile.verdict(most))
    rise, floor = profile.max_rise, profile.how.get("noise_floor", 0.0)
    low = high = rise
    who = f"n = {profile.examples:,}" + (", all that matter" if whole else f", {100 * level:g} % interval")
    if not whole:
        if profile.examples < LEAST_EXAMPLES:
            return undecided(
                f"the loss rises by {rise:.4g} on {profile.examples} examples, too few to tell for others: "
                f"take {LEAST_EXAMPLES} or more, or say that these are all",
                rise,
            )
        interval = profile.rise_interval(level)
        low, high = interval.lower, interval.upper
    low, high = max(low - floor, 0.0), high + floor
    between = f"{low:.4g} to {high:.4g} {profile.unit}".rstrip()
    words = f"the loss rises by {rise:.4g} ({between}; {who}), at most {most:g} is allowed"
    if low > most:
        return Gate("fails", words, rise, low, high, most, profile.unit)
    hidden = [each for each in profile.hidden_rises if each.estimate > most + floor]
    if hidden:
        worst = max(hidden, key=lambda each: each.estimate)
        where = f"a rise of about {worst.estimate:.2g} between α = {worst.left:.4g} and {worst.right:.4g}"
        return undecided(f"{words}, and the derivative shows {where}: measure more α", rise, low, high)
    if high > most:
        why = "measure in a wider dtype" if whole or high - low <= 4 * floor else "more examples would tell"
        return undecided(f"{words}: {why}", rise, low, high)
    return Gate("passes", words, rise, low, high, most, profile.unit)
