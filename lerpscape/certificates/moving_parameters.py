"""A parameter on the line: where it is at the middle of an interval, how it moves, and how large it can be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lerpscape.certificates.rounding import UNIT, coarse, enlarged, lifted
from lerpscape.certificates.taylor_models import Form, TaylorModel


@dataclass(frozen=True)
class Movement:
    """start + α·change, for all α; `change` is None for a tensor that does not move. Sizes are float32 bounds."""

    start: Tensor
    change: Tensor | None

    @cached_property
    def start_size(self) -> Tensor:
        """|start|."""
        return coarse(self.start)

    @cached_property
    def change_size(self) -> Tensor | None:
        """|change|."""
        return None if self.change is None else coarse(self.change)

    @cached_property
    def change_coarse(self) -> Tensor | None:
        """The change in float32."""
        return None if self.change is None else self.change.float()


@dataclass(frozen=True)
class Parameter:
    """A tensor on an interval: exactly middle + t·change for |t| ≤ reach, but for |error| ≤ grain·size.

    `size` bounds |middle| + share·|change|. The middle comes from `torch.lerp` and the change from subtraction: lerp
    adds a rounded multiple of the rounded difference to one end and rounds, off by at most u|θ(m)| + 3u|θ_T − θ₀|.
    So |error| ≤ 4u(|middle| + |change|) ≤ (4u/s)·(|middle| + s|change|) for any share s in [reach, 1]; s = 1 for a
    single point, and at least 1/256 otherwise, to keep the factor small.
    """

    movement: Movement
    middle: Tensor
    alpha: float
    reach: float

    @property
    def change(self) -> Tensor | None:
        """The change, where it counts: not at a single point."""
        return self.movement.change if self.reach else None

    @property
    def share(self) -> float:
        """The part of the change that is counted in `size`."""
        return max(self.reach, 2.0**-8) if self.reach else 1.0

    @property
    def grain(self) -> float:
        """Rounding of the middle, relative to `size`."""
        return 0.0 if self.movement.change is None else 8 * UNIT / self.share

    @cached_property
    def middle_size(self) -> Tensor:
        """|middle| in float32, rounded up."""
        return coarse(self.middle)

    @cached_property
    def middle_coarse(self) -> Tensor:
        """The middle in float32."""
        return self.middle.float()

    @cached_property
    def size(self) -> Tensor:
        """|middle| + share·|change| in float32, rounded up."""
        change = self.movement.change_size
        return self.middle_size if change is None else enlarged(self.middle_size + self.share * change, 4)

    def model(self) -> TaylorModel:
        """The parameter as a Taylor model, for products element by element."""
        value = Form(self.middle, self.change, lifted(self.grain * self.size) if self.grain else None, self.reach)
        if self.change is None or self.movement.change_size is None:
            return TaylorModel(value, None)
        return TaylorModel(value, Form(self.change, None, (4 * UNIT) * self.movement.change_size, self.reach))
