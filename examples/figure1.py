"""The layout of figure 1 of Lucas et al. (2021) on real data: a plane through two initialisations and an optimum.

A small convolutional network learns Fashion-MNIST from one initialisation, and snapshots are kept on the way. Drawn are
the training loss on the plane through that initialisation, an unrelated one and the optimum, with the shadow of the
trajectory and the lines from both initialisations; and beside it the loss along training and along both lines.

    LERPSCAPE_DATA=folder python examples/figure1.py figure1.png    # two to seven minutes
    python examples/figure1.py figure1.png --small                  # seconds: scikit-learn's digits, fewer points

The folder holds Fashion-MNIST (see docs/data.md). Prints what it measured.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import lerpscape as ls
from lerpscape.lab.data import load
from lerpscape.plots.style import save_figure

MEASURED, EPOCHS, BATCH, RATE = 6_000, 5, 64, 0.05


def network(side: int) -> nn.Module:
    """Two convolutions and two linear layers for square images; 20,522 parameters where the side is 28."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (side // 4) ** 2, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


def trained(images: torch.Tensor, labels: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    """Snapshots of SGD from seed 0: dense at first, where the network moves most."""
    torch.manual_seed(0)
    model = network(images.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    steps = EPOCHS * (len(images) // BATCH)
    keep = {0, *np.unique(np.geomspace(4, steps, 24).astype(int)).tolist()}
    kept, step = {}, 0
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            if step in keep:
                kept[f"step {step}"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + np.cos(np.pi * step / steps)) / 2
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            step += 1
    kept[f"step {step}"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return kept


def main() -> None:
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    side, points = (8, 9) if arguments.small else (28, 31)
    began = time.perf_counter()
    train = load("digits" if arguments.small else "fashion_mnist", normalize=True).train
    images, labels = train.batch(slice(0, len(train)))
    snapshots = trained(images, labels)
    start, *_, end = snapshots.values()
    print(f"trained in {time.perf_counter() - began:.0f} s, {len(snapshots)} snapshots")
    data = list(zip(images[:MEASURED].split(500), labels[:MEASURED].split(500), strict=True))
    other = ls.paths.fresh_init(lambda: network(side), seed=1)
    plane = ls.studies.plane(
        network(side), start, other, end, data, trajectory=snapshots, points=points, margin=0.15, alphas=50
    )
    save_figure(plane.figure(), arguments.out)
    print(plane.summary)
    for name, curve in zip(("own init", "other init"), plane.lines, strict=True):
        print(f"line from {name}: loss {curve[0]:.3f} to {curve[-1]:.3f} nats, max_rise {ls.max_rise(curve):.4f} nats")
    print(f"training: max_rise {ls.max_rise(plane.along):.4f} nats over {len(plane.along)} snapshots")
    print(f"wrote {arguments.out} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
