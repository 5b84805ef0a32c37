"""Sampling error of a curve that is measured on a sample of examples: standard errors, intervals and p-values.

The losses at different α are measured on the same examples, so their errors are strongly correlated. The covariance
of the losses at all pairs of grid points gives the standard error of every difference between two points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.readings.monotonicity import Values, max_rise


@dataclass(frozen=True)
class RiseInterval:
    """A confidence interval for the largest rise of the expected loss, and the p-value of H₀: it never increases.

    `lower ≤ max_rise ≤ upper` with probability `level` over the draw of the `examples`. `p_value` is for the hypothesis
    that the expected loss does not increase between any two grid points. Both come from a Gaussian multiplier bootstrap
    with `draws` draws. They assume that the examples are a random sample; if they are the whole data set of interest,
    the measured `max_rise` has no sampling error.
    """

    lower: float
    upper: float
    level: float
    p_value: float
    examples: int
    draws: int
    seed: int


@dataclass
class Moments:
    """Running mean and co-moments of vectors with `size` coordinates, one vector per example, in float64.

    Batches are merged pairwise (Chan, Golub & LeVeque 1983), which is accurate for every batch size and for data with a
    large mean.

    >>> moments = Moments(1)
    >>> moments.add(np.array([[1.0, 2.0]])); moments.add(np.array([[6.0]]))
    >>> moments.count, moments.mean.tolist(), moments.covariance().tolist()
    (3, [3.0], [[7.0]])
    """

    size: int
    count: int = 0
    mean: Floats = field(init=False)
    comoment: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.size)
        self.comoment = np.zeros((self.size, self.size))

    def add(self, values: Floats) -> None:
        """Add the examples of a matrix of shape (size, examples)."""
        count = values.shape[1]
        if not count:
            return
        with np.errstate(invalid="ignore"):  # inf − inf is NaN, which the caller marks as invalid
            mean = values.mean(axis=1)
            centred = values - mean[:, None]
            total, shift = self.count + count, mean - self.mean
            self.comoment += centred @ centred.T + np.outer(shift, shift) * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
        self.count = total

    def covariance(self) -> Floats:
        """Unbiased covariance between the coordinates, shape (size, size); zero for a single example."""
        return self.comoment / max(self.count - 1, 1)


def difference_errors(covariance: Floats, examples: int) -> Floats:
    """Standard error of L_j − L_i for every pair, from the covariance of the per-example losses.

    sqrt((C_ii + C_jj − 2C_ij) / n), shape (points, points), in the unit of the loss.

    >>> difference_errors(np.array([[1.0, 1.0], [1.0, 1.0]]), examples=4).max()
    np.float64(0.0)
    """
    variance = np.diag(covariance)
    return np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0) / examples)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval for a proportion, given the number of successes and of trials; (0, 1) without any trial.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n), p = successes / trials, z the normal quantile of the level.

    Raises `ValueError` for counts that do not fit.

    Source: Wilson (1927).

    >>> [round(end, 3) for end in wilson_interval(0, 10)]
    [0.0, 0.278]
    """
    if not 0 <= successes <= trials or not 0 < level < 1:
        raise ValueError(
            explain(
                expected="0 ≤ successes ≤ trials and 0 < level < 1.",
                got=f"{successes} of {trials}, {level}.",
                hint="Check the counts.",
            )
        )
    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    lower, upper = (centre - reach) / (1 + z**2 / trials), (centre + reach) / (1 + z**2 / trials)
    return lower if successes else 0.0, upper if successes < trials else 1.0


def rise_interval(
    losses: Values,
    covariance: Floats,
    examples: int,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> RiseInterval:
    """Simultaneous confidence interval for max over i ≤ j of E L_j − E L_i, and a p-value for H₀: E L never increases.

    Let d_ij = L_j − L_i with standard error s_ij, and let q be the quantile at `level` of `max |d*_ij| / s_ij` over
    Gaussian multiplier draws `d*`. Then `lower = max(0, max(d_ij − q·s_ij))` and `upper = max(0, max(d_ij + q·s_ij))`.
    The p-value compares `max d_ij / s_ij` with `max d*_ij / s_ij`, which has its distribution if the expected curve is
    flat. That is the least favourable curve under H₀, so the p-value is conservative for falling curves.

    `losses` has shape (points,). `covariance` is that of the per-example losses, shape (points, points).

    Raises `NonFiniteLoss` for NaN or inf among the losses, `ValueError` for fewer than two examples.

    Source: Chernozhukov, Chetverikov & Kato (2013), Gaussian multiplier bootstrap for maxima.

    >>> interval = rise_interval([1.0, 0.0, 0.5], np.diag([1.0, 1.0, 1.0]), examples=10_000)
    >>> interval.lower < 0.5 < interval.upper, interval.p_value < 0.01
    (True, True)
    """
    if examples < 2:
        raise ValueError(explain(expected="at least two examples.", got=f"{examples}.", hint="Measure on more data."))
    if not 0 < level < 1:
        raise ValueError(explain(expected="0 < level < 1.", got=f"{level}.", hint="0.95 is usual."))
    measured = max_rise(losses)  # raises for NaN and inf
    values = np.asarray(losses, dtype=np.float64)
    first, second = np.triu_indices(len(values), k=1)
    difference = values[second] - values[first]
    error = difference_errors(covariance, examples)[first, second]
    varies = error > 1e-12 * max(1.0, float(np.abs(values).max()))  # smaller errors are rounding of the covariance
    if not varies.any():
        return RiseInterval(measured, measured, level, 0.0 if measured > 0 else 1.0, examples, draws, seed)
    first, second, exact = first[varies], second[varies], difference[~varies]
    difference, error = difference[varies], error[varies]

    root = covariance_root(covariance / examples)
    generator = np.random.default_rng(seed)
    largest, largest_magnitude = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        noise = root @ generator.standard_normal(root.shape[1])
        studentised = (noise[second] - noise[first]) / error
        largest[draw], largest_magnitude[draw] = studentised.max(), np.abs(studentised).max()
    quantile = float(np.quantile(largest_magnitude, level, method="higher"))
    certain = max(0.0, float(exact.max())) if len(exact) else 0.0  # the largest rise without sampling error
    reached = int(np.sum(largest >= (difference / error).max()))
    return RiseInterval(
        lower=max(certain, float((difference - quantile * error).max())),
        upper=max(certain, float((difference + quantile * error).max())),
        level=level,
        p_value=0.0 if certain > 0 else (1 + reached) / (1 + draws),
        examples=examples,
        draws=draws,
        seed=seed,
    )


def covariance_root(covariance: Floats) -> Floats:
    """A matrix R with R Rᵀ = covariance, which may be singular; shape (points, points).

    >>> covariance_root(np.array([[4.0, 0.0], [0.0, 0.0]])) @ [0.0, 1.0]
    array([2., 0.])
    """
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(eigenvalues, 0))
    return root
