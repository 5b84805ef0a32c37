"""The curvature of the loss along a path: extreme Hessian eigenvalues, trace, and the second derivative along it."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lerpscape.monotonicity import Floats
from lerpscape.saving import array, as_dict, optional, read_json, write_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

FORMAT = "lerpscape curvature 1"


@dataclass(frozen=True)
class Curvature:
    """The Hessian H of the mean loss at every α, batch-norm statistics held at the policy's values.

    Arrays have shape (points,). `top` and `bottom` are the largest and the smallest eigenvalue found by Lanczos,
    `top_error` and `bottom_error` the norms of their residuals ‖Hv − λv‖: an eigenvalue lies that near. `trace` comes
    with the standard error of its estimator, `trace_error`. `along` is dᵀHd for the path's velocity d = dθ/dα, in the
    unit of the loss; `speed` is ‖d‖, so that `along / speed²` compares with eigenvalues.
    """

    alphas: Floats
    top: Floats
    top_error: Floats
    bottom: Floats
    bottom_error: Floats
    trace: Floats
    trace_error: Floats
    along: Floats
    speed: Floats
    parameters: int
    examples: int
    unit: str
    loss_name: str
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def rayleigh(self) -> Floats:
        """dᵀHd / ‖d‖²: the curvature in the direction of the path, between `bottom` and `top`; nan where d is 0."""
        still = np.full(len(self.alphas), np.nan)
        found: Floats = np.divide(self.along, self.speed**2, out=still, where=self.speed > 0)
        return found

    def verdict(self) -> str:
        """Where the loss bends how, in a sentence."""
        down = float(np.mean(self.along < 0))
        peak = int(np.argmax(self.top))
        worst = float(np.max(self.top_error / np.maximum(np.abs(self.top), 1e-300)))
        return (
            f"Largest eigenvalue {self.top[0]:.4g} at α = {self.alphas[0]:.4g}, {self.top[-1]:.4g} at "
            f"{self.alphas[-1]:.4g}, most at {self.alphas[peak]:.4g} ({self.top[peak]:.4g}; residuals under "
            f"{100 * worst:.2g} %). Along the path the loss bends downwards at {100 * down:.3g} % of "
            f"{len(self.alphas)} points ({self.parameters:,} parameters, n = {self.examples:,})."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw eigenvalues, mean eigenvalue and the curvature along the path against α; returns the axes."""
        from lerpscape.plots_features import plot_curvature

        return plot_curvature(self, ax)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per α. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        frames = optional("pandas", "pandas")
        names = ("alphas", *ARRAYS[1:])
        frame: pandas.DataFrame = frames.DataFrame({name: getattr(self, name) for name in names})
        return frame.rename(columns={"alphas": "alpha"})

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON."""
        return as_dict(self, FORMAT)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON; `Curvature.load` gives back exactly the same numbers."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Curvature:
        """Read a result written by `save`.

        Raises `ValueError` for a file of another kind.
        """
        saved = read_json(path, FORMAT)
        for name in ARRAYS:
            saved[name] = array(saved[name])
        return cls(**saved)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Curvature) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.top.tobytes(), self.alphas.tobytes(), self.label))

    def _repr_html_(self) -> str:
        from lerpscape.plots import as_svg

        return f"<figure>{as_svg(self.plot().figure)}<figcaption>{html.escape(self.verdict())}</figcaption></figure>"


ARRAYS = ("alphas", "top", "top_error", "bottom", "bottom_error", "trace", "trace_error", "along", "speed")
