"""Runs an hour of the laboratory's training loop against the usual one and against its matrix products alone.

usage: python benchmarks/bench_training.py [rounds]

One thread, interleaved rounds; each measures one epoch over 60,000 Fashion-MNIST images (LERPSCAPE_DATA), or random
pixels of that shape where they are not there. A run is 10 such epochs. Ratios are medians over rounds of the ratio
within the round. Results go to benchmarks/results/training.json.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import machine
from torch.utils.data import DataLoader, TensorDataset

from lerpscape.base.saving import versions
from lerpscape.lab.config import OptimizerConfig, RunConfig, TrainingConfig
from lerpscape.lab.data import Split, load
from lerpscape.lab.models import build
from lerpscape.lab.training import train
from lerpscape.networks.losses import find_loss

EPOCHS_OF_A_RUN = 10
WIDTHS = {"784-128-10": [128], "784-1024-1024-10": [1024, 1024]}
OPTIMIZERS = {
    "sgd": OptimizerConfig(name="sgd", lr=0.01, momentum=0.9),
    "adam": OptimizerConfig(name="adam", lr=0.001),
}


def training_split() -> tuple[Split, str]:
    if os.environ.get("LERPSCAPE_DATA"):
        return load("fashion_mnist").train, "Fashion-MNIST, 60,000 images"
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.randint(10, (60_000,), generator=generator), classes=10), "60,000 random images"


def network(widths: list[int]) -> torch.nn.Module:
    return build("fully_connected", inputs=(1, 28, 28), outputs=10, seed=0, widths=widths)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def usual_epoch(
    split: Split, floats: tuple[torch.Tensor, torch.Tensor], widths: list[int], batch: int, name: str
) -> None:
    """The loop of most tutorials: a DataLoader over tensors in memory, autograd, torch's optimiser as it comes."""
    model = network(widths)
    chosen = OPTIMIZERS[name]
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=chosen.lr, momentum=chosen.momentum)
        if name == "sgd"
        else torch.optim.Adam(model.parameters(), lr=chosen.lr)
    )
    total = 0.0
    for images, labels in DataLoader(TensorDataset(*floats), batch_size=batch, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(images)


def our_epoch(split: Split, widths: list[int], batch: int, name: str) -> None:
    config = RunConfig(optimizer=OPTIMIZERS[name], training=TrainingConfig(epochs=1, batch_size=batch))
    train(network(widths), split, find_loss("cross_entropy"), config)


def matrix_products(widths: list[int], batch: int, examples: int) -> None:
    """The products of one epoch and nothing else: forward, gradient of the weights, gradient of the inputs."""
    sizes = [784, *widths, 10]
    layers = list(pairwise(sizes))
    weights = [torch.rand(out, into) for into, out in layers]
    inputs = [torch.rand(batch, into) for into, _ in layers]
    gradients = [torch.rand(batch, out) for _, out in layers]
    for _ in range(examples // batch):
        for number, weight in enumerate(weights):
            torch.mm(inputs[number], weight.T)
            torch.mm(gradients[number].T, inputs[number])
            if number:
                torch.mm(gradients[number], weight)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    split, data = training_split()
    floats = split.batch(slice(None))
    found = []
    for network_name, widths in WIDTHS.items():
        for batch in (128, 512):
            for optimizer in OPTIMIZERS:
                times: dict[str, list[float]] = {"usual": [], "lerpscape": [], "matrix products": []}
                for _ in range(rounds):
                    times["usual"].append(seconds(lambda: usual_epoch(split, floats, widths, batch, optimizer)))  # noqa: B023
                    times["lerpscape"].append(seconds(lambda: our_epoch(split, widths, batch, optimizer)))  # noqa: B023
                    times["matrix products"].append(seconds(lambda: matrix_products(widths, batch, len(split))))  # noqa: B023
                ours = times["lerpscape"]
                faster = [a / b for a, b in zip(times["usual"], ours, strict=True)]
                share = [a / b for a, b in zip(ours, times["matrix products"], strict=True)]
                row = {
                    "network": network_name,
                    "batch": batch,
                    "optimizer": optimizer,
                    "seconds per epoch": {name: statistics.median(each) for name, each in times.items()},
                    "runs per hour": 3600 / (EPOCHS_OF_A_RUN * statistics.median(ours)),
                    "times faster than the usual loop": [statistics.median(faster), min(faster), max(faster)],
                    "times its matrix products": [statistics.median(share), min(share), max(share)],
                }
                found.append(row)
                print(
                    f"{network_name:>17} batch {batch:>3} {optimizer:>4}: {row['runs per hour']:6.0f} runs/hour of "
                    f"{EPOCHS_OF_A_RUN} epochs, {statistics.median(faster):.2f}× the usual loop "
                    f"[{min(faster):.2f}, {max(faster):.2f}], {statistics.median(share):.2f}× its matrix products",
                    flush=True,
                )
    environment = {"machine": machine(), "data": data, "threads": 1, "rounds": rounds, **versions()}
    result = Path(__file__).parent / "results" / "training.json"
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps({"environment": environment, "results": found}, indent=1) + "\n")
    print(f"wrote {result}")


if __name__ == "__main__":
    main()
