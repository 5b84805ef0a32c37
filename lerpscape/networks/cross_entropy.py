"""Cross-entropy with class numbers as targets, and correctness of predictions, computed in cache-sized pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.networks import forward_ad

# Logits in a piece: they and their log-probabilities in float32 take 1 MiB, half of a core's cache of 2 MiB.
PIECE_LOGITS = 1 << 17
# With fewer classes than this, log_softmax over dimension 0 of the transpose is several times as fast.
FEW_CLASSES = 32
# With at least so many logits, finding the maximum is faster than finding the argmax.
MANY_LOGITS = 1 << 14


def entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(z)_y of every row, 0 where the target is −100; logits (rows, classes), class numbers (rows,).

    >>> entropies(torch.zeros(2, 4), torch.tensor([2, -100]))
    tensor([1.3863, 0.0000])
    """
    return torch.cat([_losses(_log_probabilities(z), y) for z, y in _pieces(logits, targets)])


def entropies_and_correct(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`entropies`, and whether the argmax of each row (its first largest logit, or first NaN) is the target.

    On the CPU torch computes an argmax several times as slowly as a maximum. So the log-probability of the target is
    compared with the largest one of the other classes, and the argmax is computed only for rows with a tie, which
    rounding may have made, or NaN. On other devices this would need a synchronisation, so the argmax is computed there.
    So it is where autograd follows the logits, as the log-probabilities are overwritten otherwise.

    >>> entropies_and_correct(torch.eye(2), torch.tensor([0, 0]))
    (tensor([0.3133, 1.3133]), tensor([ True, False]))
    """
    followed = logits.requires_grad and torch.is_grad_enabled()
    if logits.device.type != "cpu" or logits.numel() < MANY_LOGITS or followed:
        return entropies(logits, targets), logits.argmax(1) == targets
    losses, best_others = [], []
    columns = targets.long().clamp(min=0)[:, None]
    buffer: Tensor | None = None
    for z, y, column in _pieces(logits, targets, columns):
        if buffer is None and logits.shape[1] >= FEW_CLASSES and forward_ad.split(logits)[1] is None:
            buffer = torch.empty_like(z)  # for all pieces: allocating memory takes as long as computing logarithms
        log_probabilities = _log_probabilities(z) if buffer is None else torch.log_softmax(z, 1, out=buffer[: len(z)])
        losses.append(_losses(log_probabilities, y))
        best_others.append(forward_ad.split(log_probabilities)[0].scatter_(1, column, -math.inf).amax(1))
    entropy = torch.cat(losses)
    lead = -forward_ad.split(entropy)[0] - torch.cat(best_others)
    correct = lead > 0
    if not lead.abs().amin() > 0:
        unclear = ~(lead.abs() > 0)
        correct[unclear] = logits[unclear].argmax(1) == targets[unclear]
    return entropy, correct & (targets >= 0)  # the target −100 was treated as class 0 above


def _pieces(logits: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of all tensors in pieces of `PIECE_LOGITS` logits on the CPU, and in one piece on other devices."""
    rows = max(PIECE_LOGITS // max(logits.shape[1], 1) if logits.device.type == "cpu" else len(logits), 1)
    return zip(*(torch.split(tensor, rows) for tensor in (logits, *beside)), strict=True)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.t().contiguous().log_softmax(0).t() if logits.shape[1] < FEW_CLASSES else logits.log_softmax(1)


def _losses(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    return F.nll_loss(log_probabilities, targets, reduction="none")
