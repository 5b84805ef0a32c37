"""How biases lengthen a plateau: one line with straight biases, homogeneous ones, and none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.engine.measurement import Alphas, MeasurementOptions, check_options
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Checkpoint
from lerpscape.paths.line import Line
from lerpscape.paths.path import Path
from lerpscape.paths.schedules import Power
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.readings.monotonicity import plateau
from lerpscape.studies.many_profiles import how_of, rise_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class BiasVariant:
    """One treatment of the biases: its profile, and the lengths of its plateaus in α (nan where nothing falls)."""

    name: str
    profile: Profile
    loss_plateau: float
    error_plateau: float


@dataclass(frozen=True, eq=False)
class BiasStudy(Result):
    """The variants of one line. A plateau ends where loss or error has fallen by more than `eps` times its drop."""

    FORMAT = "lerpscape bias study 2"
    PLOT = "plateaus.plot_biases"

    variants: tuple[BiasVariant, ...]
    eps: float
    how: dict[str, Any] = field(repr=False)

    def __iter__(self) -> Iterator[BiasVariant]:
        return iter(self.variants)

    def __getitem__(self, name: str) -> BiasVariant:
        return {variant.name: variant for variant in self.variants}[name]

    def table(self) -> list[dict[str, Any]]:
        """One row per variant: plateau of loss and error in α, max_rise, loss and accuracy at the end."""
        rows = []
        for variant in self.variants:
            accuracy = variant.profile.accuracy
            rows.append(
                {
                    "variant": variant.name,
                    "loss_plateau": variant.loss_plateau,
                    "error_plateau": variant.error_plateau,
                    "max_rise": rise_of(variant.profile),
                    "last_loss": float(variant.profile.loss[-1]),
                    "last_accuracy": float("nan") if accuracy is None else float(accuracy[-1]),
                }
            )
        return rows

    @property
    def summary(self) -> str:
        """The plateaus with straight and with homogeneous biases, in a sentence."""
        straight, homogeneous = self["straight"], self["homogeneous"]
        return (
            f"Plateaus (within {100 * self.eps:g} % of the drop): error {straight.error_plateau:.3g} of the line, loss "
            f"{straight.loss_plateau:.3g}; with homogeneous biases {homogeneous.error_plateau:.3g} and "
            f"{homogeneous.loss_plateau:.3g} (n = {straight.profile.examples:,})."
        )

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a frame. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        return data_frame(self.table())


def bias_study(
    model: nn.Module,
    line: Line,
    data: Data,
    *,
    eps: float = 0.05,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas = 101,
    **options: Unpack[MeasurementOptions],
) -> BiasStudy:
    """Compare the plateaus of one line under five treatments of the biases.

    The variants: `straight`, the line itself; `homogeneous`, biases of layer h scaled by α^h; `last homogeneous`, only
    the last layer's; `no biases` and `no last bias`, set to 0 at both ends, which is another network and may end worse
    (see the table). For networks *trained* without biases, measure lines of their own.

    * `eps`: a plateau ends where more than this share of the drop is reached.
    * `loss`, `alphas`: as for `profile`.
    * `options`: see `MeasurementOptions`; `label` is the variant's name.

    Raises `TypeError` for layers that have no depth (see `Path.homogeneous_biases`), `ValueError` without biases.

    Source: Wang, Wang, Zhou & Ge (2022).

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2)).double()
    >>> end = {"0.weight": [[1.0]], "2.weight": [[0.0], [2.0]], "2.bias": [1.0, 0.0]}
    >>> end = {name: torch.tensor(value).double() for name, value in end.items()}
    >>> line = Line({name: 0 * tensor for name, tensor in end.items()}, end)
    >>> study = bias_study(model, line, [(torch.ones(1, 1).double(), torch.tensor([1]))])
    >>> [(variant.name, round(variant.error_plateau, 2)) for variant in study][:2]  # wrong up to ½; right at once
    [('straight', 0.5), ('homogeneous', 0.0)]
    """
    check_options(bias_study, options, without=["label"])
    depths = bias_depths(model)
    if not depths:
        raise ValueError(explain(expected="a model with biases.", got="none.", hint="There is nothing to compare."))
    last = max(depths, key=lambda name: (depths[name], list(depths).index(name)))
    paths: dict[str, Path] = {
        "straight": line,
        "homogeneous": line.homogeneous_biases(model),
        "last homogeneous": line.schedule({last: Power(depths[last])}),
        "no biases": _without(line, set(depths)),
        "no last bias": _without(line, {last}),
    }
    variants = []
    for name, path in paths.items():
        named: MeasurementOptions = {**options, "label": name}
        curve = profile(model, path, data, loss=loss, alphas=alphas, derivative=False, **named)
        error = None if curve.accuracy is None else 1 - curve.accuracy
        lengths = [
            float("nan") if values is None or curve.invalid else plateau(values, eps, curve.alphas)
            for values in (curve.loss, error)
        ]
        variants.append(BiasVariant(name, curve, lengths[0], lengths[1]))
    return BiasStudy(tuple(variants), eps, how_of(variants[0].profile))


def _without(line: Line, biases: set[str]) -> Line:
    def with_zeros(end: Checkpoint) -> Checkpoint:
        tensors = {name: torch.zeros_like(tensor) if name in biases else tensor for name, tensor in end.tensors.items()}
        return Checkpoint(tensors, end.parameters, f"{end.source} without {len(biases)} biases")

    return Line(with_zeros(line.start), with_zeros(line.end))
