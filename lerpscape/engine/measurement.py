"""What all measurements share: their keyword arguments, the grid of α, and a model opened on a path with its data."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.names import unknown_name
from lerpscape.base.progress import Progress, Report, progress_bar
from lerpscape.base.saving import versions
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.reading import Data, Reader
from lerpscape.networks.torch_state import plain_torch
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath

Alphas: TypeAlias = int | Sequence[float] | Floats


class MeasurementOptions(TypedDict, total=False):
    """Keyword arguments of every function that measures a model; a function that cannot use one refuses it.

    * `batch_norm`: what batch-norm layers normalise with. Required if the model has batch norm.
    * `device`: where to compute; by default where the model is.
    * `dtype`: floating-point type to compute in; by default the model's, whatever the checkpoints are stored in.
    * `progress`: None shows a bar on a terminal after two seconds, True always, False never; or a function
      `(done, total)`.
    * `label`: a name for the result, shown in its pictures and beside the progress bar.
    * `self_check`: False leaves out the comparison of a batch's losses at both ends with those of the model itself.
    """

    batch_norm: BatchNormPolicy | None
    device: torch.device | str | None
    dtype: torch.dtype | None
    progress: Progress
    self_check: bool
    label: str


@dataclass(frozen=True)
class Measurement:
    """A model on a path with its data and batch-norm statistics; `began` is a reading of `time.perf_counter`."""

    on_path: ModelOnPath
    reader: Reader
    statistics: BatchNormStatistics
    progress: Progress
    label: str
    self_check: bool
    began: float

    def progress_bar(self, total: int, what: str, unit: str = "batch") -> AbstractContextManager[Report]:
        """A progress bar that names what is measured and the label; 0 for `total` means unknown."""
        return progress_bar(self.progress, total, f"{what} {self.label}".strip(), unit)

    def how(self, **facts: Any) -> dict[str, Any]:
        """The `how` of a result: path, model, data, batch norm, device, dtype, jumps, threads, time, versions, facts.

        Digests are the first hexadecimal digits of a sha256. Unless `facts` has `data_digest`, it is computed here,
        which reads data again that do not fit in memory: call this before `opened` ends.
        """
        on_path = self.on_path
        return {
            "path": on_path.given.describe(),
            "path_digest": on_path.given.digest(),
            "model": type(on_path.model).__name__,
            "data_digest": facts["data_digest"] if "data_digest" in facts else self._data_digest(),
            "batch_norm": self.statistics.describe(),
            "device": str(on_path.device),
            "dtype": str(on_path.compute_dtype()).removeprefix("torch."),
            "jumps": on_path.jumps(),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - self.began, 3),
            "versions": versions(),
        } | facts

    def _data_digest(self) -> str:
        hasher = hashlib.sha256()
        for batch in self.reader.batches():
            hasher.update(batch.digest())
        return hasher.hexdigest()[:12]


@contextmanager
def opened(
    function: Callable[..., Any],
    model: nn.Module,
    path: ParamPath,
    data: Data,
    options: MeasurementOptions,
    *,
    without: Collection[str] = (),
) -> Iterator[Measurement]:
    """Open a model on a path for a public `function` called with these options; nothing in the model changes.

    `without` names the options that the function cannot use.

    Raises `TypeError` for anything but a module and for an option that the function does not take; otherwise what
    `Reader`, `ModelOnPath` and `BatchNormStatistics` raise.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1)
    >>> line = Line({"weight": torch.ones(1, 1), "bias": torch.ones(1)}, model)
    >>> with opened(opened, model, line, [(torch.ones(2, 1), torch.ones(2, 1))], {"device": "cpu"}) as measurement:
    ...     how = measurement.how(budget=9)
    >>> how["model"], how["dtype"], how["batch_norm"], how["budget"]
    ('Linear', 'float32', None, 9)
    """
    check_options(function, options, without=without)
    if not isinstance(model, nn.Module):
        raise TypeError(
            explain(
                expected="a torch module as the model.",
                got=f"{type(model).__name__}.",
                hint="Pass the network itself, built.",
            )
        )
    began = time.perf_counter()
    with plain_torch(), undisturbed(model):
        reader = Reader(data)
        on_path = ModelOnPath(model, path, options.get("device"), options.get("dtype"))
        statistics = BatchNormStatistics(on_path, options.get("batch_norm"))
        shown = options.get("progress"), options.get("label", "")
        yield Measurement(on_path, reader, statistics, *shown, options.get("self_check", True), began)


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    known: type = MeasurementOptions,
    *,
    without: Collection[str] = (),
) -> None:
    """Refuse keyword arguments that are neither a function's own nor among the `known` options it has a use for.

    Raises `TypeError` that lists the arguments it takes, with the nearest name.

    >>> check_options(opened, {"devise": "cpu"}, without=["label"])
    Traceback (most recent call last):
    TypeError: expected: an argument of opened: one of without, batch_norm, device, dtype, progress, self_check.
    got: 'devise'.
    try: Did you mean 'device'?
    """
    shared = [name for name in known.__annotations__ if name not in without]
    for name in options:
        if name not in shared:
            parameters = inspect.signature(function).parameters.values()
            own = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY or one.default is not one.empty]
            raise TypeError(unknown_name(f"an argument of {function.__name__}", name, [*own, *shared]))


def alpha_grid(alphas: Alphas | str) -> Floats:
    """The values of α: so many evenly spaced points on [0, 1], or the given increasing values.

    Values within 1e-12 of 0 or 1 become exactly that end.

    Raises `ValueError` for fewer than two points or values that do not increase.

    >>> alpha_grid(3)
    array([0. , 0.5, 1. ])
    """
    if isinstance(alphas, int):
        grid = np.linspace(0.0, 1.0, max(alphas, 0))
    else:
        grid = np.array([] if isinstance(alphas, str) else alphas, dtype=np.float64)
        for end in (0.0, 1.0):
            grid[np.abs(grid - end) < 1e-12] = end
    if grid.ndim != 1 or len(grid) < 2 or not np.isfinite(grid).all() or not np.all(np.diff(grid) > 0):
        raise ValueError(
            explain(
                expected="alphas as a count of at least 2, or at least two finite, increasing values.",
                got=f"{alphas!r}."[:200],
                hint='alphas=50 is usual, "adaptive" places them; np.linspace(-0.25, 1.25, 61) looks beyond both ends.',
            )
        )
    return grid
