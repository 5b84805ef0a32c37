"""Gauss lengths: how far each output path turns, with the error of the estimate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lerpscape.base.arrays import Floats, Integers
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame

if TYPE_CHECKING:
    import pandas

HALF_PI = np.pi / 2


@dataclass(frozen=True)
class Level:
    """One grid of the refinement: its number of points, and the mean over all rows measured on it (rad).

    Rows that needed no finer grid count with their length on the coarser one.
    """

    points: int
    mean: float


@dataclass(frozen=True, eq=False)
class GaussLength(Result):
    """Gauss length of every example's output path in radians, or of every position's where outputs are sequences.

    Arrays have shape (rows,): a row is the `example` of that number in the data and, for sequences, its `position`
    (None elsewhere). `per_example` is the length, `error` its change at the last halving of the grid, `max_angle` the
    largest angle between two velocities, `degenerate` the number of α skipped because the output does not
    move there, `points` the number of α used, `rounding` the part that may be rounding (rad). `alphas` is the finest
    grid. `precision` (rad) is the change at which halving stops.

    Estimates grow to the true length from below, so the share under π/2 shrinks to the true share from above.
    """

    FORMAT = "lerpscape gauss length 2"
    PLOT = "gauss.plot_gauss"
    FIGURE = "gauss.gauss_figure"

    method: str
    per_example: Floats
    error: Floats
    max_angle: Floats
    degenerate: Integers
    points: Integers
    rounding: Floats
    example: Integers
    position: Integers | None
    alphas: Floats
    precision: float | None
    levels: tuple[Level, ...]
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def mean(self) -> float:
        """Mean length over all rows (rad): each example counts once or, for sequences, each position."""
        return float(self.per_example.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean, if the examples are a sample (rad), clustered by example.

        √(G/(G−1) Σ_g (Σ_{r in g} (l_r − mean))²) / rows over the G examples; 0 for a single one.
        """
        _, group = np.unique(self.example, return_inverse=True)
        sums = np.bincount(group, weights=self.per_example - self.mean)
        return float(np.sqrt(len(sums) / max(len(sums) - 1, 1) * np.square(sums).sum()) / len(self.per_example))

    @property
    def mean_error(self) -> float:
        """Change of the mean at the last halving of the grid (rad): an estimate of the error, not a bound."""
        return float(self.error.mean())

    @property
    def by_example(self) -> Floats:
        """Mean over each example's positions (rad), in the order of the examples; `per_example` elsewhere."""
        _, group = np.unique(self.example, return_inverse=True)
        means: Floats = np.bincount(group, weights=self.per_example) / np.bincount(group)
        return means

    @property
    def share_below_half_pi(self) -> float:
        """Share of rows with a length under π/2."""
        return float(np.mean(self.per_example < HALF_PI))

    @property
    def share_max_angle_below_half_pi(self) -> float:
        """Share of rows of which any two velocities are less than π/2 apart."""
        return float(np.mean(self.max_angle < HALF_PI))

    @property
    def converged(self) -> bool:
        """Whether the last halving changed no row by more than `precision`; False where that is None."""
        return self.precision is not None and bool((self.error <= self.precision).all())

    @property
    def summary(self) -> str:
        """The mean, its error and the share under π/2, in a sentence."""
        rows = f"{len(self.per_example)} {'examples' if self.position is None else 'positions'}"
        text = (
            f"Gauss length {self.mean:.4g} rad on average over {rows} by {self.method} "
            f"on up to {len(self.alphas)} points (the last halving changed it by {self.mean_error:.2g}); "
            f"{100 * self.share_below_half_pi:.3g} % under π/2, largest angle under π/2 for "
            f"{100 * self.share_max_angle_below_half_pi:.3g} %."
        )
        if self.precision is not None and not self.converged:
            open_rows = int((self.error > self.precision).sum())
            text += f" {open_rows} still changed by more than {self.precision:g} when the budget ended."
        if self.degenerate.any():
            text += f" {int((self.degenerate > 0).sum())} do not move at some α, which is skipped."
        return text

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example or position. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        columns: dict[str, Any] = {"example": self.example}
        if self.position is not None:
            columns["position"] = self.position
        names = ("per_example", "error", "max_angle", "degenerate", "points", "rounding")
        return data_frame(columns | {name: getattr(self, name) for name in names}).rename(
            columns={"per_example": "gauss_length"}
        )
