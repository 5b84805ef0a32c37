"""Do two networks, and those between them, compute the same features? Linear CKA, and linearity layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.base.results import Result
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.measurement import alpha_grid
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.geometry.features import Features
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath


@dataclass(frozen=True, eq=False)
class FeatureSimilarity(Result):
    """Linear CKA between every layer at the start and every layer at the end of a path, shape (layers, layers).

    Between 0 and 1, and 1 for features that are equal up to rotation, scale and shift; nan for a layer whose features
    are the same for all examples. Row: the start's layer, column: the end's.
    """

    FORMAT = "lerpscape similarity 1"
    PLOT = "features.plot_similarity"
    FIGURE = "features.similarity_figure"

    layers: tuple[str, ...]
    cka: Floats
    examples: int
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """How alike each layer stays, in a sentence."""
        shown = ", ".join(f"{name} {value:.3g}" for name, value in self.same_layer.items())
        return f"Linear CKA of each layer at the start with itself at the end: {shown} (n = {self.examples:,})."

    @property
    def same_layer(self) -> dict[str, float]:
        """CKA of each layer with itself in the other network."""
        return dict(zip(self.layers, np.diag(self.cka).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class FeatureLinearity(Result):
    """Does layer l at θ(α) compute the mixture (1−α)f(0) + αf(1) of both ends' features? Shape (points, layers).

    `cosine` is the mean over examples of the cosine between the two, *with its sign*: 1 is linear, 0 unrelated, −1
    opposite, which is not linear. `coefficient` is the mean of ⟨f(α), mixture⟩ / ‖mixture‖²: 1 where the size fits too.
    `opposite` is the share of examples with a negative cosine, `silent` the number left out as either side is 0.
    """

    FORMAT = "lerpscape feature linearity 1"
    PLOT = "features.plot_linearity"

    layers: tuple[str, ...]
    alphas: Floats
    cosine: Floats
    coefficient: Floats
    opposite: Floats
    silent: Floats
    examples: int
    label: str

    @property
    def summary(self) -> str:
        """Where features follow the line least, in a sentence."""
        if not np.isfinite(self.cosine).any():
            return f"No layer has features to compare (n = {self.examples:,})."
        at, layer = np.unravel_index(np.nanargmin(self.cosine), self.cosine.shape)
        return (
            f"Least linear is {self.layers[layer]} at α = {self.alphas[at]:.4g}, with a cosine of "
            f"{self.cosine[at, layer]:+.4g} to the mixture of both ends' features ({len(self.layers)} layers, "
            f"{len(self.alphas)} points, n = {self.examples:,})."
        )


def feature_similarity(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    layers: Sequence[str] | None = None,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    label: str = "",
) -> FeatureSimilarity:
    """Linear CKA between the features of the two networks at the ends of a path, every layer with every layer.

    CKA(X, Y) = ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) for features of shape (examples, size) with their mean over examples taken
    off. Biased upwards for fewer examples than features. Memory is 8n² bytes for each layer and end.

    * `layers`: patterns of module names; None takes every module without children.
    * the rest as for `profile`.

    Raises `ValueError` for a pattern that matches nothing, `NonFiniteOutput` for NaN, and what `profile` raises.

    Sources: Kornblith, Norouzi, Lee & Hinton (2019); Yang et al. (2021) for its use on loss landscapes.

    >>> from lerpscape.paths.line import Line
    >>> ends = [{"weight": torch.eye(2)}, {"weight": torch.tensor([[0.0, 2.0], [-2.0, 0.0]])}]  # turned and doubled
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> found = feature_similarity(nn.Linear(2, 2, bias=False), Line(*ends), [(x, x)])
    >>> round(float(found.cka[0, 0]), 6)
    1.0
    """
    with undisturbed(model):
        features = _features(model, path, data, layers, batch_norm, device, dtype)
        sides = [{name: _gram(values) for name, values in features.at(alpha).items()} for alpha in (0.0, 1.0)]
        names = _known(sides[0])
        examples = len(next(iter(sides[0].values())))
        cka = np.array([[_alignment(sides[0][row], sides[1][column]) for column in names] for row in names])
    how = {"path": path.describe(), "batch_norm": features.statistics.describe()}
    return FeatureSimilarity(names, cka, examples, label, how)


def feature_linearity(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    alphas: int | Sequence[float] | Floats = 11,
    layers: Sequence[str] | None = None,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
) -> FeatureLinearity:
    """How linearly each layer's features follow α: the cosine between f_l(θ(α)) and (1−α)f_l(θ(0)) + αf_l(θ(1)).

    Memory is 24 bytes per feature and example. Arguments as for `feature_similarity`, `alphas` as for `profile`.

    Raises what `feature_similarity` raises.

    Source: Zhou et al. (2023), layerwise linear feature connectivity.

    >>> from lerpscape.paths.line import Line
    >>> line = Line({"weight": torch.eye(2)}, {"weight": 3 * torch.eye(2)})
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> found = feature_linearity(nn.Linear(2, 2, bias=False), line, [(x, x)], alphas=3)
    >>> found.cosine.round(6).tolist(), found.coefficient.round(6).tolist()
    ([[1.0], [1.0], [1.0]], [[1.0], [1.0], [1.0]])
    """
    grid = alpha_grid(alphas)
    with undisturbed(model):
        features = _features(model, path, data, layers, batch_norm, device, dtype)
        start, end = features.at(0.0), features.at(1.0)
        names = _known(start)
        shape = len(grid), len(names)
        cosine, coefficient, opposite, silent = (np.full(shape, np.nan) for _ in range(4))
        with progress_bar(progress, total=len(grid), what=f"linearity {label}".strip(), unit="α") as report:
            for i, alpha in enumerate(grid):
                here = features.at(float(alpha))
                for j, name in enumerate(names):
                    mixture = torch.lerp(start[name], end[name], float(alpha))
                    inner = (here[name] * mixture).sum(1)
                    sizes = here[name].norm(dim=1), mixture.norm(dim=1)
                    known = (sizes[0] > 0) & (sizes[1] > 0)
                    silent[i, j] = int((~known).sum())
                    if known.any():
                        cosines = inner[known] / (sizes[0] * sizes[1])[known]
                        cosine[i, j] = float(cosines.mean())
                        coefficient[i, j] = float((inner[known] / sizes[1][known].square()).mean())
                        opposite[i, j] = float((cosines < 0).double().mean())
                report(1)
    return FeatureLinearity(names, grid, cosine, coefficient, opposite, silent, len(start[names[0]]), label)


def _features(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    layers: Sequence[str] | None,
    batch_norm: BatchNormPolicy | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Features:
    on_path = ModelOnPath(model, path, device, dtype)
    return Features(on_path, BatchNormStatistics(on_path, batch_norm), Reader(data), layers)


def _known(found: dict[str, Any]) -> tuple[str, ...]:
    if not found:
        raise ValueError(
            explain(
                expected="layers whose outputs are tensors with one row per example.",
                got="none.",
                hint="layers=[…] names modules; functions called in forward() are not modules.",
            )
        )
    return tuple(found)


def _gram(features: Tensor) -> Tensor:
    """The centred Gram matrix between examples, shape (examples, examples)."""
    centred = features - features.mean(0)
    return centred @ centred.T


def _alignment(one: Tensor, other: Tensor) -> float:
    sizes = float(one.norm()), float(other.norm())
    return float((one * other).sum()) / (sizes[0] * sizes[1]) if min(sizes) > 0 else float("nan")
