"""Training, on one page: the same configuration, seed and machine give the same bits.

Everything random is a function of (seed, epoch), so a run that goes on after an epoch needs no generator's state.
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
    """One epoch as it went: the mean over its examples of the loss at the step that used them, and the last step's
    learning rate.
    """

    number: int
    loss: float
    lr: float


@dataclass(frozen=True)
class Progress:
    """A training run after an epoch: everything that the next one depends on, and its history."""

    parameters: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    history: tuple[Epoch, ...]

    @property
    def diverged(self) -> bool:
        """Whether the last epoch's loss is NaN or infinite."""
        return bool(self.history) and not math.isfinite(self.history[-1].loss)

    def finished(self, training: TrainingConfig) -> bool:
        """Whether there is no further epoch to train."""
        if not self.history:
            return False
        last = self.history[-1]
        low = training.stop_below is not None and last.loss <= training.stop_below
        return self.diverged or low or last.number >= training.epochs

    def history_table(self) -> list[dict[str, float | str]]:
        """The history for JSON, where NaN and infinity are words."""
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
    before: Progress | None = None,
    after_epoch: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train a model in place, from the beginning or from an earlier progress, and say how it went.

    `after_epoch` sees the progress after every epoch; its tensors are those that training goes on with.

    >>> from lerpscape.lab.data import load
    >>> from lerpscape.lab.config import TrainingConfig
    >>> from lerpscape.networks.losses import find_loss
    >>> config = RunConfig(training=TrainingConfig(epochs=2))
    >>> model, loss = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), find_loss("cross_entropy")
    >>> found = train(model, load("digits").train, loss, config)
    >>> found.history[0].loss > found.history[1].loss
    True
    """
    model.train()
    optimizer = Optimizer(model.parameters(), config.optimizer)
    progress = before or Progress(model.state_dict(), {}, ())
    if before:
        model.load_state_dict(before.parameters)
        optimizer.restore(before.optimizer)
    while not progress.finished(config.training):
        epoch = _one_epoch(model, split, loss, config, optimizer, len(progress.history))
        progress = Progress(model.state_dict(), optimizer.state(), (*progress.history, epoch))
        if after_epoch:
            after_epoch(progress)
    return progress


def _one_epoch(
    model: nn.Module, split: Split, loss: Loss, config: RunConfig, optimizer: Optimizer, epoch: int
) -> Epoch:
    training, data = config.training, config.data
    if data.label_noise and epoch >= data.label_noise_from:
        split = split.corrupted(data.label_noise, seed=config.seed)
    generator = torch.Generator().manual_seed(seed_of(config.seed, epoch))
    batches = torch.randperm(len(split), generator=generator).split(training.batch_size)  # type: ignore[no-untyped-call]
    augmented = data.crop or data.flip
    changed = partial(augment, generator=generator, crop=data.crop, flip=data.flip) if augmented else None
    total, lr = torch.zeros((), dtype=torch.float64), 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, epoch))  # dropout
        for step, indices in enumerate(batches):
            inputs, targets = split.batch(indices, changed)
            losses = loss.values(model(inputs), targets)
            optimizer.clear()
            (losses.mean() + pressure(model, training)).backward()  # type: ignore[no-untyped-call]
            if training.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            lr = learning_rate(config.optimizer, training, epoch + (step + 0.5) / len(batches))
            optimizer.step(lr)
            total += losses.detach().sum(dtype=torch.float64)
    return Epoch(epoch + 1, float(total) / len(split), lr)


def pressure(model: nn.Module, training: TrainingConfig) -> Tensor | float:
    """What training adds to the loss: l1 · Σ|p| + norm_strength · Σ (‖p‖ − norm_target)², over all tensors.

    Source of the norm target: Lucas et al. (2021).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> pressure(model, TrainingConfig(norm_strength=0.5, norm_target=1.0)).item()
    2.0
    """
    added: Tensor | float = 0.0
    for parameter in model.parameters():
        if training.l1:
            added = added + training.l1 * parameter.abs().sum()
        if training.norm_strength:
            added = added + training.norm_strength * (parameter.norm() - training.norm_target) ** 2
    return added


def seed_of(*parts: int) -> int:
    """A seed for one purpose: unrelated for any two different lists of numbers, the same everywhere."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
