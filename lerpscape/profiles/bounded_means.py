"""Bounds on differences of means of a finite population of bounded numbers, from a sample without replacement.

They hold for every size of the sample, not only in the limit.
"""

from __future__ import annotations

import math

import numpy as np

from lerpscape.base.arrays import Floats

# Bets stay below this: at 1 a single value of 0 would cost all.
MOST = 0.75


def least_differences(values: Floats, of: int, error: float) -> Floats:
    """Lower bounds of mean_j − mean_i over `of` examples, from the values in [0, 1] of the first in random order.

    `values` is (points, n), the bounds are (points, points), each wrong with probability ≤ error. For one pair and
    x = (value_j − value_i + 1)/2 in [0, 1] with mean μ: before the t-th example is drawn, x_t has the expectation
    C_t = (Nμ − S_{t−1}) / (N − t + 1), with S the sum of those before. For λ_t in [0, 1) and m_t that depend on those
    before alone, and ψ(λ) = −ln(1 − λ) − λ, the product over t of exp(λ_t (x_t − C_t) − ψ(λ_t) (x_t − m_t)²) is a
    supermartingale, which exceeds 1/error with probability ≤ error. Solved for μ:

    μ ≥ [Σ λ_t (x_t + S_{t−1} / (N − t + 1)) − ln(1/error) − Σ ψ(λ_t) (x_t − m_t)²] / Σ λ_t N / (N − t + 1).

    m and λ = √(2 ln(1/error) / (n v)) are made of the mean and variance v of those before, anew at t = 1, 2, 3, 5, 9, …
    (an example of ½ and a square of ¼ are taken as seen), so that sums over a stretch of examples serve all pairs.

    Sources: Fan, Grama & Liu (2015); Waudby-Smith & Ramdas (2020), "Confidence sequences for sampling without
    replacement". The stretches are *derived* here.

    >>> wrong = np.random.default_rng(0).permutation(np.repeat([0.0, 1.0], [9000, 1000]))  # of 10,000 examples
    >>> values = np.stack([wrong * 0, wrong])[:, :2000]
    >>> least_differences(values, of=10_000, error=0.01).round(2)
    array([[-0.01,  0.08],
           [-0.13, -0.01]])
    """
    points, count = values.shape
    stake = math.log(1 / error)
    before = np.zeros(points)
    centre, variance = np.full((points, points), 0.5), np.full((points, points), 0.25)
    gained, scale = np.zeros((points, points)), np.zeros((points, points))
    paid, seen = np.full((points, points), stake), np.full((points, points), 0.25)
    begin = 0
    while begin < count:
        end = min(2 * begin, count) if begin else 1
        part, size = values[:, begin:end], end - begin
        bets = np.minimum(MOST, np.sqrt(2 * stake / (count * variance)))
        shares = 1 / (of - np.arange(begin, end))  # 1 / (N − t + 1)
        after = np.cumsum(shares[::-1])[::-1] - shares  # what an example's value still counts for in this stretch
        weight = of * shares.sum()
        sums, products = part.sum(axis=1), part @ part.T
        linear = sums + part @ after + before * shares.sum()
        gained += bets * (linear[None, :] - linear[:, None] + weight) / 2
        scale += bets * weight
        apart = sums[None, :] - sums[:, None]
        own = np.diag(products)
        squares = (own[None, :] + own[:, None] - 2 * products + 2 * apart + size) / 4  # Σ x²
        squares = np.maximum(squares - centre * (apart + size) + size * centre**2, 0)  # Σ (x − m)²
        paid -= (np.log1p(-bets) + bets) * squares
        before, seen, begin = before + sums, seen + squares, end
        centre = (0.5 + (before[None, :] - before[:, None] + end) / 2) / (end + 1)
        variance = seen / (end + 1)
    found: Floats = np.maximum(2 * (gained - paid) / scale - 1, -1)
    return found
