"""What a random sample of examples, drawn without replacement, says about the largest rise over all of them.

The population is finite: the examples at hand. A look at some of them brackets the largest rise of the mean loss of
all; at a look at all of them there is nothing left to guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.profiles.bounded_means import least_differences

# Draws of the simulated maximum beyond its quantile, on average.
DRAWS_BEYOND = 20
# A mean loss is known to this share of it, and a deviation of differences to this share of the losses' own.
ROUNDING = 1e-12
LEAST_DEVIATION = 1e-5


@dataclass(frozen=True)
class Look:
    """lower ≤ largest rise over all examples ≤ upper, as seen by the first `examples` of a random order.

    `first` and `second` are the grid points of the pair whose rise is bounded by `lower`. In the unit of the loss.
    """

    examples: int
    lower: float
    upper: float
    first: int
    second: int


def schedule(first: int, most: int) -> list[int]:
    """How many examples have been seen at each look: doubling from the first to the most.

    >>> schedule(1024, 5000), schedule(1024, 100)
    ([1024, 2048, 4096, 5000], [100])
    """
    counts = []
    while first < most:
        counts.append(first)
        first *= 2
    return [*counts, most]


def look(losses: Floats, of: int, error: float, *, bounds: tuple[float, float] | None = None, seed: int = 0) -> Look:
    """Bracket the largest rise of the mean over `of` examples from the losses of some, shape (points, examples).

    With d_ij = mean ℓ_j − mean ℓ_i over the sample and s_ij its standard error, (1 − n/N) S²_ij / n under the root:

    * `upper` = max over i < j of d_ij + t·s_ij. If the largest rise exceeds `upper`, then the rise of *its own* pair
      exceeds that pair's bound: t need only hold for one pair at a time, and is a normal quantile.
    * `lower` = max over i < j of d_ij − q·s_ij, where any pair may err: q is the quantile of the largest of all
      studentised differences of Gaussian draws with the covariance of the sample.

    Each fails with a probability of `error`, in the limit of many examples. Both margins are widened, never narrowed,
    by the first term of Cornish & Fisher's expansion for the studentised mean of a skewed finite population,
    γ_ij ((2 − f) z² + 1 − 2f) / (6 √(n (1 − f))), f = n/N, γ_ij the skewness of the difference in the sample.

    With `bounds` of a single loss both ends are those of `least_differences`, with error over the number of pairs for
    `lower`: true for every n.

    Sources: Chernozhukov, Chetverikov & Kato (2013) for the maximum; Berger (1982) for the intersection; Hall (1992)
    for the expansion, with the finite population's cumulants *derived* here.

    >>> losses = np.array([[1.0], [0.0], [0.5]]) + 0.1 * np.random.default_rng(0).standard_normal((3, 400))
    >>> found = look(losses, of=10_000, error=0.01)
    >>> found.lower < 0.5 < found.upper, (found.first, found.second)
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
        # In an order of its own, as examples may come in the order of the data within a sample.
        scaled = (np.random.default_rng(seed).permutation(losses, axis=1) - bounds[0]) / width
        below = width * least_differences(scaled, of, error / len(rise))[first, second]
        above = -width * least_differences(scaled, of, error)[second, first]
    else:
        below, above = _gaussian(losses, mean, rise, of, error, seed)
    largest = int(np.argmax(below))
    return Look(
        examples=count,
        lower=max(0.0, float(below[largest])),
        upper=max(0.0, float(above.max())),
        first=int(first[largest]),
        second=int(second[largest]),
    )


def _gaussian(losses: Floats, mean: Floats, rise: Floats, of: int, error: float, seed: int) -> tuple[Floats, Floats]:
    """Bounds of every pair's rise that hold as means become normal."""
    points, count = losses.shape
    if count < 2:
        return np.full_like(rise, -np.inf), np.full_like(rise, np.inf)
    first, second = np.triu_indices(points, k=1)
    centred = losses - mean[:, None]
    covariance = centred @ centred.T / (count - 1)
    variance = np.diag(covariance)
    both = variance[first] + variance[second]  # next to which smaller ones drown in rounding: they are taken as larger
    deviation = np.sqrt(np.maximum(both - 2 * covariance[first, second], LEAST_DEVIATION**2 * both))
    mixed = np.square(centred) @ centred.T / count  # mean of a_i² a_j, whence the third moments of a_j − a_i
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
    return rise - margin(every, -skewness), rise + margin(one, skewness)


def _largest_quantile(
    covariance: Floats, varies: np.ndarray[tuple[int], np.dtype[np.bool_]], deviation: Floats, error: float, seed: int
) -> float:
    """Quantile 1 − error of max over i < j of (g_j − g_i) / s_ij for g ~ N(0, covariance).

    The order statistic is one that the chance of the draws does not make too small: with B draws, the
    ⌈(1 − error)(B + 1)⌉-th is exceeded by a further draw with probability ≤ error.
    """
    # The root of the correlations, not of the covariance: rounding in eigenvalues goes with the largest of them, and
    # a point whose losses vary little would drown in it.
    spread = np.sqrt(np.diag(covariance))
    divisor = np.where(spread > 0, spread, 1.0)
    eigenvalues, vectors = np.linalg.eigh(covariance / np.outer(divisor, divisor))
    root = spread[:, None] * vectors * np.sqrt(np.maximum(eigenvalues, 0))
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
    """How many given examples may all be missing from the sample with a probability of more than `error`.

    A group of more of them has one in the sample with probability 1 − error: (1 − n/N)^M bounds the chance to miss M.

    >>> unseen(500, of=10_000, error=0.01), unseen(10_000, of=10_000, error=0.01)
    (89, 0)
    """
    return 0 if examples >= of else math.floor(math.log(error) / math.log1p(-examples / of))


def check_confidence(confidence: float, bounds: tuple[float, float] | None) -> None:
    """Make sure that a confidence is one that the method can give.

    Raises `ValueError` outside (0, 1), and above 0.999 without bounds: so far out, means are not normal.
    """
    if not 0 < confidence < 1 or (bounds is None and confidence > 0.999):
        raise ValueError(
            explain(
                expected="0 < confidence < 1, and at most 0.999 where losses have no bounds: farther out, "
                "means are not normal.",
                got=f"{confidence}.",
                hint="0.99 is usual; profile() on all data has no sampling error.",
            )
        )
