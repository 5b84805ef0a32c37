"""What studies share: the choices that every line is measured with, and what they keep of its profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from lerpscape.batch_norm import BatchNormPolicy
from lerpscape.losses import Loss, PerExample
from lerpscape.monotonicity import Floats
from lerpscape.profiles import Profile

if TYPE_CHECKING:
    pass


class Choices(TypedDict, total=False):
    """How each line is measured: see `lerpscape.profile`."""

    loss: str | PerExample | Loss
    alphas: int | Sequence[float] | Floats
    batch_norm: BatchNormPolicy | None
    device: torch.device | str | None
    dtype: torch.dtype | None


def rise_of(profile: Profile) -> float:
    """The largest rise of a profile; nan where a loss is NaN or infinite, so that there is no verdict."""
    return float("nan") if profile.invalid else profile.max_rise


def how_of(profile: Profile) -> dict[str, Any]:
    """How the lines of a study were measured, as one of them tells, without what belongs to it alone."""
    alone = ("path", "path_digest", "seconds")
    return {name: value for name, value in profile.how.items() if name not in alone} | {"loss": profile.loss_name}
