"""Time to a verdict of certify(), against the loss-and-derivative evaluations at one α that it equals.

usage: python benchmarks/bench_certify.py [--rounds N] [--workers N] [WORDS …]

With words, only the cases whose name has one of them; other results are kept. Networks are trained on real images, on
one thread: scikit-learn's digits, and Fashion-MNIST where the environment variable LERPSCAPE_DATA names a folder with
FashionMNIST/raw. Results go to benchmarks/results/certify.json.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls

Data = tuple[Tensor, Tensor]


def digits() -> Data:
    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def fashion(examples: int) -> Data:
    folder = Path(os.environ["LERPSCAPE_DATA"]) / "FashionMNIST" / "raw"

    def read(name: str, offset: int) -> np.ndarray:
        plain = folder / name
        content = plain.read_bytes() if plain.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=offset)

    images = read("train-images-idx3-ubyte", 16).reshape(-1, 784)[:examples]
    x = torch.tensor(images / 255.0, dtype=torch.float32)
    labels = torch.tensor(read("train-labels-idx1-ubyte", 8)[:examples].astype(np.int64))
    return (x - x.mean()) / x.std(), labels


def trained(
    data: Data, sizes: tuple[int, ...], activation: Callable[[], nn.Module], rate: float, epochs: int, name: str
):
    """A network and the line from its initialisation to what plain SGD or Adam makes of it."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), activation()]
    model = nn.Sequential(*layers[:-1])
    start = copy.deepcopy(model.state_dict())
    optimizer = (torch.optim.Adam if name == "adam" else torch.optim.SGD)(model.parameters(), lr=rate)
    x, y = data
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model, ls.Line(start, model)


def pushed(model: nn.Module, line: ls.Line, by: float):
    """The same line with its end pushed on beyond the trained network."""
    return model, ls.Line(line.start.tensors, line.at(by))


def measured(
    name: str, model: nn.Module, line: ls.Line, data: Data, rounds: int, workers: int, gap: float
) -> dict[str, object]:
    x, y = data
    batches = list(zip(x.split(2000), y.split(2000), strict=True))
    seconds, each = [], []
    for _ in range(rounds):
        found = ls.certify(model, line, batches, budget=600, gap=gap, workers=workers)
        seconds.append(found.seconds)
        began = time.perf_counter()
        ls.profile(model, line, batches, alphas=3, dtype=torch.float64)
        each.append((time.perf_counter() - began) / 3)
    took, one = statistics.median(seconds), statistics.median(each)
    profile = ls.profile(model, line, batches, alphas=201 if len(x) < 10_000 else 21)
    row = {
        "examples": len(x),
        "distance": round(profile.distance, 2),
        "verdict": found.verdict,
        "stopped": found.stopped,
        "lower": found.lower,
        "upper": found.upper,
        "max_rise_on_a_grid": profile.max_rise,
        "points_of_the_grid": len(profile.alphas),
        "evaluations": found.evaluations,
        "intervals": found.intervals,
        "undecided": len(found.undecided),
        "narrowest": float(np.diff(found.edges).min()),
        "workers": workers,
        "median_seconds": took,
        "seconds_range": [min(seconds), max(seconds)],
        "rounds": rounds,
        "float64_evaluations_with_derivative_it_equals": round(took / one, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(
        f"{name}: {found.verdict} [{found.lower:.3g}, {found.upper:.3g}], {found.evaluations} intervals, {took:.1f} s",
        flush=True,
    )
    return row


def cases() -> dict[str, Callable[[], tuple[nn.Module, ls.Line, Data, float]]]:
    """Every case by name: model, line, data and the gap that is asked for."""

    def case(data, sizes, activation, rate, epochs, optimizer, by=1.0, gap=0.25):
        def made():
            images = data()
            model, line = trained(images, sizes, activation, rate, epochs, optimizer)
            return *(pushed(model, line, by) if by != 1 else (model, line)), images, gap

        return made

    small = (64, 128, 128, 10)
    found = {
        "digits 64-128-128-10 ReLU, SGD 0.05": case(digits, small, nn.ReLU, 0.05, 20, "sgd"),
        "digits 64-128-128-10 tanh, SGD 0.1": case(digits, small, nn.Tanh, 0.1, 30, "sgd"),
        "digits 64-128-128-10 ReLU, Adam 0.01": case(digits, small, nn.ReLU, 0.01, 20, "adam"),
        "digits 64-128-128-10 ReLU, pushed to 4 times the distance": case(
            digits, small, nn.ReLU, 0.05, 20, "sgd", by=4.0
        ),
        "digits 64-128-128-128-128-10 ReLU, SGD 0.05": case(digits, (64, *[128] * 4, 10), nn.ReLU, 0.05, 20, "sgd"),
        "digits 64-512-512-10 ReLU, SGD 0.05": case(digits, (64, 512, 512, 10), nn.ReLU, 0.05, 20, "sgd"),
    }
    for gap in (1.0, 0.5, 0.25, 0.1, 0.05):
        found[f"bracket: digits 64-128-128-10 ReLU, pushed to 4 times the distance, upper/lower {1 + gap:g}"] = case(
            digits, small, nn.ReLU, 0.05, 20, "sgd", by=4.0, gap=gap
        )
    if "LERPSCAPE_DATA" in os.environ:
        for width in (256, 1024):
            shape = (784, width, width, 10)
            text = f"784-{width}-{width}-10"
            found[f"Fashion-MNIST 1,500 images {text} ReLU, SGD 0.1"] = case(
                lambda: fashion(1500), shape, nn.ReLU, 0.1, 20, "sgd"
            )
            for word, activation in (("ReLU", nn.ReLU), ("tanh", nn.Tanh)):
                found[f"Fashion-MNIST 60,000 images {text} {word}, SGD 0.1, 3 epochs"] = case(
                    lambda: fashion(60_000), shape, activation, 0.1, 3, "sgd"
                )
        for epochs in (20, 60):
            found[f"Fashion-MNIST 1,500 images 784-256-256-10 ReLU, Adam 0.01, {epochs} epochs"] = case(
                lambda: fashion(1500), (784, 256, 256, 10), nn.ReLU, 0.01, epochs, "adam", gap=1.0
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(__file__).parent / "results" / "certify.json"
    out.parent.mkdir(exist_ok=True)
    for name, make in cases().items():
        if asked.words and not any(word in name for word in asked.words):
            continue
        model, line, data, gap = make()
        rounds = asked.rounds if len(data[0]) < 10_000 else 1
        row = measured(name, model, line, data, rounds, asked.workers, gap)
        result = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps(result | {"what": __doc__, name: row}, indent=1) + "\n")
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
