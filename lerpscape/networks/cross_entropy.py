"""Cross-entropy of class numbers, and which of them are predicted, in pieces that stay in a core's cache."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.networks import forward_ad

# Logits at work at once: with their logarithms of probabilities they take half of a core's cache of 2 MiB.
PIECE_LOGITS = 1 << 17
# With fewer classes than this, examples lie abreast for log_softmax: several times as fast.
FEW_CLASSES = 32
# From so many logits on, a maximum is found sooner than its place.
MANY_LOGITS = 1 << 14


def entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(z)_y of every row; logits (rows, classes), class numbers (rows,), 0 where they are −100.

    >>> entropies(torch.zeros(2, 4), torch.tensor([2, -100]))
    tensor([1.3863, 0.0000])
    """
    return torch.cat([_losses(_log_probabilities(z), y) for z, y in _pieces(logits, targets)])


def entropies_and_right(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`entropies`, and whether argmax, the place of the first largest or first NaN, is the target.

    torch finds the place of a maximum on the CPU several times as slowly as the maximum itself. Where the target is
    more or less probable than all other classes the answer is plain; only of ties, which rounding may have made, and
    NaN the place is looked up. Elsewhere than on the CPU that would have to wait for the device. Autograd would need
    the probabilities that are written over here, and says so.

    >>> entropies_and_right(torch.eye(2), torch.tensor([0, 0]))
    (tensor([0.3133, 1.3133]), tensor([ True, False]))
    """
    if logits.device.type != "cpu" or logits.numel() < MANY_LOGITS:
        return entropies(logits, targets), logits.argmax(1) == targets
    found, others = [], []
    places = targets.long().clamp(min=0)[:, None]
    into: Tensor | None = None
    for z, y, place in _pieces(logits, targets, places):
        if into is None and logits.shape[1] >= FEW_CLASSES and forward_ad.split(logits)[1] is None:
            into = torch.empty_like(z)  # one piece of memory for all: getting new memory takes as long as a logarithm
        log_probabilities = _log_probabilities(z) if into is None else torch.log_softmax(z, 1, out=into[: len(z)])
        found.append(_losses(log_probabilities, y))
        others.append(forward_ad.split(log_probabilities)[0].scatter_(1, place, -math.inf).amax(1))
    losses = torch.cat(found)
    lead = -forward_ad.split(losses)[0] - torch.cat(others)
    right = lead > 0
    if not lead.abs().amin() > 0:
        unclear = ~(lead.abs() > 0)
        right[unclear] = logits[unclear].argmax(1) == targets[unclear]
    return losses, right & (targets >= 0)  # −100, a position to leave out, was looked up as class 0


def _pieces(logits: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows whose results fit a core's cache; all of them on other devices, where each step must be large."""
    rows = max(PIECE_LOGITS // max(logits.shape[1], 1) if logits.device.type == "cpu" else len(logits), 1)
    return zip(*(torch.split(each, rows) for each in (logits, *beside)), strict=True)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.t().contiguous().log_softmax(0).t() if logits.shape[1] < FEW_CLASSES else logits.log_softmax(1)


def _losses(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    return F.nll_loss(log_probabilities, targets, reduction="none")
