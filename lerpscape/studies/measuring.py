"""What studies share: the choices that every line is measured with, and results that save themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import torch

from lerpscape.batch_norm import BatchNormPolicy
from lerpscape.losses import Loss, PerExample
from lerpscape.monotonicity import Floats
from lerpscape.profiles import Profile
from lerpscape.saving import array, as_dict, read_json, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Choices(TypedDict, total=False):
    """How each line is measured: see `lerpscape.profile`."""

    loss: str | PerExample | Loss
    alphas: int | Sequence[float] | Floats
    batch_norm: BatchNormPolicy | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class StudyResult(ABC):
    """A result of many lines: plain numbers, saved as JSON and read back exactly."""

    FORMAT: ClassVar[str]

    @abstractmethod
    def summary(self) -> str:
        """The answer in words."""

    @abstractmethod
    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result; returns the matplotlib axes."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON; NaN and inf become strings."""
        return as_dict(self, self.FORMAT)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON; `load` gives back exactly the same numbers."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result written by `save`.

        Raises `ValueError` for a file of another kind.
        """
        saved = read_json(path, cls.FORMAT)
        for each in fields(cls):  # type: ignore[arg-type]
            value = saved[each.name]
            if "Floats" in str(each.type):
                saved[each.name] = array(value)
            elif str(each.type).startswith("tuple"):
                saved[each.name] = tuple(value)
            elif each.type == "float":
                saved[each.name] = float(value)
        return cls(**saved)


def rise_of(profile: Profile) -> float:
    """The largest rise of a profile; nan where a loss is NaN or infinite, so that there is no verdict."""
    return float("nan") if profile.invalid else profile.max_rise


def how_of(profile: Profile) -> dict[str, Any]:
    """How the lines of a study were measured, as one of them tells, without what belongs to it alone."""
    alone = ("path", "path_digest", "seconds")
    return {name: value for name, value in profile.how.items() if name not in alone} | {"loss": profile.loss_name}
