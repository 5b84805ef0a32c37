"""Metrics fitted to a model, its loss and its data: what each of them is a mean of, and whether it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lerpscape.base.errors import explain
from lerpscape.engine.comparison import KERNEL_UNITS
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.fitted_losses import PROBE_EXAMPLES, TRIED, FittedLoss, cut_at
from lerpscape.engine.planner import PROBE_ALPHA
from lerpscape.networks.batches import Batch
from lerpscape.networks.class_losses import cross_entropy, next_token
from lerpscape.networks.losses import LOSSES, Loss, find_loss
from lerpscape.networks.metrics import ByExample, Metric, Metrics, is_accumulating
from lerpscape.networks.rebatching import concatenated, layout, same_layout, spread
from lerpscape.networks.undisturbed import drawn_since_seed

BY_NAME = ("accuracy", "perplexity")
# What other columns of a table of a profile are called.
TAKEN = ("alpha", "loss", "loss_error", "derivative", "derivative_error")
# A second α: a prediction may be a tie within rounding at one of them.
OTHER_ALPHA = 0.61


def check_metrics(metrics: Metrics | None) -> dict[str, Any]:
    """Metrics by name, as they are given; a list of names stands for these names.

    Raises `TypeError` for anything but names and mappings of names, `ValueError` for an unknown name.

    >>> check_metrics(["accuracy"]), check_metrics(None)
    ({'accuracy': 'accuracy'}, {})
    """
    if metrics is None:
        return {}
    names = isinstance(metrics, (list, tuple, Mapping)) and all(isinstance(name, str) for name in metrics)
    if not names:
        raise TypeError(
            explain(
                expected='metrics as a list of names, or by name: {"accuracy": "accuracy", "mine": function}.',
                got=f"{metrics!r}."[:200],
                hint='metrics=["accuracy", "perplexity"]; a function is (outputs, targets) -> one value per example.',
            )
        )
    found = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    for name, value in found.items():
        if name in TAKEN:
            raise ValueError(
                explain(
                    expected="names for metrics that nothing else in a profile has.",
                    got=f"{name!r}.",
                    hint=f"Call it another name: {name}_2.",
                )
            )
        if isinstance(value, str) and value not in (*BY_NAME, *LOSSES):
            raise ValueError(
                explain(
                    expected=f"a metric by name: {', '.join((*BY_NAME, *LOSSES))}.",
                    got=f"{value!r}.",
                    hint="A metric of your own is a function: metrics={name: function}.",
                )
            )
        if not (isinstance(value, (str, Loss)) or is_accumulating(value) or callable(value)):
            raise TypeError(
                explain(
                    expected=f"the metric {name!r} as a name, a function, a Loss or a torchmetrics metric.",
                    got=f"{type(value).__name__}.",
                    hint="A function is (outputs, targets) -> one value per example.",
                )
            )
    return found


def fitted_metrics(
    given: Mapping[str, Any], found: FittedLoss, objective: Objective, batches: list[Batch]
) -> list[Metric]:
    """The metrics of these names for a model whose loss is `found`, on the first batches of the data.

    Raises `ValueError` for accuracy and perplexity where the loss has none, for a function whose value for an example
    changes with the others in its batch, and what a metric's function raises or `Metric.sums` refuses.
    """
    metrics = [_fitted(name, value, found) for name, value in given.items()]
    own = [metric for metric in metrics if not metric.is_built_in]
    if not own:
        return metrics
    trial = objective.without_derivative()
    for metric in own:
        if isinstance(metric.values, ByExample):
            tried = replace(metric, values=metric.values.try_out)
            ModuleExecution(replace(trial, metrics=(tried,))).at(PROBE_ALPHA, [trial.place(_few(batches))])
    own = [metric for metric in own if metric.per == "example"]
    mixing = _mixing(replace(trial, metrics=tuple(own)), _few(batches)) if own else []
    for metric, mixes in zip(own, mixing, strict=True):
        if mixes:
            raise ValueError(
                explain(
                    expected=f"a metric {metric.name!r} whose value for an example does not depend on the others.",
                    got="values that change when a batch is cut in two.",
                    hint='Average inside each example only; Loss(name, function, per="batch") takes one value per '
                    "batch of yours as it is.",
                )
            )
    return metrics


def is_the_loss(metric: Metric, found: FittedLoss) -> bool:
    """Whether the mean of a metric is that of the loss itself, which then need not be computed twice."""
    return metric.exponential and metric.weighing == found.by_unit()


def _fitted(name: str, value: Any, found: FittedLoss) -> Metric:
    loss = found.by_unit()
    if isinstance(value, str) and value == "accuracy":
        if loss.correct is None:
            raise ValueError(
                explain(
                    expected="a loss with correct predictions, for the accuracy.",
                    got=f"{loss.name!r}, which has none.",
                    hint='Loss(name, values, correct=function), or metrics={"accuracy": function}.',
                )
            )
        return Metric(name, loss.correct, loss, loss, loss.per)
    if isinstance(value, str) and value == "perplexity":
        return _perplexity(name, loss, found)
    chosen = Loss(name, ByExample(name, value)) if is_accumulating(value) else find_loss(value)
    if chosen.takes_targets:
        raise ValueError(
            explain(
                expected=f"a function of outputs and targets as the metric {name!r}.",
                got=f"{chosen.name!r}, for which the model is called otherwise.",
                hint=f"Measure it as the loss: loss={chosen.name!r}.",
            )
        )
    if chosen.batch_dim is None:
        chosen = replace(chosen, batch_dim=loss.batch_dim)
    weighing = chosen if chosen.weights is not None else found.loss if found.loss.per == "example" else None
    return Metric(name, chosen.values, chosen, weighing, "batch" if found.mixes else chosen.per)


def _perplexity(name: str, loss: Loss, found: FittedLoss) -> Metric:
    """The exponential of the mean of −log p over all labels that count: over tokens, not over sequences."""
    if loss.values in (cross_entropy, next_token):
        by_label = loss if loss.weights == "positions" else replace(loss, weights="positions")
        return Metric(name, loss.values, by_label, by_label, loss.per, exponential=True)
    of_labels = loss.takes_targets and found.counted is not None and "labels" in found.counted
    own = (
        loss.unit == "nats" and callable(loss.weights) and loss.values not in [each.values for each in LOSSES.values()]
    )
    if of_labels or own:
        return Metric(name, loss.values, loss, loss, loss.per, exponential=True)
    raise ValueError(
        explain(
            expected="a loss that is −log p of labels, for the perplexity: the exponential of its mean per label.",
            got=f"{loss.name!r}" + (f", a mean over {found.counted}." if found.counted else "."),
            hint='loss="next_token" or "cross_entropy"; one of your own says Loss(name, values, unit="nats", '
            "weights=number of labels).",
        )
    )


def _mixing(objective: Objective, batch: Batch) -> list[bool]:
    """For each metric with one value per example, whether a batch gives another one than its two parts, at two α."""
    count = batch.examples or 0
    no = [False] * len(objective.metrics)
    if count < 2 or layout(batch) is None or objective.loss.batch_dim or objective.statistics.by_batch():
        return no
    placed = objective.place(batch)
    parts = [placed.part(0, cut_at(count)), placed.part(cut_at(count), count)]
    by_module = ModuleExecution(objective.recalibrated_on([placed]))
    tolerance = KERNEL_UNITS * torch.finfo(objective.on_path.compute_dtype()).eps
    apart = []
    for alpha in (PROBE_ALPHA, OTHER_ALPHA):
        whole = by_module.at(alpha, [placed]).numbers()[-1]
        try:
            divided = by_module.at(alpha, parts).numbers()[-1]
        except Exception:  # a model or a metric of one batch size: its batches stay as they are
            return no
        assert whole is not None and divided is not None
        scale = np.maximum(np.abs(whole), np.abs(divided))
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(whole - divided) <= tolerance * scale) & ~(np.isnan(whole) & np.isnan(divided))
        apart.append((off & (whole != divided)).any(axis=1))
    if drawn_since_seed(objective.on_path.device):
        return no  # the model draws random numbers, other ones for an example in another place
    return [bool(each) for each in apart[0] & apart[1]]


def _few(batches: list[Batch]) -> Batch:
    """The first examples, of several batches where these are small and can be joined."""
    first = batches[:TRIED]
    batch = concatenated(first) if len(first) > 1 and same_layout(first) else first[0]
    return batch if layout(batch) is None else spread(batch, PROBE_EXAMPLES)
