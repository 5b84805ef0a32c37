"""The contribution of each part of a network to a change of the loss along a path."""

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
class Contributions(Result):
    """The change of the mean loss between two α, split: `parts[i]` = ∫ ⟨∇L, velocity of the tensors of i⟩ dα.

    Arrays have shape (parts,): `parts` and `errors` (their change at the last halving of the grid) in `unit`; `slopes`
    of shape (points, parts) is dL/dα of each at `alphas`. `losses` are measured at both ends of `between`, so
    `residual` = their difference − Σ parts is the exact quadrature error of the sum. `precision` is a share of
    Σ |parts|.
    """

    FORMAT = "lerpscape contributions 2"
    PLOT = "attribution.plot_contributions"
    FIGURE = "attribution.contributions_figure"

    names: tuple[str, ...]
    parts: Floats
    errors: Floats
    between: tuple[float, float]
    losses: tuple[float, float]
    alphas: Floats = field(repr=False)
    slopes: Floats = field(repr=False)
    precision: float
    examples: int
    unit: str
    loss_name: str
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def change(self) -> float:
        """L(b) − L(a), measured at both ends: the sum of the parts and the residual."""
        return self.losses[1] - self.losses[0]

    @property
    def residual(self) -> float:
        """L(b) − L(a) − Σ parts."""
        return self.change - float(self.parts.sum())

    @property
    def converged(self) -> bool:
        """Whether the residual and every part's error are at most `precision`·Σ |parts|."""
        allowed = self.precision * float(np.abs(self.parts).sum())
        return bool(abs(self.residual) <= allowed and (self.errors <= allowed).all())

    def ranked(self) -> list[tuple[str, float]]:
        """Parts by name, those that raise the loss most first."""
        order = np.argsort(-self.parts, kind="stable")
        return [(self.names[i], float(self.parts[i])) for i in order]

    @property
    def summary(self) -> str:
        """The largest parts and the residual, in sentences."""
        ranked = self.ranked()
        up = [f"{name} {value:+.4g}" for name, value in ranked[:3] if value > 0]
        down = [f"{name} {value:+.4g}" for name, value in ranked[::-1][:3] if value < 0]
        unit = f" {self.unit}" if self.unit else ""
        budget = "" if self.converged else f" The budget ended above the precision of {self.precision:g} Σ |parts|."
        return (
            f"The loss changes by {self.change:+.4g}{unit} from α = {self.between[0]:.4g} to {self.between[1]:.4g}; "
            f"up by {', '.join(up) or 'nothing'}; down by {', '.join(down) or 'nothing'}. {len(self.parts)} parts on "
            f"{len(self.alphas)} points, residual {self.residual:+.2g}.{budget}"
        )

    def to_pandas(self) -> pandas.DataFrame:
        """One row per part. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        columns = {"name": self.names, "part": self.parts, "error": self.errors}
        return data_frame(columns)
