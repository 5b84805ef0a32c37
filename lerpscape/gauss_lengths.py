"""A Gauss length: how far each output path turns, how sure that is, and every reading of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lerpscape.monotonicity import Floats
from lerpscape.saving import array, as_dict, optional, read_json, write_json
from lerpscape.turning import Integers

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

FORMAT = "lerpscape gauss length 1"
HALF_PI = np.pi / 2


@dataclass(frozen=True)
class Level:
    """One grid of the refinement: its number of points, and the mean over all rows measured on it (rad).

    Rows that were finished on a coarser grid enter with what they had there.
    """

    points: int
    mean: float


@dataclass(frozen=True)
class GaussLength:
    """Gauss length of every example's output path in radians, or of every position's where outputs are sequences.

    Arrays have shape (rows,): a row is the `example` of that number in the data and, for sequences, its `position`
    (None elsewhere). `per_example` is the length, `error` its change at the last halving of the grid, `max_angle` the
    largest angle between two velocities, `degenerate` the number of α at which the output stood still and was passed
    over, `points` the number of α used, `rounding` the part that may be rounding. `alphas` is the finest grid.

    Estimates grow to the true length from below, so the share under π/2 shrinks to the true share from above.
    """

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
    tolerance: float | None
    levels: tuple[Level, ...]
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def mean(self) -> float:
        """Mean length over all rows (rad): each example counts once or, for sequences, each position."""
        return float(self.per_example.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean for examples that are a sample (rad); positions of one example go together.

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
        """Whether the last halving changed no row by more than the tolerance; False without a tolerance."""
        return self.tolerance is not None and bool((self.error <= self.tolerance).all())

    def verdict(self) -> str:
        """The mean, how sure it is, and the share under π/2, in a sentence."""
        rows = f"{len(self.per_example)} {'examples' if self.position is None else 'positions'}"
        text = (
            f"Gauss length {self.mean:.4g} rad on average over {rows} by {self.method} "
            f"on up to {len(self.alphas)} points (the last halving changed it by {self.mean_error:.2g}); "
            f"{100 * self.share_below_half_pi:.3g} % under π/2, largest angle under π/2 for "
            f"{100 * self.share_max_angle_below_half_pi:.3g} %."
        )
        if self.tolerance is not None and not self.converged:
            open_rows = int((self.error > self.tolerance).sum())
            text += f" {open_rows} still changed by more than {self.tolerance:g} when the budget ended."
        if self.degenerate.any():
            text += f" {int((self.degenerate > 0).sum())} stood still at some α, which was passed over."
        return text

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how the lengths are distributed, with π/2 marked; returns the matplotlib axes."""
        from lerpscape.plots_gauss import plot_gauss

        return plot_gauss([self], ax)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example or position. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        frames = optional("pandas", "pandas")
        columns: dict[str, Any] = {"example": self.example}
        if self.position is not None:
            columns["position"] = self.position
        names = ("per_example", "error", "max_angle", "degenerate", "points", "rounding")
        frame: pandas.DataFrame = frames.DataFrame(columns | {name: getattr(self, name) for name in names})
        return frame.rename(columns={"per_example": "gauss_length"})

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON."""
        return as_dict(self, FORMAT)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON; `GaussLength.load` gives back exactly the same numbers."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> GaussLength:
        """Read a result written by `save`.

        Raises `ValueError` for a file of another kind.
        """
        return cls.from_dict(read_json(path, FORMAT))

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> GaussLength:
        """The result that `to_dict` made these numbers, lists and strings of."""
        saved = {name: value for name, value in saved.items() if name != "format"}
        for name in ("per_example", "error", "max_angle", "rounding", "alphas"):
            saved[name] = array(saved[name])
        for name in ("degenerate", "points", "example", "position"):
            saved[name] = None if saved[name] is None else np.array(saved[name], dtype=np.int64)
        saved["levels"] = tuple(Level(**level) for level in saved["levels"])
        return cls(**saved)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GaussLength) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.per_example.tobytes(), self.alphas.tobytes(), self.label))

    def _repr_html_(self) -> str:
        from lerpscape.plots import as_svg

        return f"<figure>{as_svg(self.plot().figure)}<figcaption>{html.escape(self.verdict())}</figcaption></figure>"
