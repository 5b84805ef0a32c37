"""`profile()`: measure a model along a path."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.evaluate import evaluate_adaptively, evaluate_grid
from lerpscape.engine.measurement import Alphas, alpha_grid
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.planner import Evaluator
from lerpscape.engine.provenance import measured_with
from lerpscape.engine.resume import Partial
from lerpscape.engine.workers import check_workers
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.results import Invalid, Profile


def profile(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas | str = 50,
    tolerance: float = 1e-3,
    batch_norm: BatchNormPolicy | None = None,
    derivative: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
    workers: int | str = 1,
    partial: str | Path | None = None,
) -> Profile:
    """Measure the mean loss of a model along a path: L(α) = (1/n) Σ ℓ(f(x; θ(α)), y).

    * `model`: any module; its own values are not used and nothing in it changes. Evaluated in evaluation mode.
    * `path`: a `Line` or another path; its ends are met bit for bit.
    * `data`: any re-iterable of `(inputs, targets)` or dict batches, unshuffled and unaugmented.
    * `loss`: `"cross_entropy"`, `"squared_error"`, `"mean_squared_error"`, `"binary_cross_entropy"`, a callable
      `(outputs, targets) -> (examples,)`, or a `Loss`.
    * `alphas`: how many evenly spaced points on [0, 1], or the increasing values themselves, also beyond [0, 1]; or
      `"adaptive"`: points are added where the curve is not yet known to `tolerance` times its range, an estimate that
      a narrow bump may escape ([engine](../engine.md) says which). `how["adaptive"]` says what was reached.
    * `batch_norm`: what batch-norm layers normalise with; must be chosen where there are any.
    * `derivative`: also dL/dα by forward-mode differentiation, exact at every α.
    * `device`, `dtype`: where to compute, and in which floating-point type; by default as the model is.
    * `progress`: None shows a bar on a terminal after two seconds, True always, False never; or a function
      `(done, total)` in batches.
    * `workers`: how many processes divide the work, each on one thread; they share this one's memory. Or `"ray"`,
      `"ray://host:port"`: tasks on a Ray cluster (`pip install "lerpscape[ray]"`). The same numbers.
    * `partial`: a file that keeps what is measured, so that the same call goes on where it was stopped or killed.
      Delete it when done.

    Raises `EndpointMismatch`, `NotRepeatable`, `ValueError` (no batch norm policy, empty data, bad alphas), `TypeError`
    (a generator as data, a loss that averages). NaN losses do not raise here: they are marked in `Profile.invalid`.

    Sources: Goodfellow, Vinyals & Saxe (2014); Lucas et al. (2021).

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> line = Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    >>> x = torch.ones(4, 1).double()
    >>> found = profile(model, line, [(x, x)], loss="squared_error", alphas=3)
    >>> found.loss, found.derivative, found.max_rise
    (array([1.  , 0.25, 0.  ]), array([-2., -1.,  0.]), 0.0)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            explain(
                expected="a torch module as the model.",
                got=f"{type(model).__name__}.",
                hint="Pass the network itself, built.",
            )
        )
    grid = None if isinstance(alphas, str) and alphas == "adaptive" else alpha_grid(alphas)
    if grid is None and partial is not None:
        raise ValueError(
            explain(
                expected="fixed alphas together with partial=, which keeps the work on them.",
                got='alphas="adaptive".',
                hint="Choose a count of points, or leave partial= out.",
            )
        )
    chosen = find_loss(loss)
    began = time.perf_counter()
    with undisturbed(model):
        reader = Reader(data)
        on_path = ModelOnPath(model, path, device, dtype)
        check_workers(workers, on_path.device)
        policy = BatchNormStatistics(on_path, batch_norm)
        total = len(reader) * (0 if grid is None else len(grid))
        reached: dict[str, Any] | None = None
        with progress_bar(progress, total=total, what=f"profile {label}".strip()) as report:
            walker = Evaluator(
                on_path, chosen, policy, report, derivative=derivative, probe=reader.first[0], workers=workers
            )
            if grid is None:
                grid, sums, data_digest, reached = evaluate_adaptively(walker, reader, tolerance)
            else:
                named = _fingerprint(path, grid, chosen, policy, on_path, reader) if partial else ""
                sums, data_digest = evaluate_grid(walker, grid, reader, Partial(partial, named))
    count = sums.moments.count
    slope = sums.slopes / count
    distance, relative_distance = on_path.distances()
    with np.errstate(invalid="ignore"):  # inf − inf: an infinite derivative has no error
        slope_variance = np.maximum(sums.slope_squares / count - slope**2, 0)
    found = Profile(
        alphas=grid,
        loss=sums.moments.mean,
        accuracy=None if np.isnan(sums.right).any() else sums.right / count,
        derivative=slope if walker.derivative else None,
        derivative_error=np.sqrt(slope_variance / max(count - 1, 1)) if walker.derivative else None,
        derivative_reason=walker.reason,
        covariance=sums.moments.covariance(),
        examples=count,
        unit=chosen.unit,
        loss_name=chosen.name,
        label=label,
        invalid=tuple(
            Invalid(float(grid[i]), int(sums.invalid[i]), int(sums.first_invalid[i]))
            for i in np.flatnonzero(sums.invalid)
        ),
        distance=distance,
        relative_distance=relative_distance,
        how=measured_with(
            on_path,
            policy,
            began,
            data_digest=data_digest,
            largest_batch=max((batch.examples or 0) for batch in reader.first),
            plan=walker.choice.describe(),
            adaptive=reached,
            threads=torch.get_num_threads() if workers == 1 else 1,
            workers=workers,
        ),
    )
    return found


def _fingerprint(
    path: ParamPath, grid: Floats, loss: Loss, statistics: BatchNormStatistics, on_path: ModelOnPath, reader: Reader
) -> str:
    """Names a request, so that a partial result is only taken up by the same one."""
    first = hashlib.sha256(b"".join(batch.digest() for batch in reader.first)).hexdigest()
    request = [
        path.digest(),
        grid.tolist(),
        loss.name,
        statistics.describe(),
        type(on_path.model).__name__,
        str(on_path.dtype),
        first,
    ]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]
