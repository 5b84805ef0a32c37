"""Whole certificates against 20,000-point grids in float64: random networks of every layer, trained and untrained."""

import copy

import numpy as np
import pytest
import torch
from random_networks import ACTIVATIONS, MORE_ACTIVATIONS, network, outputs
from torch import nn

import lerpscape as ls
from lerpscape.certificates import mean_bounds
from lerpscape.certificates.brackets import Piece
from lerpscape.certificates.loss_enclosures import LOSS_RULES
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import EndStatistics
from lerpscape.networks.losses import LOSSES
from lerpscape.networks.undisturbed import undisturbed

# On first use of forward mode torch 2.13 warns about its own torch.jit.script.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*not yet implemented the batching rule"),  # the oracle is slow for Mish
]

POINTS = 20_001
LOSS_NAMES = tuple(LOSS_RULES)


def trained(model, x, y, seed):
    """What 40 steps of SGD make of a network, its running statistics included."""
    end = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(end.parameters(), lr=(0.05, 0.3)[seed % 2])
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(end(x), y).backward()
        optimizer.step()
    return end.eval()


def curve(model, line, x, targets, loss, policy, alphas):
    """Mean loss and its derivative at every α, from outputs by forward-mode differentiation."""
    on_path = ModelOnPath(model, line, "cpu", torch.float64)
    fixed = on_path.end_statistics() if isinstance(policy, EndStatistics) else {}
    at = on_path.at(0.5) | fixed
    velocity = {name: moves for name, moves in on_path.velocity(0.5).items() if name not in fixed}

    losses, slopes = [], []
    for part in torch.tensor(alphas - 0.5).split(2_000):
        z, rate = outputs(model, at, velocity, x, part)
        wanted = [target.expand(len(part), *target.shape) for target in targets]

        def mean_of(z, wanted=wanted):
            return torch.stack([LOSSES[loss].values(z[:, i], wanted[i]) for i in range(len(wanted))]).mean(0)

        with torch.no_grad():
            value, slope = torch.func.jvp(mean_of, (z,), (rate,))
        losses.append(value)
        slopes.append(slope)
    return torch.cat(losses).numpy(), torch.cat(slopes).numpy()


def escapes(seed, activations=ACTIVATIONS):
    """What of a random network's certificate its curve breaks, with how far; nothing for a sound one."""
    model, end, x, y, policy = network(seed, activations=activations)
    with undisturbed(model), torch.enable_grad():
        end = trained(model, x, y, seed) if seed // 3 % 2 else end
    line, loss = ls.Line(model, end), LOSS_NAMES[seed % len(LOSS_NAMES)]
    shape = model(x).shape
    generator = torch.Generator().manual_seed(seed)
    targets = y if loss == "cross_entropy" else torch.rand(shape, generator=generator, dtype=torch.float64).round()
    found = ls.certify(model, line, [(x, targets)], loss=loss, batch_norm=policy, budget=32)
    grid = np.unique(np.concatenate([np.linspace(0, 1, POINTS), found.edges]))
    losses, slopes = curve(model, line, x, targets, loss, policy, grid)
    true = ls.max_rise(losses)
    # the grid's own rounding: sums of a few hundred terms in float64, and θ(½) + shift in place of θ(α)
    size = 1e-10 * (1 + np.abs(losses).max() + np.abs(slopes).max())
    wrong = {"lower": found.lower - true, "upper": true - found.upper}
    for name, (low, high), values in (
        ("loss", found.loss_bounds(grid), losses),
        ("slope", found.slope_bounds(grid), slopes),
    ):
        wrong[name] = max(float((low - values).max()), float((values - high).max()))
    return {name: by for name, by in wrong.items() if not by <= size}


@pytest.mark.parametrize("seed", [0, 5, 37, 116])
def test_nothing_leaves_a_certificate(seed):
    assert not escapes(seed)


@pytest.mark.parametrize("seed", [600, 601, 602, 603])
def test_nothing_leaves_a_certificate_with_other_activations(seed):
    assert not escapes(seed, MORE_ACTIVATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_nothing_leaves_a_hundred_certificates_with_other_activations(block):
    for seed in range(700 + 10 * block, 710 + 10 * block):
        assert not escapes(seed, MORE_ACTIVATIONS), seed


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_nothing_leaves_three_hundred_certificates(block):
    for seed in range(30 * block, 30 * block + 30):
        assert not escapes(seed), seed


def test_a_certificate_made_too_narrow_is_caught(monkeypatch):
    original = mean_bounds._piece

    def narrow(*arguments):
        found = original(*arguments)
        low, high = np.array(found.low), np.array(found.high)
        middle, half = 0.5 * (low + high), 0.15 * (high - low)
        return Piece(found.left, found.right, tuple(middle - half), tuple(middle + half))

    monkeypatch.setattr(mean_bounds, "_piece", narrow)
    assert any(escapes(seed) for seed in (0, 37, 111))
