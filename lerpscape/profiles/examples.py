"""`example_curves()`: the loss of every example at every α."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.losses_by_alpha import LossMatrix
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.provenance import measured_with
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.per_example import ExampleCurves, classes_of
from lerpscape.profiles.profile import alpha_grid


def example_curves(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: int | Sequence[float] | Floats = 50,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
) -> ExampleCurves:
    """Measure the loss of every example at every α: ℓ(f(x; θ(α)), y), shape (points, examples).

    The mean over examples is what `profile` reports. Memory is 8 bytes per α and example. Arguments as for `profile`.

    Raises what `profile` raises.

    >>> from lerpscape.paths.line import Line
    >>> line = Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    >>> x = torch.ones(4, 1)
    >>> y = torch.tensor([[1.0], [1.0], [1.0], [0.0]])  # the last example wants the start
    >>> found = example_curves(nn.Linear(1, 1, bias=False), line, [(x, y)], loss="squared_error", alphas=5)
    >>> found.share_rising(0), found.hidden_by_averaging(0.1), found.ranked((0, 1))[0]
    (0.25, True, (3, 0.25))
    """
    grid = alpha_grid(alphas)
    chosen = find_loss(loss)
    began = time.perf_counter()
    with undisturbed(model):
        reader = Reader(data)
        on_path = ModelOnPath(model, path, device, dtype)
        statistics = BatchNormStatistics(on_path, batch_norm)
        rows: list[Floats] = []
        targets: list[Any] = []
        what = f"examples {label}".strip()
        with progress_bar(progress, total=len(reader) * len(grid), what=what) as report:
            module = ModuleExecution(Objective(on_path, chosen, statistics, derivative=False))
            for chunk in reader.chunks():
                placed = [batch.to(on_path.device, on_path.dtype) for batch in chunk]
                found = LossMatrix.of(len(grid), (module.at(float(alpha), placed, tell=report) for alpha in grid))
                rows.append(found.numbers()[0])
                targets += [b.targets.cpu().numpy() if isinstance(b.targets, Tensor) else [[]] for b in chunk]
    return ExampleCurves(
        alphas=grid,
        losses=np.concatenate(rows, axis=1),
        classes=classes_of(targets),
        unit=chosen.unit,
        loss_name=chosen.name,
        label=label,
        how=measured_with(on_path, statistics, began),
    )
