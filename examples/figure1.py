"""The layout of figure 1 of Lucas et al. (2021) on real data: a plane through two initialisations and an optimum.

A small convolutional network learns Fashion-MNIST from one initialisation, and snapshots are kept on the way. Drawn are
the training loss on the plane through that initialisation, an unrelated one and the optimum, with the shadow of the
trajectory and the lines from both initialisations; and beside it the loss along training and along both lines.

usage: python examples/figure1.py figure1.png [LERPSCAPE_DATA/FashionMNIST/raw]

Takes about five minutes on two cores; prints what it measured.
"""

import gzip
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import lerpscape as ls
from lerpscape.plots import save_figure

TRAINED, MEASURED, EPOCHS, BATCH, RATE = 20_000, 2_000, 10, 64, 0.05


def network() -> nn.Module:
    """Two convolutions and two linear layers, 20,522 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


def idx(file: Path) -> torch.Tensor:
    """An idx file, compressed or not."""
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    dimensions = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * k : 8 + 4 * k], "big") for k in range(dimensions)]
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())


def fashion(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The first training images, with mean 0 and deviation 1 over all pixels, and their classes."""
    files = [next(iter(folder.glob(f"{name}*"))) for name in ("train-images", "train-labels")]
    images, labels = (idx(file)[:TRAINED] for file in files)
    pixels = images.float()[:, None] / 255
    return (pixels - pixels.mean()) / pixels.std(), labels.long()


def trained(images: torch.Tensor, labels: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    """Snapshots of SGD from seed 0: dense at first, where the network moves most."""
    torch.manual_seed(0)
    model = network()
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


def main(out: str, folder: Path) -> None:
    began = time.perf_counter()
    images, labels = fashion(folder)
    snapshots = trained(images, labels)
    start, end = list(snapshots.values())[0], list(snapshots.values())[-1]
    print(f"trained in {time.perf_counter() - began:.0f} s, {len(snapshots)} snapshots")
    data = [(images[:MEASURED], labels[:MEASURED])]
    other = ls.fresh_init(network, seed=1)
    found = ls.plane(network(), start, other, end, data, trajectory=snapshots, points=31, margin=0.15, alphas=50)
    save_figure(found.figure(), out)
    print(found.summary())
    for name, curve in zip(("own init", "other init"), found.lines, strict=True):
        print(f"line from {name}: loss {curve[0]:.3f} to {curve[-1]:.3f} nats, max_rise {ls.max_rise(curve):.4f} nats")
    print(f"training: max_rise {ls.max_rise(found.along):.4f} nats over {len(found.along)} snapshots")
    print(f"wrote {out} after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    place = sys.argv[2] if len(sys.argv) > 2 else Path(os.environ.get("LERPSCAPE_DATA", "data"), "FashionMNIST", "raw")
    main(sys.argv[1], Path(place))
