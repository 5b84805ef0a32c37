"""Time to a verdict of certify(), against the loss-and-derivative evaluations at one α that it equals.

usage: python benchmarks/bench_certify.py [rounds] [--large]

Networks are trained on real images, on one thread. scikit-learn's digits always; Fashion-MNIST where the
environment variable LERPSCAPE_DATA names a folder with FashionMNIST/raw. `--large` takes all 60,000 of its images.
Results go to benchmarks/results/certify.json.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import platform
import statistics
import sys
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


def measured(name: str, model: nn.Module, line: ls.Line, data: Data, rounds: int, budget: int) -> dict[str, object]:
    x, y = data
    batches = list(zip(x.split(2000), y.split(2000), strict=True))
    seconds, each = [], []
    for _ in range(rounds):
        found = ls.certify(model, line, batches, budget=budget)
        seconds.append(found.seconds)
        began = time.perf_counter()
        ls.profile(model, line, batches, alphas=3, dtype=torch.float64)
        each.append((time.perf_counter() - began) / 3)
    took, one = statistics.median(seconds), statistics.median(each)
    profile = ls.profile(model, line, batches, alphas=201, dtype=torch.float64)
    row = {
        "examples": len(x),
        "distance": round(profile.distance, 2),
        "verdict": found.verdict,
        "lower": found.lower,
        "upper": found.upper,
        "max_rise_on_201_points": profile.max_rise,
        "evaluations": found.evaluations,
        "intervals": found.intervals,
        "undecided": len(found.undecided),
        "narrowest": float(np.diff(found.edges).min()),
        "median_seconds": took,
        "seconds_range": [min(seconds), max(seconds)],
        "rounds": rounds,
        "float64_evaluations_with_derivative_it_equals": round(took / one, 1),
    }
    print(
        f"{name}: {found.verdict} [{found.lower:.3g}, {found.upper:.3g}], {found.evaluations} intervals, {took:.1f} s"
    )
    return row


def main() -> None:
    torch.set_num_threads(1)
    words = [word for word in sys.argv[1:] if word != "--large"]
    rounds = int(words[0]) if words else 3
    result: dict[str, object] = {
        "what": __doc__,
        "threads": 1,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    small = digits()
    shape = (64, 128, 128, 10)
    relu = trained(small, shape, nn.ReLU, 0.05, 20, "sgd")
    cases = {
        "digits 64-128-128-10 ReLU, SGD 0.05": (*relu, small),
        "digits 64-128-128-10 tanh, SGD 0.1": (*trained(small, shape, nn.Tanh, 0.1, 30, "sgd"), small),
        "digits 64-128-128-10 ReLU, Adam 0.01": (*trained(small, shape, nn.ReLU, 0.01, 20, "adam"), small),
        "digits 64-128-128-10 ReLU, pushed to 4 times the distance": (*pushed(*relu, 4.0), small),
        "digits 64-128-128-128-128-10 ReLU, SGD 0.05": (
            *trained(small, (64, 128, 128, 128, 128, 10), nn.ReLU, 0.05, 20, "sgd"),
            small,
        ),
        "digits 64-512-512-10 ReLU, SGD 0.05": (*trained(small, (64, 512, 512, 10), nn.ReLU, 0.05, 20, "sgd"), small),
    }
    if "LERPSCAPE_DATA" in os.environ:
        images = fashion(1500)
        for width in (256, 1024):
            sizes = (784, width, width, 10)
            cases[f"Fashion-MNIST 1,500 images {'-'.join(map(str, sizes))} ReLU, SGD 0.1"] = (
                *trained(images, sizes, nn.ReLU, 0.1, 20, "sgd"),
                images,
            )
    for name, (model, line, data) in cases.items():
        result[name] = measured(name, model, line, data, rounds if data is small else 1, 300)
    if "--large" in sys.argv:
        images = fashion(60_000)
        name = "Fashion-MNIST 60,000 images 784-256-256-10 ReLU, SGD 0.1, 2 epochs"
        model, line = trained(images, (784, 256, 256, 10), nn.ReLU, 0.1, 2, "sgd")
        result[name] = measured(name, model, line, images, 1, 60)
    out = Path(__file__).parent / "results" / "certify.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
