"""Metrics: numbers per example beside the loss, and the sums from which their means and standard errors follow."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.networks import forward_ad, nested
from lerpscape.networks.foreign_calls import located
from lerpscape.networks.losses import (
    LOSSES,
    ExampleLosses,
    Loss,
    PerExample,
    as_one,
    checked_values,
    shape_or_type,
    weights_of,
)

# By name, or names with what they are: "accuracy", "perplexity", a loss by name, a function, a `Loss`, a torchmetrics
# metric.
Metrics: TypeAlias = Sequence[str] | Mapping[str, Any]
# n, Σw, Σw², Σwm, Σw²m and Σw²m² over the examples with a weight w > 0, m being the values.
SUMS = 6
_BUILT_IN = [function for loss in LOSSES.values() for function in (loss.values, loss.correct)]


@dataclass(frozen=True)
class Metric:
    """One value per example, whose mean is Σ wm / Σ w; `per` says whether a whole batch is one example.

    `values` is given outputs and targets as `reading` reads them; `weighing` is the loss that has the weights, None
    where all are 1. With `exponential`, the result is the exponential of the mean.
    """

    name: str
    values: PerExample
    reading: Loss
    weighing: Loss | None
    per: Literal["example", "batch"] = "example"
    exponential: bool = False

    @property
    def is_built_in(self) -> bool:
        """Whether the function is one of this package, which neither mixes examples nor writes to what it is given."""
        return any(self.values is each for each in _BUILT_IN)

    def sums(self, outputs: Any, targets: Any, examples: int | None) -> Tensor:
        """The sums over a batch, of shape (6,), in float64.

        Raises `TypeError` and `ValueError` for another shape than one value, and one finite weight ≥ 0, per example.
        """
        outputs, targets = (nested.mapped(each, self._own) for each in (outputs, targets))
        own_outputs, own_targets = self.reading.read(outputs, targets)
        if self.reading.batch_dim and isinstance(own_targets, Tensor):
            examples = len(own_targets)
        weigher = self.weighing
        weighed_by = None if weigher is None else weigher.read_targets(targets)
        if not self.is_built_in:
            weighed_by = nested.mapped(weighed_by, nested.cloned)  # the function may write to its own
        values = self.values(own_outputs, own_targets)
        whole = self.per == "batch" and isinstance(values, Tensor) and values.dim() == 0
        values = values.reshape(1) if whole else checked_values(self.name, values, examples, "metric")
        values = forward_ad.split(values)[0].detach().double()
        weights = None
        if weigher is not None:
            weights = weights_of(weigher, weighed_by, None if whole else len(values), values)
        if self.per == "batch" and not whole:
            values, _, weights, _ = as_one(ExampleLosses(values, None, weights))
        return _sums(values, torch.ones_like(values) if weights is None else weights)

    def _own(self, leaf: nested.Leaf) -> nested.Leaf:
        """A tensor without its derivative, a copy unless the function is known to leave it alone."""
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            leaf = forward_ad.split(leaf)[0].detach()
        return leaf if self.is_built_in else nested.cloned(leaf)


def sums_of(metrics: Sequence[Metric], outputs: Any, targets: Any, examples: int | None, place: str) -> Tensor | None:
    """The sums of all metrics over a batch, of shape (metrics, 6); None without any.

    Raises `CallFailed`, with the metric and the place in the data, for what a metric raises.
    """
    rows = []
    for metric in metrics:
        with located(f"the metric {metric.name!r}", place):
            rows.append(metric.sums(outputs, targets, examples))
    return torch.stack(rows) if rows else None


class ByExample:
    """A torchmetrics metric as a function that gives one value per example: each is computed by itself.

    Raises `ValueError` where the metric of a batch is not the mean of those of its examples, as it then is no mean
    over examples at all: macro averages, F-scores, correlations, roots and exponentials of means.
    """

    def __init__(self, name: str, metric: Any) -> None:
        self._name = name
        self._metric = copy.deepcopy(metric)  # the caller's keeps what it has counted

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """One value per example, of tensors with one row for each."""
        if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and len(outputs) == len(targets)):
            raise TypeError(
                explain(
                    expected=f"outputs and targets that are tensors with a row per example, for {self._name!r}.",
                    got=f"{type(outputs).__name__} and {type(targets).__name__}.",
                    hint="Give a function (outputs, targets) that takes them apart, and one value per example.",
                )
            )
        rows = range(len(targets))
        values = torch.stack([self._of(outputs[i : i + 1], targets[i : i + 1]) for i in rows])
        whole, mean = self._of(outputs, targets), values.mean()
        close = 1e-4 if values.dtype in (torch.float16, torch.bfloat16) else 1e-5
        if not torch.allclose(whole, mean, rtol=close, atol=close * float(values.abs().max()), equal_nan=True):
            raise ValueError(
                explain(
                    expected=f"a metric {self._name!r} that is a mean over examples.",
                    got=f"{type(self._metric).__name__}, {float(whole):.6g} for {len(values)} examples, whose own "
                    f"values have the mean {float(mean):.6g}.",
                    hint='Pass "accuracy" or "perplexity", or a function (outputs, targets) -> one value per example; '
                    "what exists for a whole data set only has no standard error here.",
                )
            )
        return values

    def try_out(self, outputs: Any, targets: Any) -> Tensor:
        """The values, after the mean was compared on rows that belong to other targets too.

        Where all predictions are right, a macro average is the mean as well.
        """
        if isinstance(outputs, Tensor):
            for shift in {1, max(len(outputs) // 3, 1), max(len(outputs) // 2, 1)}:
                self(outputs.roll(shift, 0), targets)
        return self(outputs, targets)

    def _of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        metric = self._metric.to(outputs.device) if hasattr(self._metric, "to") else self._metric
        metric.reset()
        metric.update(outputs, targets)
        value = metric.compute()
        metric.reset()
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(
                explain(
                    expected=f"one number from the metric {self._name!r}.",
                    got=f"{shape_or_type(value)} from {type(self._metric).__name__}.",
                    hint='Ask for one, such as average="micro", or give one metric each.',
                )
            )
        return value.detach().reshape(()).to(torch.promote_types(value.dtype, torch.float32))


def is_accumulating(value: Any) -> bool:
    """Whether a value is a metric as torchmetrics has them, which counts batch after batch."""
    return all(callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


def _sums(values: Tensor, weights: Tensor) -> Tensor:
    weights = weights.double()
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(
            explain(
                expected="finite weights ≥ 0.",
                got=f"{float(weights[~((weights >= 0) & weights.isfinite())][0]):g}.",
                hint="The mean is Σ wm / Σ w; 0 leaves an example out.",
            )
        )
    weighed = torch.where(weights > 0, values, 0) * weights
    return torch.stack(
        [
            (weights > 0).double().sum(),
            weights.sum(),
            weights.square().sum(),
            weighed.sum(),
            (weights * weighed).sum(),
            weighed.square().sum(),
        ]
    )
