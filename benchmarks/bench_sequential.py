"""Verdicts from a part of the data: how often they are wrong, how much data they take, and what that saves.

usage: python benchmarks/bench_sequential.py [coverage] [saving] [--trials 400] [--rounds 3] [--only WORD]

coverage: per-example losses of trained networks on MNIST and Fashion-MNIST (20,000 examples, 13 α) and of made-up
populations with heavy tails; random orders of the examples, and the tolerance at the largest rise over all, the hardest
place (lines that never rise are reversed): how often an interim analysis puts the rise below or above its true value,
against 1 − confidence.
saving: seconds of sequential_verdict() against profile() without derivatives on 60,000 images, 25 α, in interleaved
rounds on one thread, each round with another seed.

With a word, only the lines whose name has it; other results are kept. LERPSCAPE_DATA names a folder with MNIST/raw and
FashionMNIST/raw. Results are merged into benchmarks/results/sequential.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from networks import fully_connected
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.profiles.interim_analyses import interim_analysis, sample_sizes

RESULTS = Path(__file__).parent / "results" / "sequential.json"


def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(512), y.split(512), strict=True))


@cache
def images(name: str) -> tuple[Tensor, Tensor]:
    file = next(Path(os.environ["LERPSCAPE_DATA"]).glob(f"{name}/**/train-images-idx3-ubyte"))
    pixels = np.frombuffer(file.read_bytes(), np.uint8, offset=16).reshape(-1, 784)
    labels = np.frombuffer(file.with_name("train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return torch.tensor(pixels / 255.0, dtype=torch.float32), torch.tensor(labels.astype(np.int64))


@cache
def trained(name: str, sizes: tuple[int, ...], optimizer: Any, rate: float, epochs: int, seed: int = 0):
    """A network at its initialisation, and what an optimiser makes of it."""
    torch.manual_seed(seed)
    start = fully_connected(*sizes)
    end = deepcopy(start)
    steps = optimizer(end.parameters(), lr=rate)
    x, y = images(name)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            steps.zero_grad()
            F.cross_entropy(end(x[rows]), y[rows]).backward()
            steps.step()
    return start, end


def case(data: str, optimizer: Any, rate: float, epochs: int, width: int = 256, change: Any = ls.Line):
    """Builds a line: from the network's initialisation to its end, unless said otherwise."""

    def built() -> tuple[nn.Module, ls.Line, str]:
        start, end = trained(data, (784, width, width, 10), optimizer, rate, epochs)
        return start, change(start, end), data

    return built


def pushed(start: nn.Module, end: nn.Module) -> ls.Line:
    return ls.Line(start, ls.Line(start, end).at(4.0))


def between(start: nn.Module, end: nn.Module) -> ls.Line:
    """To a network trained from another initialisation."""
    return ls.Line(end, trained("FashionMNIST", (784, 256, 256, 10), torch.optim.SGD, 0.1, 2, seed=1)[1])


SGD, ADAM = torch.optim.SGD, torch.optim.Adam
LINES = {
    "MNIST, SGD 0.1": case("MNIST", SGD, 0.1, 2),
    "MNIST, pushed to 4 times the distance": case("MNIST", SGD, 0.1, 2, change=pushed),
    "MNIST, 1024 wide": case("MNIST", SGD, 0.1, 1, width=1024),
    "Fashion-MNIST, SGD 0.1": case("FashionMNIST", SGD, 0.1, 2),
    "Fashion-MNIST, Adam 0.01": case("FashionMNIST", ADAM, 0.01, 3),
    "Fashion-MNIST, between two trained networks": case("FashionMNIST", SGD, 0.1, 2, change=between),
}


def populations(only: str) -> dict[str, np.ndarray]:
    """Losses of every example, shape (points, examples)."""
    found = {}
    for name, make in LINES.items():
        if only not in name or "1024" in name:
            continue
        model, line, data = make()
        x, y = (part[:20_000] for part in images(data))
        losses = ls.profiles.example_curves(model, line, batches(x, y), alphas=13).losses
        if ls.max_rise(losses.mean(axis=1)) == 0:  # a rise of 0 cannot be called larger but by chance: walk backwards
            name, losses = f"{name}, backwards", losses[::-1]
        found[name] = losses
    draw = np.random.default_rng(0)
    alpha, count = np.linspace(0, 1, 13)[:, None], 20_000
    falling = 2 * np.exp(-3 * alpha)
    bump = np.exp(-0.5 * ((alpha - 0.6) / 0.1) ** 2)
    # Each example has its own height of the bump.
    found |= {
        "made up: normal": falling + bump * (0.6 + draw.standard_normal(count)),
        "made up: exponential": falling + bump * draw.exponential(0.6, count),
        "made up: lognormal, σ = 1": falling + bump * 0.6 * draw.lognormal(-0.5, 1, count),
        "made up: lognormal, σ = 2": falling + bump * 0.6 * draw.lognormal(-2, 2, count),
        "made up: Pareto, exponent 1.5": falling + bump * 0.3 * draw.pareto(1.5, count),
        "made up: 1 % of the examples carry the rise": falling + bump * 60 * (draw.random(count) < 0.01),
        "made up: 0.1 % of the examples carry the rise": falling + bump * 600 * (draw.random(count) < 0.001),
    }
    return {name: losses for name, losses in found.items() if only in name}


