"""The loop that everybody writes, for networks of every kind."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def summed(kind: str, outputs: Tensor, targets: Tensor) -> float:
    if kind == "squared_error":
        return float(F.mse_loss(outputs, targets, reduction="sum"))
    positions = targets[0].numel()
    return float(F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")) / positions


def loop(
    start: nn.Module, end: nn.Module, data: list[tuple[Tensor, Tensor]], kind: str, alphas: Any, count: int, warm: bool
) -> np.ndarray:
    """Weights at α into the module, statistics from a pass in training mode where wanted, then the mean loss."""
    model, found = deepcopy(start), []
    first, last = start.state_dict(), end.state_dict()
    with torch.no_grad():
        for alpha in alphas:
            moving = {k: torch.lerp(v, last[k], float(alpha)) for k, v in first.items() if v.is_floating_point()}
            model.load_state_dict(first | moving)
            if warm:
                for module in model.modules():
                    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                        module.reset_running_stats()
                        module.momentum = None
                model.train()
                for inputs, _ in data:
                    model(inputs)
            model.eval()
            found.append(sum(summed(kind, model(inputs), targets) for inputs, targets in data) / count)
    return np.array(found)
