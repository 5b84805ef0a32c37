"""Cross-entropy of class numbers or probabilities, per example: how outputs and targets are read, and what counts.

A label of −100 is left out, as in torch. Classes are the last dimension, as language models give them, or the second
one, as torch's `cross_entropy` takes them; where the shapes fit both, the reading is asked for, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.networks.cross_entropy import entropies, entropies_and_correct

LEFT_OUT = -100
# How far a sum of float32 or half-precision probabilities may be from 1.
SUMS_TO_ONE = 1e-2


@dataclass(frozen=True)
class ClassesLast:
    """Outputs whose last dimension is known to be that of the classes."""

    logits: Tensor


def output_tensor(outputs: Any) -> Tensor:
    """The outputs themselves, or what they call `logits` (transformers) or `out` (torchvision's segmentation).

    Raises `TypeError` for outputs that have neither.
    """
    if isinstance(outputs, Tensor):
        return outputs
    for name in ("logits", "out"):
        part = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(part, Tensor):
            return part
    raise TypeError(
        explain(
            expected="a model whose output is a tensor, or has one called logits.",
            got=f"{type(outputs).__name__}.",
            hint="Pass loss=a function (outputs, targets) that picks the part it needs.",
        )
    )


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """−log softmax(z)_y per example, in nats, averaged over the positions (tokens, pixels) of an example.

    `outputs` are logits of shape (examples, …, classes) or (examples, classes, …). `targets` are class numbers of shape
    (examples, …), with −100 at positions to leave out, or probabilities of the outputs' shape. The loss of an example
    whose positions are all left out is NaN.

    Raises `ValueError` for shapes that do not fit or that fit both ways, and for labels that are no class.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
    tensor([1.3863])
    """
    return _values(*classes_last(outputs, targets))


def next_token(outputs: Any, targets: Any) -> Tensor:
    """−log p(token t + 1 | tokens up to t) per sequence, in nats, averaged over its predicted tokens.

    `outputs` are logits of shape (sequences, tokens, classes). `targets` are the tokens themselves, not shifted, with
    −100 at those that are not to be predicted; or a dict with `input_ids`, where `attention_mask` says which count.

    Raises `ValueError` for shapes that do not fit, `TypeError` for other targets.

    >>> next_token(torch.zeros(1, 3, 4), torch.tensor([[0, 1, -100]]))
    tensor([1.3863])
    """
    return _values(*shifted(outputs, targets))


def correct_class(outputs: Any, targets: Tensor) -> Tensor:
    """Share of an example's positions at which the target has the largest logit; 0 or 1 without positions."""
    return _correct(*classes_last(outputs, targets))


def correct_token(outputs: Any, targets: Any) -> Tensor:
    """Share of a sequence's tokens that have the largest logit at the position before."""
    return _correct(*shifted(outputs, targets))


# The arrangements of outputs and targets, class numbers beside class-last logits, that losses and predictions share.
Arrangement = Callable[[Any, Any], tuple[Tensor, Tensor]]


def arrangement(values: Any, correct: Any) -> Arrangement | None:
    """What a loss and its predictions share, so that both can be computed in one go; None for other functions."""
    shared: dict[Any, Arrangement] = {
        (cross_entropy, correct_class): classes_last,
        (next_token, correct_token): shifted,
    }
    return shared.get((values, correct))


def values_and_correct_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and correctness per example, of logits with classes last and class numbers or probabilities."""
    if targets.is_floating_point():
        return _values(logits, targets), _correct(logits, targets)
    with _labels_named(logits, targets):
        values, correct = entropies_and_correct(logits.flatten(0, -2), targets.flatten())
    return mean_of_kept(values.view(targets.shape), targets), mean_of_kept(correct.view(targets.shape), targets)


def counted_examples(targets: Any) -> Tensor:
    """1 for every example of which some position counts, 0 for one that is left out altogether; shape (examples,).

    >>> counted_examples(torch.tensor([[1, -100], [-100, -100]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    return (counted_positions(targets) > 0).double()


def counted_positions(targets: Any) -> Tensor:
    """How many positions of every example count; shape (examples,).

    Raises `ValueError` for probabilities of positions, whose number the targets do not tell.

    >>> counted_positions(torch.tensor([[1, -100], [0, 1]])), counted_positions(torch.tensor([3]))
    (tensor([1., 2.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    if targets.is_floating_point() and targets.dim() < 3:
        return torch.ones(len(targets), dtype=torch.float64, device=targets.device)
    kept = targets != LEFT_OUT
    counts: Tensor = kept.flatten(1).sum(1) if kept.dim() > 1 else kept
    return counts.double()


def counted_tokens(targets: Any) -> Tensor:
    """How many tokens of every sequence are predicted: those after the first that count; shape (sequences,).

    >>> counted_tokens(torch.tensor([[5, 6, -100]]))
    tensor([1.], dtype=torch.float64)
    """
    return counted_positions(tokens_of(targets)[:, 1:])


def tokens_of(targets: Any) -> Tensor:
    """The tokens of sequences, −100 at those that do not count.

    Raises `TypeError` for targets that are no tokens.
    """
    if isinstance(targets, Mapping) and isinstance(targets.get("input_ids"), Tensor):
        tokens: Tensor = targets["input_ids"]
        mask = targets.get("attention_mask")
        return tokens if mask is None else tokens.masked_fill(mask == 0, LEFT_OUT)
    if isinstance(targets, Tensor) and targets.dim() == 2 and not targets.is_floating_point():
        return targets
    raise TypeError(
        explain(
            expected="tokens of shape (sequences, tokens) as labels, or a batch with input_ids and no labels.",
            got=f"targets {tuple(targets.shape)}, {targets.dtype}."
            if isinstance(targets, Tensor)
            else f"{type(targets).__name__}.",
            hint='"next_token" is for causal language models; other sequences have "cross_entropy".',
        )
    )


def shifted(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """The logits at every token but the last, beside the token that comes next."""
    logits, tokens = output_tensor(outputs), tokens_of(targets)
    if logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        raise unfitting("logits of shape (sequences, tokens, classes) for the tokens", logits, tokens)
    return logits[:, :-1], tokens[:, 1:].long()


def classes_last(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with classes as the last dimension, beside class numbers, or probabilities with classes last too."""
    logits = output_tensor(outputs)
    if not isinstance(targets, Tensor):
        raise TypeError(
            explain(
                expected="class numbers or probabilities in one tensor.",
                got=f"{type(targets).__name__}.",
                hint="Pass loss=a function (outputs, targets) that picks the part it needs.",
            )
        )
    if targets.shape == logits.shape and targets.is_floating_point() and logits.dim() > 1:
        last = logits.dim() == 2 or isinstance(outputs, ClassesLast) or _probabilities_last(logits, targets)
        return (logits, targets) if last else (logits.movedim(1, -1), targets.movedim(1, -1))
    last, second = targets.shape == logits.shape[:-1], targets.shape == logits.shape[:1] + logits.shape[2:]
    if logits.dim() < 2 or not (last or second) or targets.is_floating_point():
        raise unfitting("class numbers for logits of shape (examples, …, classes)", logits, targets)
    # objects with logits of three dimensions are those of transformers, which puts classes last
    known = isinstance(outputs, ClassesLast) or logits.dim() == 2 or (outputs is not logits and logits.dim() == 3)
    if last and second and not known:
        raise _both_ways(logits, targets)
    return logits if last else logits.movedim(1, -1), targets.long()


def mean_of_kept(values: Tensor, targets: Tensor) -> Tensor:
    """The average over each example's positions that are not left out; NaN where all are."""
    kept = targets != LEFT_OUT
    if values.dim() == 1:
        return torch.where(kept, values, torch.nan) if values.is_floating_point() else values
    return torch.where(kept, values, 0).flatten(1).sum(1) / kept.flatten(1).sum(1)


def unfitting(expected: str, outputs: Tensor, targets: Tensor) -> ValueError:
    """The error for shapes that do not fit."""
    return ValueError(
        explain(
            expected=f"{expected}.",
            got=f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}, {targets.dtype}.",
            hint="Reshape the targets in the data, or pass a loss of your own.",
        )
    )


def _values(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        values = -(targets * logits.log_softmax(-1)).sum(-1)
        return values.flatten(1).mean(1) if values.dim() > 1 else values
    with _labels_named(logits, targets):
        values = entropies(logits.flatten(0, -2), targets.flatten())
    return mean_of_kept(values.view(targets.shape), targets)


def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        targets = targets.argmax(-1)
    return mean_of_kept(logits.argmax(-1) == targets, targets)


def _probabilities_last(logits: Tensor, targets: Tensor) -> bool:
    """Whether probabilities sum to 1 over the last dimension, rather than over the second."""
    last, second = (bool(((targets.sum(dim) - 1).abs() < SUMS_TO_ONE).all()) for dim in (-1, 1))
    if last == second:
        raise _both_ways(logits, targets)
    return last


def _both_ways(logits: Tensor, targets: Tensor) -> ValueError:
    return ValueError(
        explain(
            expected="shapes that tell which dimension of the outputs is that of the classes.",
            got=f"outputs {tuple(logits.shape)} and targets {tuple(targets.shape)}: the second and the last one fit.",
            hint='Say it: loss=Loss("cross_entropy", class_dim=1), as in torch and for images, or class_dim=-1.',
        )
    )


class _labels_named:
    """Names a label that is no class: torch stops the process on a GPU, and gives its number alone on the CPU."""

    def __init__(self, logits: Tensor, targets: Tensor) -> None:
        self._classes, self._targets = logits.shape[-1], targets

    def __enter__(self) -> None:
        if self._targets.device.type == "cuda":
            self._refuse(None)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, IndexError):
            self._refuse(error)

    def _refuse(self, cause: BaseException | None) -> None:
        wrong = (self._targets != LEFT_OUT) & ((self._targets < 0) | (self._targets >= self._classes))
        labels = self._targets[wrong]
        if labels.numel():
            first = int(labels[0])
            raise ValueError(
                explain(
                    expected=f"labels from 0 to {self._classes - 1}, the classes of the outputs, or −100 to leave out.",
                    got=f"{first} ({labels.numel()} such labels of {self._targets.numel()}).",
                    hint=f'loss=Loss("cross_entropy", ignore={first}) leaves them out, if that is what {first} means.',
                )
            ) from cause
