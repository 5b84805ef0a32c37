"""The training loop: the same configuration and seed give the same bits on one machine.

Every random number is a function of (seed, epoch), so that resuming after an epoch needs no generator state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lerpscape.lab.config import RunConfig, TrainingConfig
from lerpscape.lab.data import Split, augment
from lerpscape.lab.optimizers import Optimizer, learning_rate
from lerpscape.networks.losses import Loss


@dataclass(frozen=True)
class Epoch:
    """One epoch: its number, its mean training loss (each example's at the step that used it), and its last rate."""

    number: int
    loss: float
    lr: float


@dataclass(frozen=True)
class TrainingState:
    """The state of training after an epoch: everything that the next epoch depends on, and the history."""

    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: tuple[Epoch, ...]

    @property
    def diverged(self) -> bool:
        """Whether the last epoch's loss is NaN or infinite."""
        return bool(self.history) and not math.isfinite(self.history[-1].loss)

    def finished(self, training: TrainingConfig) -> bool:
        """Whether training ends here."""
        if not self.history:
            return False
        last = self.history[-1]
        reached = training.stop_below is not None and last.loss <= training.stop_below
        return self.diverged or reached or last.number >= training.epochs

    def history_table(self) -> list[dict[str, float | str]]:
        """The history as JSON types, with NaN and infinity as strings."""
        return [
            {name: value if math.isfinite(value) else str(value) for name, value in asdict(epoch).items()}
            for epoch in self.history
        ]


def train(
    model: nn.Module,
    split: Split,
    loss: Loss,
    config: RunConfig,
    *,
    state: TrainingState | None = None,
    after_epoch: Callable[[TrainingState], None] | None = None,
) -> TrainingState:
    """Train a model in place, from the start or from a saved state, and return the final state.

    `after_epoch` is called with the state after every epoch; training continues with the same tensors, so copy them.

    >>> from lerpscape.lab.data import load
    >>> from lerpscape.lab.config import TrainingConfig
    >>> from lerpscape.networks.losses import find_loss
    >>> config = RunConfig(training=TrainingConfig(epochs=2))
    >>> model, loss = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), find_loss("cross_entropy")
    >>> state = train(model, load("digits").train, loss, config)
    >>> state.history[0].loss > state.history[1].loss
    True
    """
    model.train()
    optimizer = Optimizer(model.parameters(), config.optimizer)
    if state:
        model.load_state_dict(state.parameters)
        optimizer.restore(state.optimizer)
    else:
        state = TrainingState(model.state_dict(), {}, ())
    while not state.finished(config.training):
        epoch = _one_epoch(model, split, loss, config, optimizer, len(state.history))
        state = TrainingState(model.state_dict(), optimizer.state(), (*state.history, epoch))
        if after_epoch:
            after_epoch(state)
    return state


def _one_epoch(
    model: nn.Module, split: Split, loss: Loss, config: RunConfig, optimizer: Optimizer, epoch: int
) -> Epoch:
    training, data = config.training, config.data
    if data.label_noise and epoch >= data.label_noise_from:
        split = split.corrupted(data.label_noise, seed=config.seed)
    generator = torch.Generator().manual_seed(derived_seed(config.seed, epoch))
    batches = torch.randperm(len(split), generator=generator).split(training.batch_size)  # type: ignore[no-untyped-call]
    transform = None
    if data.crop or data.flip:
        transform = partial(augment, generator=generator, crop=data.crop, flip=data.flip)
    total, lr = torch.zeros((), dtype=torch.float64), 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, epoch))  # dropout
        for step, indices in enumerate(batches):
            inputs, targets = split.batch(indices, transform)
            losses = loss.values(model(inputs), targets)
            optimizer.clear()
            (losses.mean() + penalty(model, training)).backward()  # type: ignore[no-untyped-call]
            if training.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            lr = learning_rate(config.optimizer, training, epoch + (step + 0.5) / len(batches))
            optimizer.step(lr)
            total += losses.detach().sum(dtype=torch.float64)
    return Epoch(epoch + 1, float(total) / len(split), lr)


def penalty(model: nn.Module, training: TrainingConfig) -> Tensor | float:
    """The penalty added to the training loss: l1 · Σ|p| + norm_strength · Σ (‖p‖ − norm_target)², over all tensors p.

    Source of the norm target: Lucas et al. (2021).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> penalty(model, TrainingConfig(norm_strength=0.5, norm_target=1.0)).item()
    2.0
    """
    total: Tensor | float = 0.0
    for parameter in model.parameters():
        if training.l1:
            total = total + training.l1 * parameter.abs().sum()
        if training.norm_strength:
            total = total + training.norm_strength * (parameter.norm() - training.norm_target) ** 2
    return total


def derived_seed(*parts: int) -> int:
    """A seed derived by hashing numbers: unrelated for different numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
