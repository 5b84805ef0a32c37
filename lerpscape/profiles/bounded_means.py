"""Bounds on differences of means over a finite population of bounded numbers, from a sample without replacement.

The bounds hold for every sample size, not only in the limit of large samples.
"""

from __future__ import annotations

import math

import numpy as np

from lerpscape.base.arrays import Floats

# Largest λ; at λ = 1 a single value of 0 would make the supermartingale zero for good.
MOST = 0.75


def least_differences(values: Floats, of: int, error: float) -> Floats:
    """Lower bounds of mean_j − mean_i over N = `of` examples, for every pair of rows, from n examples drawn at random.

    `values` has shape (points, n), lies in [0, 1], and has its columns in random order. The bounds have shape
    (points, points); each is wrong with probability ≤ `error`.

    For one pair, let x = (value_j − value_i + 1)/2, which lies in [0, 1], and let μ be its mean over all N examples.
    Given the first t − 1 examples, with sum S_{t−1}, the expectation of x_t is C_t = (Nμ − S_{t−1}) / (N − t + 1).
    For λ_t in [0, 1) and m_t that depend on these t − 1 examples only, and ψ(λ) = −ln(1 − λ) − λ, the product over t of
    exp(λ_t (x_t − C_t) − ψ(λ_t) (x_t − m_t)²) is a supermartingale, so it exceeds 1/error with probability ≤ error.
    Solved for μ:

    μ ≥ [Σ λ_t (x_t + S_{t−1} / (N − t + 1)) − ln(1/error) − Σ ψ(λ_t) (x_t − m_t)²] / Σ λ_t N / (N − t + 1).

    m and λ = √(2 ln(1/error) / (n v)) use the mean and the variance v of the examples so far, to which one example at ½
    and one square of ¼ are added. They are updated at t = 1, 2, 3, 5, 9, … only, so that in between one matrix product
    sums over the examples for all pairs.

    Sources: Fan, Grama & Liu (2015); Waudby-Smith & Ramdas (2020), "Confidence sequences for sampling without
    replacement". Updating λ and m in blocks is derived here.

    >>> wrong = np.random.default_rng(0).permutation(np.repeat([0.0, 1.0], [9000, 1000]))  # of 10,000 examples
    >>> values = np.stack([wrong * 0, wrong])[:, :2000]
    >>> least_differences(values, of=10_000, error=0.01).round(2)
    array([[-0.01,  0.08],
           [-0.13, -0.01]])
    """
    points, count = values.shape
    log_threshold = math.log(1 / error)
    before = np.zeros(points)
    centre, variance = np.full((points, points), 0.5), np.full((points, points), 0.25)
    gained, scale = np.zeros((points, points)), np.zeros((points, points))  # Σ λ_t (…), Σ λ_t N / (N − t + 1)
    penalty, square_sum = np.full((points, points), log_threshold), np.full((points, points), 0.25)
    begin = 0
    while begin < count:
        end = min(2 * begin, count) if begin else 1
        part, size = values[:, begin:end], end - begin
        bets = np.minimum(MOST, np.sqrt(2 * log_threshold / (count * variance)))  # λ
        shares = 1 / (of - np.arange(begin, end))  # 1 / (N − t + 1)
        after = np.cumsum(shares[::-1])[::-1] - shares  # weight of an example's value in the S_{t−1} of this block
        weight = of * shares.sum()
        sums, products = part.sum(axis=1), part @ part.T
        linear = sums + part @ after + before * shares.sum()
        gained += bets * (linear[None, :] - linear[:, None] + weight) / 2
        scale += bets * weight
        apart = sums[None, :] - sums[:, None]
        own = np.diag(products)
        squares = (own[None, :] + own[:, None] - 2 * products + 2 * apart + size) / 4  # Σ x²
        squares = np.maximum(squares - centre * (apart + size) + size * centre**2, 0)  # Σ (x − m)²
        penalty -= (np.log1p(-bets) + bets) * squares
        before, square_sum, begin = before + sums, square_sum + squares, end
        centre = (0.5 + (before[None, :] - before[:, None] + end) / 2) / (end + 1)
        variance = square_sum / (end + 1)
    bounds: Floats = np.maximum(2 * (gained - penalty) / scale - 1, -1)
    return bounds
