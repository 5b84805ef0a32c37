"""The curve of one path under every batch-norm policy, split into the effects of weights and of statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from torch import nn

from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.engine.measurement import Alphas, MeasurementOptions, check_options
from lerpscape.networks.batch_norm import (
    BatchNormPolicy,
    BatchStatistics,
    EndStatistics,
    InterpolateStatistics,
    Recalibrate,
)
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.studies.attribution import largest_rise, statistics_contributions
from lerpscape.studies.contributions import Contributions
from lerpscape.studies.many_profiles import how_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class PolicyResult:
    """One policy: its profile, and the change over its largest rise (or `between`), split; None if a loss is NaN."""

    name: str
    profile: Profile
    split: Contributions | None


@dataclass(frozen=True, eq=False)
class PolicySweep(Result):
    """The results of every policy along one path, in the given order."""

    FORMAT = "lerpscape policy sweep 2"
    FIGURE = "attribution.policies_figure"

    policies: tuple[PolicyResult, ...]
    how: dict[str, Any] = field(repr=False)

    def __iter__(self) -> Iterator[PolicyResult]:
        return iter(self.policies)

    def table(self) -> list[dict[str, Any]]:
        """One row per policy: losses at both ends, max_rise, and the change over the interval, split."""
        rows = []
        for policy in self.policies:
            row: dict[str, Any] = {"policy": policy.name, "invalid": len(policy.profile.invalid)}
            if policy.split is not None:
                split = dict(zip(policy.split.names, policy.split.parts.tolist(), strict=True))
                row |= {
                    "first_loss": float(policy.profile.loss[0]),
                    "last_loss": float(policy.profile.loss[-1]),
                    "max_rise": policy.profile.max_rise,
                    "from": policy.split.between[0],
                    "to": policy.split.between[1],
                    "change": policy.split.change,
                    **split,
                    "residual": policy.split.residual,
                }
            rows.append(row)
        return rows

    @property
    def summary(self) -> str:
        """The range of max_rise over the policies, in a sentence."""
        rises = {policy.name: policy.profile.max_rise for policy in self.policies if not policy.profile.invalid}
        if not rises:
            return "No verdict: the loss is NaN or infinite under every policy."
        least, most = min(rises, key=rises.__getitem__), max(rises, key=rises.__getitem__)
        unit = self.policies[0].profile.unit
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
    alphas: Alphas = 50,
    precision: float = 1e-2,
    budget: int = 65,
    **options: Unpack[MeasurementOptions],
) -> PolicySweep:
    """Measure a path under every batch-norm policy, and split the change of each curve into weights and statistics.

    * `estimate_from`: the data that `Recalibrate` estimates statistics from, usually the training data.
    * `policies`: by name; None takes the four policies, and `Recalibrate` also with pooled statistics.
    * `between`: the two α; None takes each curve's largest rise or, if it never rises, its whole grid.
    * `loss`, `alphas`: as for `profile`; `precision`, `budget`: as for `layer_contributions`.
    * `options`: see `MeasurementOptions`, without `batch_norm`; `label` is the policy's name.

    Raises `ValueError` for a model without batch norm, and what `profile` raises.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False)).double()
    >>> x = torch.tensor([[-1.0], [1.0]]).double()
    >>> states = [{**model.state_dict(), "0.weight": torch.full((1, 1), w).double()} for w in (1.0, 2.0)]
    >>> sweep = batch_norm_sweep(
    ...     model, Line(*states), [(x, 0 * x)], estimate_from=[(x, 0 * x)], loss="squared_error", alphas=5
    ... )
    >>> [(policy.name, round(policy.profile.max_rise, 3)) for policy in sweep][:3]
    [('interpolate', 3.0), ('end', 3.0), ('batch', 0.0)]
    """
    check_options(batch_norm_sweep, options, without=["batch_norm", "label"])
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
    results = []
    for name, policy in chosen.items():
        named: MeasurementOptions = {**options, "batch_norm": policy, "label": name}
        curve = profile(model, path, data, loss=loss, alphas=alphas, **named)
        split = None
        if not curve.invalid:
            whole = float(curve.alphas[0]), float(curve.alphas[-1])
            interval = between or (largest_rise(curve) if curve.rises else whole)
            split = statistics_contributions(
                model, path, data, loss=loss, between=interval, precision=precision, budget=budget, **named
            )
        results.append(PolicyResult(name, curve, split))
    how = how_of(results[0].profile) | {"batch_norm": {name: policy.describe() for name, policy in chosen.items()}}
    return PolicySweep(tuple(results), how)
