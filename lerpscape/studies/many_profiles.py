"""What studies share: the choices that every line is measured with, and what they keep of its profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile


class Choices(TypedDict, total=False):
    """How each line is measured: see `lerpscape.profile`."""

    loss: str | PerExample | Loss
    alphas: int | Sequence[float] | Floats
    batch_norm: BatchNormPolicy | None
    device: torch.device | str | None
    dtype: torch.dtype | None


def profiles_of(
    model: nn.Module, lines: Sequence[ParamPath], data: Data, what: str, progress: Progress, choices: Choices
) -> list[Profile]:
    """The loss along each of the lines of a study called `what`."""
    found = []
    with progress_bar(progress, total=len(lines), what=what, unit="line") as report:
        for each in lines:
            found.append(profile(model, each, data, derivative=False, progress=False, **choices))
            report(1)
    return found


def rise_of(profile: Profile) -> float:
    """The largest rise of a profile; nan where a loss is NaN or infinite, so that there is no verdict."""
    return float("nan") if profile.invalid else profile.max_rise


def how_of(profile: Profile) -> dict[str, Any]:
    """How the lines of a study were measured, as one of them tells, without what belongs to it alone."""
    alone = ("path", "path_digest", "seconds")
    return {name: value for name, value in profile.how.items() if name not in alone} | {"loss": profile.loss_name}
