"""Lines to one end from the network's own initialisation and from other starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Checkpoint, Source, checkpoint
from lerpscape.paths.endpoints import fresh_init, noise_like, zeros_like
from lerpscape.paths.line import Line, moving
from lerpscape.paths.matching import matched
from lerpscape.studies.many_profiles import StudyOptions, how_of, profiles_of, rise_of

OWN = "own init"


class Excess(NamedTuple):
    """A reading of the own initialisation minus its mean over n controls, and the standard error of that mean."""

    mean: float
    error: float
    n: int


@dataclass(frozen=True, eq=False)
class StartComparison(Result):
    """Loss along lines from different starts to one end.

    `families` is the kind of start of each line; `losses` has shape (lines, points), `max_rise` and
    `relative_distance` (lines,); `max_rise` is nan for a line with NaN or infinite losses.
    """

    FORMAT = "lerpscape start comparison 1"
    PLOT = "studies.plot_starts"

    families: tuple[str, ...]
    alphas: Floats
    losses: Floats = field(repr=False)
    max_rise: Floats
    relative_distance: Floats
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    def curves(self, family: str) -> Floats:
        """Losses of all lines whose start is of one family, shape (lines, points)."""
        return self.losses[self._lines(family)]

    def excess(self, family: str) -> Excess:
        """max_rise of the own initialisation minus the mean max_rise over a family of controls, in units of the loss.

        Negative if the own initialisation has the smaller rise. The error is s/√n over the controls, nan for n = 1.
        """
        rises = self.max_rise[self._lines(family)]
        error = float(rises.std(ddof=1) / np.sqrt(len(rises))) if len(rises) > 1 else float("nan")
        return Excess(float(self.max_rise[0] - rises.mean()), error, len(rises))

    @property
    def summary(self) -> str:
        """The comparison in sentences, one for each family."""
        lines = [f"{OWN}: max_rise {self.max_rise[0]:.4g} {self.unit}"]
        for family in dict.fromkeys(self.families[1:]):
            rises, excess = self.max_rise[self._lines(family)], self.excess(family)
            error = f" ± {excess.error:.2g}" if excess.n > 1 else ""
            lines.append(
                f"{family} (n = {excess.n}): max_rise {rises.mean():.4g} {self.unit} on average, {rises.min():.4g} to "
                f"{rises.max():.4g}; the own init's exceeds it by {excess.mean:.4g}{error}"
            )
        return "\n".join(lines)

    def _lines(self, family: str) -> list[int]:
        return [index for index, name in enumerate(self.families) if name == family]


def starts(
    model: nn.Module,
    start: Source,
    end: Source,
    data: Data,
    *,
    fresh: int = 5,
    noise: int = 5,
    zero: bool = True,
    factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    **options: Unpack[StudyOptions],
) -> StartComparison:
    """Compare the line from the network's own initialisation with lines to the same `end` from control starts.

    * `fresh`: number of new initialisations, by `factory` or by the model's own layers (see `fresh_init`).
    * `noise`: number of Gaussian starts with the norm of each parameter of `start`.
    * `zero`: also a start with all parameters zero.
    * `seed`: of the first fresh init and the first noise; the others take the next numbers.
    * `options`: see `StudyOptions`.

    Raises `ValueError` for no control at all and for a seed that draws `start` itself, and what `fresh_init` and
    `profile` raise.

    Sources: Lucas et al. (2021); Tao (2024).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> x = torch.ones(3, 1)
    >>> ends = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
    >>> comparison = starts(model, *ends, [(x, x)], fresh=2, noise=0, zero=False, loss="squared_error", alphas=3)
    >>> comparison.families, comparison.losses[0]
    (('own init', 'fresh init', 'fresh init'), array([1.  , 0.25, 0.  ]))
    """
    if fresh + noise + zero < 1:
        raise ValueError(
            explain(expected="at least one control.", got="fresh=0, noise=0, zero=False.", hint="fresh=5 is usual.")
        )
    own, target = checkpoint(start), checkpoint(end)
    candidates: list[tuple[str, Checkpoint]] = [(OWN, own)]
    candidates += [("fresh init", fresh_init(factory or model, seed + index)) for index in range(fresh)]
    candidates += [("noise", noise_like(own, seed + index)) for index in range(noise)]
    candidates += [("zero", zeros_like(own))] if zero else []
    for index, (_, drawn) in enumerate(candidates[1 : fresh + 1]):
        if not moving(own, matched(own, drawn)[1]):
            raise ValueError(
                explain(
                    expected="fresh inits other than the network's own start.",
                    got=f"seed {seed + index}, which draws that very start.",
                    hint=f"seed={seed + 1000}, or any that the run did not use.",
                )
            )
    lines = [Line(candidate, target) for _, candidate in candidates]
    profiles = profiles_of(starts, model, lines, data, options)
    return StartComparison(
        families=tuple(family for family, _ in candidates),
        alphas=profiles[0].alphas,
        losses=np.stack([profile.loss for profile in profiles]),
        max_rise=np.array([rise_of(profile) for profile in profiles]),
        relative_distance=np.array([profile.relative_distance for profile in profiles]),
        examples=profiles[0].examples,
        unit=profiles[0].unit,
        how=how_of(profiles[0]) | {"end": target.source, "seed": seed},
    )
