"""The loop that everybody writes, for networks of every kind."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def summed(kind: Any, outputs: Tensor, targets: Tensor) -> float:
    if callable(kind):
        return float(kind(outputs, targets).sum())
    if kind == "squared_error":
        return float(F.mse_loss(outputs, targets, reduction="sum"))
    positions = targets[0].numel()
    return float(F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")) / positions


def loop(
    start: nn.Module,
    end: nn.Module,
    data: list[Any],
    kind: Any,
    alphas: Any,
    count: int,
    warm: bool,
    accuracy: bool = False,
) -> np.ndarray:
    """Weights at α into the module, statistics from a pass in training mode where wanted, then the mean loss.

    With `accuracy` also the share of right predictions, as profile() measures it, which is thrown away.
    """
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
            total = right = 0.0
            for inputs, targets in data:
                outputs = model(inputs)
                total += summed(kind, outputs, targets)
                if accuracy:
                    right += float((outputs.argmax(-1) == targets).sum())
            found.append(total / count)
    return np.array(found)
