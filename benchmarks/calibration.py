"""How often `rise_interval` and `sequential_verdict` are wrong, by simulation: the tables of docs/calibration.md.

usage: python benchmarks/calibration.py [--trials 400] > tables.md

All points have the same expected loss, where a false rise is likeliest, or every example's curve is one shape times a
random height, where the true rise is known. Losses are normal, exponential, lognormal (σ = 1 and 2), or right for all
but 2 % of the examples. "fading" shrinks the spread along the line, so that later minus earlier losses are skewed to
the left: the hardest case, since the largest rises are then those of samples without the large losses.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy.special import ndtr

from lerpscape.profiles import interim_analyses
from lerpscape.profiles.interim_analyses import interim_analysis, sample_sizes
from lerpscape.readings import intervals
from lerpscape.readings.intervals import rise_interval
from lerpscape.readings.monotonicity import max_rise

DRAWS = 300
KINDS = ("normal", "exponential", "lognormal", "lognormal, fading", "lognormal σ = 2, fading", "2 % wrong")


def standard(kind: str, noise: np.ndarray) -> np.ndarray:
    """Losses with expectation 1 from standard normal noise."""
    if kind == "normal":
        return 1 + noise
    if kind == "exponential":
        return -np.log(np.maximum(ndtr(-noise), 1e-300))
    if kind == "2 % wrong":
        return (ndtr(noise) < 0.02) / 0.02
    sigma = 2.0 if "σ = 2" in kind else 1.0
    return np.exp(sigma * noise - sigma**2 / 2)


def flat(kind: str, correlation: str, points: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Losses (points, n) whose expectation is 1 at every point."""
    noise = generator.standard_normal((points, n))
    if correlation == "smooth":
        distance = np.abs(np.subtract.outer(np.arange(points), np.arange(points)))
        noise = np.linalg.cholesky(np.exp(-2 * distance / points)) @ noise
    spread = np.linspace(1, 0.05, points)[:, None] if "fading" in kind else 1.0
    return 1 + (standard(kind, noise) - 1) * spread


def rising(kind: str, points: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Losses (points, n) that fall by 1, rise by 1 and fall by 1 in expectation, each example by its own height."""
    shape = np.interp(np.linspace(0, 3, points), [0, 1, 2, 3], [1, 0, 1, 0])
    noise = 0.3 * generator.standard_normal((points, n))
    return shape[:, None] * standard(kind, generator.standard_normal(n)) + noise


def percent(count: int, trials: int) -> str:
    share = count / trials
    return f"{100 * share:.1f} ± {100 * math.sqrt(max(share * (1 - share), 1 / trials / 4) / trials):.1f}"


def intervals_table(trials: int) -> None:
    print("| n | points | correlation | losses | p ≤ 0.05 under H₀ | covered, flat | covered, rising |")
    print("|---:|---:|---|---|---:|---:|---:|")
    for n in (intervals.LEAST_EXAMPLES, 30, 100, 1000):
        for points in (4, 10, 40):
            for correlation in ("none", "smooth"):
                for kind in KINDS:
                    if correlation == "none" and points == 10:
                        continue
                    generator = np.random.default_rng([n, points, len(correlation), KINDS.index(kind)])
                    rejected = covered = covered_rise = 0
                    truth = max_rise(np.interp(np.linspace(0, 3, points), [0, 1, 2, 3], [1, 0, 1, 0]))
                    for trial in range(trials):
                        losses = flat(kind, correlation, points, n, generator)
                        found = rise_interval(losses.mean(1), np.cov(losses), n, draws=DRAWS, seed=trial)
                        rejected += found.p_value <= 0.05
                        covered += found.lower <= 0
                        if correlation == "smooth":
                            losses = rising(kind, points, n, generator)
                            found = rise_interval(losses.mean(1), np.cov(losses), n, draws=DRAWS, seed=trial)
                            covered_rise += found.lower <= truth <= found.upper
                    last = percent(covered_rise, trials) if correlation == "smooth" else ""
                    cells = (n, points, correlation, kind, percent(rejected, trials), percent(covered, trials), last)
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def verdicts_table(trials: int, points: int = 13, examples: int = 4000, confidence: float = 0.95) -> None:
    print("| first | losses | flat: called rising | rising: called lower | rising: called higher |")
    print("|---:|---|---:|---:|---:|")
    for first in (interim_analyses.LEAST_EXAMPLES, 1024):
        counts = [count for count in sample_sizes(first, examples) if count < examples]
        error = (1 - confidence) / len(counts)
        for kind in KINDS:
            generator = np.random.default_rng([first, KINDS.index(kind)])
            false = low = high = 0
            for trial in range(trials):
                losses = flat(kind, "none", points, examples, generator)
                losses -= losses.mean(axis=1, keepdims=True)  # the population is finite: its own mean is the truth
                looks = [interim_analysis(losses[:, :count], examples, error, seed=trial) for count in counts]
                false += any(look.lower > 1e-9 for look in looks)
                losses = rising(kind, points, examples, generator)
                truth = max_rise(losses.mean(axis=1))
                looks = [interim_analysis(losses[:, :count], examples, error, seed=trial) for count in counts]
                low += any(look.upper < truth for look in looks)
                high += any(look.lower > truth for look in looks)
            cells = (first, kind, *(percent(count, trials) for count in (false, low, high)))
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    chosen = parser.parse_args().trials
    print(f"Rates and coverage in per cent ± their binomial standard error, {chosen} trials, level 95 %.\n")
    intervals_table(chosen)
    print()
    verdicts_table(chosen)
