"""`certify_angles()`: bounds of the largest angle between any two velocities of each example's output path.

The sufficient condition for a falling squared error is that any two velocities are less than a right angle apart. On a
grid it can only be refuted; here it is proved, for every two α.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.certificates.certify import opened_for_proof
from lerpscape.certificates.mean_bounds import one_tensor
from lerpscape.certificates.network import Network
from lerpscape.certificates.rounding import UNIT
from lerpscape.certificates.taylor_models import Form
from lerpscape.engine.measurement import MeasurementOptions
from lerpscape.networks.reading import Data
from lerpscape.paths.line import Line

# Number of examples that are enclosed together on all intervals.
TOGETHER = 256


@dataclass(frozen=True, eq=False)
class AngleBounds(Result):
    """lower ≤ sup over s, t of the angle between z′(s) and z′(t) ≤ upper for each example, in radians, proved.

    Arrays have shape (examples,); `upper` is π where nothing is proved, for instance if an output may not move.
    `intervals` is the number of pieces of [0, 1] in the finest division used.
    """

    FORMAT = "lerpscape angle bounds 2"

    lower: Floats
    upper: Floats
    intervals: int
    how: dict[str, Any] = field(repr=False)

    @property
    def proved_share(self) -> float:
        """Share of examples proved to have less than a right angle between any two velocities."""
        return float((self.upper < np.pi / 2).mean())

    @property
    def refuted_share(self) -> float:
        """Share of examples proved to have at least a right angle between two velocities."""
        return float((self.lower >= np.pi / 2).mean())

    @property
    def summary(self) -> str:
        """The shares in a sentence."""
        undecided = ((self.upper >= np.pi / 2) & (self.lower < np.pi / 2)).mean()
        return (
            f"No two velocities a right angle apart: proved for {100 * self.proved_share:.4g} % of {len(self.upper)} "
            f"examples, refuted for {100 * self.refuted_share:.4g} %, undecided for {100 * undecided:.4g} % "
            f"({self.intervals} intervals)."
        )


def certify_angles(
    model: nn.Module,
    line: Line,
    data: Data,
    *,
    intervals: int = 64,
    **options: Unpack[MeasurementOptions],
) -> AngleBounds:
    """Prove bounds of the largest angle between two velocities of each example's output path, over every two α.

    On each interval the velocity z′ lies in a ball around its middle g with radius ρ (Euclidean norm of the spread of
    its enclosure). Two vectors of balls i and j are ∠(g_i, g_j) apart, give or take asin(ρ_i/‖g_i‖) + asin(ρ_j/‖g_j‖).
    [0, 1] is divided into 8 to `intervals` pieces, by halving, while the bounds of an example lie on both sides of π/2.
    The Gauss length has no such bound, as within an interval the velocity may turn back and forth. An angle below π/2
    suffices for a falling squared error (see `sufficient_condition`).

    * `model`, `line`, `data`, `options`: as for `certify`; targets are not used.
    * `intervals`: a power of two, at least 8.

    Raises as `certify` does, and `ValueError` for another number of intervals.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 2, bias=False).double()
    >>> line = Line({"weight": torch.zeros(2, 1).double()}, {"weight": torch.ones(2, 1).double()})
    >>> bounds = certify_angles(model, line, [(torch.ones(3, 1).double(), torch.zeros(3, 2))])
    >>> bounds.proved_share, bool((bounds.upper < 1e-5).all())
    (1.0, True)
    """
    if intervals < 8 or intervals & (intervals - 1):
        raise ValueError(
            explain(expected="a power of two, at least 8.", got=f"intervals={intervals}.", hint="Try intervals=64.")
        )
    lower, upper, finest = [], [], 8
    with opened_for_proof(certify_angles, model, line, data, options) as (measurement, network):
        reader = measurement.reader
        with measurement.progress_bar(len(reader), "certify angles") as report:
            for batch in reader.batches():
                for inputs in torch.split(one_tensor(batch).inputs, TOGETHER):
                    low, high, pieces = _angles(network, inputs.double(), intervals)
                    lower.append(low.numpy())
                    upper.append(high.numpy())
                    finest = max(finest, pieces)
                report(1)
        how = measurement.how(most_intervals=intervals)
    return AngleBounds(
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
        intervals=finest,
        how=how,
    )


def _angles(network: Network, inputs: Tensor, most: int) -> tuple[Tensor, Tensor, int]:
    """Bounds for these examples, and the number of intervals used."""
    lower = torch.zeros(len(inputs), dtype=torch.float64)
    upper = torch.full_like(lower, math.pi)
    pieces = 8
    while True:
        rows = ((lower < math.pi / 2) & (upper >= math.pi / 2)).nonzero().squeeze(1)
        reach = 0.5 / pieces
        slopes = []
        for index in range(pieces):
            middle = reach * (2 * index + 1)
            slope = network.enclose(inputs[rows], network.parameters(middle, reach), reach).slope
            if slope is None:  # nothing moves: no velocity has a direction
                return lower, upper, pieces
            slopes.append(slope)
        low, high = _between(slopes)
        lower[rows] = torch.maximum(lower[rows], low)
        upper[rows] = torch.minimum(upper[rows], high)
        undecided = (lower < math.pi / 2) & (upper >= math.pi / 2)
        if pieces * 2 > most or not bool(undecided.any()):
            return lower, upper, pieces
        pieces *= 2


def _between(slopes: list[Form]) -> tuple[Tensor, Tensor]:
    """Bounds of the largest angle between vectors of any two of these forms, for each example.

    The angle between unit vectors û and v̂ is 2·asin(½‖û − v̂‖); its error is at most √(8ε) if the distance has error ε.
    """
    middles = torch.stack([form.centre.flatten(1) for form in slopes], 1)
    radii = torch.stack([form.spread.double().flatten(1).norm(dim=1) for form in slopes], 1)
    size = middles.norm(dim=2)
    relative = math.sqrt((middles.shape[2] + 32) * UNIT)
    spread = torch.asin((radii / size * (1 + 1e-9)).clamp(max=1.0)) * (1 + 1e-9)
    unit = middles / size.unsqueeze(2)
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    angle = 2 * torch.asin((0.5 * apart).clamp(max=1.0))
    error = spread.unsqueeze(2) + spread.unsqueeze(1) + 8 * relative
    known = radii < size * (1 - 1e-9)
    sure = (known.unsqueeze(2) & known.unsqueeze(1)).double()
    high = torch.where(known.all(1), (angle + error).amax((1, 2)).clamp(max=math.pi), math.pi)
    low = ((angle - error) * sure).nan_to_num(0.0).amax((1, 2)).clamp(min=0.0)
    return low, high
