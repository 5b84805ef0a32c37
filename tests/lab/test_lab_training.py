"""Training against a loop with torch's optimisers, and the additions to torch against their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lerpscape.lab.config import OptimizerConfig, RunConfig, TrainingConfig
from lerpscape.lab.data import Split
from lerpscape.lab.optimizers import Optimizer, learning_rate
from lerpscape.lab.resuming import DamagedFile, pack, unpack, weights
from lerpscape.lab.training import TrainingState, derived_seed, penalty, train
from lerpscape.networks.losses import find_loss

LOSS = find_loss("cross_entropy")


def small_split(examples: int = 50) -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 5, generator=generator, dtype=torch.float64)
    return Split(inputs, torch.randint(3, (examples,), generator=generator), classes=3)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()


def step_by_hand(rule: Callable[[list[nn.Parameter]], torch.optim.Optimizer], steps: int) -> list[torch.Tensor]:
    """Parameters after some steps of one of torch's optimisers on a fixed sequence of gradients."""
    parameters = [nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))]
    optimizer = rule(parameters)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        parameters[0].grad = torch.randn(2, generator=generator, dtype=torch.float64)
        optimizer.step()
        found.append(parameters[0].detach().clone())
    return found


class Ours:
    """Our optimiser with torch's interface, at a constant learning rate."""

    def __init__(self, parameters: list[nn.Parameter], config: OptimizerConfig) -> None:
        self.optimizer = Optimizer(parameters, config)

    def step(self) -> None:
        self.optimizer.step(self.optimizer.config.lr)


