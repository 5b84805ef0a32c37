"""What labels beside tokens mean: the tokens themselves, to be shifted, or what is to be predicted at each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lerpscape.base.errors import explain
from lerpscape.networks.batches import Batch
from lerpscape.networks.calls import decodes_labels
from lerpscape.networks.class_losses import LEFT_OUT, cross_entropy, next_token
from lerpscape.networks.losses import Loss

# How the classes of models that shift their labels themselves are called.
CAUSAL = ("ForCausalLM", "LMHeadModel")


def check_meaning(loss: Loss, model: nn.Module, batch: Batch) -> None:
    """Refuse labels that the named loss would read otherwise than the model does.

    Tokens that are their own labels are not shifted; labels that are the next tokens are shifted already. A loss that
    was made with a function, `Loss("own", cross_entropy)`, is taken at its word.

    Raises `ValueError` that names the losses to choose from.
    """
    labels = batch.targets
    if loss.name not in ("cross_entropy", "next_token") or loss.values not in (cross_entropy, next_token):
        return
    if decodes_labels(model) or not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return
    labels = loss.read_targets(labels)
    tokens = [each.movedim(loss.batch_dim or 0, 0) for each in _tensors(batch.inputs) if each.dim() == 2]
    alike = [each for each in tokens if not each.is_floating_point() and each.shape == labels.shape]
    shares = [_shares(each.to(labels.device), labels) for each in alike if labels.shape[1] > 1]
    causal = any(type(module).__name__.endswith(CAUSAL) for module in model.modules())
    own, following = (max((share[i] for share in shares), default=0.0) for i in (0, 1))
    unclear = causal and not shares and batch.key is not None
    if loss.values is cross_entropy and (unclear or (own > following and (own == 1 or (causal and own > 0.5)))):
        raise ValueError(
            explain(
                expected="labels that say what is to be predicted at each token.",
                got=f"labels that {'cannot be compared with tokens' if unclear else 'are the tokens themselves'}, of a "
                f"{type(model).__name__}: scored as they are, each token would predict itself.",
                hint='loss="next_token" shifts them, as causal language models do themselves; loss="model" takes the '
                "model's own loss. To score in place, shift the labels in the data, or pass "
                'Loss("in place", cross_entropy) with lerpscape.networks.losses.cross_entropy.',
            )
        )
    if loss.values is next_token and following == 1 and own < 1:
        raise ValueError(
            explain(
                expected="labels that are the tokens themselves: next_token shifts them.",
                got="labels that are the next tokens already.",
                hint='loss="cross_entropy" takes them as they are.',
            )
        )


def _shares(tokens: Tensor, labels: Tensor) -> tuple[float, float]:
    """The share of labels that are the token itself, and the next token, among those that are not left out."""
    kept, inner = labels != LEFT_OUT, labels[:, :-1] != LEFT_OUT
    own, following = ((tokens == labels)[kept], (tokens[:, 1:] == labels[:, :-1])[inner])
    return tuple(float(each.float().mean()) if each.numel() else 0.0 for each in (own, following))  # type: ignore[return-value]


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(part)
