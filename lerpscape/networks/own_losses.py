"""The loss that a module returns itself, and what a mean of it over a batch may be weighed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.networks.class_losses import LEFT_OUT

MeanOver: TypeAlias = Callable[[Any], Tensor | None]


def own_loss(outputs: Any, targets: Any = None) -> Tensor:
    """The loss among a module's outputs: their `loss`, their only number if they are a tuple, or the output itself.

    Raises `TypeError` where there is none, or more than one.

    >>> own_loss({"loss": torch.tensor(2.0)}), own_loss((torch.zeros(3, 4), torch.tensor(1.0)))
    (tensor(2.), tensor(1.))
    """
    del targets  # the module has seen them
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if found is None and isinstance(outputs, (tuple, list)):
        numbers = [part for part in outputs if isinstance(part, Tensor) and part.is_floating_point() and not part.dim()]
        found = numbers[0] if len(numbers) == 1 else None
    if found is None and isinstance(outputs, Tensor) and outputs.dim() < 2:
        found = outputs
    if isinstance(found, Tensor) and found.is_floating_point() and found.dim() < 2:
        return found
    raise TypeError(
        explain(
            expected="a model that returns its loss: an output called loss, or one number in a tuple.",
            got=f"{type(outputs).__name__}"
            + (f" with {', '.join(map(str, outputs))}." if isinstance(outputs, Mapping) else "."),
            hint="Does the model see its labels? Put them into the batch under the name that its forward has for them; "
            "or pass loss=a function (outputs, targets).",
        )
    )


def _labels(targets: Any) -> Tensor | None:
    return targets if isinstance(targets, Tensor) and targets.dim() and not targets.is_floating_point() else None


def _shifted(targets: Any) -> Tensor | None:
    labels = _labels(targets)
    return None if labels is None or labels.dim() != 2 else (labels[:, 1:] != LEFT_OUT).sum().reshape(1)


def _kept(targets: Any) -> Tensor | None:
    labels = _labels(targets)
    return None if labels is None else (labels != LEFT_OUT).sum().reshape(1)


def _rows(targets: Any) -> Tensor | None:
    while isinstance(targets, (Mapping, tuple, list)) and targets:
        targets = next(iter(targets.values() if isinstance(targets, Mapping) else targets))
    return torch.tensor([len(targets)]) if isinstance(targets, Tensor) and targets.dim() else None


# What a module's own mean over a batch may be a mean over, and how many of these the targets have.
MEANS: dict[str, MeanOver] = {
    "labels after the first of each sequence": _shifted,
    "labels": _kept,
    "examples": _rows,
}
