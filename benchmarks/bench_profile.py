"""Profile of a 784-1024-1024-10 ReLU network on MNIST-sized data, against the ways people do it today.

usage: python benchmarks/bench_profile.py [rounds]

Every contender evaluates the same α on the same examples in one process on one thread, in interleaved rounds; ratios
are to the plain loop of the same round. Random pixels: the arithmetic is that of MNIST. Results go to
benchmarks/results/profile.json.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lerpscape as ls

EXAMPLES, POINTS, BATCH = 10_000, 10, 512
WIDTHS = {"784-1024-1024-10": (1024, 1024), "784-128-10": (128,), "784-16-10": (16,)}


def network(widths: tuple[int, ...]) -> nn.Module:
    sizes = (784, *widths, 10)
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def contenders(widths: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    start, end = network(widths), network(widths)
    images, labels = torch.rand(EXAMPLES, 784), torch.randint(0, 10, (EXAMPLES,))
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH)
    line = ls.Line(start, end)
    alphas = np.linspace(0, 1, POINTS)

    def loop(data: object) -> list[float]:
        model, losses = deepcopy(start).eval(), []
        first, last = start.state_dict(), end.state_dict()
        with torch.no_grad():
            for alpha in alphas:
                model.load_state_dict({k: (1 - alpha) * first[k] + alpha * last[k] for k in first})
                total = sum(float(F.cross_entropy(model(x), y, reduction="sum")) for x, y in data)  # type: ignore[attr-defined]
                losses.append(total / EXAMPLES)
        return losses

    found: dict[str, Callable[[], object]] = {
        "plain loop over tensors": lambda: loop(batches),
        "plain loop over a DataLoader": lambda: loop(loader),
        "lerpscape, loss and accuracy": lambda: ls.profile(start, line, batches, alphas=alphas, derivative=False),
        "lerpscape, loss, accuracy and derivative": lambda: ls.profile(start, line, batches, alphas=alphas),
    }
    try:
        import loss_landscapes
        import loss_landscapes.metrics
    except ImportError:
        print("loss-landscapes is not installed: left out", file=sys.stderr)
    else:
        metric = loss_landscapes.metrics.Loss(F.cross_entropy, images, labels)  # takes one batch only
        found["loss-landscapes 3.0.6, one batch"] = lambda: loss_landscapes.linear_interpolation(
            deepcopy(start), deepcopy(end), metric, POINTS, deepcopy_model=True
        )
    return found


def matrix_product_seconds(widths: tuple[int, ...]) -> float:
    """Seconds that the network's matrix products alone take for all examples and points, bare."""
    sizes = (784, *widths, 10)
    total = 0.0
    for inner, outer in pairwise(sizes):
        a, b, out = torch.rand(BATCH, inner), torch.rand(inner, outer), torch.empty(BATCH, outer)
        times = []
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(20):
                torch.mm(a, b, out=out)
            times.append((time.perf_counter() - began) / 20)
        total += statistics.median(times) * EXAMPLES / BATCH * POINTS
    return total


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    result: dict[str, object] = {
        "what": __doc__,
        "examples": EXAMPLES,
        "points": POINTS,
        "batch": BATCH,
        "rounds": rounds,
        "threads": 1,
        "machine": machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for name, widths in WIDTHS.items():
        each = contenders(widths)
        seconds: dict[str, list[float]] = {label: [] for label in each}
        for label in each:
            each[label]()  # warm
        for _ in range(rounds):
            for label, run in each.items():
                began = time.perf_counter()
                run()
                seconds[label].append(time.perf_counter() - began)
        bare = matrix_product_seconds(widths)
        reference = seconds["plain loop over tensors"]
        table = {}
        print(f"{name}: matrix products alone {bare:.2f} s")
        for label, values in seconds.items():
            ratios = [value / base for value, base in zip(values, reference, strict=True)]
            took, middle, low, high = statistics.median(values), statistics.median(ratios), min(ratios), max(ratios)
            table[label] = {"median_seconds": took, "ratio_to_plain_loop": middle, "ratio_range": [low, high]}
            print(f"  {label:42s} {took:7.3f} s  × {middle:.2f} ({low:.2f}–{high:.2f})")
        result[name] = {"matrix_products_seconds": bare, "contenders": table}
    out = Path(__file__).parent / "results" / "profile.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
