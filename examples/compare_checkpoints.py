"""Compare two checkpoints of one network: the loss on the line between them, as a figure and a report.

    python examples/compare_checkpoints.py OUT_FOLDER

Replace `build`, `data` and the two files by yours. Here they are a small network that learns scikit-learn's digits: its
initialisation and its last epoch, saved as any training script saves them.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls


def build() -> nn.Module:
    """The network; its weights are not used, those of the checkpoints are."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def data() -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Training and held-out batches, in a fixed order."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[360:], order[:360]
    return [(x[part], y[part]) for part in train.split(500)], [(x[held_out], y[held_out])]


def train(batches: list[tuple[Tensor, Tensor]], start: Path, end: Path) -> None:
    """Write the initialisation, train, write the trained network."""
    torch.manual_seed(0)
    model = build()
    torch.save(model.state_dict(), start)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        for inputs, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    torch.save(model.state_dict(), end)


def main() -> None:
    """Train, measure both data sets, draw, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    start, end = arguments.folder / "init.pt", arguments.folder / "final.pt"
    train_batches, held_out = data()
    train(train_batches, start, end)

    line = ls.Line(start, end)
    profiles = [
        ls.profile(build(), line, batches, loss="cross_entropy", alphas=50, label=label)
        for label, batches in (("training images", train_batches), ("held-out images", held_out))
    ]
    for profile in profiles:
        print(f"{profile.label}: {profile.verdict(tolerance=1e-3)}")
    axes = profiles[0].plot(beside=profiles[1:])
    axes.figure.savefig(arguments.folder / "line.png", dpi=150)
    ls.report(profiles, arguments.folder / "report.html")
    print(f"wrote line.png and report.html to {arguments.folder}")


if __name__ == "__main__":
    main()
