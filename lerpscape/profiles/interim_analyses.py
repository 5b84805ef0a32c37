"""Interim analyses of a sequential test: brackets of the largest rise over all examples, from a random sample of them.

The population is finite, namely the examples of the data, and they are drawn without replacement. Once all examples
have been drawn, the bracket has no width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.profiles.bounded_means import least_differences
from lerpscape.readings.intervals import SKEWNESS, covariance_root

# A sample of fewer examples, of losses without bounds, decides nothing: `benchmarks/calibration.py` measured that
# skewed losses then break the confidence.
LEAST_EXAMPLES = 256
# Expected number of bootstrap draws beyond the quantile that is estimated from them.
DRAWS_BEYOND = 20
# Relative rounding error allowed for in a mean loss.
ROUNDING = 1e-12
# Standard deviations of differences below this share of the losses' own are rounding; they are raised to it.
LEAST_DEVIATION = 1e-5


@dataclass(frozen=True)
class InterimAnalysis:
    """lower ≤ largest rise over all examples ≤ upper, estimated from the first `examples` of a random order.

    `lower` and `upper` have the unit of the loss. The loss rises by at least `lower` from grid point number `first` to
    grid point number `second`.
    """

    examples: int
    lower: float
    upper: float
    first: int
    second: int


def sample_sizes(first: int, most: int) -> list[int]:
    """Number of examples at each interim analysis: `first`, then twice as many each time, up to `most`.

    >>> sample_sizes(1024, 5000), sample_sizes(1024, 100)
    ([1024, 2048, 4096, 5000], [100])
    """
    counts = []
    while first < most:
        counts.append(first)
        first *= 2
    return [*counts, most]


def interim_analysis(
    losses: Floats, of: int, error: float, *, bounds: tuple[float, float] | None = None, seed: int = 0
) -> InterimAnalysis:
    """Bracket the largest rise of the mean loss over `of` examples from the losses of a random sample of them.

    `losses` has shape (points, n), one column per example of the sample; N = `of`. Let d_ij = mean ℓ_j − mean ℓ_i over
    the sample, and s_ij = √((1 − n/N) S²_ij / n) its standard error.

    * `upper` = max over i < j of d_ij + t·s_ij, with t the normal quantile of 1 − `error`. One quantile is enough for
      all pairs: `upper` is too small only if the bound of the one pair with the largest rise is.
    * `lower` = max over i < j of d_ij − q·s_ij, with q the quantile of the largest studentised difference of all pairs,
      estimated from Gaussian draws with the covariance of the sample. `lower` is too large if any pair's bound is.

    In the limit of many examples each fails with probability `error`; a sample of fewer than 256 gives the bracket
    (0, ∞), unless it is of all examples. Both margins are widened, never narrowed,
    by the first term of the Cornish–Fisher expansion for the studentised mean of a skewed finite population,
    γ_ij ((2 − f) z² + 1 − 2f) / (6 √(n (1 − f))), where f = n/N and γ_ij is the skewness of the difference. For `lower`
    it is taken to be at least 6.2, that of a lognormal variable with σ = 1: among many pairs, those whose sample lacks
    the large losses seem to rise most, and show the least skewness.

    `bounds` are the least and the greatest possible loss of one example. With them both ends come from
    `least_differences`, where `lower` divides the error among the pairs, and hold for every n. `seed` is that of the
    Gaussian draws, or of the order in which `least_differences` takes the examples.

    Sources: Chernozhukov, Chetverikov & Kato (2013) for the maximum; Berger (1982) for the intersection; Hall (1992)
    for the expansion. Its cumulants for a finite population are derived here.

    >>> losses = np.array([[1.0], [0.0], [0.5]]) + 0.1 * np.random.default_rng(0).standard_normal((3, 400))
    >>> analysis = interim_analysis(losses, of=10_000, error=0.01)
    >>> analysis.lower < 0.5 < analysis.upper, (analysis.first, analysis.second)
    (True, (1, 2))
    """
    points, count = losses.shape
    first, second = np.triu_indices(points, k=1)
    mean = losses.mean(axis=1)
    rise = mean[second] - mean[first]
    if count == of:
        below = above = rise
    elif bounds is not None:
        width = bounds[1] - bounds[0]
        # `least_differences` needs a random order; the columns of the sample may be in the order of the data.
        scaled = (np.random.default_rng(seed).permutation(losses, axis=1) - bounds[0]) / width
        below = width * least_differences(scaled, of, error / len(rise))[first, second]
        above = -width * least_differences(scaled, of, error)[second, first]
    else:
        below, above = _gaussian(losses, mean, rise, of, error, seed)
    largest = int(np.argmax(below))
    return InterimAnalysis(
        examples=count,
        lower=max(0.0, float(below[largest])),
        upper=max(0.0, float(above.max())),
        first=int(first[largest]),
        second=int(second[largest]),
    )


def _gaussian(losses: Floats, mean: Floats, rise: Floats, of: int, error: float, seed: int) -> tuple[Floats, Floats]:
    """Lower and upper bounds of every pair's rise, valid as the sample means approach a normal distribution."""
    points, count = losses.shape
    if count < LEAST_EXAMPLES:
        return np.full_like(rise, -np.inf), np.full_like(rise, np.inf)
    first, second = np.triu_indices(points, k=1)
    centred = losses - mean[:, None]
    covariance = centred @ centred.T / (count - 1)
    variance = np.diag(covariance)
    both = variance[first] + variance[second]  # the scale of the rounding error in the variance of a difference
    deviation = np.sqrt(np.maximum(both - 2 * covariance[first, second], LEAST_DEVIATION**2 * both))
    mixed = np.square(centred) @ centred.T / count  # mean of a_i² a_j, which give the third moments of a_j − a_i
    cubes = np.diag(mixed)
    third = cubes[second] - 3 * mixed[second, first] + 3 * mixed[first, second] - cubes[first]
    rounding = ROUNDING * max(1.0, float(np.abs(mean).max()))
    varies = deviation > 0
    skewness = np.divide(third, deviation**3, out=np.zeros_like(third), where=varies)
    share = count / of
    standard_error = deviation * math.sqrt((1 - share) / count)

    def margin(quantile: float, skewed: Floats) -> Floats:
        term = ((2 - share) * quantile**2 + 1 - 2 * share) / (6 * math.sqrt(count * (1 - share)))
        widened: Floats = (quantile + np.maximum(skewed, 0) * term) * standard_error + rounding
        return widened

    one = NormalDist().inv_cdf(1 - error)
    every = _largest_quantile(covariance, varies, deviation, error, seed) if varies.any() else 0.0
    return rise - margin(every, np.maximum(-skewness, SKEWNESS)), rise + margin(one, skewness)


