"""Every batch-norm policy on one path: what each makes of the curve, and whether weights or statistics change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.networks.batch_norm import (
    BatchNormPolicy,
    BatchStatistics,
    EndStatistics,
    InterpolateStatistics,
    Recalibrate,
)
from lerpscape.networks.batches import Data
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.studies.attribution import statistics_contributions
from lerpscape.studies.contributions import Contributions

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class PolicyResult:
    """One policy: its profile, and the change over its own largest rise (or `between`) split; None where NaN."""

    name: str
    profile: Profile
    split: Contributions | None


@dataclass(frozen=True, eq=False)
class PolicySweep(Result):
    """The results of every policy along one path, in the order they were asked for."""

    FORMAT = "lerpscape policy sweep 1"
    FIGURE = "attribution.policies_figure"

    rows: tuple[PolicyResult, ...]

    def __iter__(self) -> Iterator[PolicyResult]:
        return iter(self.rows)

    def table(self) -> list[dict[str, Any]]:
        """One row per policy: losses at both ends, max_rise, the stretch, and its change by weights and statistics."""
        found = []
        for each in self.rows:
            row: dict[str, Any] = {"policy": each.name, "invalid": len(each.profile.invalid)}
            if each.split is not None:
                split = dict(zip(each.split.names, each.split.parts.tolist(), strict=True))
                row |= {
                    "first_loss": float(each.profile.loss[0]),
                    "last_loss": float(each.profile.loss[-1]),
                    "max_rise": each.profile.max_rise,
                    "from": each.split.between[0],
                    "to": each.split.between[1],
                    "change": each.split.change,
                    **split,
                    "residual": each.split.residual,
                }
            found.append(row)
        return found

    @property
    def summary(self) -> str:
        """How far the policies are apart, in a sentence."""
        rises = {each.name: each.profile.max_rise for each in self.rows if not each.profile.invalid}
        if not rises:
            return "No verdict: the loss is NaN or infinite under every policy."
        least, most = min(rises, key=rises.__getitem__), max(rises, key=rises.__getitem__)
        unit = self.rows[0].profile.unit
        return (
            f"max_rise runs from {rises[least]:.4g} ({least}) to {rises[most]:.4g} {unit} ({most}) over "
            f"{len(rises)} batch-norm policies."
        )

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a frame. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        return data_frame(self.table())


def batch_norm_sweep(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    estimate_from: Data,
    policies: Mapping[str, BatchNormPolicy] | None = None,
    loss: str | PerExample | Loss = "cross_entropy",
    between: tuple[float, float] | None = None,
    alphas: int | Sequence[float] | Floats = 50,
    tolerance: float = 1e-2,
    budget: int = 65,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
) -> PolicySweep:
    """Measure a path under every batch-norm policy, and split the change of each curve into weights and statistics.

    * `estimate_from`: what `Recalibrate` estimates statistics from, usually the training data.
    * `policies`: those to try, by name; None: interpolated, the end's, each batch's, and recalibrated both ways.
    * `between`: the stretch to split; None takes each curve's own largest rise or, where it never rises, all of it.
    * the rest as for `layer_contributions`.

    Raises `ValueError` for a model without batch norm, and what `profile` raises.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False)).double()
    >>> x = torch.tensor([[-1.0], [1.0]]).double()
    >>> states = [{**model.state_dict(), "0.weight": torch.full((1, 1), w).double()} for w in (1.0, 2.0)]
    >>> found = batch_norm_sweep(
    ...     model, Line(*states), [(x, 0 * x)], estimate_from=[(x, 0 * x)], loss="squared_error", alphas=5
    ... )
    >>> [(each.name, round(each.profile.max_rise, 3)) for each in found][:3]
    [('interpolate', 3.0), ('end', 3.0), ('batch', 0.0)]
    """
    built_in: dict[str, BatchNormPolicy] = {
        "interpolate": InterpolateStatistics(),
        "end": EndStatistics(),
        "batch": BatchStatistics(),
        "recalibrate": Recalibrate(estimate_from),
        "pooled": Recalibrate(estimate_from, pooled=True),
    }
    chosen = built_in if policies is None else dict(policies)
    if not chosen:
        raise ValueError(
            explain(expected="at least one policy.", got="none.", hint=f"policies=None tries {', '.join(built_in)}.")
        )
    rows = []
    for name, policy in chosen.items():
        shared: dict[str, Any] = {
            "loss": loss,
            "batch_norm": policy,
            "device": device,
            "dtype": dtype,
            "progress": progress,
            "label": name,
        }
        curve = profile(model, path, data, alphas=alphas, **shared)
        split = None
        if not curve.invalid:
            largest = max(curve.rises, key=lambda rise: rise.height, default=None)
            stretch = between or (
                (largest.opens, largest.peak) if largest else (float(curve.alphas[0]), float(curve.alphas[-1]))
            )
            split = statistics_contributions(
                model, path, data, between=stretch, tolerance=tolerance, budget=budget, **shared
            )
        rows.append(PolicyResult(name, curve, split))
    return PolicySweep(tuple(rows))
