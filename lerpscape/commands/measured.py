"""How lines are measured and where results go: choices that all studies share on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lerpscape.commands.arguments import (
    BatchNorm,
    Device,
    Dtype,
    Json,
    OptionalFile,
    Switch,
    alphas_of,
    dtype_of,
    print_written,
    require_writable,
)
from lerpscape.names import named

if TYPE_CHECKING:
    from lerpscape.studies.measuring import StudyResult


@dataclass(frozen=True)
class Measured:
    """How each line is measured."""

    loss: str = "cross_entropy"
    """cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name."""
    alphas: str = "25"
    """Number of points on [0, 1] of each line, or first:last:count."""
    batch_norm: BatchNorm = None
    """What batch norm normalises with; asked for where the model has batch norm."""
    device: Device = None
    """cpu, cuda, …"""
    dtype: Dtype = None
    """Floating-point type to compute in; by default that of the checkpoints."""
    progress: Switch = None
    """Progress bar: by default on a terminal, after two seconds."""

    def choices(self, data: Any) -> dict[str, Any]:
        """As the studies take them."""
        return self.choices_without_alphas(data) | {"alphas": alphas_of(self.alphas)}

    def choices_without_alphas(self, data: Any) -> dict[str, Any]:
        """As studies take them that measure single points."""
        from lerpscape.batch_norm import named_policy

        return {
            "loss": named(self.loss) if ":" in self.loss else self.loss,
            "batch_norm": named_policy(self.batch_norm, data),
            "device": self.device,
            "dtype": dtype_of(self.dtype),
            "progress": self.progress,
        }


@dataclass(frozen=True)
class Output:
    """Where the result goes."""

    json: Json = False
    """Print the numbers as JSON."""
    out: OptionalFile = None
    """File for the result (JSON)."""
    plot: OptionalFile = None
    """File for the picture (svg, pdf, png)."""

    def check(self) -> None:
        """Find out before the work whether the files can be written."""
        require_writable(self.out, self.plot)

    def show(self, found: StudyResult) -> None:
        """Print and write a result."""
        if self.out:
            found.save(self.out)
        if self.plot:
            from lerpscape.plots import save_figure
            from lerpscape.plots_studies import study_figure

            save_figure(study_figure(found), str(self.plot))
        if self.json:
            print(json.dumps({"summary": found.summary(), **found.to_dict()}, allow_nan=False))
            return
        print(found.summary())
        print_written(self.out, self.plot)

    def write(
        self,
        shown: Mapping[str, Any],
        save: Callable[[File], None],
        figure: Callable[[], Any],
        lines: Sequence[str],
    ) -> None:
        """Write a result that saves itself and its picture; print `shown` as JSON, or the lines."""
        if self.out:
            save(self.out)
        if self.plot:
            from lerpscape.plots import save_figure

            save_figure(figure(), str(self.plot))
        if self.json:
            print(json.dumps(shown, allow_nan=False))
            return
        print("\n".join(lines))
        print_written(self.out, self.plot)


HowMeasured = Annotated[Measured, tyro.conf.OmitArgPrefixes]
WhereTo = Annotated[Output, tyro.conf.OmitArgPrefixes]
USUAL = Measured()
PRINTED = Output()
