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

# With fewer examples no interval is given: `benchmarks/calibration.py` measured what holds from here on.
LEAST_EXAMPLES = 16
# Skewness that the difference of an example's losses at two points may have: that of a lognormal variable with σ = 1.
# An estimate from the sample would be too small just where the skewness matters.
SKEWNESS = 6.2


@dataclass(frozen=True)
class RiseInterval:
    """A confidence interval for the largest rise of the expected loss, and the p-value of H₀: it never increases.

    `lower ≤ max_rise ≤ upper` with probability `level` over the draw of the `examples`. `p_value` is for the hypothesis
    that the expected loss does not increase between any two grid points. Both come from `draws` simulations of a
    multivariate t process. They assume that the examples are a random sample, and that no few of them carry the mean;
    if they are the whole data set of interest, the measured `max_rise` has no sampling error.
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

    Let d_ij = L_j − L_i with standard error s_ij from n = `examples`, and let q be the quantile at `level` of
    `max |d*_ij| / s_ij` over draws `d*` of a multivariate t distribution with the measured covariance and n − 1 degrees
    of freedom. With the margin m = q + a (2q² + 1), a = 6.2 / (6√n), `lower = max(0, max(d_ij − m·s_ij))` and
    `upper = max(0, max(d_ij + m·s_ij))`. The second term of m is that of the Cornish–Fisher expansion for a skewness of
    at most 6.2, that of a lognormal variable with σ = 1, and vanishes as n grows. The p-value compares
    `max d_ij / s_ij` with the simulated maximum, widened in the same way; this has its distribution if the expected
    curve is flat, the least favourable curve under H₀, so the p-value is conservative for falling curves.

    `losses` has shape (points,). `covariance` is that of the per-example losses, shape (points, points).

    Raises `NonFiniteLoss` for NaN or inf among the losses, `ValueError` for fewer than 16 examples, for which neither
    coverage nor p-value holds. What was measured stands in [calibration](../calibration.md).

    Source: Chernozhukov, Chetverikov & Kato (2013) for the maximum of all differences; Hall (1992) for the expansion.

    >>> interval = rise_interval([1.0, 0.0, 0.5], np.diag([1.0, 1.0, 1.0]), examples=10_000)
    >>> interval.lower < 0.5 < interval.upper, interval.p_value < 0.01
    (True, True)
    """
    if not 0 < level < 1:
        raise ValueError(explain(expected="0 < level < 1.", got=f"{level}.", hint="0.95 is usual."))
    measured = max_rise(losses)  # raises for NaN and inf
    if examples < LEAST_EXAMPLES:
        raise ValueError(
            explain(
                expected=f"at least {LEAST_EXAMPLES} examples, since with fewer no interval holds its level.",
                got=f"{examples}.",
                hint="Measure on more data.",
            )
        )
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
        noise /= math.sqrt(generator.chisquare(examples - 1) / (examples - 1))
        studentised = (noise[second] - noise[first]) / error
        largest[draw], largest_magnitude[draw] = studentised.max(), np.abs(studentised).max()
    margin = error * _widened(np.asarray(np.quantile(largest_magnitude, level, method="higher")), examples)
    certain = max(0.0, float(exact.max())) if len(exact) else 0.0  # the largest rise without sampling error
    reached = int(np.sum(_widened(np.maximum(largest, 0), examples) >= (difference / error).max()))
    return RiseInterval(
        lower=max(certain, float((difference - margin).max())),
        upper=max(certain, float((difference + margin).max())),
        level=level,
        p_value=0.0 if certain > 0 else (1 + reached) / (1 + draws),
        examples=examples,
        draws=draws,
        seed=seed,
    )


def _widened(quantile: Floats, examples: int) -> Floats:
    """Quantiles ≥ 0 of a studentised mean, widened for a skewness of up to `SKEWNESS` of the examples."""
    return quantile + SKEWNESS / (6 * math.sqrt(examples)) * (2 * quantile**2 + 1)


def covariance_root(covariance: Floats) -> Floats:
    """A matrix R with R Rᵀ = covariance, which may be singular; shape (points, points).

    >>> covariance_root(np.array([[4.0, 0.0], [0.0, 0.0]])) @ [0.0, 1.0]
    array([2., 0.])
    """
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root: Floats = vectors * np.sqrt(np.maximum(eigenvalues, 0))
    return root
