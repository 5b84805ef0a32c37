"""The curvature of the loss along a path: extreme Hessian eigenvalues, trace, and the second derivative along it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Curvature(Result):
    """The Hessian H of the mean loss at every α, batch-norm statistics held at the policy's values.

    Arrays have shape (points,). `top` and `bottom` are the largest and the smallest Ritz value of Lanczos, `top_error`
    and `bottom_error` the norms of their residuals ‖Hv − λv‖: H has an eigenvalue within that distance of each.
    `trace_error` is the standard error of the estimated `trace`. `along` is dᵀHd for the path's velocity d = dθ/dα, in
    the unit of the loss; `speed` is ‖d‖, so `along / speed²` is comparable with eigenvalues.
    """

    FORMAT = "lerpscape curvature 1"
    PLOT = "features.plot_curvature"
    PAGE = (6.4, 4.2)

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
        quotient: Floats = np.divide(self.along, self.speed**2, out=still, where=self.speed > 0)
        return quotient

    @property
    def summary(self) -> str:
        """The largest eigenvalue, and where the loss is concave along the path, in sentences."""
        down = float(np.mean(self.along < 0))
        peak = int(np.argmax(self.top))
        worst = float(np.max(self.top_error / np.maximum(np.abs(self.top), 1e-300)))
        return (
            f"Largest eigenvalue {self.top[0]:.4g} at α = {self.alphas[0]:.4g}, {self.top[-1]:.4g} at "
            f"{self.alphas[-1]:.4g}, most at {self.alphas[peak]:.4g} ({self.top[peak]:.4g}; residuals under "
            f"{100 * worst:.2g} %). Along the path the loss bends downwards at {100 * down:.3g} % of "
            f"{len(self.alphas)} points ({self.parameters:,} parameters, n = {self.examples:,})."
        )

    def to_pandas(self) -> pandas.DataFrame:
        """One row per α. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return data_frame(arrays).rename(columns={"alphas": "alpha"})
