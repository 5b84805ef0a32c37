"""The limit of infinite width: how output paths straighten as a network approaches its linearisation, with exponents.

Networks in the NTK parametrisation, z = W_L/√m φ(… φ(W₁/√d x)) with all entries of W from N(0, 1), are trained by
full-batch gradient descent, with the same learning rate and number of steps for every width m. As m → ∞ they converge
to one linear model in function space (Jacot, Gabriel & Hongler 2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.geometry.gauss_length import gauss_length
from lerpscape.lab.models.initialisation import NTKLinear
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
SEEDS = (0, 1, 2, 3, 4)
EXAMPLES, INPUTS = 40, 4
MEASURED = ("gauss_length", "integral", "relative_distance", "max_rise")
INTEGRAL_POINTS = 17


def ntk_network(width: int, *, activation: str, seed: int, hidden_layers: int = 1) -> nn.Module:
    """A fully connected network 4-width-…-2 in NTK parametrisation, float64, without biases.

    Raises `ValueError` for an unknown activation, which lists the known ones.

    >>> sum(p.numel() for p in ntk_network(8, activation="tanh", seed=0).parameters())
    48
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            explain(expected=f"one of {', '.join(ACTIVATIONS)}.", got=f"{activation!r}.", hint='Try "tanh".')
        )
    # The seed depends on seed and width, so that networks of different widths are independent.
    generator = torch.Generator().manual_seed(1_000_003 * seed + width)
    sizes = [INPUTS, *[width] * hidden_layers, 2]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [
            NTKLinear(inputs, outputs, bias=False, generator=generator, dtype=torch.float64),
            ACTIVATIONS[activation](),
        ]
    return nn.Sequential(*layers[:-1])


def regression_data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """40 points on a sphere of radius 2 in three dimensions, and two smooth functions of them; float64.

    The fourth input is a constant 1, so that networks without biases can learn functions that are not odd.

    >>> [tuple(tensor.shape) for tensor in regression_data()]
    [(40, 4), (40, 2)]
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(EXAMPLES, INPUTS - 1, generator=generator, dtype=torch.float64)
    x = 2 * x / x.norm(dim=1, keepdim=True)
    y = torch.stack([(1.5 * x[:, 0]).sin() * x[:, 1], (x[:, 1] + x[:, 2]).cos()], dim=1)
    return torch.cat([x, torch.ones(EXAMPLES, 1, dtype=torch.float64)], dim=1), y


@dataclass(frozen=True)
class WidthRun:
    """One network: its losses, in squared output units, and the readings on its line.

    `gauss_length` is the mean over examples (rad), by turning angles, and `gauss_error` its change at the last halving
    of the grid; `integral` is the mean by the published integral (rad), which misses the kinks.
    """

    width: int
    seed: int
    start_loss: float
    end_loss: float
    gauss_length: float
    gauss_error: float
    integral: float
    relative_distance: float
    max_rise: float


@dataclass(frozen=True)
class PowerLaw:
    """A power law values ∝ width^exponent, fitted to each seed by least squares of logarithms.

    `exponent` is the mean over `seeds`, `lower` and `upper` its t interval at `level`. The interval covers other seeds,
    not other widths: if the curve is not yet a power law, the exponent depends on `widths`. `prefactor` is the fitted
    value at width 1. If there is no exponent, all four are NaN and `reason` says why.
    """

    exponent: float
    lower: float
    upper: float
    prefactor: float
    level: float
    seeds: int
    widths: tuple[int, ...]
    reason: str = ""

    def at(self, widths: ArrayLike) -> Floats:
        """The fitted values at these widths."""
        fitted: Floats = self.prefactor * np.asarray(widths, dtype=np.float64) ** self.exponent
        return fitted

    def verdict(self) -> str:
        """The exponent with its interval, or the reason why there is none, as text."""
        span = f"widths {self.widths[0]} to {self.widths[-1]}, {self.seeds} seeds"
        if self.reason:
            return f"no exponent: {self.reason} ({span})"
        return f"exponent {self.exponent:.3f} [{self.lower:.3f}, {self.upper:.3f}] ({100 * self.level:g} %, {span})"


def power_law(widths: Sequence[int], values: ArrayLike, *, level: float = 0.95) -> PowerLaw:
    """Fit values = c · width^k, with a t interval over seeds; `values` has shape (widths, seeds).

    k is the mean over seeds of the least-squares slope of log values against log widths, and the interval is
    k ± t · s/√n, with s the standard deviation of the n slopes. There is no exponent if a value is 0.

    Raises `ValueError` for shapes that do not match, fewer than two widths or seeds, and negative or non-finite values.

    >>> power_law([1, 10, 100], [[2.0, 1.0], [0.2, 0.1], [0.02, 0.01]]).verdict()
    'exponent -1.000 [-1.000, -1.000] (95 %, widths 1 to 100, 2 seeds)'
    >>> power_law([1, 10], [[2.0, 1.0], [0.2, 0.0]]).verdict()
    'no exponent: 1 of 4 values are 0, which has no logarithm (widths 1 to 10, 2 seeds)'
    """
    observed = np.asarray(values, dtype=np.float64)
    distinct = sorted({width for width in widths if width > 0})
    matches = observed.ndim == 2 and observed.shape[0] == len(widths) == len(distinct)
    if not matches or min(observed.shape) < 2:
        raise ValueError(
            explain(
                expected="at least two different widths and two seeds, one value for each pair.",
                got=f"{len(widths)} widths and values of shape {observed.shape}.",
                hint="values[i, j] belongs to widths[i] and seed j; one seed has no error.",
            )
        )
    if not np.isfinite(observed).all() or observed.min() < 0:
        raise ValueError(
            explain(
                expected="finite values ≥ 0.",
                got=f"values from {observed.min()} to {observed.max()}.",
                hint="Leave out failed runs.",
            )
        )
    if not 0 < level < 1:
        raise ValueError(explain(expected="0 < level < 1.", got=f"{level}.", hint="Use 0.95, for example."))
    seeds, order = observed.shape[1], tuple(int(width) for width in widths)
    zeros = int((observed == 0).sum())
    if zeros:
        reason = f"{zeros} of {observed.size} values are 0, which has no logarithm"
        return PowerLaw(math.nan, math.nan, math.nan, math.nan, level, seeds, order, reason)
    logs = np.log(np.asarray(widths, dtype=np.float64))
    slopes, offsets = np.polyfit(logs, np.log(observed), 1)
    half = t_quantile((1 + level) / 2, seeds - 1) * float(slopes.std(ddof=1)) / math.sqrt(seeds)
    exponent = float(slopes.mean())
    return PowerLaw(exponent, exponent - half, exponent + half, float(np.exp(offsets.mean())), level, seeds, order)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` degrees of freedom.

    >>> round(t_quantile(0.975, 4), 3)
    2.776
    """
    from scipy.stats import t

    return float(t.ppf(probability, freedom))