def _largest_quantile(
    covariance: Floats, varies: np.ndarray[tuple[int], np.dtype[np.bool_]], deviation: Floats, error: float, seed: int
) -> float:
    """Quantile 1 − error of max over i < j of (g_j − g_i) / s_ij for g ~ N(0, covariance), by simulation.

    With B draws it is the ⌈(1 − error)(B + 1)⌉-th smallest, which a further draw exceeds with probability ≤ error.
    """
    # The root of the correlations, not of the covariance: eigenvalues have rounding errors in proportion to the largest
    # one, which would exceed the variance of points whose losses vary little.
    spread = np.sqrt(np.diag(covariance))
    divisor = np.where(spread > 0, spread, 1.0)
    root = spread[:, None] * covariance_root(covariance / np.outer(divisor, divisor))
    points = len(covariance)
    scale = np.zeros((points, points))  # 1 / s_ij, or 0 for a pair that does not vary
    scale[np.triu_indices(points, k=1)] = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    generator = np.random.default_rng(seed)
    draws = math.ceil(DRAWS_BEYOND / error)
    largest = []
    for begin in range(0, draws, 4096):
        noise = root @ generator.standard_normal((points, min(4096, draws - begin)))
        top = np.full(noise.shape[1], -np.inf)
        for point in range(points - 1):
            studentised = (noise[point + 1 :] - noise[point]) * scale[point, point + 1 :, None]
            np.maximum(top, studentised.max(axis=0), out=top)
        largest.append(top)
    return float(np.sort(np.concatenate(largest))[math.ceil((1 - error) * (draws + 1)) - 1])


def unseen(examples: int, of: int, error: float) -> int:
    """Size of the largest group of examples that the sample may miss entirely with a probability of more than `error`.

    A sample of n = `examples` out of N = `of` misses a given group of M examples with probability ≤ (1 − n/N)^M, so
    the size is ⌊ln(error) / ln(1 − n/N)⌋; the sample contains a member of any larger group with probability 1 − error.

    >>> unseen(500, of=10_000, error=0.01), unseen(10_000, of=10_000, error=0.01)
    (89, 0)
    """
    return 0 if examples >= of else math.floor(math.log(error) / math.log1p(-examples / of))


def check_confidence(confidence: float, bounds: tuple[float, float] | None) -> None:
    """Refuse a confidence that `interim_analysis` cannot give.

    Raises `ValueError` outside (0, 1), and above 0.999 without bounds, where the normal approximation of means fails.
    """
    if not 0 < confidence < 1 or (bounds is None and confidence > 0.999):
        raise ValueError(
            explain(
                expected="0 < confidence < 1, and at most 0.999 without bounds, as the normal approximation of means "
                "fails in the far tails.",
                got=f"{confidence}.",
                hint="0.99 is usual; profile() measures all examples and has no sampling error.",
            )
        )
