"""Every study of one network that learns scikit-learn's digits: starts, onset, pairs, layers, plane, trajectory, paths.

    python examples/gallery.py docs/images      # the pictures of docs/gallery.md, about half a minute
    python examples/gallery.py FOLDER --small   # the same of a shorter training, on fewer images

Prints what each study says.
"""

import argparse
import math
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

BATCH, RATE, WILD = 64, 0.02, 0.12
SNAPSHOTS = (0, 1, 2, 4, 8, 15, 30, 50, 75, 100, 150, 200, 300, 400, 500, 600)


def network() -> nn.Module:
    """Three hidden layers of 48."""
    sizes = (64, 48, 48, 48)
    hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(48, 10))


def trained(seed: int, keep: tuple[int, ...], rate: float = RATE) -> dict[str, dict[str, torch.Tensor]]:
    """Snapshots of a run of Adam, up to the last one asked for; its lines rise more often than those of SGD."""
    torch.manual_seed(seed)
    model = network()
    images, labels = (torch.cat(parts) for parts in zip(*train_data(), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    kept, steps = {}, keep[-1]
    for step in range(steps + 1):
        if step in keep:
            kept[f"step {step}"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return kept


def save(study: Any, folder: Path, name: str) -> None:
    """Draw one study and print what it says."""
    save_figure(study if isinstance(study, Figure) else study.figure(), str(folder / f"gallery-{name}.png"))
    if not isinstance(study, Figure):
        print(f"{name}:\n{study.summary}")


def profiles_figure(profiles: list[ls.Profile]) -> Figure:
    """Profiles in one picture."""
    with style():
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        profiles[0].plot(figure.subplots(), beside=profiles[1:])
    for one in profiles:
        print(f"{one.label}: max_rise {one.max_rise:.4g}, barrier_mean {one.barrier('mean'):.4g} {one.unit}")
    return figure


def main() -> None:
    """All pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    folder, model = arguments.folder, network()
    data = train_data()[:1] if arguments.small else train_data()
    keep = SNAPSHOTS[:8] if arguments.small else SNAPSHOTS
    ends_of_run = (0, keep[-1])
    snapshots = trained(0, keep)
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
    save(ls.studies.onset(model, trained(0, keep, WILD), data, tolerance=1e-3), folder, "onset")
    (start_1, end_1), (start_2, end_2) = (trained(seed, ends_of_run).values() for seed in (1, 2))
    starts = {"init 0": start, "init 1": start_1, "init 2": start_2}
    optima = {"opt 0": end, "opt 1": end_1, "opt 2": end_2}
    groups = {label: label.split()[0] for label in (*starts, *optima)}
    save(ls.studies.pairwise(model, starts | optima, data, groups=groups, alphas=25), folder, "pairwise")
    save(ls.studies.layerwise(model, start, end, data, rest="end"), folder, "layerwise")
    save(ls.studies.plane(model, start, start_1, end, data, trajectory=snapshots), folder, "plane")
    save(ls.studies.trajectory(model, snapshots, data), folder, "trajectory")
    epochs = 10 if arguments.small else 200
    between = {
        "line between two optima": ls.Line(end, end_1),
        "line after aligning units": ls.Line(end, ls.paths.aligned(model, end, end_1)),
        "Bezier curve, trained": ls.studies.connect(model, end, end_1, data, epochs=epochs, learning_rate=0.1),
    }
    save(
        profiles_figure([ls.profile(model, path, data, label=name) for name, path in between.items()]),
        folder,
        "connect",
    )


if __name__ == "__main__":
    main()
