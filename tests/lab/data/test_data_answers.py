"""Networks trained on synthetic data come close to the known optimum, and never below it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lerpscape.lab.config import OptimizerConfig, RunConfig, TrainingConfig
from lerpscape.lab.data import DataSet, load
from lerpscape.lab.models import build
from lerpscape.lab.training import train
from lerpscape.networks.losses import find_loss


def held_out_losses(
    found: DataSet, model_name: str, loss_name: str, epochs: int, lr: float, **options: object
) -> Tensor:
    """Per-example losses on the test part after training with Adam."""
    loss = find_loss(loss_name)
    model = build(model_name, inputs=found.inputs, outputs=found.outputs, seed=0, **options)
    training = TrainingConfig(epochs=epochs, batch_size=100, schedule="cosine")
    train(model, found.train, loss, RunConfig(optimizer=OptimizerConfig(name="adam", lr=lr), training=training))
    model.eval()
    with torch.no_grad():
        parts = [loss.values(model(inputs), targets) for inputs, targets in found.test.batches(1000)]
    return torch.cat(parts).double()


def test_a_linear_model_reaches_the_noise_of_the_regression() -> None:
    found = load("teacher_regression", examples=4000, dimensions=5, outputs=2, noise=0.5)
    losses = held_out_losses(found, "fully_connected", "squared_error", epochs=20, lr=0.02, widths=[])
    error = float(losses.std()) / math.sqrt(len(losses))
    # the least squares of 4000 examples add 0.5 · 6 / 4000 in expectation
    assert float(losses.mean()) == pytest.approx(found.facts["bayes_error"], abs=4 * error + 0.005)


def test_logistic_regression_reaches_the_loss_of_the_blobs() -> None:
    """The cross-entropy of the posterior 1/(1 + e^−m), m ~ N(δ²/2, δ²): E log(1 + e^−m), by quadrature."""
    found = load("gaussian_blobs", examples=5000, dimensions=5, distance=2.0)
    losses = held_out_losses(found, "fully_connected", "cross_entropy", epochs=10, lr=0.02, widths=[])
    m = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    density = (-m.square() / 2).exp() / math.sqrt(2 * math.pi)
    best = float(torch.trapezoid(density * torch.nn.functional.softplus(-(2 + 2 * m)), m))
    error = float(losses.std()) / math.sqrt(len(losses))
    assert float(losses.mean()) == pytest.approx(best, abs=4 * error + 0.005)


def test_an_lstm_comes_close_to_the_entropy_of_the_chain_and_not_below() -> None:
    """Below it would mean that the targets leak into the inputs."""
    found = load("markov_chain", examples=1000, length=20, vocabulary=5)
    losses = held_out_losses(found, "lstm", "cross_entropy", epochs=8, lr=0.01, width=16, depth=1)
    error = float(losses.std()) / math.sqrt(len(losses))
    entropy = found.facts["entropy_rate"]
    assert entropy - 4 * error < float(losses.mean()) < entropy + 0.03
    assert entropy + 0.1 < math.log(5)  # guessing is clearly worse