def wrong(losses: np.ndarray, confidence: float, first: int, seed: int) -> tuple[bool, bool]:
    """Whether a search in one random order would ever call the largest rise smaller, and larger, than it is."""
    count, rise = losses.shape[1], ls.max_rise(losses.mean(axis=1))
    order = losses[:, np.random.default_rng(seed).permutation(count)]
    counts = sample_sizes(first, count)[:-1]
    error = (1 - confidence) / len(counts)
    analyses = [interim_analysis(order[:, :size], count, error, seed=seed + size) for size in counts]
    return any(each.upper < rise for each in analyses), any(each.lower > rise for each in analyses)


def skewness(losses: np.ndarray) -> float:
    """Of the difference between the two points of the largest rise."""
    mean = losses.mean(axis=1)
    top = int(np.argmax(mean - np.minimum.accumulate(mean)))
    difference = losses[top] - losses[int(np.argmin(mean[: top + 1]))]
    return float(((difference - difference.mean()) ** 3).mean() / difference.std() ** 3)


def coverage(trials: int, rounds: int, only: str) -> dict[str, Any]:
    table = {}
    for name, losses in populations(only).items():
        row: dict[str, Any] = {
            "examples": losses.shape[1],
            "max_rise": ls.max_rise(losses.mean(axis=1)),
            "skewness of the rise": round(skewness(losses), 2),
            "trials": trials,
        }
        for confidence, first in ((0.95, 1024), (0.99, 1024)):
            seen = np.array([wrong(losses, confidence, first, seed) for seed in range(trials)])
            row[f"confidence {confidence}, first analysis {first}"] = {
                "wrongly monotonic": float(seen[:, 0].mean()),
                "wrongly violated": float(seen[:, 1].mean()),
            }
        print(f"{name}: {row}", flush=True)
        table[name] = row
    return table


def saving(trials: int, rounds: int, only: str) -> dict[str, Any]:
    table = {}
    for name, make in LINES.items():
        if only not in name:
            continue
        model, line, data = make()
        given = batches(*images(data))
        whole = ls.profile(model, line, given, alphas=25, derivative=False)
        tolerances = [0.0, 0.001, 0.01, 0.1]
        if whole.max_rise > 0:  # the worst there is: too close to tell
            tolerances.append(float(f"{0.999 * whole.max_rise:.5g}"))
        seconds: dict[Any, list[float]] = {each: [] for each in ("profile", *tolerances)}
        found: dict[float, list[ls.profiles.SequentialVerdict]] = {each: [] for each in tolerances}
        for seed in range(rounds):
            began = time.perf_counter()
            ls.profile(model, line, given, alphas=25, derivative=False)
            seconds["profile"].append(time.perf_counter() - began)
            for tolerance in tolerances:
                began = time.perf_counter()
                found[tolerance].append(
                    ls.sequential_verdict(model, line, given, alphas=25, tolerance=tolerance, seed=seed)
                )
                seconds[tolerance].append(time.perf_counter() - began)
        for tolerance, verdicts in found.items():
            ratios = [a / b for a, b in zip(seconds["profile"], seconds[tolerance], strict=True)]
            row = {
                "max_rise": whole.max_rise,
                "rounds": rounds,
                "verdicts": [each.verdict for each in verdicts],
                "all as from all data": all(
                    (each.verdict == "monotonic") == whole.is_monotonic(tolerance) for each in verdicts
                ),
                "examples, median": statistics.median(each.examples for each in verdicts),
                "examples, range": [min(each.examples for each in verdicts), max(each.examples for each in verdicts)],
                "of": verdicts[0].of,
                "times faster than profile, median": round(statistics.median(ratios), 2),
                "times faster, range": [round(min(ratios), 2), round(max(ratios), 2)],
                "profile, median seconds": round(statistics.median(seconds["profile"]), 3),
            }
            print(f"{name}, tolerance {tolerance}: {row}", flush=True)
            table[f"{name}, tolerance {tolerance:g}"] = row
    return table


PARTS = {"coverage": coverage, "saving": saving}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    if "LERPSCAPE_DATA" not in os.environ:
        parser.error("set LERPSCAPE_DATA to a folder with MNIST/raw and FashionMNIST/raw")
    torch.set_num_threads(1)
    about = {"torch": torch.__version__, "python": platform.python_version(), "machine": machine()}
    for part in asked.parts or PARTS:
        table = PARTS[part](asked.trials, asked.rounds, asked.only)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        rows = kept.get(part, {}) | {name: row | about for name, row in table.items()}
        RESULTS.write_text(json.dumps(kept | {"what": __doc__, part: rows}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
