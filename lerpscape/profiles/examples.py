"""`example_curves()`: the loss of every example at every α."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.fitted_losses import fitted
from lerpscape.engine.losses_by_alpha import LossMatrix
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.reading import Data
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.per_example import ExampleCurves, classes_of


def example_curves(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas = 50,
    **options: Unpack[MeasurementOptions],
) -> ExampleCurves:
    """Measure the loss of every example at every α: ℓ(f(x; θ(α)), y), shape (points, examples).

    The mean over examples is what `profile` reports. Memory is 8 bytes per α and example.

    * `loss`, `alphas`: as for `profile`.
    * `options`: see `MeasurementOptions`.

    Raises what `profile` raises.

    >>> from lerpscape.paths.line import Line
    >>> line = Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    >>> x = torch.ones(4, 1)
    >>> y = torch.tensor([[1.0], [1.0], [1.0], [0.0]])  # the start is right for the last example
    >>> curves = example_curves(nn.Linear(1, 1, bias=False), line, [(x, y)], loss="squared_error", alphas=5)
    >>> curves.share_rising(0), curves.hidden_by_averaging(0.1), curves.ranked((0, 1))[0]
    (0.25, True, (3, 0.25))
    """
    grid = alpha_grid(alphas)
    find_loss(loss)  # refuses a wrong one before the data are read
    with opened(example_curves, model, path, data, options) as measurement:
        reader, found = measurement.reader, fitted(loss, measurement)
        chosen = found.loss
        objective = Objective(measurement.on_path, chosen, measurement.statistics)
        module = ModuleExecution(objective)
        losses: list[Floats] = []
        weights: list[Floats] = []
        targets: list[Any] = []
        with measurement.progress_bar(len(reader) * len(grid), "examples") as report:
            for chunk in reader.chunks():
                placed = [objective.place(batch) for batch in chunk]
                matrix = LossMatrix.of(len(grid), (module.at(float(alpha), placed, tell=report) for alpha in grid))
                losses.append(matrix.numbers()[0])
                weights.append(np.ones(losses[-1].shape[1]) if matrix.weights is None else matrix.weights)
                targets += [b.targets.cpu().numpy() if isinstance(b.targets, Tensor) else [[]] for b in chunk]
        return ExampleCurves(
            alphas=grid,
            losses=np.concatenate(losses, axis=1),
            weights=np.concatenate(weights),
            classes=classes_of(targets),
            unit=chosen.unit,
            loss_name=chosen.name,
            label=measurement.label,
            how=measurement.how(example=found.describe(), self_check=found.checked),
        )
