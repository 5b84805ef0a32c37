"""What studies share: how they measure many lines, and what they keep of each profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from lerpscape.base.progress import progress_bar
from lerpscape.engine.measurement import Alphas, MeasurementOptions, check_options
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile


class StudyOptions(MeasurementOptions, total=False):
    """How each line is measured: `loss` and `alphas` as for `profile`, and all of `MeasurementOptions` but `label`."""

    loss: str | PerExample | Loss
    alphas: Alphas


def profiles_of(
    study: Callable[..., Any], model: nn.Module, lines: Sequence[ParamPath], data: Data, options: StudyOptions
) -> list[Profile]:
    """The loss along each line, for a public function `study` called with these options; progress counts lines.

    Raises `TypeError` for an option that the study does not take.
    """
    check_options(study, options, StudyOptions, without=["label"])
    each_line: StudyOptions = {**options, "progress": False}
    profiles = []
    with progress_bar(options.get("progress"), total=len(lines), what=study.__name__, unit="line") as report:
        for line in lines:
            profiles.append(profile(model, line, data, derivative=False, **each_line))
            report(1)
    return profiles


def rise_of(profile: Profile) -> float:
    """max_rise of a profile; nan if a loss is NaN or infinite."""
    return float("nan") if profile.invalid else profile.max_rise


def how_of(profile: Profile) -> dict[str, Any]:
    """The `how` of a study, from one of its profiles, without what concerns that line alone."""
    of_one_line = ("path", "path_digest", "seconds")
    return {name: value for name, value in profile.how.items() if name not in of_one_line} | {"loss": profile.loss_name}
