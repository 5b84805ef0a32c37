"""Losses with one value per example, by name or by a function, and which predictions are correct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lerpscape.base.errors import explain
from lerpscape.networks.cross_entropy import entropies, entropies_and_correct

PerExample: TypeAlias = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss: `values` maps outputs and targets to one value per example, in `unit`.

    `correct` maps them to one value per example, 1 for a correct prediction and 0 for a wrong one; None for losses
    without correct predictions. Any callable with the signature of `values` can be passed as a loss; this class adds a
    name, a unit and an accuracy.

    >>> halved = Loss("half squared error", lambda z, y: 0.5 * (z - y).square().flatten(1).sum(1), unit="units²")
    >>> halved.values(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    tensor([2.])
    """

    name: str
    values: PerExample
    unit: str = ""
    correct: PerExample | None = None


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """−log softmax(z)_y per example, in nats, averaged over the positions of a sequence.

    `outputs` are logits of shape (examples, classes) or (examples, positions, classes). `targets` are class numbers of
    shape (examples,) or (examples, positions), with −100 at positions to leave out, or probabilities of the outputs'
    shape. The loss of a sequence whose positions are all left out is NaN.

    Raises `ValueError` for shapes that do not fit.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
    tensor([1.3863])
    """
    logits = _tensor(outputs)
    if targets.shape == logits.shape and targets.is_floating_point():
        return _per_example(-(targets * logits.log_softmax(-1)).sum(-1))
    if targets.shape != logits.shape[:-1] or logits.dim() < 2:
        raise _shapes("class numbers for logits of shape (examples, …, classes)", logits, targets)
    return _over_positions(entropies(logits.flatten(0, -2), targets.flatten()).view(targets.shape), targets)


def _over_positions(values: Tensor, targets: Tensor) -> Tensor:
    """The average over each example's positions that are not left out; values without positions are unchanged."""
    return values.flatten(1).sum(1) / (targets != -100).flatten(1).sum(1) if values.dim() > 1 else values


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

    `outputs` are logits and `targets` numbers in [0, 1], both of shape (examples,), (examples, 1) or (examples, …).

    Raises `ValueError` for shapes that differ.

    >>> binary_cross_entropy(torch.zeros(2, 1), torch.tensor([0, 1]))
    tensor([0.6931, 0.6931])
    """
    logits, labels = _binary(outputs, targets)
    return _per_example(F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none"))


def _correct_class(outputs: Any, targets: Tensor) -> Tensor:
    """Share of an example's positions at which the target has the largest logit; 0 or 1 without positions."""
    logits = _tensor(outputs)
    if targets.shape == logits.shape:
        targets = targets.argmax(-1)
    return _over_positions(logits.argmax(-1) == targets, targets)


def _correct_sign(outputs: Any, targets: Tensor) -> Tensor:
    """Share of an example's labels for which the sign of the logit is that of target − ½."""
    logits, labels = _binary(outputs, targets)
    return _per_example(((logits > 0) == (labels > 0.5)).to(logits.dtype))


LOSSES = {
    "cross_entropy": Loss("cross_entropy", cross_entropy, "nats", _correct_class),
    "squared_error": Loss("squared_error", squared_error, "squared output units"),
    "mean_squared_error": Loss("mean_squared_error", mean_squared_error, "squared output units"),
    "binary_cross_entropy": Loss("binary_cross_entropy", binary_cross_entropy, "nats", _correct_sign),
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


def per_example_values(loss: Loss, outputs: Any, targets: Any, examples: int | None) -> Tensor:
    """The values of a loss, checked to be a vector with one value per example.

    Raises `TypeError` for another shape, such as the scalar of a mean over the batch, and `ValueError` for another
    number of values.
    """
    return _checked(loss, loss.values(outputs, targets), examples)


def values_and_correct(loss: Loss, outputs: Any, targets: Any, examples: int | None) -> tuple[Tensor, Tensor | None]:
    """The `per_example_values`, and which predictions are correct, None for losses without correct predictions.

    >>> values_and_correct(find_loss("cross_entropy"), torch.eye(2), torch.tensor([0, 0]), 2)
    (tensor([0.3133, 1.3133]), tensor([ True, False]))
    """
    if loss.values is cross_entropy and loss.correct is _correct_class and isinstance(targets, Tensor):
        logits = _tensor(outputs)
        if logits.dim() > 1 and targets.shape == logits.shape[:-1]:
            values, correct = (
                _over_positions(part.view(targets.shape), targets)
                for part in entropies_and_correct(logits.flatten(0, -2), targets.flatten())
            )
            return _checked(loss, values, examples), correct
    values = per_example_values(loss, outputs, targets, examples)
    return values, loss.correct(outputs, targets) if loss.correct else None


def _checked(loss: Loss, values: Tensor, examples: int | None) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() != 1:
        shape = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            explain(
                expected="a loss that gives one value per example, a tensor of shape (examples,).",
                got=f"{shape} from {loss.name!r}.",
                hint='Use reduction="none" and average over all dimensions but the first.',
            )
        )
    if examples is not None and len(values) != examples:
        raise ValueError(
            explain(
                expected=f"{examples} losses, one for each example of the batch.",
                got=f"{len(values)} from {loss.name!r}.",
                hint="Average over positions inside an example, never over examples.",
            )
        )
    return values


def _tensor(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(
        explain(
            expected="a model whose output is a tensor, or has one called logits.",
            got=f"{type(outputs).__name__}.",
            hint="Pass loss=a function (outputs, targets) that picks the part it needs.",
        )
    )


def _squares(outputs: Any, targets: Tensor) -> Tensor:
    values = _tensor(outputs)
    if values.shape != targets.shape:
        raise _shapes("targets shaped like the outputs (nothing is broadcast)", values, targets)
    squares = F.mse_loss(values, targets, reduction="none")
    return squares.flatten(1) if values.dim() > 1 else squares[:, None]


def _binary(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = _tensor(outputs)
    if logits.dim() == targets.dim() + 1 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    if logits.shape != targets.shape:
        raise _shapes("one target in [0, 1] per logit", logits, targets)
    return logits, targets


def _per_example(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def _shapes(expected: str, outputs: Tensor, targets: Tensor) -> ValueError:
    return ValueError(
        explain(
            expected=f"{expected}.",
            got=f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}, {targets.dtype}.",
            hint="Reshape the targets in the data, or pass a loss of your own.",
        )
    )


def batch_size(targets: Any) -> int | None:
    """Number of examples in a batch, by the first tensor among its targets; None if there is none.

    >>> batch_size(torch.zeros(5, 2)), batch_size({"a": torch.zeros(3)}), batch_size("no")
    (5, 3, None)
    """
    if isinstance(targets, Tensor):
        return len(targets) if targets.dim() else None
    if isinstance(targets, Mapping):
        return next((size for size in map(batch_size, targets.values()) if size is not None), None)
    if isinstance(targets, (tuple, list)) and not isinstance(targets, PackedSequence):  # it has a row for each step
        return next((size for size in map(batch_size, targets) if size is not None), None)
    return None


__all__ = [
    "LOSSES",
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "find_loss",
    "mean_squared_error",
    "squared_error",
]
