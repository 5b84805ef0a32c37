"""Options that commands share: the network and its data, how it is measured, and the output files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lerpscape.base.errors import explain, missing_file
from lerpscape.cli.arguments import (
    Alphas,
    BatchNorm,
    Device,
    Dtype,
    End,
    Json,
    Label,
    Name,
    OptionalFile,
    OptionalInt,
    OptionalLoss,
    OptionalName,
    Progress,
    Start,
    alphas_of,
    called,
    device_of,
    dtype_of,
    loss_of,
    print_written,
    require_writable,
)
from lerpscape.cli.path_options import LINE, PathOptions

if TYPE_CHECKING:
    from lerpscape.base.results import Result
    from lerpscape.plots.report import Reported

HERE = tyro.conf.arg(name="")  # in --help, without a heading of their own


@dataclass(frozen=True, kw_only=True)
class NetworkArguments:
    """The network and its data: functions of yours, found from the current folder."""

    model: Name
    """Function without arguments that builds the module."""
    data: Name
    """Function that gives batches of (inputs, targets), or dicts: not shuffled, not augmented."""

    def load(self) -> tuple[Any, Any]:
        """The module and the data."""
        return called(self.model), called(self.data)


@dataclass(frozen=True, kw_only=True)
class EndArguments(NetworkArguments):
    """The network and its data: functions of yours, found from the current folder."""

    start: Start
    """Checkpoint at α = 0: a file or folder of any common format."""
    end: End
    """Checkpoint at α = 1."""


@dataclass(frozen=True, kw_only=True)
class PathArguments(EndArguments):
    """The network and its data: functions of yours, found from the current folder, or folders of transformers."""

    start: Start
    """Checkpoint at α = 0: a file or folder of any common format; base/+adapter/ for an adapter of peft."""
    model: OptionalName = None  # type: ignore[assignment]
    """Function without arguments that builds the module; not needed for folders of transformers."""
    data: OptionalName = None  # type: ignore[assignment]
    """Function that gives batches of (inputs, targets), or dicts: not shuffled, not augmented."""
    text: OptionalFile = None
    """Text file in place of DATA, for causal language models: the mean loss of its next token."""
    block: OptionalInt = None
    """With --text: tokens in a block, which is an example; by default 512, or what the network can read."""
    path: PathOptions = LINE
    """The path from START to END."""

    def load_path(self) -> tuple[Any, Any, Any]:
        """The module, the path and the data."""
        model, path, data = self.load_paths(self.data or self.text)
        return model, path, data[0]

    def load_paths(self, *data: str | Path | None) -> tuple[Any, Any, list[Any]]:
        """The module, the path, and several data sets: texts, or functions of yours that give them."""
        if self.model is not None and self.text is None:
            model = called(self.model)
            path = self.path.between(self.start, self.end, model)
            return model, path, [called(_named_data(each)) for each in data]
        from lerpscape.integrations.folders import hugging_face
        from lerpscape.integrations.loading import is_folder_of_a_model

        if self.model is not None or not is_folder_of_a_model(self.start):
            raise ValueError(
                explain(
                    expected="--model PACKAGE.MODULE:NAME with --data, or two folders of transformers.",
                    got=f"--model {self.model} with --text."
                    if self.model
                    else f"{self.start}, which is no such folder.",
                    hint="A folder of transformers has a config.json; its tokenizer cuts the text of --text.",
                )
            )
        pair = hugging_face(self.start, self.end)
        path = self.path.between(pair.line.start, pair.line.end, pair.model)
        if self.text is None:
            return pair.model, path, [called(_named_data(each)) for each in data]
        return pair.model, path, [pair.text(each, self.block) for each in map(_text_file, data)]


def _named_data(name: str | Path | None) -> str:
    if name is None:
        raise ValueError(
            explain(
                expected="--data PACKAGE.MODULE:NAME, a function that gives batches.",
                got="no data.",
                hint="For a causal language model, --text FILE is enough.",
            )
        )
    return str(name)


def _text_file(file: str | Path | None) -> Path:
    """The path of a text, once it is there."""
    if file is None or not Path(file).is_file():
        raise missing_file("a text", file)
    return Path(file)


@dataclass(frozen=True)
class EvaluationOptions:
    """How the network is evaluated."""

    batch_norm: BatchNorm = None
    device: Device = None
    dtype: Dtype = None
    progress: Progress = None

    def keywords(self, data: Any) -> dict[str, Any]:
        """Those that are given, as arguments of the functions that measure."""
        from lerpscape.networks.batch_norm import named_policy

        given = {
            "batch_norm": named_policy(self.batch_norm, data),
            "device": device_of(self.device),
            "dtype": dtype_of(self.dtype),
            "progress": self.progress,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class DeviceOptions(EvaluationOptions):
    """How the network is evaluated, where there is one result with a label."""

    label: Label = ""

    def keywords(self, data: Any) -> dict[str, Any]:
        """Those that are given, as arguments of the functions that measure."""
        return super().keywords(data) | ({"label": self.label} if self.label else {})


@dataclass(frozen=True)
class StudyOptions:
    """How each of several lines is measured."""

    loss: OptionalLoss = None
    alphas: Alphas = "25"
    """Number of points on [0, 1], or the first and last α and the number of points."""
    device: Annotated[EvaluationOptions, HERE] = EvaluationOptions()
    """How the network is evaluated."""

    def keywords(self, data: Any) -> dict[str, Any]:
        """As arguments of the functions that measure the loss on lines."""
        return {"loss": loss_of(self.loss, data), "alphas": alphas_of(self.alphas), **self.device.keywords(data)}


@dataclass(frozen=True)
class ProfileOptions(StudyOptions):
    """How one line is measured."""

    device: Annotated[DeviceOptions, HERE] = DeviceOptions()
    """How the network is evaluated."""


@dataclass(frozen=True)
class OutputOptions:
    """Where the result goes."""

    json: Json = False
    out: OptionalFile = None
    """Write the result to a JSON file."""
    plot: OptionalFile = None
    """Draw the result (svg, pdf, png)."""

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Every file that can be asked for; None for those that are not."""
        return self.out, self.plot

    def require_writable(self) -> None:
        """Refuse an output file that cannot be written before any work is done."""
        require_writable(*self.files)

    def write_summary(self, result: Result) -> None:
        """Write a result; print its summary."""
        self.write(result, {"summary": result.summary} | result.to_dict(), [result.summary])

    def write(self, result: Result, shown: Mapping[str, Any], lines: Sequence[str], **drawn: Any) -> None:
        """Write a result and its picture, drawn with these options; print `shown` as JSON, or the lines."""
        if self.out:
            result.save(self.out)
        if self.plot:
            from lerpscape.plots.style import save_figure

            save_figure(result.figure(**drawn), str(self.plot))
        if self.json:
            print(json.dumps(shown, allow_nan=False))
        else:
            print("\n".join(lines))
            print_written(*self.files)


@dataclass(frozen=True)
class ReportOptions(OutputOptions):
    """Where the result goes."""

    report: OptionalFile = None
    """Write an HTML report."""

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Every file that can be asked for; None for those that are not."""
        return self.out, self.plot, self.report

    def write_report(self, results: Sequence[Reported], **words: Any) -> None:
        """Write the HTML report of results, if there is to be one; its title and tolerance are those of `report`."""
        if self.report:
            from lerpscape.plots.report import report

            report(results, self.report, **words)
