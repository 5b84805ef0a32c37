"""Lines to one end from the network's own initialisation and from other starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import numpy as np
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.networks.reading import Data, Reader
from lerpscape.paths.checkpoints import Checkpoint, Source, as_vector, checkpoint
from lerpscape.paths.endpoints import BUILT_BY, fresh_init, noise_like, zeros_like
from lerpscape.paths.endpoints import permuted as permuted_units
from lerpscape.paths.line import Line, moving
from lerpscape.paths.matching import matched
from lerpscape.studies.many_profiles import StudyOptions, how_of, profiles_of, rise_of

OWN = "own init"
LEAST_ENTRIES = 16  # of a tensor whose scale is compared with that of a fresh start
ROUNDING = 1e-3  # tensors of one constant, such as the scales of norm layers, have no spread


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
    permuted: int = 0,
    factory: Callable[..., nn.Module] | None = None,
    seed: int = 0,
    **options: Unpack[StudyOptions],
) -> StartComparison:
    """Compare the line from the network's own initialisation with lines to the same `end` from control starts.

    * `fresh`: number of new initialisations, by `factory` or by the model's own layers (see `fresh_init`). Those must
      have the scale of `start`, tensor by tensor, or the network was initialised in another way.
    * `noise`: number of Gaussian starts with the norm of each parameter of `start`.
    * `zero`: also a start with all parameters zero.
    * `permuted`: number of copies of `start` with its hidden units in a random order: the same function elsewhere.
    * `seed`: of the first fresh init, noise and order; the others take the next numbers.
    * `options`: see `StudyOptions`.

    Raises `ValueError` for no control at all, for a seed that draws `start` itself, for a factory that draws the same
    network from every seed and for fresh starts of another scale; what `fresh_init`, `permuted` and `profile` raise.

    Sources: Lucas et al. (2021); Tao (2024).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> x = torch.ones(3, 1)
    >>> ends = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
    >>> comparison = starts(model, *ends, [(x, x)], fresh=2, noise=0, zero=False, loss="squared_error", alphas=3)
    >>> comparison.families, comparison.losses[0]
    (('own init', 'fresh init', 'fresh init'), array([1.  , 0.25, 0.  ]))
    """
    if fresh + noise + zero + permuted < 1:
        raise ValueError(
            explain(expected="at least one control.", got="fresh=0, noise=0, zero=False.", hint="fresh=5 is usual.")
        )
    own, target = checkpoint(start), checkpoint(end)
    candidates: list[tuple[str, Checkpoint]] = [(OWN, own)]
    candidates += [("fresh init", fresh_init(factory or model, seed + index)) for index in range(fresh)]
    candidates += [("noise", noise_like(own, seed + index)) for index in range(noise)]
    candidates += [("zero", zeros_like(own))] if zero else []
    if permuted:
        inputs = next(iter(Reader(data).batches())).inputs
        orders = (seed + index for index in range(permuted))
        candidates += [("permuted", permuted_units(model, own, order, inputs)) for order in orders]
    if fresh:
        _check_fresh(own, [drawn for _, drawn in candidates[1 : fresh + 1]], factory or model, seed)
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


def _check_fresh(
    own: Checkpoint, drawn: list[Checkpoint], source: nn.Module | Callable[..., nn.Module], seed: int
) -> None:
    """Refuse fresh starts that are `own`, all the same, or drawn from another distribution."""
    starts = [matched(own, each)[1] for each in drawn]
    same = next((index for index, each in enumerate(starts) if not moving(own, each)), None)
    again = matched(own, fresh_init(source, seed + len(drawn)))[1]
    if not moving(starts[0], again):
        raise ValueError(
            explain(
                expected="a function that builds another network at every call, or from every seed=.",
                got=f"the same one for the seeds {seed} and {seed + len(drawn)}: it fixes its own seed.",
                hint="Give it an argument `seed`, or leave out its torch.manual_seed; fresh=0 takes none.",
            )
        )
    if same is not None:
        raise ValueError(
            explain(
                expected="fresh inits other than the network's own start.",
                got=f"seed {seed + same}, which draws that very start.",
                hint=f"seed={seed + 1000}, or any that the run did not use.",
            )
        )
    if not isinstance(source, nn.Module) or hasattr(source, BUILT_BY):
        return
    for name in own.parameters:
        before, after = (as_vector(each.tensors[name]) for each in (own, starts[0]))
        if len(before) >= LEAST_ENTRIES and not _same_scale(before, after):
            raise ValueError(
                explain(
                    expected="fresh inits of the distribution that the network's own start was drawn from.",
                    got=f"{name} with entries of size {float(before.square().mean()) ** 0.5:.3g} in the start and "
                    f"{float(after.square().mean()) ** 0.5:.3g} where its layer draws itself anew.",
                    hint="Pass factory=, the function that builds and initialises the network, or fresh=0.",
                )
            )


def _same_scale(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors may have entries of one mean square: their logarithms differ by at most 6 standard errors.

    The standard error of log(mean of x²) is √((κ − 1) / n), with κ = mean of x⁴ / (mean of x²)².
    """
    squares = [each.square().mean() for each in (one, other)]
    if min(map(float, squares)) == 0:
        return max(map(float, squares)) == 0
    variance = sum(
        (float(each.pow(4).mean() / square**2) - 1) / len(each)
        for each, square in zip((one, other), squares, strict=True)
    )
    return abs(math.log(float(squares[0] / squares[1]))) <= 6 * math.sqrt(max(variance, 0.0)) + ROUNDING
