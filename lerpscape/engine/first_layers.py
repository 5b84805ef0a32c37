"""A linear layer that the data enter: on a line its results at every α lie between those at both ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lerpscape.networks import forward_ad


@dataclass(frozen=True)
class EndpointOutputs:
    """A first layer's results at both ends, and their derivative by α where it is wanted.

    >>> EndpointOutputs(torch.tensor([0.0]), torch.tensor([2.0]), None).at(0.25)
    tensor([0.5000])
    """

    start: Tensor
    end: Tensor
    change: Tensor | None

    def at(self, alpha: float, into: Tensor | None = None) -> Tensor:
        """The layer's result at α, a dual tensor where there is a derivative; written `into` a tensor if given."""
        if self.change is not None:
            return forward_ad.dual(torch.lerp(self.start, self.end, alpha), self.change)
        return torch.lerp(self.start, self.end, alpha, out=into)

    @property
    def shape(self) -> torch.Size:
        """Of what the layer gives."""
        return self.start.shape

    @property
    def like(self) -> Tensor:
        """A tensor of the same type and device."""
        return self.start

    @property
    def elements(self) -> int:
        """How many numbers are held."""
        return sum(each.numel() for each in (self.start, self.end, self.change) if each is not None)
