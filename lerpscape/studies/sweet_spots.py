"""The α that is best on one data set while the loss on others rises by no more than is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.base.results import Result
from lerpscape.profiles.per_example import ExampleCurves
from lerpscape.readings.intervals import LEAST_EXAMPLES

# Between two measured α, curves are looked at in so many places.
BETWEEN = 50
# Resampled numbers of examples held at once.
HELD = 1 << 23


@dataclass(frozen=True)
class Change:
    """The change of a mean loss from `rise_from` to the chosen α, with its interval, and the `limit`, if it has one."""

    name: str
    value: float
    low: float
    high: float
    limit: float | None
    unit: str


@dataclass(frozen=True, eq=False)
class SweetSpot(Result):
    """Where on a path one loss is smallest, under limits on the rises of others.

    `alpha` is NaN where no α meets the limits. `low ≤ α ≤ high` with probability `level` over the draw of the examples
    (paired bootstrap); NaN with too few examples. `losses` and `errors` (standard errors) have shape (sets, points),
    in the order of `names`. `met` is the share of resamples in which some α meets the limits.
    """

    FORMAT = "lerpscape sweet spot 1"
    PLOT = "sweet_spots.plot_sweet_spot"

    alpha: float
    low: float
    high: float
    level: float
    changes: tuple[Change, ...]
    best: str
    rise_from: float
    names: tuple[str, ...]
    alphas: Floats
    losses: Floats = field(repr=False)
    errors: Floats = field(repr=False)
    examples: tuple[int, ...]
    met: float
    draws: int
    seed: int
    how: dict[str, Any] = field(repr=False)

    @property
    def at_edge(self) -> bool:
        """Whether the best α is the first or the last that was measured, so that a better one may lie beyond."""
        return self.alpha in (self.alphas[0], self.alphas[-1])

    @property
    def summary(self) -> str:
        """The answer in a few sentences."""
        limits = [each for each in self.changes if each.limit is not None]
        under = " and ".join(f"{each.name} rises by at most {each.limit:g} {each.unit}".rstrip() for each in limits)
        under = f" where {under} from α = {self.rise_from:g}" if under else ""
        if np.isnan(self.alpha):
            return f"No α from {self.alphas[0]:g} to {self.alphas[-1]:g}{under}."
        interval = "" if np.isnan(self.low) else f" ({100 * self.level:g} % interval {self.low:.3f} to {self.high:.3f})"
        text = f"{self.best} is lowest at α = {self.alpha:.3f}{interval}{under}."
        for each in self.changes:
            between = "" if np.isnan(each.low) else f" ({each.low:+.3g} to {each.high:+.3g})"
            text += f" {each.name}: {each.value:+.3g} {each.unit}".rstrip() + f"{between}."
        if self.at_edge:
            text += " This is the edge of what was measured: a better α may lie beyond it."
        unsure = [each.name for each in limits if each.limit is not None and each.high > each.limit]
        if unsure:
            text += f" That {' and '.join(unsure)} stays within its limit is not certain from these examples."
        return text


def sweet_spot(
    curves: Mapping[str, ExampleCurves],
    best: str,
    at_most: Mapping[str, float] | None = None,
    *,
    rise_from: float = 0.0,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> SweetSpot:
    """Find the α that minimises the mean loss on `best`, where that on others rises by at most so much.

    α* = argmin L_best(α) subject to L_k(α) − L_k(`rise_from`) ≤ `at_most[k]`. Between the measured α, mean losses are
    cubic splines. The interval is that of a paired bootstrap: examples are drawn with replacement, each with its losses
    at all α, from every data set by itself.

    * `curves`: `example_curves` of each data set on the same path at the same α; beyond 1 too, to look there. Any
      number per example will do that is better when smaller: an error rate, measured with `loss=function`.
    * `at_most`: for names of curves, the largest rise, in the unit of that curve; below 0, the least fall.
    * `rise_from`: the measured α from which rises count, 0 for the start and 1 for the end.

    Raises `ValueError` for unknown names, for curves of other paths or α, and for fewer than four α; `NonFiniteLoss`.

    Sources: Wortsman et al. (2022), Robust fine-tuning of zero-shot models; Efron (1979).

    >>> import torch, lerpscape as ls
    >>> line = ls.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    >>> wanted = {"legal": 1.0, "news": 0.0}  # the losses are (α − 1)² and α²
    >>> curves = {
    ...     name: ls.profiles.example_curves(
    ...         torch.nn.Linear(1, 1, bias=False), line, [(torch.ones(20, 1), torch.full((20, 1), value))],
    ...         loss="squared_error", alphas=11)
    ...     for name, value in wanted.items()
    ... }
    >>> round(sweet_spot(curves, "legal", {"news": 0.25}).alpha, 3)
    0.5
    """
    limits = dict(at_most or {})
    names = tuple(dict.fromkeys([best, *limits, *curves]))
    alphas = _checked(curves, names, rise_from)
    fine, spline = _between(alphas)
    origin = int(np.argmin(np.abs(fine - rise_from)))
    bounds = np.array([limits.get(name, np.inf) for name in names])

    means = np.stack([curves[name].mean for name in names])
    chosen = int(_best(means[None] @ spline.T, origin, bounds)[0])
    enough = min(_count(curves[name]) for name in names) >= LEAST_EXAMPLES
    places, changes = np.empty(0, dtype=np.int64), np.empty((0, len(names)))
    if enough:
        parts = list(_resampled([curves[name] for name in names], spline, draws, seed))
        places = np.concatenate([_best(each, origin, bounds) for each in parts])
        at = max(chosen, 0)
        changes = np.concatenate([each[:, :, at] - each[:, :, origin] for each in parts])
    found = fine[places[places >= 0]]
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(found, tails) if len(found) and chosen >= 0 else (np.nan, np.nan)
    value = means @ spline[chosen] - means @ spline[origin] if chosen >= 0 else np.full(len(names), np.nan)
    between = np.quantile(changes, tails, axis=0) if enough and chosen >= 0 else np.full((2, len(names)), np.nan)
    units = [curves[name].unit for name in names]
    facts = {name: value for name, value in curves[best].how.items() if name != "seconds"}
    digests = {name: curves[name].how["data_digest"] for name in names}
    return SweetSpot(
        alpha=float(fine[chosen]) if chosen >= 0 else float("nan"),
        low=float(low),
        high=float(high),
        level=level,
        changes=tuple(
            Change(name, float(value[i]), float(between[0, i]), float(between[1, i]), limits.get(name), units[i])
            for i, name in enumerate(names)
        ),
        best=best,
        rise_from=rise_from,
        names=names,
        alphas=alphas,
        losses=means,
        errors=np.stack([_errors(curves[name]) for name in names]),
        examples=tuple(_count(curves[name]) for name in names),
        met=float((places >= 0).mean()) if enough else float("nan"),
        draws=draws,
        seed=seed,
        how=facts | {"data_digests": digests, "losses": {name: curves[name].loss_name for name in names}},
    )


def _checked(curves: Mapping[str, ExampleCurves], names: tuple[str, ...], rise_from: float) -> Floats:
    """The α that all curves share, once it is certain that they are of one path."""
    unknown = [name for name in names if name not in curves]
    if unknown:
        raise ValueError(
            explain(
                expected=f"names among the curves: {', '.join(curves)}.", got=f"{unknown[0]!r}.", hint="See curves."
            )
        )
    first = curves[names[0]]
    for name in names:
        curve = curves[name]
        if curve.how["path_digest"] != first.how["path_digest"] or not np.array_equal(curve.alphas, first.alphas):
            raise ValueError(
                explain(
                    expected="curves on one path, at the same α.",
                    got=f"{name!r} on another path or at other α than {names[0]!r}.",
                    hint="Measure all data sets with the same line and alphas=.",
                )
            )
        bad = np.flatnonzero(~np.isfinite(curve.losses).all(axis=1))
        if len(bad):
            raise NonFiniteLoss(
                explain(
                    expected="finite losses: a curve with NaN or inf has no lowest point.",
                    got=f"{name!r} at α = {curve.alphas[bad[0]]:.6g}.",
                    hint="Measure with dtype=torch.float64, or fewer α.",
                )
            )
    if len(first.alphas) < 4 or not np.any(np.abs(first.alphas - rise_from) < 1e-12):
        raise ValueError(
            explain(
                expected=f"at least four α, among them rise_from = {rise_from:g}.",
                got=f"{len(first.alphas)} from {first.alphas[0]:g} to {first.alphas[-1]:g}.",
                hint="alphas=25 on [0, 1]; np.linspace(0, 1.5, 31) looks beyond the end.",
            )
        )
    return first.alphas


def _between(alphas: Floats) -> tuple[Floats, Floats]:
    """A fine grid that has every α, and the matrix that takes values at the α to those of their cubic spline on it."""
    steps = [np.linspace(left, right, BETWEEN, endpoint=False) for left, right in pairwise(alphas)]
    fine = np.append(np.concatenate(steps), alphas[-1])
    matrix: Floats = CubicSpline(alphas, np.eye(len(alphas)))(fine)
    matrix[::BETWEEN] = np.eye(len(alphas))  # no rounding at the points themselves
    return fine, matrix


def _best(means: Floats, origin: int, bounds: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The places of the lowest first curve where all others keep their bounds; −1 where none does.

    `means` has shape (draws, curves, places).
    """
    rises = means - means[:, :, origin, None]
    allowed = np.all(rises <= bounds[None, :, None], axis=1)
    lowest = np.where(allowed, means[:, 0], np.inf).argmin(axis=1)
    return np.where(np.any(allowed, axis=1), lowest, -1)


