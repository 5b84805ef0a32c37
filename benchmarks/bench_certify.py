"""Time to a verdict of certify(), against the loss-and-derivative evaluations at one α that it equals.

usage: python benchmarks/bench_certify.py [--rounds N] [--workers N] [WORDS …]

With words, only the cases whose name has one of them; other results are kept. Networks are trained on real images, on
one thread: scikit-learn's digits, and MNIST and Fashion-MNIST where the environment variable LERPSCAPE_DATA names a
folder that has them. Results go to benchmarks/results/certify.json; CPU seconds are those of all threads, and tell more
than the clock where the machine has other work (`load_average`).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.lab.data import load
from lerpscape.lab.models.lenet import lenet
from lerpscape.networks.batch_norm import BatchNormPolicy

Data = tuple[Tensor, Tensor]
Case = Callable[[], tuple[nn.Module, ls.Line, Data, dict[str, Any]]]


def digits() -> Data:
    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def images(name: str, examples: int) -> Data:
    """The first training images of mnist or fashion_mnist, brought to mean 0 and deviation 1 together."""
    train = load(name).train
    x = train.inputs[:examples].float() / 255
    return (x - x.mean()) / x.std(), train.targets[:examples]


def flat(name: str, examples: int) -> Data:
    x, y = images(name, examples)
    return x.flatten(1), y


def dense(sizes: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])


def trained(data: Data, build: Callable[[], nn.Module], rate: float, epochs: int, name: str):
    """A network and the line from its initialisation to what plain SGD or Adam makes of it."""
    torch.manual_seed(0)
    model = build()
    start = copy.deepcopy(model.state_dict())
    optimizer = (torch.optim.Adam if name == "adam" else torch.optim.SGD)(model.parameters(), lr=rate)
    x, y = data
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval(), ls.Line(start, model)


def pushed(line: ls.Line, by: float) -> ls.Line:
    """The same line with its end pushed on beyond the trained network."""
    return ls.Line(line.start.tensors, line.at(by))


def measured(
    name: str, model: nn.Module, line: ls.Line, data: Data, options: dict[str, Any], rounds: int, workers: int
) -> dict[str, object]:
    x, y = data
    batches = list(zip(x.split(2000), y.split(2000), strict=True))
    policy = options.get("batch_norm")
    seconds, of_cpu, each = [], [], []
    for _ in range(rounds):
        before = time.process_time()
        found = ls.certify(model, line, batches, **{"budget": 600, "workers": workers} | options)
        of_cpu.append(time.process_time() - before)
        seconds.append(found.how["seconds"])
        began = time.perf_counter()
        ls.profile(model, line, batches, alphas=3, dtype=torch.float64, batch_norm=policy)
        each.append((time.perf_counter() - began) / 3)
    took, one = statistics.median(seconds), statistics.median(each)
    profile = ls.profile(model, line, batches, alphas=201 if len(x) < 10_000 else 21, batch_norm=policy)
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
        "median_cpu_seconds": round(statistics.median(of_cpu), 3),
        "seconds_range": [min(seconds), max(seconds)],
        "cpu_seconds_range": [round(min(of_cpu), 3), round(max(of_cpu), 3)],
        "rounds": rounds,
        "load_average": round(os.getloadavg()[0], 2),
        "float64_evaluations_with_derivative_it_equals": round(took / one, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": machine(),
    }
    print(
        f"{name}: {found.verdict} [{found.lower:.3g}, {found.upper:.3g}], {found.evaluations} intervals, {took:.1f} s",
        flush=True,
    )
    return row


def cases() -> dict[str, Case]:
    """Every case by name: model, line, data and what is asked of certify()."""

    def case(data, sizes, activation, rate, epochs, optimizer, by=1.0, only=None, **options):
        """`by` pushes the end on; `only` so many of the examples learnt from are certified."""

        def made():
            learnt = data()
            model, line = trained(learnt, lambda: dense(sizes, activation), rate, epochs, optimizer)
            line = line if by == 1 else pushed(line, by)
            return model, line, (learnt[0][:only], learnt[1][:only]), options

        return made

    small = (64, 128, 128, 10)
    found = {
        "digits 64-128-128-10 tanh, SGD 0.1": case(digits, small, nn.Tanh, 0.1, 30, "sgd"),
        "digits 64-128-128-10 ReLU, Adam 0.01": case(digits, small, nn.ReLU, 0.01, 20, "adam"),
        "digits 64-128-128-10 ReLU, pushed to 4 times the distance": case(
            digits, small, nn.ReLU, 0.05, 20, "sgd", by=4.0
        ),
    }
    for hidden in ([128], [128] * 2, [128] * 3, [128] * 4, [128] * 5, [32] * 2, [64] * 2, [256] * 2, [512] * 2):
        shape = (64, *hidden, 10)
        found[f"digits {'-'.join(map(str, shape))} ReLU, SGD 0.05"] = case(digits, shape, nn.ReLU, 0.05, 20, "sgd")
    for gap in (1.0, 0.5, 0.25, 0.1, 0.05):
        found[f"bracket: digits 64-128-128-10 ReLU, pushed to 4 times the distance, upper/lower {1 + gap:g}"] = case(
            digits, small, nn.ReLU, 0.05, 20, "sgd", by=4.0, gap=gap
        )
    return found | (on_images(case) if "LERPSCAPE_DATA" in os.environ else {})


def on_images(case: Callable[..., Case]) -> dict[str, Case]:
    """The cases on MNIST and Fashion-MNIST."""
    found = {}
    for width in (256, 1024):
        shape = (784, width, width, 10)
        text = "-".join(map(str, shape))
        found[f"Fashion-MNIST 1,500 images {text} ReLU, SGD 0.1"] = case(
            lambda: flat("fashion_mnist", 1500), shape, nn.ReLU, 0.1, 20, "sgd"
        )
        for word, activation in (("ReLU", nn.ReLU), ("tanh", nn.Tanh)):
            found[f"Fashion-MNIST 60,000 images {text} {word}, SGD 0.1, 3 epochs"] = case(
                lambda: flat("fashion_mnist", 60_000), shape, activation, 0.1, 3, "sgd"
            )
    shape = (784, 256, 256, 10)
    for epochs in (20, 60, 70):
        found[f"Fashion-MNIST 1,500 images 784-256-256-10 ReLU, Adam 0.01, {epochs} epochs"] = case(
            lambda: flat("fashion_mnist", 1500), shape, nn.ReLU, 0.01, epochs, "adam", gap=1.0
        )
    for examples in (500, 1000, 2000, 4000, 8000):
        found[f"data: Fashion-MNIST {examples:,} of 8,000 images 784-256-256-10 ReLU, SGD 0.1"] = case(
            lambda: flat("fashion_mnist", 8000), shape, nn.ReLU, 0.1, 5, "sgd", only=examples
        )
    for examples in (50, 400):
        for policy in (ls.InterpolateStatistics(), ls.EndStatistics()):
            name = f"MNIST {examples} images LeNet with batch norm and max pooling, {type(policy).__name__}"
            found[name] = partial(convolutional, examples, policy)
    return found


def convolutional(examples: int, policy: BatchNormPolicy):
    """LeNet-5 with batch norm after an epoch of MNIST, and some of the images it learnt from."""
    learnt = images("mnist", 60_000)
    model, line = trained(learnt, lambda: lenet((1, 28, 28), 10, batch_norm=True), 0.05, 1, "sgd")
    return model, line, (learnt[0][:examples], learnt[1][:examples]), {"batch_norm": policy}


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
        model, line, data, options = make()
        rounds = asked.rounds if len(data[0]) < 10_000 else 1
        row = measured(name, model, line, data, options, rounds, asked.workers)
        result = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps(result | {"what": __doc__, name: row}, indent=1) + "\n")
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
