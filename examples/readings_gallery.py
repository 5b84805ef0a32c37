"""Why does the loss do that? Layers, examples, batch norm, curvature, features, plateaus and scale of three networks.

    python examples/readings_gallery.py docs/images/readings    # the pictures of the docs, about a minute on one core
    python examples/readings_gallery.py FOLDER --small          # the same with fewer images

The networks learn scikit-learn's digits.
"""

import argparse
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.plots.style import save_figure


def batches(x: Tensor, y: Tensor, size: int, seed: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, the same every time."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(size):
            yield x[rows], y[rows]


def trained(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    epochs: int,
    size: int = 20,
    momentum: float = 0.9,
    push: float = 0,
) -> nn.Module:
    """The model after plain SGD; `push` draws every tensor to this norm, far from its start."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.train()
    for inputs, targets in batches(x, y, size, seed=0, epochs=epochs):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        if push:
            loss = loss + sum(0.1 * (p.norm() - push) ** 2 for p in model.parameters())
        loss.backward()
        optimizer.step()
    return model.eval()


def plain(depth: int, gain: float) -> nn.Module:
    """Fully connected ReLU layers, 64 wide, from a scaled He initialisation without biases."""
    layers = [part for _ in range(depth - 1) for part in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10)).double()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=gain * (2 / 64) ** 0.5 if name.endswith("weight") else 0.0)
    return model


def normed() -> nn.Module:
    """A small convolutional network with batch norm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    ).double()


def main() -> None:
    """Train, measure, draw, and print what each result says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    folder, (examples, points) = arguments.folder, (100, 3) if arguments.small else (600, 11)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:examples] / 16), torch.tensor(labels[:examples])
    data = [(x, y)]

    start = plain(4, 1.0)
    pushed = trained(deepcopy(start), x, y, lr=0.05, epochs=20, push=20.0)
    line = ls.Line(start, pushed)
    parts = ls.studies.layer_contributions(start, line, data)
    print(parts.summary)
    save_figure(parts.figure(), str(folder / "layers.png"))
    curves = ls.profiles.example_curves(start, line, data)
    print(curves.verdict(1e-3))
    save_figure(curves.figure(), str(folder / "examples.png"))

    net = normed()
    end = trained(deepcopy(net), x, y, lr=0.05, epochs=5)
    sweep = ls.studies.batch_norm_sweep(net, ls.Line(net, end), data, estimate_from=data, alphas=2 * points + 4)
    print(sweep.summary)
    save_figure(sweep.figure(), str(folder / "policies.png"))
    policy = ls.Recalibrate(data)
    similarity = ls.geometry.feature_similarity(net, ls.Line(net, end), data, batch_norm=policy)
    linearity = ls.geometry.feature_linearity(net, ls.Line(net, end), data, batch_norm=policy)
    save_figure(similarity.figure(linearity=linearity), str(folder / "features.png"))

    torch.manual_seed(2)
    deep = plain(6, 0.6)
    final = trained(deepcopy(deep), x, y, lr=0.2, epochs=30, size=10, momentum=0.0)
    line = ls.Line(deep, final)
    ends, biases = ls.studies.plateau_ends(deep, line, data), ls.studies.bias_study(deep, line, data, eps=0.1)
    print(ends.summary)
    print(biases.summary)
    save_figure(ends.figure(biases=biases), str(folder / "plateaus.png"))
    scale = ls.studies.scale_invariance(deep, deep, final, data)
    print(scale.summary)
    save_figure(scale.figure(), str(folder / "scale.png"))
    bent = ls.curvature(deep, line, data, alphas=points)
    print(bent.summary)
    save_figure(bent.figure(), str(folder / "curvature.png"))


if __name__ == "__main__":
    main()
