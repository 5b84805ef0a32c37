"""Optimisers: torch's, in their fused form, with decoupled weight decay, Lookahead and learning-rate schedules.

K-FAC is not included; `docs/laboratory.md` says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lerpscape.lab.config import OptimizerConfig, TrainingConfig


class Optimizer:
    """One of torch's optimisers, with two additions: decoupled weight decay for all of them, and Lookahead.

    Lookahead (Zhang, Lucas, Hinton & Ba 2019): every `lookahead_steps` steps the slow weights move a share
    `lookahead_share` of the way to the fast weights, which then restart from the slow ones.

    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Optimizer([weight], OptimizerConfig(lr=0.5, weight_decay=0.1, decoupled=True))
    >>> weight.grad = torch.tensor([1.0])
    >>> optimizer.step(lr=0.5)
    >>> weight.detach()
    tensor([0.4500])
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> None:
        self.parameters = list(parameters)
        self.config = config
        self.inner = _torch_optimizer(self.parameters, config)
        self.steps = 0
        self.slow = [p.detach().clone() for p in self.parameters] if config.lookahead_steps else []

    def step(self, lr: float) -> None:
        """Take one step at this learning rate."""
        for group in self.inner.param_groups:
            group["lr"] = lr
        if self.config.decoupled and self.config.weight_decay and self.config.name != "adamw":
            with torch.no_grad():
                for parameter in self.parameters:
                    parameter.mul_(1 - lr * self.config.weight_decay)
        self.inner.step()
        self.steps += 1
        if self.config.lookahead_steps and self.steps % self.config.lookahead_steps == 0:
            with torch.no_grad():
                for fast, slow in zip(self.parameters, self.slow, strict=True):
                    fast.copy_(slow.lerp_(fast, self.config.lookahead_share))

    def clear(self) -> None:
        """Clear the gradients."""
        self.inner.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors."""
        state = {"steps": torch.tensor(self.steps)}
        for number, parameter in enumerate(self.parameters):
            for name, value in self.inner.state.get(parameter, {}).items():
                if value is not None:
                    state[f"{number}.{name}"] = torch.as_tensor(value)
        return state | {f"{number}.slow": slow for number, slow in enumerate(self.slow)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state`, with the same bits as without the interruption."""
        self.steps = int(state["steps"])
        for number, parameter in enumerate(self.parameters):
            own = {name.partition(".")[2]: value for name, value in state.items() if name.startswith(f"{number}.")}
            if "slow" in own:
                self.slow[number] = own.pop("slow")
            if own:
                self.inner.state[parameter] = own


def _torch_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    decay = 0.0 if config.decoupled else config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=decay,
            fused=True,
        )
    if config.name == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas, weight_decay=decay, fused=True)
    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.RMSprop(parameters, lr=config.lr, momentum=config.momentum, weight_decay=decay)


def learning_rate(optimizer: OptimizerConfig, training: TrainingConfig, epoch: float) -> float:
    """The learning rate at a time in epochs since the start, with fractions within an epoch.

    >>> training = TrainingConfig(epochs=10, schedule="step", milestones=(5,), warm_up=2)
    >>> [round(learning_rate(OptimizerConfig(lr=1.0), training, epoch), 3) for epoch in (0.5, 3, 5, 9)]
    [0.25, 1.0, 0.1, 0.1]
    """
    lr = optimizer.lr
    if epoch < training.warm_up:
        return lr * epoch / training.warm_up
    if training.schedule == "step":
        return lr * training.factor ** sum(epoch >= milestone for milestone in training.milestones)
    if training.schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * (epoch - training.warm_up) / (training.epochs - training.warm_up)))
    return lr
