"""A pre-trained and a fine-tuned network: what each α between them is worth on the old and on the new task.

    python examples/fine_tuned_pair.py FIGURE.png

A network learns the digits 0–4 and is fine-tuned on 5–9, which makes it forget. On the line between both checkpoints
the loss of each task is measured, and the loss of both together shows the α to take (weight-space ensembling, Wortsman
et al. 2022). `line.only(…)` then moves one layer at a time: which layer's change makes the old task worse?
"""

import argparse
import copy

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls


def task(x: Tensor, y: Tensor, classes: range) -> list[tuple[Tensor, Tensor]]:
    """The images of some classes in batches."""
    rows = torch.isin(y, torch.tensor(list(classes)))
    return list(zip(x[rows].split(100), y[rows].split(100), strict=True))


def fit(model: nn.Module, batches: list[tuple[Tensor, Tensor]], rate: float) -> dict[str, Tensor]:
    """Train in place; a copy of the trained tensors."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(20):
        for inputs, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return copy.deepcopy(model.state_dict())


def main() -> None:
    """Pre-train, fine-tune, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure")
    arguments = parser.parse_args()
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
    old, new = task(x, y, range(5)), task(x, y, range(5, 10))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    pretrained = fit(model, old, 0.05)
    line = ls.Line(pretrained, fit(model, new, 0.02))

    tasks = {"old task": old, "new task": new, "both": old + new}
    profiles = {label: ls.profile(model, line, data, alphas=41, label=label) for label, data in tasks.items()}
    both = profiles["both"]
    best = float(both.alphas[both.loss.argmin()])
    for label, profile in profiles.items():
        at_best = float(profile.loss[both.loss.argmin()])
        print(f"{label}: {profile.loss[0]:.3f} nats before, {profile.loss[-1]:.3f} after, {at_best:.3f} at {best:.2f}")
    for layer in ("0", "2", "4"):
        alone = ls.profile(model, line.only(layer, rest="start"), old, alphas=41)
        print(f"old task, layer {layer} alone moves: from {alone.loss[0]:.3f} to {alone.loss[-1]:.3f} nats")

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    profiles["both"].plot(axes, beside=[profiles["old task"], profiles["new task"]])
    axes.axvline(best, linestyle=":", color="grey")
    axes.set(xlabel="α   (0: pre-trained, 1: fine-tuned)", yscale="log")
    axes.legend()
    figure.savefig(arguments.figure, dpi=150)
    print(f"wrote {arguments.figure}")


if __name__ == "__main__":
    main()
