"""dL/dα by reverse-mode differentiation: ⟨∂L/∂θ, dθ/dα⟩ from one backward pass for each batch.

It works where an operation has no rule in forward mode, and gives the parts of all tensors at once, but not one number
for each example: gradients are those of a sum over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lerpscape.networks.losses import ExampleLosses
from lerpscape.paths.checkpoints import Params


class BackwardPass:
    """Backward passes of one batch after the other at one α, through tensors that autograd follows.

    `slopes` are the derivatives by α, a tensor for each batch. `products` are ⟨∂ Σ wℓ / ∂θ, dθ/dα⟩ of all passes, by
    the name of the tensor, in float64. Each gradient is multiplied and freed as soon as it is complete, so that there
    are never more than a few of them.

    With `parts`, the examples of a batch are divided among so many passes, one after the other.
    """

    def __init__(self, leaves: Params, velocity: Callable[[str], Tensor], parts: int | None = None) -> None:
        self.slopes: list[Tensor] = []
        self.products: dict[str, Tensor] = {}
        self._leaves = leaves
        self._velocity = velocity
        self._parts = parts
        self._slope: Tensor | float = 0.0

    def run(self, found: ExampleLosses) -> None:
        """Add the derivative of the batch's mean to `slopes`, once for each of its examples.

        With `parts`, that of the mean of each part, once.
        """
        values, weights = found.values, found.weights
        if self._parts is not None:
            means = means_of_parts(values, self._parts).unbind()
            self.slopes.append(torch.stack([self._through(mean, keep=mean is not means[-1]) for mean in means]))
            return
        if weights is None:
            weights = torch.ones_like(values, dtype=torch.float64)
        weight = weights.sum()
        slope = self._through((values.double() * weights).sum(), keep=False)
        self.slopes.append(torch.where(weight > 0, slope / weight, 0).expand(len(values)))

    def _through(self, total: Tensor, *, keep: bool) -> Tensor:
        """One backward pass of a sum: its derivative by α."""
        self._slope = torch.zeros((), dtype=torch.float64, device=total.device)
        if total.requires_grad:
            for leaf in self._leaves.values():
                leaf.grad = None  # a network that differentiates itself may have left one
            with self._multiplying():
                torch.autograd.backward(total, inputs=list(self._leaves.values()), retain_graph=keep)
        return torch.as_tensor(self._slope)

    @contextmanager
    def _multiplying(self) -> Iterator[None]:
        handles = [
            leaf.register_post_accumulate_grad_hook(self._multiplier(name))  # type: ignore[no-untyped-call]
            for name, leaf in self._leaves.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _multiplier(self, name: str) -> Callable[[Tensor], None]:
        def multiply(leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            assert gradient is not None
            product = _inner_product(gradient, self._velocity(name))
            self.products[name] = self.products.get(name, 0.0) + product
            self._slope = self._slope + product

        return multiply


def means_of_parts(values: Tensor, parts: int) -> Tensor:
    """The means of successive parts of a vector, at most so many, in float64.

    >>> means_of_parts(torch.tensor([1.0, 3.0, 5.0]), 2)
    tensor([2., 5.], dtype=torch.float64)
    """
    return torch.stack([part.double().mean() for part in values.tensor_split(min(parts, len(values)))])


def _inner_product(gradient: Tensor, velocity: Tensor) -> Tensor:
    """Σ g·v in float64, over real and imaginary parts; the gradient is written over."""
    with torch.no_grad():
        gradient = gradient.to_dense() if gradient.layout != torch.strided else gradient
        if gradient.is_complex():
            gradient, velocity = torch.view_as_real(gradient.resolve_conj()), torch.view_as_real(velocity)
        if gradient.dtype.itemsize < torch.float32.itemsize:
            gradient = gradient.float()
        return gradient.mul_(velocity).sum(dtype=torch.float64)
