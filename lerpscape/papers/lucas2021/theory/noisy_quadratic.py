"""The noisy quadratic model of SGD near a minimum, with the expected loss on the line in closed form.

The loss is L(θ) = ½ Σᵢ hᵢ θᵢ², and every gradient has independent noise: gᵢ = hᵢ θᵢ + σ εᵢ, with εᵢ of mean 0 and
variance 1. Each step shrinks every direction by a fixed factor and adds noise, so that the expected loss on the line is
a parabola in α whose vertex and rise have closed forms.

Source: the model is that of Schaul, Zhang & LeCun (2013) and Zhang et al. (2019); the loss on the line is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.readings.monotonicity import Values


@dataclass(frozen=True, eq=False)
class NoisyQuadratic:
    """SGD on ½ Σ hᵢ θᵢ² from θ₀ for T steps θ ← θ − η(hθ + σε), and the line θ(α) = (1−α)θ₀ + αθ_T.

    * `curvatures`: h, one per direction, not negative; `start`: θ₀, of the same shape.
    * `learning_rate`: η, with 0 < η and η·h < 2; `noise`: σ ≥ 0, the same in every direction; `steps`: T ≥ 1.

    Losses are in the unit of L. Raises `ValueError` for η·h ≥ 2, where SGD diverges: every step multiplies θ by 1−ηh,
    of magnitude ≥ 1, so that the start is never forgotten and the noise grows without bound.

    >>> model = NoisyQuadratic(curvatures=[1.0, 0.1], start=[1.0, 1.0], learning_rate=0.5, noise=0.1, steps=10)
    >>> model.is_monotonic, round(model.vertex, 3)
    (True, 1.02)
    """

    curvatures: Values
    start: Values
    learning_rate: float
    noise: float
    steps: int

    def __post_init__(self) -> None:
        curvatures, start = (np.array(values, dtype=np.float64) for values in (self.curvatures, self.start))
        object.__setattr__(self, "curvatures", curvatures)
        object.__setattr__(self, "start", start)
        self._check(curvatures, start)

    @property
    def shrinkage(self) -> Floats:
        """The share of each direction of θ₀ that remains: rᵢ = (1−ηhᵢ)^T; shape (directions,)."""
        remaining: Floats = (1 - self.learning_rate * self._curvatures) ** self.steps
        return remaining

    @property
    def variance(self) -> Floats:
        """Variance of each direction of θ_T: Vᵢ = η²σ² Σ_{t<T} (1−ηhᵢ)^{2t} = η²σ²(1−rᵢ²)/(1−(1−ηhᵢ)²).

        It is η²σ²T where h = 0, and η²σ² where ηh = 1, because only the noise of the last step remains.
        """
        # 1 − ηh and 1 − (2 − ηh) differ only in sign; using the smaller of ηh and 2 − ηh is accurate near 0 and near 2.
        near = np.minimum(self.learning_rate * self._curvatures, 2 - self.learning_rate * self._curvatures)
        powers = np.full(near.shape, float(self.steps))
        within = (near > 0) & (near < 1)
        powers[within] = -np.expm1(2 * self.steps * np.log1p(-near[within])) / (near[within] * (2 - near[within]))
        powers[near == 1] = 1.0
        variance: Floats = (self.learning_rate * self.noise) ** 2 * powers
        return variance

    def expected_loss(self, alphas: Values) -> Floats:
        """E L(α) = ½ Σ hᵢ [((1−α) + αrᵢ)² θ₀ᵢ² + α² Vᵢ]; shape (points,).

        >>> NoisyQuadratic([2.0], [1.0], learning_rate=0.5, noise=1.0, steps=3).expected_loss([0.0, 0.5, 1.0])
        array([1.    , 0.3125, 0.25  ])
        """
        return _parabola(self._coefficients, np.asarray(alphas, dtype=np.float64))

    def expected_slope(self, alphas: Values) -> Floats:
        """d/dα E L = −b + α(a + v), with a = Σ h(1−r)²θ₀², b = Σ h(1−r)θ₀² ≥ 0 and v = Σ hV."""
        _, slope, bend = self._coefficients
        slopes: Floats = slope + 2 * bend * np.asarray(alphas, dtype=np.float64)
        return slopes

    @property
    def vertex(self) -> float:
        """The α of the smallest E L: b / (a + v); greater than 1 if E L still decreases at α = 1."""
        _, slope, bend = self._coefficients
        return -slope / (2 * bend) if bend > 0 else float("inf")  # the squares of the steps underflow

    @property
    def margin(self) -> float:
        """−d/dα E L at α = 1: the remaining gain Σ hᵢ rᵢ(1−rᵢ)θ₀ᵢ² minus the cost of the noise Σ hᵢ Vᵢ."""
        return float(np.sum(self._curvatures * (self.shrinkage * self._forgotten * self._start**2 - self.variance)))

    @property
    def is_monotonic(self) -> bool:
        """Whether E L never rises on [0, 1], which is equivalent to `margin` ≥ 0.

        The slope is linear in α and not positive at 0, so it is positive somewhere in [0, 1] only if it is at 1.
        """
        return self.margin >= 0

    @property
    def max_rise(self) -> float:
        """The largest rise of E L on [0, 1]: ½(a + v)(1 − vertex)² = margin² / (2(a + v)), or 0 if monotonic.

        It is of second order in the noise. The mean of the rises of single runs is larger.
        """
        _, _, bend = self._coefficients
        return 0.0 if self.is_monotonic else self.margin**2 / (4 * bend)

    def simulate(self, runs: int, *, alphas: Values, seed: int) -> Simulation:
        """Run SGD `runs` times with Gaussian noise, and compute the loss on the line of each run.

        Raises `ValueError` for fewer than two runs, which have no standard error.
        """
        if runs < 2:
            raise ValueError(
                explain(expected="at least two runs.", got=f"{runs}.", hint="Use 1,000 runs, for example.")
            )
        generator = np.random.default_rng(seed)
        position = np.tile(self._start, (runs, 1))
        for _ in range(self.steps):
            gradient = self._curvatures * position + self.noise * generator.standard_normal(position.shape)
            position -= self.learning_rate * gradient
        return simulated_lines(self, position, alphas)

    @property
    def _curvatures(self) -> Floats:
        return np.asarray(self.curvatures)

    @property
    def _start(self) -> Floats:
        return np.asarray(self.start)

    @property
    def _forgotten(self) -> Floats:
        """1 − r, accurate even if η·h is tiny."""
        rates = self.learning_rate * self._curvatures
        small = rates < 0.5
        forgotten = 1 - self.shrinkage
        forgotten[small] = -np.expm1(self.steps * np.log1p(-rates[small]))
        return forgotten

    @property
    def _coefficients(self) -> tuple[float, float, float]:
        """The coefficients of E L = c₀ + c₁α + c₂α²."""
        weight, forgotten = self._curvatures * self._start**2, self._forgotten
        bend = float(np.sum(weight * forgotten**2) + np.sum(self._curvatures * self.variance))
        return float(weight.sum()) / 2, -float(np.sum(weight * forgotten)), bend / 2

    def _check(self, curvatures: Floats, start: Floats) -> None:
        if curvatures.ndim != 1 or curvatures.shape != start.shape or not len(curvatures):
            raise ValueError(
                explain(
                    expected="curvatures and start as vectors of one length.",
                    got=f"shapes {curvatures.shape} and {start.shape}.",
                    hint="Give both one number per direction.",
                )
            )
        numbers = (*curvatures, *start, self.learning_rate, self.noise)
        if not np.isfinite(numbers).all() or min(*curvatures, self.noise) < 0 or self.learning_rate <= 0:
            raise ValueError(
                explain(
                    expected="finite numbers, with curvatures ≥ 0, noise ≥ 0 and a learning rate > 0.",
                    got=f"smallest curvature {curvatures.min():g}, noise {self.noise:g}, rate {self.learning_rate:g}.",
                    hint="Correct the number; a direction of negative curvature has no minimum and must be left out.",
                )
            )
        if self.steps < 1:
            raise ValueError(
                explain(expected="at least one step.", got=f"{self.steps}.", hint="Train for one step or more.")
            )
        steepest = int(np.argmax(curvatures))
        if self.learning_rate * curvatures[steepest] >= 2:
            raise ValueError(
                explain(
                    expected="η·h < 2 in every direction.",
                    got=f"η·h = {self.learning_rate * curvatures[steepest]:g} in direction {steepest}, "
                    "where SGD diverges: each step multiplies θ by 1 − ηh, of magnitude ≥ 1.",
                    hint=f"Use a learning rate under {2 / curvatures[steepest]:g}.",
                )
            )
        if not (curvatures * (start != 0)).any() and not (self.noise and curvatures.any()):
            raise ValueError(
                explain(
                    expected="a direction with positive curvature in which θ moves.",
                    got="a loss of 0 everywhere on the line.",
                    hint="Choose a start that is not a minimum, or add noise.",
                )
            )


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated runs of SGD, with the loss on the line of each run as an exact parabola in α.

    `loss` is the mean over runs at each of `alphas`, `stderr` its Monte-Carlo standard error, both of shape (points,)
    and in the unit of the loss; `rises`, of shape (runs,), is the largest rise on the line of each run.
    """

    alphas: Floats
    loss: Floats
    stderr: Floats
    rises: Floats
    coefficients: Floats = field(repr=False)

    @property
    def runs(self) -> int:
        """The number of runs."""
        return len(self.rises)

    @property
    def share_monotonic(self) -> float:
        """The share of runs whose loss never rises on their line."""
        return float(np.mean(self.rises == 0))

    def lines(self, runs: int, alphas: Values) -> Floats:
        """The loss on the lines of the first `runs` runs; shape (runs, points)."""
        return _parabola(self.coefficients[:, :runs, None], np.asarray(alphas, dtype=np.float64))


