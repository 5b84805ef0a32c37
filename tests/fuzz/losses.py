"""A grammar of losses: what is passed to the package, and the same by plain torch for the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import lerpscape as ls


@dataclass(frozen=True)
class Chosen:
    """`passed` goes into the call, `plain` into the loop; `targets` is the kind of targets it needs."""

    passed: Any
    plain: Callable[[Any, Any], Tensor]
    targets: str = "classes"
    special: bool = False


def logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def _entropy(outputs: Any, y: Tensor, **settings: Any) -> Tensor:
    return F.cross_entropy(logits(outputs), y, reduction="none", **settings)


def _squares(outputs: Any, y: Tensor) -> Tensor:
    z = logits(outputs)
    return (z.reshape(y.shape) - y).square().reshape(len(y), -1).sum(1)


def _weighted(outputs: Any, y: Tensor) -> Tensor:
    z = logits(outputs)
    weights = torch.linspace(0.5, 2, z.shape[-1], dtype=z.dtype)
    return _entropy(z, y, weight=weights)


def _with_closure(smoothing: float) -> Callable[[Any, Any], Tensor]:
    return lambda outputs, y: _entropy(outputs, y, label_smoothing=smoothing)


def _focal(outputs: Any, y: Tensor) -> Tensor:
    entropy = _entropy(outputs, y)
    return (1 - (-entropy).exp()).detach() ** 2 * entropy


def _over_the_largest(outputs: Any, y: Tensor) -> Tensor:
    entropy = _entropy(outputs, y)
    return entropy / (1 + entropy.max())


def _normed_weights(outputs: Any, y: Tensor) -> Tensor:
    weights = 1.0 + y.to(logits(outputs).dtype)
    return _entropy(outputs, y) * weights / weights.mean()


def _hardest_half(outputs: Any, y: Tensor) -> Tensor:
    entropy = _entropy(outputs, y)
    return torch.where(entropy >= entropy.median(), entropy, torch.zeros_like(entropy))


def _in_batch_contrast(outputs: Any, y: Tensor) -> Tensor:
    z = logits(outputs)
    return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")


def _writes_outputs(outputs: Any, y: Tensor) -> Tensor:
    return logits(outputs).sub_(y).square_().sum(1)


def _writes_targets(outputs: Any, y: Tensor) -> Tensor:
    y.mul_(0.5).clamp_(-1, 1)
    return (logits(outputs) - y).square().sum(1)


def _writes_targets_by_data(outputs: Any, y: Tensor) -> Tensor:
    y.data[y.data == 2] = 0
    return _entropy(outputs, y)


def _by_numpy(outputs: Any, y: Tensor) -> Tensor:
    return torch.from_numpy(logits(outputs).detach().numpy()[:, 0] ** 2)


def _bends(outputs: Any, y: Tensor) -> Tensor:
    return F.smooth_l1_loss(logits(outputs), y, reduction="none").sum(1) + (logits(outputs) - y).abs().amax(1)


class _Counts:
    """A callable object that counts and keeps its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, outputs: Any, y: Tensor) -> Tensor:
        self.calls += 1
        return _entropy(outputs, y)


def _own(values: Callable[[Any, Any], Tensor], targets: str = "classes", special: bool = False) -> Callable[[], Chosen]:
    return lambda: Chosen(values, values, targets, special)


LOSSES: dict[str, Callable[[], Chosen]] = {
    "cross_entropy": lambda: Chosen("cross_entropy", _entropy),
    "cross_entropy of probabilities": lambda: Chosen("cross_entropy", _entropy, "probabilities"),
    "squared_error": lambda: Chosen("squared_error", _squares, "numbers"),
    "mean_squared_error": lambda: Chosen(
        "mean_squared_error", lambda outputs, y: _squares(outputs, y) / y[0].numel(), "numbers"
    ),
    "binary_cross_entropy": lambda: Chosen(
        "binary_cross_entropy",
        lambda outputs, y: F.binary_cross_entropy_with_logits(logits(outputs), y, reduction="none").mean(1),
        "binary",
    ),
    "a Loss": lambda: Chosen(
        ls.Loss("own", _entropy, "nats", lambda outputs, y: logits(outputs).argmax(-1) == y), _entropy
    ),
    "weighted": _own(_weighted),
    "closure": _own(_with_closure(0.1)),
    "another closure": _own(_with_closure(0.6)),
    "bends": _own(_bends, "numbers"),
    "counts its calls": lambda: Chosen(_Counts(), _entropy),
    "focal, detached": _own(_focal, special=True),
    "over the batch's largest": _own(_over_the_largest, special=True),
    "weights normed in the batch": _own(_normed_weights, special=True),
    "hardest half of the batch": _own(_hardest_half, special=True),
    "contrast in the batch": _own(_in_batch_contrast, special=True),
    "writes its outputs": _own(_writes_outputs, "numbers", special=True),
    "writes its targets": _own(_writes_targets, "numbers", special=True),
    "writes its targets by .data": _own(_writes_targets_by_data, special=True),
    "by numpy": _own(_by_numpy, "numbers", special=True),
}
