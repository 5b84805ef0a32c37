"""What a result was measured with: enough to ask for it again, and to tell it from another."""

from __future__ import annotations

import time
from typing import Any

import torch

from lerpscape.base.saving import versions
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath


def measured_with(on_path: ModelOnPath, statistics: BatchNormStatistics, began: float, **more: Any) -> dict[str, Any]:
    """The `how` of a result: path, model, batch norm, device, type, threads, seconds since `began`, versions, and more.

    `began` is a reading of `time.perf_counter`.

    >>> from lerpscape.paths.line import Line
    >>> model = torch.nn.Linear(1, 1)
    >>> on_path = ModelOnPath(model, Line({"weight": torch.ones(1, 1), "bias": torch.ones(1)}, model), None, None)
    >>> how = measured_with(on_path, BatchNormStatistics(on_path, None), time.perf_counter(), budget=9)
    >>> how["model"], how["dtype"], how["budget"], how["batch_norm"]
    ('Linear', 'float32', 9, None)
    """
    return {
        "path": on_path.given.describe(),
        "path_digest": on_path.given.digest(),
        "model": type(on_path.model).__name__,
        "batch_norm": statistics.describe(),
        "device": str(on_path.device),
        "dtype": str(on_path.compute_dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - began, 3),
        "versions": versions(),
    } | more
