"""Losses by name or by a function: one value per example, its weight in the mean, and which predictions are correct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.networks.class_losses import (
    LEFT_OUT,
    ClassesLast,
    arrangement,
    correct_class,
    correct_token,
    counted_examples,
    counted_positions,
    counted_tokens,
    cross_entropy,
    mean_of_kept,
    next_token,
    output_tensor,
    unfitting,
    values_and_correct_of,
)
from lerpscape.networks.own_losses import own_loss

PerExample: TypeAlias = Callable[[Any, Any], Tensor]
Weights: TypeAlias = Callable[[Any], Tensor] | Literal["positions"]


@dataclass(frozen=True)
class Loss:
    """A loss: `values` maps outputs and targets to one value per example, in `unit`; the mean is Σ wℓ / Σ w.

    Any callable with the signature of `values` can be passed as a loss; this class adds what else there is to say.
    `Loss("cross_entropy", ignore=255)` is the loss of that name with what is said differently.

    * `correct`: maps outputs and targets to one value per example, 1 for a correct prediction and 0 for a wrong one;
      None for losses without correct predictions.
    * `weights`: maps the targets to one weight w ≥ 0 per example; None weighs all alike. An example of weight 0 does
      not count. `"positions"` weighs every example by its labels that are not left out: the mean over all tokens or
      pixels.
    * `ignore`: a label to leave out besides −100, for class and binary labels.
    * `class_dim`: the dimension of the outputs that is that of the classes, for `"cross_entropy"`, where shapes fit
      both 1 (torch, images) and −1 (language models).
    * `batch_dim`: the dimension of outputs and targets that counts the examples, 1 for networks that put time first; it
      is moved to the front before anything else. None is 0. 0 says that it is known to be so, although examples
      influence each other.
    * `per`: `"batch"` for a loss that exists for a whole batch only, such as a mean, which `weights` then has to weigh:
      its standard error counts batches.
    * `takes_targets`: whether the model is called with the targets too, as models that compute their loss are.

    Raises `TypeError` for a name that is not known without `values`, `ValueError` for what the loss has no use for.

    >>> halved = Loss("half squared error", lambda z, y: 0.5 * (z - y).square().flatten(1).sum(1), unit="units²")
    >>> halved.values(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    tensor([2.])
    >>> Loss("cross_entropy", ignore=255).unit
    'nats'
    """

    name: str
    values: PerExample = None  # type: ignore[assignment]
    unit: str = ""
    correct: PerExample | None = None
    weights: Weights | None = None
    ignore: int | None = None
    class_dim: int | None = None
    batch_dim: int | None = None
    per: Literal["example", "batch"] = "example"
    takes_targets: bool = False

    def __post_init__(self) -> None:
        if not callable(self.values):
            known = LOSSES.get(self.name)  # type: ignore[unreachable]
            if known is None:
                raise TypeError(
                    explain(
                        expected=f"values, or the name of a known loss: {', '.join(LOSSES)}.",
                        got=f"{self.name!r} alone.",
                        hint="Loss(name, values): values is a function (outputs, targets) -> one value per example.",
                    )
                )
            for field in ("values", "unit", "correct", "weights", "per", "takes_targets"):
                if getattr(self, field) == Loss.__dataclass_fields__[field].default:
                    object.__setattr__(self, field, getattr(known, field))
        for option, useful in (("ignore", _WITH_LABELS), ("class_dim", (cross_entropy,))):
            if getattr(self, option) is not None and self.values not in useful:
                raise ValueError(
                    explain(
                        expected=f"{option}= with {', '.join(repr(each.__name__) for each in useful)}.",
                        got=f"{option}={getattr(self, option)} with {self.name!r}.",
                        hint="A loss of your own can leave out and turn what it wants itself.",
                    )
                )
        if self.weights == "positions" and self.values not in _WITH_LABELS:
            raise ValueError(
                explain(
                    expected=f'weights="positions" with {", ".join(repr(each.__name__) for each in _WITH_LABELS)}.',
                    got=f"{self.name!r}.",
                    hint="Pass a function of the targets that gives one weight per example.",
                )
            )
        if self.weights is not None and self.weights != "positions" and not callable(self.weights):
            raise TypeError(
                explain(
                    expected="weights that are a function of the targets, one weight per example.",
                    got=f"{type(self.weights).__name__}.",
                    hint="Put numbers beside the targets, (x, (y, w)), and pass weights=lambda targets: targets[1].",
                )
            )

    def read(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Outputs and targets as `values` takes them: examples first, −100 at every label that is left out."""
        targets = self.read_targets(targets)
        if self.batch_dim:
            outputs = output_tensor(outputs).movedim(self.batch_dim, 0)
        if self.class_dim is not None:
            outputs = ClassesLast(output_tensor(outputs).movedim(self.class_dim, -1))
        return outputs, targets

    def read_targets(self, targets: Any) -> Any:
        """The targets as `values` and `weights` take them."""
        if not isinstance(targets, Tensor):
            return targets
        if self.batch_dim:
            targets = targets.movedim(self.batch_dim, 0)
        if self.class_dim is not None and targets.is_floating_point():
            targets = targets.movedim(self.class_dim, -1)
        if self.ignore is not None:
            wide = targets if targets.is_floating_point() else targets.long()
            targets = wide.masked_fill(wide == self.ignore, LEFT_OUT)
        return targets


class ExampleLosses(NamedTuple):
    """One loss per example, whether its prediction is correct, and its weight; None where there is no such thing.

    `metrics` are sums of other numbers over the batch, see `metrics.Metric`.
    """

    values: Tensor
    correct: Tensor | None
    weights: Tensor | None
    metrics: Tensor | None = None


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """‖z − y‖² per example, summed over the output's dimensions; unit: squared output units.

    `outputs` and `targets` have the same shape (examples, …): nothing is broadcast.

    Raises `ValueError` for shapes that differ.

    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    return _squares(outputs, targets).sum(1)


def mean_squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """‖z − y‖² / d per example, with d the number of output dimensions; unit: squared output units.

    Raises `ValueError` for shapes that differ.

    >>> mean_squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([2.5000])
    """
    return _squares(outputs, targets).mean(1)


def binary_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """−y log σ(z) − (1−y) log(1−σ(z)) per example, in nats, averaged over the labels of an example.

    `outputs` are logits and `targets` numbers in [0, 1], both of shape (examples,), (examples, 1) or (examples, …);
    labels of −100 are left out.

    Raises `ValueError` for shapes that differ, and for labels that are not in [0, 1].

    >>> binary_cross_entropy(torch.zeros(2, 1), torch.tensor([0, 1]))
    tensor([0.6931, 0.6931])
    """
    logits, labels = _binary(outputs, targets)
    kept = labels != LEFT_OUT
    wrong = labels[kept & ~((labels >= 0) & (labels <= 1))]
    if wrong.numel():
        raise ValueError(
            explain(
                expected="labels from 0 to 1, or −100 to leave out.",
                got=f"{wrong[0].item():g} ({wrong.numel()} such labels of {labels.numel()}).",
                hint=f'loss=Loss("binary_cross_entropy", ignore={wrong[0].item():g}) leaves them out.',
            )
        )
    inside = labels.to(logits.dtype).clamp(0, 1)
    return mean_of_kept(F.binary_cross_entropy_with_logits(logits, inside, reduction="none"), labels)


def _correct_sign(outputs: Any, targets: Tensor) -> Tensor:
    """Share of an example's labels for which the sign of the logit is that of target − ½."""
    logits, labels = _binary(outputs, targets)
    return mean_of_kept(((logits > 0) == (labels > 0.5)).to(logits.dtype), labels)


def _counted_binary(targets: Tensor) -> Tensor:
    return (_binary_positions(targets) > 0).double()


def _binary_positions(targets: Tensor) -> Tensor:
    kept = targets != LEFT_OUT
    return (kept.flatten(1).sum(1) if kept.dim() > 1 else kept).double()


# The losses that read labels, and how many labels of every example they count.
_WITH_LABELS: dict[Any, Callable[[Any], Tensor]] = {
    cross_entropy: counted_positions,
    next_token: counted_tokens,
    binary_cross_entropy: _binary_positions,
}

LOSSES: dict[str, Loss] = {}
LOSSES |= {
    "cross_entropy": Loss("cross_entropy", cross_entropy, "nats", correct_class, counted_examples),
    "squared_error": Loss("squared_error", squared_error, "squared output units"),
    "mean_squared_error": Loss("mean_squared_error", mean_squared_error, "squared output units"),
    "binary_cross_entropy": Loss("binary_cross_entropy", binary_cross_entropy, "nats", _correct_sign, _counted_binary),
    "next_token": Loss("next_token", next_token, "nats", correct_token, "positions"),
    "model": Loss("model", own_loss, takes_targets=True),
}


def find_loss(loss: str | PerExample | Loss) -> Loss:
    """The loss with a name, or a callable as a `Loss`.

    Raises `ValueError` for an unknown name (the message lists the known ones), `TypeError` for anything else.

    >>> find_loss("cross_entropy").unit
    'nats'
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(
                explain(
                    expected=f"one of {', '.join(LOSSES)}, or a callable.",
                    got=f"{loss!r}.",
                    hint="For a loss of your own pass a function (outputs, targets) -> one value per example.",
                )
            )
        return LOSSES[loss]
    if callable(loss):
        return Loss(getattr(loss, "__name__", type(loss).__name__), loss)
    raise TypeError(
        explain(
            expected="the name of a loss or a callable.", got=f"{type(loss).__name__}.", hint='Use "cross_entropy".'
        )
    )


def evaluated(loss: Loss, outputs: Any, targets: Any, examples: int | None) -> ExampleLosses:
    """The losses of a batch, checked to be one per example, with their weights; what weighs nothing has the loss 0.

    `examples` is how many there are, None if the targets do not tell. A loss per batch gives one value, weighed by all
    its examples.

    Raises `TypeError` for another shape, such as the scalar of a mean over the batch, and `ValueError` for another
    number of values.

    >>> evaluated(find_loss("cross_entropy"), torch.eye(2), torch.tensor([0, -100]), 2).values
    tensor([0.3133, 0.0000])
    """
    outputs, targets = loss.read(outputs, targets)
    examples = len(targets) if loss.batch_dim and isinstance(targets, Tensor) else examples
    arrange = arrangement(loss.values, loss.correct)
    correct: Tensor | None
    if arrange is not None:
        values, correct = values_and_correct_of(*arrange(outputs, targets))
    else:
        values = loss.values(outputs, targets)
        correct = loss.correct(outputs, targets) if loss.correct else None
    scalar = loss.per == "batch" and isinstance(values, Tensor) and values.dim() == 0
    values = values.reshape(1) if scalar else checked_values(loss.name, values, examples)
    weights = weights_of(loss, targets, None if scalar else len(values), values)
    if weights is not None:
        counts = weights != 0
        values = torch.where(counts, values, torch.zeros_like(values))
        correct = None if correct is None else torch.where(counts, correct.to(weights.dtype), 0)
    parts = ExampleLosses(values, correct, weights)
    return as_one(parts) if loss.per == "batch" else parts


def on_targets(loss: Loss, targets: Any) -> Loss:
    """The same loss for these targets: without weights where every example's is 1, so that nothing has to be weighed.

    >>> loss = find_loss("cross_entropy")
    >>> on_targets(loss, torch.tensor([0, 1])).weights, on_targets(loss, torch.tensor([0, -100])).weights is None
    (None, False)
    """
    if loss.weights is None or loss.per == "batch" or loss not in LOSSES.values():
        return loss
    weights = _weighing(loss)(loss.read_targets(targets))
    on_host = weights.device.type == "cpu"  # asking another device would mean to wait for it
    return replace(loss, weights=None) if on_host and bool((weights == 1).all()) else loss


def per_example_values(loss: Loss, outputs: Any, targets: Any, examples: int | None) -> Tensor:
    """The values of `evaluated` alone.

    >>> per_example_values(find_loss("cross_entropy"), torch.eye(2), torch.tensor([0, 0]), 2)
    tensor([0.3133, 1.3133])
    """
    return evaluated(loss, outputs, targets, examples).values


def weighted_mean(parts: list[ExampleLosses]) -> Tensor:
    """Σ wℓ / Σ w over the examples of all parts."""
    values = torch.cat([each.values for each in parts])
    weights = torch.cat([torch.ones_like(each.values) if each.weights is None else each.weights for each in parts])
    return (values.double() * weights).sum() / weights.sum()


def weights_of(loss: Loss, targets: Any, count: int | None, like: Tensor) -> Tensor | None:
    """The weights of so many examples, from targets that the loss has read; their sum where `count` is None."""
    if loss.weights is None:
        return None
    weights = _weighing(loss)(targets)
    if isinstance(weights, Tensor) and count is None:
        weights = weights.sum().reshape(1)
    if not isinstance(weights, Tensor) or weights.shape != (count or 1,):
        raise TypeError(
            explain(
                expected=f"one weight per example, a tensor of shape ({count or 1},).",
                got=f"{shape_or_type(weights)} from the weights of {loss.name!r}.",
                hint="Weights are a function of the targets alone.",
            )
        )
    return weights.detach().to(like.device, torch.float64)


def _weighing(loss: Loss) -> Callable[[Any], Tensor]:
    """What maps targets to weights, for a loss with weights."""
    return _WITH_LABELS[loss.values] if loss.weights == "positions" else loss.weights  # type: ignore[return-value]


def as_one(parts: ExampleLosses) -> ExampleLosses:
    """The examples of a batch as one: their weighted mean, with the weight of all."""
    values, correct, weights = parts.values, parts.correct, parts.weights
    if weights is None:
        weights = torch.ones(len(values), dtype=torch.float64, device=values.device)
    total = weights.sum()
    share = torch.where(total > 0, weights / total, 0)
    mean = (values * share.to(values.dtype)).sum().reshape(1)
    right = None if correct is None else (correct.double() * share).sum().reshape(1)
    return ExampleLosses(mean, right, total.reshape(1))


def shape_or_type(value: Any) -> str:
    """What a function gave in place of what it should, for a message.

    >>> shape_or_type(torch.ones(2, 3)), shape_or_type(1.5)
    ('a tensor of shape (2, 3)', 'float')
    """
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def checked_values(name: str, values: Tensor, examples: int | None, kind: str = "loss") -> Tensor:
    """What a loss or a metric of this name gave, which has to be one value per example."""
    if not isinstance(values, Tensor) or values.dim() != 1:
        raise TypeError(
            explain(
                expected=f"a {kind} that gives one value per example, a tensor of shape (examples,).",
                got=f"{shape_or_type(values)} from {name!r}.",
                hint='Use reduction="none" and average over all dimensions but the first; of a mean over the batch, '
                'say its weight: Loss(name, values, per="batch", weights=…).',
            )
        )
    if examples is not None and len(values) != examples:
        raise ValueError(
            explain(
                expected=f"{examples} {'losses' if kind == 'loss' else 'values'}, one for each example of the batch.",
                got=f"{len(values)} from {name!r}.",
                hint="Average over positions inside an example, never over examples; where the targets have time "
                "first, Loss(name, values, batch_dim=1) is given them with examples first.",
            )
        )
    return values


def _squares(outputs: Any, targets: Tensor) -> Tensor:
    values = output_tensor(outputs)
    if values.shape != targets.shape:
        raise unfitting("targets shaped like the outputs (nothing is broadcast)", values, targets)
    squares = F.mse_loss(values, targets, reduction="none")
    return squares.flatten(1) if values.dim() > 1 else squares[:, None]


def _binary(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = output_tensor(outputs)
    if logits.dim() == targets.dim() + 1 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    if logits.shape != targets.shape:
        raise unfitting("one target in [0, 1] per logit", logits, targets)
    return logits, targets


__all__ = [
    "LOSSES",
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "find_loss",
    "mean_squared_error",
    "next_token",
    "squared_error",
]
