"""One pass of a model and its loss over batches, with a backward pass behind each where gradients are wanted."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lerpscape.engine.backward import BackwardPass
from lerpscape.networks import forward_ad
from lerpscape.networks.batches import Batch
from lerpscape.networks.foreign_calls import located, place_of
from lerpscape.networks.losses import ExampleLosses, Loss, evaluated
from lerpscape.networks.metrics import Metric, sums_of
from lerpscape.networks.nested import Leaf, mapped


class LossPass(nn.Module):
    """One pass of a model and its loss over batches, as a module, so that its tensors are lent once.

    `alpha` is named where a call fails. With `gradients`, autograd records what a network differentiates itself; with
    `backward`, every batch is followed by its backward pass.
    """

    def __init__(self, model: nn.Module, loss: Loss, metrics: tuple[Metric, ...] = ()) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.metrics = metrics
        self.alpha = 0.0
        self.gradients = False
        self.backward: BackwardPass | None = None

    def forward(self, batches: Iterable[Batch]) -> list[ExampleLosses]:
        """The losses of each batch."""
        return [self._losses(batch) for batch in batches]

    def _losses(self, batch: Batch) -> ExampleLosses:
        place = place_of(batch.number, self.alpha)
        recorded = self.gradients or self.backward is not None
        with torch.set_grad_enabled(recorded), batch.lent() as own:
            with located("the model's forward", place):
                outputs = own.call(self.model, with_targets=self.loss.takes_targets)
            with torch.no_grad():  # first: a loss may write to the outputs
                seen = mapped(outputs, _detached) if recorded and self.metrics else outputs
                metrics = sums_of(self.metrics, seen, own.targets, own.examples, place)
            with located(f"the loss {self.loss.name!r}", place):
                found = evaluated(self.loss, outputs, own.targets, own.examples)._replace(metrics=metrics)
            if self.backward is not None:
                del outputs, seen
                with located("the backward pass", place):
                    self.backward.run(found)
        return found if not recorded else found._replace(values=_without_graph(found.values))


def _detached(leaf: Leaf) -> Leaf:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _without_graph(values: Tensor) -> Tensor:
    """The same numbers, with their derivative, without what autograd recorded: it would hold every batch's results."""
    value, change = forward_ad.split(values)
    return value.detach() if change is None else forward_ad.dual(value.detach(), change.detach())
