"""`profile()`: measure a model along a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.base.saving import check_writable
from lerpscape.engine.accumulator import Accumulator
from lerpscape.engine.derivative_choice import Derivative, DerivativeChoice, check_derivative, chosen_derivative
from lerpscape.engine.evaluate import evaluate_adaptively, evaluate_grid
from lerpscape.engine.execution import Objective
from lerpscape.engine.fingerprint import fingerprint
from lerpscape.engine.fitted_losses import fitted
from lerpscape.engine.fitted_metrics import check_metrics, fitted_metrics, is_the_loss
from lerpscape.engine.layer_major import measured_by_layers
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.engine.resume import Partial
from lerpscape.engine.workers import check_workers
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.metrics import Metric, Metrics
from lerpscape.networks.reading import Data, check_resumable
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.results import Invalid, MetricCurve, Profile


def profile(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas | str = 50,
    precision: float | None = None,
    derivative: Derivative = True,
    metrics: Metrics | None = None,
    workers: int | str = 1,
    partial: str | Path | None = None,
    layer_major: bool | None = None,
    **options: Unpack[MeasurementOptions],
) -> Profile:
    """Measure the mean loss of a model along a path: L(α) = (1/n) Σ ℓ(f(x; θ(α)), y).

    * `model`: any module; its own values are not used and nothing in it changes. Evaluated in evaluation mode.
    * `path`: a `Line` or another path; its ends are met bit for bit.
    * `data`: any re-iterable of `(inputs, targets)` or dict batches, unshuffled and unaugmented.
    * `loss`: `"cross_entropy"`, `"squared_error"`, `"mean_squared_error"`, `"binary_cross_entropy"`,
      `"next_token"`, `"model"` (the loss that the module returns), a callable
      `(outputs, targets) -> (examples,)`, or a `Loss`.
    * `alphas`: how many evenly spaced points on [0, 1], or the increasing values themselves, also beyond [0, 1]; or
      `"adaptive"`: points are added where the curve is not yet known well enough.
    * `precision`: with adaptive points, how well the curve is to be known, as a share of its range; 1e-3 by default. An
      estimate, which misses narrow bumps ([engine](../engine.md) says which). `how["adaptive"]` says what was reached.
    * `derivative`: also dL/dα, exact to rounding; at a kink what torch's rules give. `"forward"` mode differentiates
      every example by itself, which gives a standard error; a `"backward"` pass differentiates the sum over a batch,
      and works where an operation has no rule in forward mode. True chooses, and `how["derivative"]` says why.
      Compared with difference quotients on a few examples; where they disagree it is withheld, and
      `Profile.derivative_reason` says how.
    * `metrics`: other numbers in the same pass, each averaged over the examples with its standard error:
      `["accuracy", "perplexity"]`, or names with what they are: one of these two, a loss by name, a function
      `(outputs, targets) -> (examples,)`, a `Loss`, or a torchmetrics metric that is a mean over examples.
      `"accuracy"` is top-1, `"perplexity"` exp of the mean loss per label. Weighed as the loss is, or as a `Loss` says.
    * `workers`: how many processes divide the work, each on one thread; they share this one's memory. Or `"ray"`,
      `"ray://host:port"`: tasks on a Ray cluster (`pip install "lerpscape[ray]"`). The same numbers.
    * `partial`: a file that keeps what is measured, so that the same call goes on where it was stopped or killed. A
      call that differs in anything raises `PartialMismatch`. Delete it when done.
    * `layer_major`: all α advance together, one block of the model (a member of a list of layers, else a leaf) after
      the other: checkpoints in large files are read once, one block at a time ([large models](../large_models.md)).
      None does so wherever it can be done; True raises `ValueError` where it cannot.
    * `options`: see `MeasurementOptions`. Progress is counted in batches.

    Raises `EndpointMismatch`, `NotRepeatable`, `ValueError` (no batch norm policy, empty data, bad alphas, a precision
    for a fixed grid), `TypeError` (a generator as data, a loss that averages). NaN losses do not raise here: they are
    marked in `Profile.invalid`.

    Sources: Goodfellow, Vinyals & Saxe (2014); Lucas et al. (2021).

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> line = Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    >>> x = torch.ones(4, 1).double()
    >>> curve = profile(model, line, [(x, x)], loss="squared_error", alphas=3)
    >>> curve.loss, curve.derivative, curve.max_rise
    (array([1.  , 0.25, 0.  ]), array([-2., -1.,  0.]), 0.0)
    """
    adaptive = isinstance(alphas, str) and alphas == "adaptive"
    grid = np.empty(0) if adaptive else alpha_grid(alphas)
    _check_adaptive(adaptive, precision, partial)
    check_derivative(derivative)
    if partial is not None:
        check_writable(partial)
    find_loss(loss)  # refuses a wrong one before the data are read
    asked = check_metrics(metrics)
    with opened(profile, model, path, data, options) as measurement:
        on_path, reader = measurement.on_path, measurement.reader
        check_workers(workers, on_path.device)
        in_one_go = not adaptive and partial is None and workers == 1 and not asked
        by_layers = measured_by_layers(measurement, find_loss(loss), grid, derivative, layer_major, in_one_go)
        if by_layers is not None:
            evaluation, found, reason = by_layers.evaluation, by_layers.found, by_layers.reason
            chosen = found.by_unit()
            objective = Objective(on_path, chosen, measurement.statistics)
            taken = DerivativeChoice("forward", "block by block") if reason is None else DerivativeChoice(None, reason)
            measured: list[Metric] = []
        else:
            found = fitted(loss, measurement)
            chosen = found.by_unit()
            objective = Objective(on_path, chosen, measurement.statistics)
            taken = chosen_derivative(objective, reader.first, derivative, workers=workers)
            objective = replace(objective, derivative=taken.mode)
            measured = fitted_metrics(asked, found, objective, reader.first)
            objective = replace(objective, metrics=tuple(each for each in measured if not is_the_loss(each, found)))
            with measurement.progress_bar(len(reader) * len(grid), "profile") as tell:
                if adaptive:
                    precision = 1e-3 if precision is None else precision
                    evaluation = evaluate_adaptively(objective, precision, reader, workers=workers, tell=tell)
                else:
                    if partial:
                        check_resumable(reader.first)
                    file = Partial(partial, fingerprint(objective, reader, grid, workers) if partial else None)
                    evaluation = evaluate_grid(objective, grid, reader, file, workers=workers, tell=tell)
        how = measurement.how(
            data_digest=evaluation.data_digest,
            example=found.describe(),
            self_check=found.checked,
            largest_batch=max((batch.examples or 0) for batch in reader.first),
            plan=evaluation.plan.describe(),
            derivative=taken.describe(),
            adaptive=evaluation.adaptive,
            threads=torch.get_num_threads() if workers == 1 else 1,
            workers=workers,
        )
        dtype = on_path.compute_dtype()
    sums = evaluation.sums
    mean = sums.mean()
    how["noise_floor"] = float(np.abs(mean[np.isfinite(mean)]).max(initial=0.0)) * torch.finfo(dtype).eps
    slope, slope_error = sums.slope_and_error()
    distance, relative_distance = on_path.distances()
    return Profile(
        alphas=evaluation.alphas,
        loss=mean,
        accuracy=sums.accuracy(),
        metrics=_curves(measured, objective, sums),
        derivative=slope if taken.mode else None,
        derivative_error=slope_error if taken.mode == "forward" or (taken.mode and chosen.per == "batch") else None,
        derivative_reason=None if taken.mode else taken.why,
        covariance=sums.covariance(),
        examples=sums.count,
        unit=chosen.unit,
        loss_name=chosen.name,
        label=measurement.label,
        invalid=tuple(
            Invalid(float(evaluation.alphas[i]), int(sums.invalid[i]), int(sums.first_invalid[i]))
            for i in np.flatnonzero(sums.invalid)
        ),
        distance=distance,
        relative_distance=relative_distance,
        how=how,
    )


def _curves(measured: list[Metric], objective: Objective, sums: Accumulator) -> dict[str, MetricCurve]:
    curves = {}
    for metric in measured:
        if metric in objective.metrics:
            mean, error = sums.metric_and_error(objective.metrics.index(metric))
        else:
            mean, error = sums.mean(), sums.error()
        curves[metric.name] = MetricCurve.exponential(mean, error) if metric.exponential else MetricCurve(mean, error)
    return curves


def _check_adaptive(adaptive: bool, precision: float | None, partial: str | Path | None) -> None:
    if adaptive and partial is not None:
        raise ValueError(
            explain(
                expected="fixed alphas together with partial=, which keeps the work on them.",
                got='alphas="adaptive".',
                hint="Choose a count of points, or leave partial= out.",
            )
        )
    if not adaptive and precision is not None:
        raise ValueError(
            explain(
                expected='alphas="adaptive" together with precision=, which says how well the curve is to be known.',
                got=f"precision={precision!r} with fixed alphas.",
                hint='Use alphas="adaptive", or leave precision= out.',
            )
        )