def _resampled(curves: list[ExampleCurves], spline: Floats, draws: int, seed: int) -> Iterator[Floats]:
    """Mean losses of resampled examples on the fine grid, shape (some draws, curves, places).

    Curves of the same data get the same examples.
    """
    generator = np.random.default_rng(seed)
    most = max(curve.losses.shape[1] for curve in curves)
    size = max(1, min(draws, HELD // max(most, len(spline) * len(curves))))
    for first in range(0, draws, size):
        some = min(size, draws - first)
        counts: dict[Any, Floats] = {}
        means = []
        for curve in curves:
            weights = _weights(curve)
            kept = weights > 0
            key = curve.how["data_digest"], kept.tobytes()
            if key not in counts:
                n = int(kept.sum())
                counts[key] = generator.multinomial(n, np.full(n, 1 / n), size=some).astype(np.float64)
            share = counts[key] * weights[kept]
            means.append((share @ curve.losses[:, kept].T) / share.sum(axis=1, keepdims=True))
        yield np.stack(means, axis=1) @ spline.T


def _weights(curve: ExampleCurves) -> Floats:
    return np.ones(curve.losses.shape[1]) if curve.weights is None else curve.weights


def _count(curve: ExampleCurves) -> int:
    return int((_weights(curve) > 0).sum())


def _errors(curve: ExampleCurves) -> Floats:
    """Standard error of the mean at every α, as that of a ratio."""
    weights, n = _weights(curve), _count(curve)
    if n < 2:
        return np.full(len(curve.alphas), np.nan)
    residuals = (curve.losses - curve.mean[:, None]) * weights
    errors: Floats = np.sqrt(np.square(residuals).sum(axis=1) * n / (n - 1)) / weights.sum()
    return errors
