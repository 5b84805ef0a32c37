"""Figures of curvature along a path, and of the features that layers compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import ALPHA, COLOURS, INK, axes_or_new, colour_bar, legend_above, line_style, page, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.geometry.curvature_results import Curvature
    from lerpscape.geometry.similarity import FeatureLinearity, FeatureSimilarity


def plot_curvature(curvature: Curvature, ax: Axes | None = None) -> Axes:
    """Draw the extreme and mean eigenvalues and the curvature along the path, on an axis that is linear near 0."""
    with style():
        ax = axes_or_new(ax)
        alphas, parameters = curvature.alphas, curvature.parameters
        ax.fill_between(alphas, curvature.bottom, curvature.top, color=INK, alpha=0.08, linewidth=0)
        for values, error, colour, label in (
            (curvature.top, curvature.top_error, COLOURS[0], "largest eigenvalue"),
            (curvature.bottom, curvature.bottom_error, COLOURS[4], "smallest eigenvalue"),
            (curvature.trace / parameters, curvature.trace_error / parameters, COLOURS[2], "mean eigenvalue"),
        ):
            ax.errorbar(alphas, values, error, fmt=".-", color=colour, label=label)
        ax.plot(alphas, curvature.rayleigh, ".-", color=COLOURS[5], label="along the path")
        ax.axhline(0, color=INK, linewidth=0.8)
        rayleigh = curvature.rayleigh[np.isfinite(curvature.rayleigh)]
        sizes = np.abs(np.concatenate([curvature.top, curvature.bottom, rayleigh]))
        ax.set_yscale("symlog", linthresh=max(float(np.median(sizes)) / 10, 1e-300))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set(xlabel=ALPHA, ylabel=f"curvature ({curvature.unit or 'loss'} per squared length)")
        legend_above(ax, 2)
    return ax


def plot_similarity(similarity: FeatureSimilarity, ax: Axes | None = None) -> Axes:
    """Draw the matrix of linear CKA between the layers of the start (rows) and of the end (columns)."""
    with style():
        ax = axes_or_new(ax)
        image = ax.imshow(similarity.cka, vmin=0, vmax=1, cmap="viridis")
        ticks = np.arange(len(similarity.layers))
        ax.set_xticks(ticks, similarity.layers, rotation=90)
        ax.set_yticks(ticks, similarity.layers)
        ax.set(xlabel="layer at the end", ylabel="layer at the start")
        colour_bar(ax, image, "linear CKA")
    return ax


def plot_linearity(linearity: FeatureLinearity, ax: Axes | None = None) -> Axes:
    """Draw the cosine between each layer's features and the mixture of both ends' features against α."""
    with style():
        ax = axes_or_new(ax)
        for index, name in enumerate(linearity.layers):
            colour, dashes = line_style(index)
            ax.plot(linearity.alphas, linearity.cosine[:, index], dashes, color=colour, label=name)
        ax.axhline(0, color=INK, linewidth=0.8)
        low = float(np.nanmin(linearity.cosine)) if np.isfinite(linearity.cosine).any() else 0.0
        ax.set(xlabel=ALPHA, ylabel="cosine to the mixture of both ends", ylim=(min(-0.05, low), 1.03))
        legend_above(ax, 4)
    return ax


def similarity_figure(similarity: FeatureSimilarity, linearity: FeatureLinearity | None = None) -> Figure:
    """A figure of CKA between the two ends and, if given, of the linearity of features between them."""
    if linearity is None:
        return page(lambda ax: plot_similarity(similarity, ax), similarity.PAGE)
    with style():
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_similarity(similarity, left)
        plot_linearity(linearity, right)
    return figure