@dataclass(frozen=True)
class WidthStudy:
    """The same training at several widths and seeds; `runs` are ordered by width, then by seed."""

    activation: str
    learning_rate: float
    steps: int
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    runs: tuple[WidthRun, ...]

    def values(self, name: str) -> Floats:
        """The values of one field of `WidthRun`; shape (widths, seeds)."""
        return np.array([getattr(run, name) for run in self.runs]).reshape(len(self.widths), len(self.seeds))

    def fit(self, name: str, *, widest: int | None = None) -> PowerLaw:
        """The power law of one field of `WidthRun`, over all widths or over the `widest` largest ones."""
        first = 0 if widest is None else max(len(self.widths) - widest, 0)
        return power_law(self.widths[first:], self.values(name)[first:])


def width_study(
    *,
    activation: str = "tanh",
    widths: Sequence[int] = WIDTHS,
    seeds: Sequence[int] = SEEDS,
    hidden_layers: int = 1,
    learning_rate: float = 0.2,
    steps: int = 300,
    tolerance: float = 0.01,
    budget: int = 513,
    progress: Progress = None,
) -> WidthStudy:
    """Train networks of every width and seed by full-batch gradient descent on the mean squared error; measure each.

    The loss is the squared error summed over two outputs and averaged over 40 examples. `tolerance` and `budget` are
    those of `gauss_length`; everything is in float64.

    Raises `ValueError` if training does not lower the loss, because exponents of diverged networks are meaningless.

    >>> study = width_study(widths=(8, 64), seeds=(0, 1), steps=5, progress=False)
    >>> study.values("relative_distance").shape, study.fit("relative_distance").exponent < 0
    ((2, 2), True)
    """
    x, y = regression_data()
    runs = []
    with progress_bar(progress, len(widths) * len(seeds), f"width, {activation}", unit="network") as report:
        for width in widths:
            for seed in seeds:
                model = ntk_network(width, activation=activation, seed=seed, hidden_layers=hidden_layers)
                start = copy.deepcopy(model.state_dict())
                gradient_descent(model, x, y, learning_rate=learning_rate, steps=steps)
                runs.append(_measure(model, start, x, y, width, seed, tolerance, budget))
                report(1)
    return WidthStudy(activation, learning_rate, steps, tuple(widths), tuple(seeds), tuple(runs))


def gradient_descent(model: nn.Module, x: Tensor, y: Tensor, *, learning_rate: float, steps: int) -> None:
    """Full-batch gradient descent on the mean squared error, in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = (model(x) - y).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _measure(
    model: nn.Module, start: dict[str, Tensor], x: Tensor, y: Tensor, width: int, seed: int, tol: float, budget: int
) -> WidthRun:
    line, data = Line(start, model), [(x, y)]
    curve = profile(model, line, data, loss="squared_error", derivative=False, progress=False)
    before, after = float(curve.loss[0]), float(curve.loss[-1])
    if not after < before:
        raise ValueError(
            explain(
                expected="training that lowers the loss.",
                got=f"{before:.3g} before and {after:.3g} after, at width {width} with seed {seed}.",
                hint="Use a smaller learning rate.",
            )
        )
    gauss = gauss_length(model, line, data, precision=tol, budget=budget, progress=False)
    published = gauss_length(
        model, line, data, method="integral", alphas=INTEGRAL_POINTS, precision=None, progress=False
    )
    return WidthRun(
        width,
        seed,
        before,
        after,
        gauss.mean,
        gauss.mean_error,
        published.mean,
        curve.relative_distance,
        curve.max_rise,
    )
