"""Options that commands share: which networks and data, how they are measured, and where results go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lerpscape.cli.arguments import (
    BatchNorm,
    Device,
    Dtype,
    End,
    Json,
    Name,
    OptionalFile,
    Start,
    Switch,
    alphas_of,
    called,
    dtype_of,
    loss_of,
    print_written,
    require_writable,
)
from lerpscape.cli.path_options import STRAIGHT, OnRoad

if TYPE_CHECKING:
    from lerpscape.base.results import Result


@dataclass(frozen=True)
class Network:
    """What is measured on what."""

    model: Name
    """Your function without arguments that builds the module, found from the current folder."""
    data: Name
    """Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts."""

    def called(self) -> tuple[Any, Any]:
        """The module and the data."""
        return called(self.model), called(self.data)


@dataclass(frozen=True)
class Ends(Network):
    """A network with two checkpoints."""

    start: Start
    """Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards."""
    end: End
    """Checkpoint at α = 1."""


@dataclass(frozen=True)
class Along(Ends):
    """A network on a path between two checkpoints."""

    road: OnRoad = STRAIGHT
    """Which path."""

    def opened(self) -> tuple[Any, Any, Any]:
        """The module, the path and the data."""
        model = called(self.model)
        return model, self.road.path(self.start, self.end, model), called(self.data)


@dataclass(frozen=True)
class Placed:
    """What single points are measured with."""

    batch_norm: BatchNorm = None
    """What batch norm normalises with, asked for where there is any; recalibrate, pooled: anew from DATA at every α."""
    device: Device = None
    """cpu, cuda, …"""
    dtype: Dtype = None
    """Floating-point type to compute in; by default that of the checkpoints."""
    progress: Switch = None
    """Progress bar: by default on a terminal, after two seconds."""

    def choices(self, data: Any) -> dict[str, Any]:
        """As functions take them that measure."""
        from lerpscape.networks.batch_norm import named_policy

        return {
            "batch_norm": named_policy(self.batch_norm, data),
            "device": self.device,
            "dtype": dtype_of(self.dtype),
            "progress": self.progress,
        }


HowPlaced = Annotated[Placed, tyro.conf.arg(name="")]
PLACED = Placed()


@dataclass(frozen=True)
class Measured:
    """How each line is measured."""

    loss: str = "cross_entropy"
    """cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name."""
    alphas: str = "25"
    """Number of points on [0, 1] of each line, or first:last:count."""
    placed: HowPlaced = PLACED
    """How single points are measured."""

    def choices(self, data: Any) -> dict[str, Any]:
        """As functions take them that measure the loss on lines."""
        return {"loss": loss_of(self.loss), "alphas": alphas_of(self.alphas), **self.placed.choices(data)}


@dataclass(frozen=True)
class Output:
    """Where the result goes."""

    json: Json = False
    """Print the numbers as JSON."""
    out: OptionalFile = None
    """File for the result (JSON)."""
    plot: OptionalFile = None
    """File for the picture (svg, pdf, png)."""

    @property
    def files(self) -> tuple[File | None, ...]:
        """Every file that is asked for; None for those that are not."""
        return self.out, self.plot

    def check(self) -> None:
        """Find out before the work whether the files can be written."""
        require_writable(*self.files)

    def show(self, found: Result) -> None:
        """Write and print a result that its summary says all about."""
        self.write(found, {"summary": found.summary} | found.to_dict(), [found.summary])

    def write(self, found: Result, shown: Mapping[str, Any], lines: Sequence[str], **drawn: Any) -> None:
        """Write a result and its picture, drawn with these options; print `shown` as JSON, or the lines."""
        if self.out:
            found.save(self.out)
        if self.plot:
            from lerpscape.plots.style import save_figure

            save_figure(found.figure(**drawn), str(self.plot))
        if self.json:
            print(json.dumps(shown, allow_nan=False))
        else:
            print("\n".join(lines))
            print_written(*self.files)


@dataclass(frozen=True)
class Page(Output):
    """Where the result goes, a page among it."""

    report: OptionalFile = None
    """File for the HTML report."""

    @property
    def files(self) -> tuple[File | None, ...]:
        """Every file that is asked for; None for those that are not."""
        return self.out, self.plot, self.report


# Shared options without a heading of their own in --help, and those with one.
NetworkAsked = Annotated[Network, tyro.conf.arg(name="")]
EndsAsked = Annotated[Ends, tyro.conf.arg(name="")]
AlongAsked = Annotated[Along, tyro.conf.arg(name="")]
OnPage = Annotated[Page, tyro.conf.arg(name="")]
HowMeasured = Annotated[Measured, tyro.conf.OmitArgPrefixes]
WhereTo = Annotated[Output, tyro.conf.OmitArgPrefixes]
USUAL = Measured()
PRINTED = Output()
NO_PAGE = Page()
