"""A parameter on an interval of the line: its value at the middle, its change with α, and bounds of its size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lerpscape.certificates.rounding import UNIT, coarse, enlarged, lifted
from lerpscape.certificates.taylor_models import Form, TaylorModel


@dataclass(frozen=True)
class Movement:
    """A parameter start + α·change for all α; `change` is None for a constant one. Sizes are float32 upper bounds."""

    start: Tensor
    change: Tensor | None

    @cached_property
    def start_size(self) -> Tensor:
        """|start|, rounded up."""
        return coarse(self.start)

    @cached_property
    def change_size(self) -> Tensor | None:
        """|change|, rounded up."""
        return None if self.change is None else coarse(self.change)

    @cached_property
    def change_coarse(self) -> Tensor | None:
        """The change in float32."""
        return None if self.change is None else self.change.float()


@dataclass(frozen=True)
class Parameter:
    """A parameter on an interval around α: middle + t·change for |t| ≤ reach, up to an error of at most grain·size.

    `size` is a bound of |middle| + share·|change|. The middle is computed by `torch.lerp` and the change by
    subtraction. `lerp` adds a rounded multiple of the rounded difference to one end and rounds the sum, with an error
    of at most u|θ(m)| + 3u|θ_T − θ₀|. So the error is at most 4u(|middle| + |change|) ≤ (4u/s)·(|middle| + s|change|)
    for any share s in [reach, 1]. s is 1 for a single point, and otherwise at least 1/256, to keep 4u/s small.
    """

    movement: Movement
    middle: Tensor
    alpha: float
    reach: float

    @property
    def change(self) -> Tensor | None:
        """The change on an interval; None at a single point."""
        return self.movement.change if self.reach else None

    @property
    def share(self) -> float:
        """The share of the change that `size` includes."""
        return max(self.reach, 2.0**-8) if self.reach else 1.0

    @property
    def grain(self) -> float:
        """A bound of the rounding error of the middle, relative to `size`."""
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
