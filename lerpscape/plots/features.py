"""Pictures of curvature along a path, and of what layers compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import ALPHA, COLOURS, INK, axes_or_new, legend_above, look, page, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.geometry.curvature_results import Curvature
    from lerpscape.geometry.similarity import FeatureLinearity, FeatureSimilarity


def plot_curvature(found: Curvature, ax: Axes | None = None) -> Axes:
    """Draw the extreme eigenvalues, their mean and the curvature along the path, on an axis linear around 0."""
    with style():
        ax = axes_or_new(ax)
        ax.fill_between(found.alphas, found.bottom, found.top, color=INK, alpha=0.08, linewidth=0)
        ax.errorbar(found.alphas, found.top, found.top_error, fmt=".-", color=COLOURS[0], label="largest eigenvalue")
        ax.errorbar(
            found.alphas, found.bottom, found.bottom_error, fmt=".-", color=COLOURS[4], label="smallest eigenvalue"
        )
        mean, error = found.trace / found.parameters, found.trace_error / found.parameters
        ax.errorbar(found.alphas, mean, error, fmt=".-", color=COLOURS[2], label="mean eigenvalue")
        ax.plot(found.alphas, found.rayleigh, ".-", color=COLOURS[5], label="along the path")
        ax.axhline(0, color=INK, linewidth=0.8)
        sizes = np.abs(np.concatenate([found.top, found.bottom, found.rayleigh[np.isfinite(found.rayleigh)]]))
        ax.set_yscale("symlog", linthresh=max(float(np.median(sizes)) / 10, 1e-300))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set(xlabel=ALPHA, ylabel=f"curvature ({found.unit or 'loss'} per squared length)")
        legend_above(ax, 2)
    return ax


def plot_similarity(found: FeatureSimilarity, ax: Axes | None = None) -> Axes:
    """Draw the matrix of linear CKA, start's layers in rows and end's in columns, with a colour bar."""
    with style():
        ax = axes_or_new(ax)
        image = ax.imshow(found.cka, vmin=0, vmax=1, cmap="viridis")
        ticks = np.arange(len(found.layers))
        ax.set_xticks(ticks, found.layers, rotation=90)
        ax.set_yticks(ticks, found.layers)
        ax.set(xlabel="layer at the end", ylabel="layer at the start")
        figure = ax.get_figure()
        assert figure is not None
        figure.colorbar(image, ax=ax, label="linear CKA")
    return ax


def plot_linearity(found: FeatureLinearity, ax: Axes | None = None) -> Axes:
    """Draw the cosine between each layer's features and the mixture of both ends', from first layer to last."""
    with style():
        ax = axes_or_new(ax)
        for index, name in enumerate(found.layers):
            colour, dash = look(index)
            ax.plot(found.alphas, found.cosine[:, index], dash, color=colour, label=name)
        ax.axhline(0, color=INK, linewidth=0.8)
        low = float(np.nanmin(found.cosine)) if np.isfinite(found.cosine).any() else 0.0
        ax.set(xlabel=ALPHA, ylabel="cosine to the mixture of both ends", ylim=(min(-0.05, low), 1.03))
        legend_above(ax, 4)
    return ax


def similarity_figure(similarity: FeatureSimilarity, linearity: FeatureLinearity | None = None) -> Figure:
    """A page with CKA between the ends and, where it was measured, the linearity of features between them."""
    if linearity is None:
        return page(lambda ax: plot_similarity(similarity, ax), similarity.PAGE)
    with style():
        figure = Figure(figsize=(10.4, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_similarity(similarity, left)
        plot_linearity(linearity, right)
    return figure