CASES: dict[str, tuple[dict[str, Any], Callable[[list[nn.Parameter]], torch.optim.Optimizer]]] = {
    "sgd": ({"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
    "nesterov": (
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (
        {"name": "adam", "lr": 0.1, "betas": (0.8, 0.99), "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.99), weight_decay=0.1),
    ),
    "adamw": (
        {"name": "adamw", "lr": 0.1, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ),
    "adam, decoupled": (
        {"name": "adam", "lr": 0.1, "weight_decay": 0.1, "decoupled": True},
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ),
    "rmsprop": (
        {"name": "rmsprop", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.1},
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_torch(name: str) -> None:
    settings, theirs = CASES[name]
    ours: Any = lambda p: Ours(p, OptimizerConfig(**settings))  # noqa: E731
    # The fused kernels round in another order.
    for mine, wanted in zip(step_by_hand(ours, 5), step_by_hand(theirs, 5), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


def test_lookahead_moves_the_slow_weights_and_restarts_from_them() -> None:
    plain = step_by_hand(lambda p: torch.optim.SGD(p, lr=0.1), 4)
    ours: Any = lambda p: Ours(p, OptimizerConfig(lr=0.1, lookahead_steps=2, lookahead_share=0.25))  # noqa: E731
    found = step_by_hand(ours, 4)
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(found[0], plain[0])
    slow = start + 0.25 * (plain[1] - start)
    torch.testing.assert_close(found[1], slow)
    moved = plain[3] - plain[1]  # plain SGD's steps do not depend on where they start
    torch.testing.assert_close(found[3], slow + 0.25 * moved)


def test_one_epoch_equals_a_plain_loop() -> None:
    config = RunConfig(
        optimizer=OptimizerConfig(lr=0.05, momentum=0.9),
        training=TrainingConfig(epochs=1, batch_size=16, clip=0.5),
        seed=3,
    )
    split, model = small_split(), network()
    reference = copy.deepcopy(model)
    history = train(model, split, LOSS, config).history
    order = torch.randperm(50, generator=torch.Generator().manual_seed(derived_seed(3, 0)))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    total = 0.0
    reference.train()
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(3, 0))
        for indices in order.split(16):
            loss = nn.functional.cross_entropy(reference(split.inputs[indices]), split.batch(indices)[1])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
            optimizer.step()
            total += loss.item() * len(indices)
    assert history[0].loss == pytest.approx(total / 50, rel=1e-12)
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


SETTINGS: list[dict[str, Any]] = [
    {"optimizer": {"momentum": 0.9, "nesterov": True}, "training": {"schedule": "cosine", "warm_up": 1}},
    {"optimizer": {"name": "adam", "lr": 0.01, "lookahead_steps": 3}},
    {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}, "training": {"l1": 1e-3}},
    {
        "optimizer": {"name": "rmsprop", "lr": 0.01, "momentum": 0.5},
        "training": {"schedule": "step", "milestones": [2]},
    },
    {"data": {"label_noise": 0.5, "label_noise_from": 2}, "training": {"norm_strength": 0.01, "norm_target": 3.0}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: str(each)[:40])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_after_any_epoch_gives_the_same_bits(settings: dict[str, Any], stop: int) -> None:
    config = RunConfig.from_dict(
        {**settings, "training": {"epochs": 4, "batch_size": 16, **settings.get("training", {})}}
    )
    whole = network()
    finished = train(whole, small_split(), LOSS, config)
    kept: list[bytes] = []
    train(network(), small_split(), LOSS, config, after_epoch=lambda progress: kept.append(pack(progress)))
    resumed = network(seed=5)
    again = train(resumed, small_split(), LOSS, config, state=unpack(kept[stop - 1]))
    assert again.history == finished.history
    assert weights(resumed.state_dict()) == weights(whole.state_dict())
    assert pack(again) == pack(finished)


def test_label_noise_starts_at_its_epoch() -> None:
    losses = {}
    for begin in (0, 2, 4):
        config = RunConfig.from_dict(
            {"data": {"label_noise": 1.0, "label_noise_from": begin}, "training": {"epochs": 4, "batch_size": 16}}
        )
        losses[begin] = [epoch.loss for epoch in train(network(), small_split(), LOSS, config).history]
    assert losses[4][:2] == losses[2][:2] and losses[4][2] != losses[2][2]
    assert losses[0][0] != losses[4][0]


def test_training_stops_early_and_on_divergence() -> None:
    def config(**training: Any) -> RunConfig:
        return RunConfig(training=TrainingConfig(epochs=5, batch_size=16, **training))

    assert len(train(network(), small_split(), LOSS, config(stop_below=100.0)).history) == 1
    assert len(train(network(), small_split(), LOSS, config(stop_below=0.0)).history) == 5
    wild = RunConfig.from_dict({"optimizer": {"lr": 1e300}, "training": {"epochs": 5, "norm_strength": 1.0}})
    found = train(network(), small_split(), LOSS, wild)
    assert found.diverged and len(found.history) < 5 and not math.isfinite(found.history[-1].loss)
    assert found.history_table()[-1]["loss"] in ("nan", "inf")


def test_schedules_at_points_worked_out_by_hand() -> None:
    optimizer = OptimizerConfig(lr=2.0)
    cosine = TrainingConfig(epochs=10, schedule="cosine", warm_up=2)
    assert [learning_rate(optimizer, cosine, at) for at in (0.0, 1.0, 2.0, 6.0, 10.0)] == pytest.approx(
        [0.0, 1.0, 2.0, 1.0, 0.0]
    )
    step = TrainingConfig(epochs=10, schedule="step", milestones=(3, 6), factor=0.5)
    assert [learning_rate(optimizer, step, at) for at in (2.99, 3.0, 6.5)] == [2.0, 1.0, 0.5]
    assert learning_rate(optimizer, TrainingConfig(), 7.3) == 2.0


def test_penalty_equals_its_formula() -> None:
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -4.0]]))
        model.bias.fill_(2.0)
    training = TrainingConfig(l1=0.1, norm_strength=0.5, norm_target=6.0)
    # 0.1·(3 + 4 + 2) + 0.5·((5 − 6)² + (2 − 6)²)
    assert torch.as_tensor(penalty(model, training)).item() == pytest.approx(0.9 + 8.5)
    assert penalty(model, TrainingConfig()) == 0.0


def test_damaged_training_states_are_refused() -> None:
    content = pack(TrainingState(network().state_dict(), {"steps": torch.tensor(1)}, ()))
    assert set(unpack(content).parameters) == set(network().state_dict())
    flipped = bytearray(content)
    flipped[-9] ^= 4
    for damaged in (b"", content[:50], content[:-3], bytes(flipped), b"\x08\0\0\0\0\0\0\0{}      "):
        with pytest.raises(DamagedFile):
            unpack(damaged)


def test_derived_seeds_differ() -> None:
    assert len({derived_seed(a, b) for a in range(20) for b in range(20)}) == 400
    assert derived_seed(1, 2) == derived_seed(1, 2) != derived_seed(12)
