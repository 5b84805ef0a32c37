"""What biases do to a plateau: one line walked with them, without them, and with them at the pace of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.paths.checkpoints import Checkpoint
from lerpscape.paths.line import Line
from lerpscape.paths.path import Path
from lerpscape.paths.schedules import Power
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.readings.monotonicity import plateau

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class BiasVariant:
    """One way to treat the biases: its profile, and the lengths of its plateaus (nan where nothing falls)."""

    name: str
    profile: Profile
    loss_plateau: float
    error_plateau: float


@dataclass(frozen=True, eq=False)
class BiasStudy(Result):
    """The variants of one line; plateaus within `eps` of the drop of loss and error."""

    FORMAT = "lerpscape bias study 1"
    PLOT = "plateaus.plot_biases"

    variants: tuple[BiasVariant, ...]
    eps: float

    def __iter__(self) -> Iterator[BiasVariant]:
        return iter(self.variants)

    def __getitem__(self, name: str) -> BiasVariant:
        return {each.name: each for each in self.variants}[name]

    def table(self) -> list[dict[str, Any]]:
        """One row per variant: plateau of loss and error in α, max_rise, loss and accuracy at the end."""
        return [
            {
                "variant": each.name,
                "loss_plateau": each.loss_plateau,
                "error_plateau": each.error_plateau,
                "max_rise": float("nan") if each.profile.invalid else each.profile.max_rise,
                "last_loss": float(each.profile.loss[-1]),
                "last_accuracy": float("nan") if each.profile.accuracy is None else float(each.profile.accuracy[-1]),
            }
            for each in self.variants
        ]

    @property
    def summary(self) -> str:
        """What homogeneous biases change, in a sentence."""
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
    alphas: int | Sequence[float] | Floats = 101,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
) -> BiasStudy:
    """Walk one line five ways and compare its plateaus: what is the biases' share in them?

    * `straight`: the line itself; `homogeneous`: biases of layer h at α^h; `last homogeneous`: the last layer's alone.
    * `no biases`, `no last bias`: set to 0 at both ends: another network, whose end may be worse (see the table).

    For networks *trained* without biases, compare lines of their own. The rest as for `profile`.

    Raises `TypeError` for layers that have no depth (see `Path.homogeneous_biases`), `ValueError` without biases.

    Source: Wang, Wang, Zhou & Ge (2022).

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2)).double()
    >>> end = {"0.weight": [[1.0]], "2.weight": [[0.0], [2.0]], "2.bias": [1.0, 0.0]}
    >>> end = {name: torch.tensor(value).double() for name, value in end.items()}
    >>> line = Line({name: 0 * tensor for name, tensor in end.items()}, end)
    >>> found = bias_study(model, line, [(torch.ones(1, 1).double(), torch.tensor([1]))])
    >>> [(each.name, round(each.error_plateau, 2)) for each in found][:2]  # wrong up to ½; right at once
    [('straight', 0.5), ('homogeneous', 0.0)]
    """
    depths = bias_depths(model)
    if not depths:
        raise ValueError(explain(expected="a model with biases.", got="none.", hint="There is nothing to compare."))
    last = max(depths, key=lambda name: (depths[name], list(depths).index(name)))
    roads: dict[str, Path] = {
        "straight": line,
        "homogeneous": line.homogeneous_biases(model),
        "last homogeneous": line.schedule({last: Power(depths[last])}),
        "no biases": _without(line, set(depths)),
        "no last bias": _without(line, {last}),
    }
    found = []
    for name, road in roads.items():
        curve = profile(
            model,
            road,
            data,
            loss=loss,
            alphas=alphas,
            batch_norm=batch_norm,
            derivative=False,
            device=device,
            dtype=dtype,
            progress=progress,
            label=name,
        )
        error = None if curve.accuracy is None else 1 - curve.accuracy
        lengths = [
            float("nan") if values is None or curve.invalid else plateau(values, eps, curve.alphas)
            for values in (curve.loss, error)
        ]
        found.append(BiasVariant(name, curve, lengths[0], lengths[1]))
    return BiasStudy(tuple(found), eps)


def _without(line: Line, biases: set[str]) -> Line:
    def silenced(end: Checkpoint) -> Checkpoint:
        tensors = {name: torch.zeros_like(tensor) if name in biases else tensor for name, tensor in end.tensors.items()}
        return Checkpoint(tensors, end.parameters, f"{end.source} without {len(biases)} biases")

    return Line(silenced(line.start), silenced(line.end))