def simulated_lines(model: NoisyQuadratic, ends: Floats, alphas: Values) -> Simulation:
    """The loss on the lines from the model's start to the given `ends`, of shape (runs, directions).

    On each line it is c₀ + c₁α + c₂α² with c₀ = L(θ₀), c₁ = Σ hθ₀(θ_T−θ₀), c₂ = ½ Σ h(θ_T−θ₀)², so its rise is exact.
    """
    curvatures, start, points = np.asarray(model.curvatures), np.asarray(model.start), np.asarray(alphas, float)
    displacement = ends - start
    zeroth = np.full(len(ends), float(np.sum(curvatures * start**2)) / 2)
    coefficients = np.stack([zeroth, displacement @ (curvatures * start), displacement**2 @ curvatures / 2])
    _, slope, bend = coefficients
    final_slope = slope + 2 * bend
    # A convex parabola rises from its vertex, or from 0 if the vertex is negative, to 1.
    lowest = np.clip(-np.divide(slope, 2 * bend, out=np.zeros_like(bend), where=bend > 0), 0, 1)
    rises = np.where(final_slope > 0, (1 - lowest) * (slope + bend * (1 + lowest)), 0.0)
    losses = _parabola(coefficients[:, :, None], points)
    stderr = losses.std(axis=0, ddof=1) / np.sqrt(len(ends))
    return Simulation(points, losses.mean(axis=0), stderr, rises, coefficients)


def _parabola(coefficients: tuple[float, float, float] | Floats, alphas: Floats) -> Floats:
    zeroth, slope, bend = coefficients
    losses: Floats = zeroth + alphas * (slope + alphas * bend)
    return losses
