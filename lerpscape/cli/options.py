"""Options that commands share: the network and its data, how it is measured, and the output files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lerpscape.base.errors import explain, missing_file
from lerpscape.base.names import import_object
from lerpscape.cli.arguments import (
    Alphas,
    BatchNorm,
    Device,
    Dtype,
    End,
    Json,
    Label,
    Loss,
    Name,
    OptionalFile,
    OptionalInt,
    Progress,
    SelfCheck,
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
from lerpscape.cli.run_options import NO_RUN, RunOptions

if TYPE_CHECKING:
    from lerpscape.base.results import Result
    from lerpscape.plots.report import Reported

HERE = tyro.conf.arg(name="")  # in --help, without a heading of their own


@dataclass(frozen=True)
class NetworkArguments:
    """The network and its data: functions of yours, found from the current folder."""

    model: Name = None
    """Function without arguments that builds the module."""
    data: Name = None
    """Function that gives batches of (inputs, targets), or dicts: not shuffled, not augmented."""
    trained: Annotated[RunOptions, HERE] = NO_RUN
    """A network of a sweep, in place of the others."""

    def load(self) -> tuple[Any, Any]:
        """The module and the data."""
        subject = self.trained.subject
        given = [name for name in ("model", "data") if getattr(self, name) is not None]
        if len(given) != (0 if subject else 2):
            raise ValueError(
                explain(
                    expected="--model and --data, or --run for a network of a sweep.",
                    got=" and ".join(f"--{name}" for name in (*given, *(["run"] if subject else []))) or "neither.",
                    hint="--model nets:build --data loaders:train, or --run results/KEY/SEED",
                )
            )
        if subject is not None:
            return subject.model, self.trained.data(subject)
        return called(str(self.model)), called(str(self.data))

    def factory(self) -> Any:
        """The function that builds the module; None where a module is given."""
        subject = self.trained.subject
        named = subject.fresh if subject else import_object(str(self.model))
        return named if callable(named) and not hasattr(named, "state_dict") else None

    def snapshots(self, folder: Path | None) -> Any:
        """The folder of snapshots or, without one, those of the run."""
        subject = self.trained.subject
        if folder is None and subject is None:
            raise ValueError(_missing("FOLDER"))
        return folder if folder is not None or subject is None else subject.trajectory

    def keywords(self, measurement: EvaluationOptions | StudyOptions, data: Any) -> dict[str, Any]:
        """How it is measured, as arguments of the functions that measure."""
        given = measurement.keywords(self.statistics(data))
        return given | self.loss(measurement.loss) if isinstance(measurement, StudyOptions) else given

    def statistics(self, data: Any) -> Any:
        """What batch-norm statistics are estimated from: the data, or all training data of the run."""
        subject = self.trained.subject
        return subject.batches() if subject else data

    def loss(self, text: str | None) -> dict[str, Any]:
        """The loss as an argument, where one is given or a run has one."""
        subject = self.trained.subject
        if text is not None:
            return {"loss": loss_of(text)}
        return {"loss": subject.loss} if subject else {}


@dataclass(frozen=True)
class EndArguments(NetworkArguments):
    """The network and its data: functions of yours, found from the current folder."""

    start: Start = None
    """Checkpoint at α = 0: a file or folder of any common format."""
    end: End = None
    """Checkpoint at α = 1."""

    def ends(self) -> tuple[Any, Any]:
        """Both checkpoints: those that are given, or those of the run."""
        subject = self.trained.subject
        if self.start is not None and self.end is not None:
            return self.start, self.end
        if self.start is not None or subject is None:
            raise ValueError(_missing("START and END"))
        return subject.start, subject.end


@dataclass(frozen=True)
class PathArguments(EndArguments):
    """The network and its data: functions of yours, or two folders of transformers and a text."""

    text: OptionalFile = None
    """Text file in place of DATA, for causal language models of transformers: the mean loss of its next token."""
    block: OptionalInt = None
    """With --text: tokens in a block, which is an example; by default 512, or what the network can read."""
    path: PathOptions = LINE
    """The path from START to END."""

    def load_path(self) -> tuple[Any, Any, Any]:
        """The module, the path and the data."""
        model, path, (data,) = self.load_paths(None)
        return model, path, data

    def load_paths(self, *others: str | None) -> tuple[Any, Any, list[Any]]:
        """The module, the path, and data sets: DATA or the text, and others of their kind (texts, functions)."""
        named = [other for other in others if other is not None]
        chosen = self.model is not None or self.trained.run is not None
        if self.text is None and (chosen or not self._of_transformers()):
            model, data = self.load()
            return model, self.path.between(*self.ends(), model), [data, *map(called, named)]
        from lerpscape.integrations.folders import hugging_face

        if chosen or (self.text is None) == (self.data is None) or not self._of_transformers():
            options = {"model": self.model, "data": self.data, "text": self.text, "run": self.trained.run}
            given = " and ".join(f"--{name}" for name, value in options.items() if value is not None)
            raise ValueError(
                explain(
                    expected="two folders of transformers with --text or --data, or --model with --data.",
                    got=f"{self.start} and {self.end} with {given or 'neither'}.",
                    hint="A folder of transformers has a config.json; its tokenizer cuts the text of --text.",
                )
            )
        missing = next((file for file in (self.text, *named) if self.text and not Path(str(file)).is_file()), None)
        if missing is not None:
            raise missing_file("a text", missing)
        pair = hugging_face(str(self.start), str(self.end))
        path = self.path.between(pair.line.start, pair.line.end, pair.model)
        if self.text is None:
            return pair.model, path, [called(each) for each in (str(self.data), *named)]
        return pair.model, path, [pair.text(str(file), self.block) for file in (self.text, *named)]

    def loss(self, text: str | None) -> dict[str, Any]:
        """The loss as an argument; that of the next token for a text."""
        return {"loss": "next_token"} if text is None and self.text is not None else super().loss(text)

    def _of_transformers(self) -> bool:
        from lerpscape.integrations.loading import is_folder_of_a_model

        return self.start is not None and is_folder_of_a_model(self.start)


def _missing(what: str) -> str:
    return explain(
        expected=f"{what}, or --run for a network of a sweep.", got="neither.", hint="--run results/KEY/SEED"
    )


@dataclass(frozen=True)
class EvaluationOptions:
    """How the network is evaluated."""

    batch_norm: BatchNorm = None
    device: Device = None
    dtype: Dtype = None
    progress: Progress = None
    self_check: SelfCheck = True

    def keywords(self, data: Any) -> dict[str, Any]:
        """Those that are given, as arguments of the functions that measure."""
        from lerpscape.networks.batch_norm import named_policy

        given = {
            "batch_norm": named_policy(self.batch_norm, data),
            "device": device_of(self.device),
            "dtype": dtype_of(self.dtype),
            "progress": self.progress,
            "self_check": None if self.self_check else False,
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

    loss: Loss = None
    alphas: Alphas = "25"
    """Number of points on [0, 1], or the first and last α and the number of points."""
    device: Annotated[EvaluationOptions, HERE] = EvaluationOptions()
    """How the network is evaluated."""

    def keywords(self, data: Any) -> dict[str, Any]:
        """As arguments of the functions that measure the loss on lines, without the loss."""
        return {"alphas": alphas_of(self.alphas), **self.device.keywords(data)}


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
