"""One loss per example, by name or yours, and which examples are right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from lerpscape import duals
from lerpscape.errors import three_parts

PerExample: TypeAlias = Callable[[Any, Any], Tensor]

# So many logits are compared with the target's one sooner than their first largest is found.
MANY_LOGITS = 1 << 14


@dataclass(frozen=True)
class Loss:
    """A per-example loss: from outputs and targets to one value per example, in `unit`.

    `correct`, where there is such a thing, says for each example whether the prediction is right. Any callable with
    the same signature as `values` can be passed as a loss; this class adds a name, a unit and an accuracy to it.

    >>> halved = Loss("half squared error", lambda z, y: 0.5 * (z - y).square().flatten(1).sum(1), unit="units²")
    >>> halved.values(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    tensor([2.])
    """

    name: str
    values: PerExample
    unit: str = ""
    correct: PerExample | None = None


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """−log softmax(z)_y per example, in nats; positions of a sequence are averaged first.

    `outputs` are logits of shape (examples, classes) or (examples, positions, classes), `targets` class numbers of
    shape (examples,) or (examples, positions) with −100 at positions to leave out, or probabilities shaped like the
    outputs. A sequence without any position left has no loss (NaN).

    Raises `ValueError` for shapes that do not fit.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
    tensor([1.3863])
    """
    logits = _tensor(outputs)
    if targets.shape == logits.shape and targets.is_floating_point():
        return _per_example(-(targets * logits.log_softmax(-1)).sum(-1))
    if targets.shape != logits.shape[:-1] or logits.dim() < 2:
        raise _shapes("class numbers for logits of shape (examples, …, classes)", logits, targets)
    flat = F.nll_loss(_log_softmax(logits.flatten(0, -2)), targets.flatten(), reduction="none").view(targets.shape)
    if targets.dim() == 1:
        return flat
    kept = (targets != -100).flatten(1)
    return flat.flatten(1).sum(1) / kept.sum(1)


def _log_softmax(logits: Tensor) -> Tensor:
    """Logarithms of probabilities, (examples, classes). Few classes: with examples abreast, several times as fast."""
    return logits.t().contiguous().log_softmax(0).t() if logits.shape[1] < 32 else logits.log_softmax(1)


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """‖z − y‖² per example, summed over the output's dimensions; unit: squared output units.

    `outputs` and `targets` have the same shape (examples, …): nothing is broadcast.

    Raises `ValueError` for shapes that differ.

    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    return _squares(outputs, targets).sum(1)


def mean_squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """‖z − y‖² / d per example, averaged over the output's d dimensions; unit: squared output units.

    >>> mean_squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([2.5000])
    """
    return _squares(outputs, targets).mean(1)


def binary_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """−y log σ(z) − (1−y) log(1−σ(z)) per example, in nats, averaged over labels where there are several.

    `outputs` are logits and `targets` numbers in [0, 1], both of shape (examples,), (examples, 1) or (examples, …).

    >>> binary_cross_entropy(torch.zeros(2, 1), torch.tensor([0, 1]))
    tensor([0.6931, 0.6931])
    """
    logits, wanted = _binary(outputs, targets)
    return _per_example(F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none"))


def _right_class(outputs: Any, targets: Tensor) -> Tensor:
    """Share of kept positions whose largest logit is at the target; 0 or 1 where there is one position."""
    logits = _tensor(outputs)
    if targets.shape == logits.shape:
        targets = targets.argmax(-1)
    right = _first_largest(logits, targets)
    return right.flatten(1).sum(1) / (targets != -100).flatten(1).sum(1) if right.dim() > 1 else right


def _first_largest(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether argmax, the place of the first largest or first NaN, is the target: (…, classes) and (…) to (…).

    torch finds the place of a maximum on the CPU several times as slowly as the maximum itself. Where the target's
    logit is above or below all others the answer is plain; only of ties and NaN is the place looked up. Elsewhere than
    on the CPU that would have to wait for the device.
    """
    if logits.device.type != "cpu" or logits.numel() < MANY_LOGITS:
        return logits.argmax(-1) == targets
    values, place = duals.split(logits)[0], targets.long().clamp(min=0).unsqueeze(-1)
    own = values.gather(-1, place).squeeze(-1)
    others = values.scatter(-1, place, -math.inf).amax(-1)
    right = own > others
    unclear = ~(right | (own < others))
    right[unclear] = values[unclear].argmax(-1) == targets[unclear]
    return right & (targets >= 0)  # −100, a position to leave out, was looked up as class 0


def _right_side(outputs: Any, targets: Tensor) -> Tensor:
    logits, wanted = _binary(outputs, targets)
    return _per_example(((logits > 0) == (wanted > 0.5)).to(logits.dtype))


NAMED = {
    "cross_entropy": Loss("cross_entropy", cross_entropy, "nats", _right_class),
    "squared_error": Loss("squared_error", squared_error, "squared output units"),
    "mean_squared_error": Loss("mean_squared_error", mean_squared_error, "squared output units"),
    "binary_cross_entropy": Loss("binary_cross_entropy", binary_cross_entropy, "nats", _right_side),
}


def find_loss(loss: str | PerExample | Loss) -> Loss:
    """The loss of a name, or the given callable as a `Loss`.

    Raises `ValueError` for an unknown name, which lists the known ones, and `TypeError` for anything else.

    >>> find_loss("cross_entropy").unit
    'nats'
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(
                three_parts(
                    f"one of {', '.join(NAMED)}, or a callable.",
                    f"{loss!r}.",
                    "For a loss of your own pass a function (outputs, targets) -> one value per example.",
                )
            )
        return NAMED[loss]
    if callable(loss):
        return Loss(getattr(loss, "__name__", type(loss).__name__), loss)
    raise TypeError(three_parts("the name of a loss or a callable.", f"{type(loss).__name__}.", 'Use "cross_entropy".'))


def per_example_values(loss: Loss, outputs: Any, targets: Any, examples: int | None) -> Tensor:
    """Evaluate a loss and hold it to its contract: a vector with one value per example.

    Raises `TypeError` for a scalar, which would average batch means, and `ValueError` for another number of values.
    """
    values = loss.values(outputs, targets)
    if not isinstance(values, Tensor) or values.dim() != 1:
        shape = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            three_parts(
                "a loss that gives one value per example, a tensor of shape (examples,).",
                f"{shape} from {loss.name!r}.",
                'Use reduction="none" and average over everything but the first dimension.',
            )
        )
    if examples is not None and len(values) != examples:
        raise ValueError(
            three_parts(
                f"{examples} losses, one for each example of the batch.",
                f"{len(values)} from {loss.name!r}.",
                "Average over positions inside an example, never over examples.",
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
        three_parts(
            "a model whose output is a tensor, or has one called logits.",
            f"{type(outputs).__name__}.",
            "Pass loss=a function (outputs, targets) that picks the part it needs.",
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
        three_parts(
            f"{expected}.",
            f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}, {targets.dtype}.",
            "Reshape the targets in the data, or pass a loss of your own.",
        )
    )


def batch_size(targets: Any) -> int | None:
    """Number of examples in a batch, where its targets tell.

    >>> batch_size(torch.zeros(5, 2)), batch_size({"a": torch.zeros(3)}), batch_size("no")
    (5, 3, None)
    """
    if isinstance(targets, Tensor):
        return len(targets) if targets.dim() else None
    if isinstance(targets, Mapping):
        return next((size for size in map(batch_size, targets.values()) if size is not None), None)
    if isinstance(targets, (tuple, list)):
        return next((size for size in map(batch_size, targets) if size is not None), None)
    return None


__all__ = [
    "NAMED",
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "find_loss",
    "mean_squared_error",
    "squared_error",
]
