"""Features along a path: linear CKA between its two ends, and how linear each layer's features are in α."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.geometry.features import Features
from lerpscape.networks.reading import Data
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
        """The CKA of each layer between start and end, in a sentence."""
        shown = ", ".join(f"{name} {value:.3g}" for name, value in self.same_layer.items())
        return f"Linear CKA of each layer at the start with itself at the end: {shown} (n = {self.examples:,})."

    @property
    def same_layer(self) -> dict[str, float]:
        """CKA of each layer with itself in the other network."""
        return dict(zip(self.layers, np.diag(self.cka).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class FeatureLinearity(Result):
    """The features f(α) of each layer compared with the mixture (1−α)f(0) + αf(1); arrays of shape (points, layers).

    `cosine` is the mean over examples of the cosine between the two, *with its sign*: 1 is linear, 0 unrelated, −1
    opposite, which is not linear. `coefficient` is the mean of ⟨f(α), mixture⟩ / ‖mixture‖²: 1 if the norms agree too.
    `opposite` is the share of examples with a negative cosine, `silent` the number left out because f(α) or the mixture
    is 0.
    """

    FORMAT = "lerpscape feature linearity 2"
    PLOT = "features.plot_linearity"

    layers: tuple[str, ...]
    alphas: Floats
    cosine: Floats
    coefficient: Floats
    opposite: Floats
    silent: Floats
    examples: int
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """The layer and α with the least cosine, in a sentence."""
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
    **options: Unpack[MeasurementOptions],
) -> FeatureSimilarity:
    """Linear CKA between the features of the two networks at the ends of a path, every layer with every layer.

    CKA(X, Y) = ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) for features of shape (examples, size), centred over the examples. Biased
    upwards if there are fewer examples than features. Memory is 8n² bytes for each layer and end.

    * `layers`: patterns of module names; None takes every module without children.
    * `options`: see `MeasurementOptions`.

    Raises `ValueError` for a pattern that matches nothing, `NonFiniteOutput` for NaN, and what `profile` raises.

    Sources: Kornblith, Norouzi, Lee & Hinton (2019); Yang et al. (2021) for its use on loss landscapes.

    >>> from lerpscape.paths.line import Line
    >>> ends = [{"weight": torch.eye(2)}, {"weight": torch.tensor([[0.0, 2.0], [-2.0, 0.0]])}]  # rotated and doubled
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> similarity = feature_similarity(nn.Linear(2, 2, bias=False), Line(*ends), [(x, x)])
    >>> round(float(similarity.cka[0, 0]), 6)
    1.0
    """
    with opened(feature_similarity, model, path, data, options, without=["self_check"]) as measurement:
        features = Features(measurement, layers)
        grams = []
        with measurement.progress_bar(2, "features", unit="end") as report:
            for alpha in (0.0, 1.0):
                grams.append({name: _gram(values) for name, values in features.at(alpha).items()})
                report(1)
        names = _names(grams[0])
        examples = len(next(iter(grams[0].values())))
        cka = np.array([[_alignment(grams[0][row], grams[1][column]) for column in names] for row in names])
        return FeatureSimilarity(names, cka, examples, measurement.label, measurement.how())


def feature_linearity(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    alphas: Alphas = 11,
    layers: Sequence[str] | None = None,
    **options: Unpack[MeasurementOptions],
) -> FeatureLinearity:
    """How linear each layer's features are in α: the cosine between f_l(θ(α)) and (1−α)f_l(θ(0)) + αf_l(θ(1)).

    Memory is 24 bytes per feature and example.

    * `alphas`: as for `profile`.
    * `layers`: as for `feature_similarity`.
    * `options`: see `MeasurementOptions`.

    Raises what `feature_similarity` raises.

    Source: Zhou et al. (2023), layerwise linear feature connectivity.

    >>> from lerpscape.paths.line import Line
    >>> line = Line({"weight": torch.eye(2)}, {"weight": 3 * torch.eye(2)})
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> linearity = feature_linearity(nn.Linear(2, 2, bias=False), line, [(x, x)], alphas=3)
    >>> linearity.cosine.round(6).tolist(), linearity.coefficient.round(6).tolist()
    ([[1.0], [1.0], [1.0]], [[1.0], [1.0], [1.0]])
    """
    grid = alpha_grid(alphas)
    with opened(feature_linearity, model, path, data, options, without=["self_check"]) as measurement:
        features = Features(measurement, layers)
        start, end = features.at(0.0), features.at(1.0)
        names = _names(start)
        shape = len(grid), len(names)
        cosine, coefficient, opposite, silent = (np.full(shape, np.nan) for _ in range(4))
        with measurement.progress_bar(len(grid), "linearity", unit="α") as report:
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
        return FeatureLinearity(
            layers=names,
            alphas=grid,
            cosine=cosine,
            coefficient=coefficient,
            opposite=opposite,
            silent=silent,
            examples=len(start[names[0]]),
            label=measurement.label,
            how=measurement.how(),
        )


def _names(layers: dict[str, Any]) -> tuple[str, ...]:
    if not layers:
        raise ValueError(
            explain(
                expected="layers whose outputs are tensors with one row per example.",
                got="none.",
                hint="layers=[…] names modules; functions called in forward() are not modules.",
            )
        )
    return tuple(layers)


def _gram(features: Tensor) -> Tensor:
    """The centred Gram matrix between examples, shape (examples, examples)."""
    centred = features - features.mean(0)
    return centred @ centred.T


def _alignment(one: Tensor, other: Tensor) -> float:
    sizes = float(one.norm()), float(other.norm())
    return float((one * other).sum()) / (sizes[0] * sizes[1]) if min(sizes) > 0 else float("nan")
