"""`certify_angles()`: bounds of the largest angle between any two velocities of each example's output path.

The sufficient condition for a falling squared error asks that no two velocities are a right angle apart. A grid can
refute that; here it is proved, for every two α.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.base.results import Result
from lerpscape.certificates.mean_bounds import one_tensor, plain_products
from lerpscape.certificates.network import Network
from lerpscape.certificates.rounding import UNIT
from lerpscape.certificates.taylor_models import Form
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.line import Line

# Examples enclosed together on all intervals.
TOGETHER = 256


@dataclass(frozen=True, eq=False)
class AngleBounds(Result):
    """lower ≤ sup over s, t of the angle between z′(s) and z′(t) ≤ upper for each example, in radians, proved.

    Arrays have shape (examples,); `upper` is π where nothing is known, as where an output may stand still.
    `intervals` is the number of pieces of [0, 1] on the finest cut that was used.
    """

    FORMAT = "lerpscape angle bounds 1"

    lower: Floats
    upper: Floats
    intervals: int
    seconds: float
    how: dict[str, Any] = field(repr=False)

    @property
    def proved_share(self) -> float:
        """Share of examples of which no two velocities are a right angle apart, at any α: proved."""
        return float((self.upper < np.pi / 2).mean())

    @property
    def refuted_share(self) -> float:
        """Share of examples of which two velocities are at least a right angle apart: proved."""
        return float((self.lower >= np.pi / 2).mean())

    @property
    def summary(self) -> str:
        """The shares in a sentence."""
        open_ = ((self.upper >= np.pi / 2) & (self.lower < np.pi / 2)).mean()
        return (
            f"No two velocities a right angle apart: proved for {100 * self.proved_share:.4g} % of {len(self.upper)} "
            f"examples, refuted for {100 * self.refuted_share:.4g} %, open for {100 * open_:.4g} % "
            f"({self.intervals} intervals)."
        )


def certify_angles(
    model: nn.Module,
    line: Line,
    data: Data,
    *,
    intervals: int = 64,
    batch_norm: BatchNormPolicy | None = None,
    progress: Progress = None,
) -> AngleBounds:
    """Prove bounds of the largest angle between two velocities of each example's output path, over every two α.

    On each interval the velocity z′ lies in a ball around its middle g with radius ρ (Euclidean norm of the spread of
    its enclosure). Two vectors of balls i and j are ∠(g_i, g_j) apart, give or take asin(ρ_i/‖g_i‖) + asin(ρ_j/‖g_j‖).
    Cuts are halved from 8 to `intervals` pieces for the examples whose bounds lie on both sides of π/2. A total
    turning has no such bound: within an interval the velocity may turn to and fro. Enough for a falling squared error
    is less than π/2 here (see `sufficient_condition`).

    * `model`, `line`, `data`, `batch_norm` as for `certify`; targets are not used.
    * `intervals`: a power of two, at least 8.

    Raises as `certify` does, and `ValueError` for another number of intervals.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 2, bias=False).double()
    >>> line = Line({"weight": torch.zeros(2, 1).double()}, {"weight": torch.ones(2, 1).double()})
    >>> found = certify_angles(model, line, [(torch.ones(3, 1).double(), torch.zeros(3, 2))])
    >>> found.proved_share, bool((found.upper < 1e-5).all())
    (1.0, True)
    """
    if not isinstance(line, Line):
        raise TypeError(
            explain(
                expected="a Line, on which parameters are linear in α.",
                got=f"{type(line).__name__}.",
                hint="Use Line(a, b).",
            )
        )
    if intervals < 8 or intervals & (intervals - 1):
        raise ValueError(
            explain(expected="a power of two, at least 8.", got=f"intervals={intervals}.", hint="Try intervals=64.")
        )
    began = time.perf_counter()
    lower, upper, finest = [], [], 8
    with undisturbed(model), plain_products():
        reader = Reader(data)
        network = Network(ModelOnPath(model, line, torch.device("cpu"), torch.float64), batch_norm)
        network.compare(one_tensor(reader.first[0]).inputs)
        with progress_bar(progress, total=len(reader), what="certify angles", unit="batch") as report:
            for batch in reader.batches():
                for inputs in torch.split(one_tensor(batch).inputs, TOGETHER):
                    low, high, pieces = _angles(network, inputs.double(), intervals)
                    lower.append(low.numpy())
                    upper.append(high.numpy())
                    finest = max(finest, pieces)
                report(1)
    return AngleBounds(
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
        intervals=finest,
        seconds=round(time.perf_counter() - began, 3),
        how={"path": line.describe(), "model": type(model).__name__, "most_intervals": intervals},
    )


def _angles(network: Network, inputs: Tensor, most: int) -> tuple[Tensor, Tensor, int]:
    """Bounds for these examples, and how many intervals they took."""
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

    The angle of unit vectors û and v̂ is 2·asin(½‖û − v̂‖), whose error is at most the root of eight times that of
    the distance.
    """
    middles = torch.stack([form.centre.flatten(1) for form in slopes], 1)
    radii = torch.stack([form.spread.double().flatten(1).norm(dim=1) for form in slopes], 1)
    size = middles.norm(dim=2)
    relative = math.sqrt((middles.shape[2] + 32) * UNIT)
    room = torch.asin((radii / size * (1 + 1e-9)).clamp(max=1.0)) * (1 + 1e-9)
    unit = middles / size.unsqueeze(2)
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    angle = 2 * torch.asin((0.5 * apart).clamp(max=1.0))
    rooms = room.unsqueeze(2) + room.unsqueeze(1) + 8 * relative
    known = radii < size * (1 - 1e-9)
    sure = (known.unsqueeze(2) & known.unsqueeze(1)).double()
    high = torch.where(known.all(1), (angle + rooms).amax((1, 2)).clamp(max=math.pi), math.pi)
    low = ((angle - rooms) * sure).nan_to_num(0.0).amax((1, 2)).clamp(min=0.0)
    return low, high
