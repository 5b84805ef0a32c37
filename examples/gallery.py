"""Draw the pictures of docs/gallery.md: every study on networks that learn scikit-learn's handwritten digits.

usage: python examples/gallery.py docs/images

Takes about half a minute; prints what each study found.
"""

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import lerpscape as ls
from lerpscape.lab.data.digits import train_data
from lerpscape.plots.style import save_figure, style

STEPS, BATCH, RATE, WILD = 600, 64, 0.02, 0.12
KEPT = (0, 1, 2, 4, 8, 15, 30, 50, 75, 100, 150, 200, 300, 400, 500, STEPS)


def network() -> nn.Module:
    """Three hidden layers of 48."""
    sizes = (64, 48, 48, 48)
    hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(48, 10))


def trained(seed: int, keep: tuple[int, ...] = (0, STEPS), rate: float = RATE) -> dict[str, dict[str, torch.Tensor]]:
    """Snapshots of a run of Adam, whose lines rise more often than those of SGD."""
    torch.manual_seed(seed)
    model = network()
    images, labels = (torch.cat(parts) for parts in zip(*train_data(), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    kept = {}
    for step in range(STEPS + 1):
        if step in keep:
            kept[f"step {step}"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2
        chosen = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return kept


def save(found: Any, folder: Path, name: str) -> None:
    """Draw one study and print what it says."""
    save_figure(found if isinstance(found, Figure) else found.figure(), str(folder / f"gallery-{name}.png"))
    if not isinstance(found, Figure):
        print(f"{name}:\n{found.summary}")


def profiles_figure(profiles: list[ls.Profile]) -> Figure:
    """Profiles in one picture."""
    with style():
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        profiles[0].plot(figure.subplots(), beside=profiles[1:])
    for each in profiles:
        print(f"{each.label}: max_rise {each.max_rise:.4g}, barrier_mean {each.barrier('mean'):.4g} {each.unit}")
    return figure


def main(folder: Path) -> None:
    """All pictures."""
    model, data = network(), train_data()
    snapshots = trained(0, KEPT)
    start, *_, end = snapshots.values()
    line = ls.Line(start, end)
    paths = {
        "line": line,
        "homogeneous biases": line.homogeneous_biases(model),
        "last layer at the end": line.only("0", "2", "4", rest="end"),
        "spherical line": ls.SphericalLine(start, end),
    }
    save(profiles_figure([ls.profile(model, path, data, label=name) for name, path in paths.items()]), folder, "paths")
    save(ls.studies.starts(model, start, end, data, factory=network, seed=100), folder, "starts")
    save(ls.studies.onset(model, trained(0, KEPT, WILD), data, tolerance=1e-3), folder, "onset")
    runs = {seed: trained(seed) for seed in (1, 2)}
    ends = {"init 0": start, "init 1": runs[1]["step 0"], "init 2": runs[2]["step 0"]}
    optima = {"opt 0": end, "opt 1": runs[1][f"step {STEPS}"], "opt 2": runs[2][f"step {STEPS}"]}
    groups = {label: label.split()[0] for label in (*ends, *optima)}
    save(ls.studies.pairwise(model, ends | optima, data, groups=groups, alphas=25), folder, "pairwise")
    save(ls.studies.layerwise(model, start, end, data, rest="end"), folder, "layerwise")
    save(ls.studies.plane(model, start, ends["init 1"], end, data, trajectory=snapshots), folder, "plane")
    save(ls.studies.trajectory(model, snapshots, data), folder, "trajectory")
    other = optima["opt 1"]
    between = {
        "line between two optima": ls.Line(end, other),
        "line after aligning units": ls.Line(end, ls.paths.aligned(model, end, other)),
        "Bezier curve, trained": ls.studies.connect(model, end, other, data, epochs=200, learning_rate=0.1),
    }
    save(
        profiles_figure([ls.profile(model, path, data, label=name) for name, path in between.items()]),
        folder,
        "connect",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
