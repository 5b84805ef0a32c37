"""Which parts of a network make a rise: its layers or, with batch norm, its weights and its statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.engine.derivative_choice import Derivative, DerivativeChoice, check_derivative, chosen_derivative
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.fitted_losses import fitted
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.engine.measurement import Measurement, MeasurementOptions, check_options, opened
from lerpscape.engine.moving_tensors import Mode
from lerpscape.networks.batch_norm import InterpolateStatistics
from lerpscape.networks.batches import Batch
from lerpscape.networks.blocks import block_names, block_of
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.studies.contributions import Contributions
from lerpscape.studies.quadrature import Integral, integrate

Groups: TypeAlias = Literal["module", "tensor", "block"] | Callable[[str], str]
# Which tensors move in a part (None: all), and whether batch-norm statistics are held fixed.
Part: TypeAlias = tuple[Collection[str] | None, bool]


def layer_contributions(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    between: tuple[float, float] | None = None,
    by: Groups = "module",
    alphas: int = 50,
    precision: float = 1e-2,
    budget: int = 65,
    derivative: Derivative = True,
    **options: Unpack[MeasurementOptions],
) -> Contributions:
    """Split the change of the mean loss between two α by layer: L(b) − L(a) = Σ_g ∫ ⟨∇_g L, dθ_g/dα⟩ dα.

    The parts add up to the change by the chain rule; each is an integral of exact derivatives. One backward pass for
    each batch and α gives all layers; one forward-mode pass for each layer too where batch-norm statistics are
    estimated at α, as no gradient leads through them, or where the model has no backward pass. With batch norm, a
    layer's part includes its effect on the statistics of later layers. The split is along this path; on another path it
    differs.

    * `loss`: as for `profile`.
    * `between`: the two α; None takes the largest rise of a profile on `alphas` points.
    * `by`: one part per module that owns parameters, per tensor, per `"block"` (each element of a `ModuleList`, such as
      the layers of a transformer, and every module outside of them), or per value of your function of a tensor's name.
    * `precision`: the grid is halved until the residual, and the change of each part, is at most this share of
      `Σ |parts|`.
    * `budget`: the most points that halving may use.
    * `derivative`: `"backward"` or `"forward"`; True chooses, and `how["derivative"]` says what was taken.
    * `options`: see `MeasurementOptions`.

    Raises `ValueError` where nothing rises and no `between` is given, and for models without a derivative;
    `NonFiniteLoss` for NaN losses.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    >>> ends = [{f"{i}.weight": torch.full((1, 1), w).double() for i in (0, 1)} for w in (0.0, 1.0)]
    >>> x = torch.ones(4, 1).double()
    >>> split = layer_contributions(model, Line(*ends), [(x, 0 * x)], loss="squared_error", between=(0, 1))
    >>> split.names, split.parts.round(12).tolist(), split.change  # y = α², L = α⁴, half of dL/dα each
    (('0', '1'), [0.5, 0.5], 1.0)
    """
    check_options(layer_contributions, options)
    check_derivative(derivative)
    if between is None:
        between = largest_rise(profile(model, path, data, loss=loss, alphas=alphas, derivative=False, **options))
    with opened(layer_contributions, model, path, data, options) as measurement:
        slopes = _Slopes(measurement, fitted(loss, measurement).loss, derivative, layers=True)
        groups: dict[str, Part] = {name: (names, False) for name, names in slopes.groups(by).items()}
        return slopes.contributions(groups, between, precision, budget)


def statistics_contributions(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    between: tuple[float, float] | None = None,
    alphas: int = 50,
    precision: float = 1e-2,
    budget: int = 65,
    **options: Unpack[MeasurementOptions],
) -> Contributions:
    """Split the change of the mean loss between two α into that of the weights and that of the batch-norm statistics.

    `weights` is ∫ of dL/dα with every statistic held at its value at α, `statistics` the rest: the change of the loss
    because means and variances change with α. Arguments as for `layer_contributions`.

    Raises `ValueError` for a model without batch norm, and what `layer_contributions` raises.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False)).double()
    >>> x = torch.tensor([[-1.0], [1.0]]).double()
    >>> states = [{**model.state_dict(), "0.weight": torch.full((1, 1), w).double()} for w in (1.0, 2.0)]
    >>> from lerpscape.networks.batch_norm import BatchStatistics
    >>> split = statistics_contributions(
    ...     model, Line(*states), [(x, 0 * x)], batch_norm=BatchStatistics(), loss="squared_error", between=(0, 1)
    ... )
    >>> split.names, bool(abs(split.parts.sum()) < 1e-4)  # normalisation cancels the scale of the weight
    (('weights', 'statistics'), True)
    """
    check_options(statistics_contributions, options)
    if between is None:
        between = largest_rise(profile(model, path, data, loss=loss, alphas=alphas, derivative=False, **options))
    with opened(statistics_contributions, model, path, data, options) as measurement:
        slopes = _Slopes(measurement, fitted(loss, measurement).loss)
        if not slopes.on_path.batch_norms:
            raise ValueError(
                explain(
                    expected="a model with batch norm.",
                    got="one without.",
                    hint="layer_contributions splits the change by layer.",
                )
            )
        whole: dict[str, Part] = {"weights": (None, True), "statistics": (None, False)}
        return slopes.contributions(whole, between, precision, budget, remainder="statistics")


class _Slopes:
    """dL/dα of a model on a path, by part, at any α; sums over the examples in float64."""

    def __init__(
        self, measurement: Measurement, loss: Loss, derivative: Derivative = "forward", *, layers: bool = False
    ) -> None:
        self.measurement = measurement
        self.on_path, self.reader = measurement.on_path, measurement.reader
        self.loss = loss
        self.report: Callable[[int], None] = lambda _: None
        self.examples = 0
        objective = Objective(self.on_path, loss, measurement.statistics)
        backward = layers and not measurement.statistics.estimates()
        if derivative == "backward" and not backward:
            self.choice = DerivativeChoice(None, "no gradient leads through batch-norm statistics estimated at α")
        else:
            order: list[Mode] = ["backward", "forward"] if backward else ["forward"]
            self.choice = chosen_derivative(objective, self.reader.first, derivative, order=order)
        if self.choice.mode is None:
            raise ValueError(
                explain(
                    expected="a model and a loss with a derivative, to attribute the change to parts.",
                    got=f"none: {self.choice.why}.",
                    hint="If one operation lacks it, replace it by plain torch operations.",
                )
            )
        self.objective = replace(objective, derivative=self.choice.mode)
        self.module = ModuleExecution(self.objective)

    def groups(self, by: Groups) -> dict[str, list[str]]:
        """Names of the model's tensors that the loss depends on and that may move, by part."""
        statistics = set(self.on_path.end_statistics())
        groups: dict[str, list[str]] = {}
        moving = {name for alpha in (0.0, 0.5, 1.0) for name in self.on_path.velocity(alpha)}
        parameters = {name for name, _ in self.on_path.model.named_parameters()}
        blocks = block_names(self.on_path.model) if by == "block" else ()
        for name in self.on_path.at(0.0):
            parameter = name in parameters
            if name in statistics and not isinstance(self.measurement.statistics.policy, InterpolateStatistics):
                continue  # the policy replaces them
            if not parameter and name not in moving:
                continue
            if callable(by):
                group = by(name)
            elif by == "tensor":
                group = name
            elif block := block_of(name, blocks):
                group = block
            else:
                owner = name.rpartition(".")[0] or "model"
                group = owner if parameter else f"{owner} (statistics)" if name in statistics else name
            groups.setdefault(group, []).append(name)
        return groups

    def contributions(
        self,
        parts: Mapping[str, Part],
        between: tuple[float, float],
        precision: float,
        budget: int,
        remainder: str | None = None,
    ) -> Contributions:
        """Integrate the parts; from the derivative of the part called `remainder`, those of the others are deducted."""
        left, right = _ordered(between)
        names = list(parts)
        with self.measurement.progress_bar(0, "contributions") as self.report:
            losses = self._sums([left, right], {"nothing moves": ((), False)})[0]
            if not np.isfinite(losses).all():
                raise NonFiniteLoss(
                    explain(
                        expected="finite losses at both ends of the interval.",
                        got=f"{losses.tolist()} at α = {left:.4g} and {right:.4g}.",
                        hint="profile() shows at which α and for which examples.",
                    )
                )

            def slopes(points: Floats) -> Floats:
                values = self._sums(points.tolist(), parts)[1]
                if remainder is not None:
                    at = names.index(remainder)
                    values[:, at] = 2 * values[:, at] - values.sum(axis=1)
                return values

            def settled(integral: Integral) -> bool:
                allowed = precision * np.abs(integral.values).sum()
                residual = abs(losses[1] - losses[0] - integral.values.sum())
                return bool(residual <= allowed and (integral.errors <= allowed).all())

            integral = integrate(slopes, left, right, settled=settled, budget=budget)
        return Contributions(
            names=tuple(names),
            parts=integral.values,
            errors=integral.errors,
            between=(left, right),
            losses=(float(losses[0]), float(losses[1])),
            alphas=integral.points,
            slopes=integral.samples,
            precision=precision,
            examples=self.examples,
            unit=self.loss.unit,
            loss_name=self.loss.name,
            label=self.measurement.label,
            how=self.measurement.how(budget=budget, derivative=self.choice.describe()),
        )

    def _sums(self, alphas: list[float], parts: Mapping[str, Part]) -> tuple[Floats, Floats]:
        """Mean losses of shape (points,) and mean derivatives of shape (points, parts)."""
        losses, slopes, weight = np.zeros(len(alphas)), np.zeros((len(alphas), len(parts))), 0.0
        self.examples = 0
        for chunk in self.reader.chunks():
            placed = [self.objective.place(batch) for batch in chunk]
            for i, alpha in enumerate(alphas):
                row, of_parts = self._parts_at(alpha, placed, parts)
                total, _, group_weight = row.total()
                losses[i] += total
                slopes[i] += of_parts
            self.examples += len(row.losses) if row.weights is None else int((row.weights > 0).sum())
            weight += group_weight
        return losses / weight, slopes / weight

    def _parts_at(
        self, alpha: float, batches: list[Batch], parts: Mapping[str, Part]
    ) -> tuple[LossesAtAlpha, list[float]]:
        """The losses of these batches at α, and Σ w dℓ/dα of each part."""
        if self.objective.derivative == "backward":
            row, products = self.module.products(alpha, batches, tell=self.report)
            moved = [products.keys() & set(only or ()) for only, _ in parts.values()]
            return row, [sum(float(products[name]) for name in sorted(names)) for names in moved]
        slopes = []
        for only, held in parts.values():
            row = self.module.at(alpha, batches, only=only, held=held, tell=self.report)
            slopes.append(float(row.total()[1]))
        return row, slopes


def largest_rise(profile: Profile) -> tuple[float, float]:
    """The α at which the largest rise of a profile opens, and that of its peak.

    Raises `ValueError` for a profile that never rises.
    """
    if not profile.rises:
        raise ValueError(
            explain(
                expected="a loss that rises somewhere, or between=(a, b).",
                got=f"one that never rises on {len(profile.alphas)} points.",
                hint="between=(0, 1) is the whole path; more alphas may find a rise.",
            )
        )
    largest = max(profile.rises, key=lambda rise: rise.height)
    return largest.opens, largest.peak


def _ordered(between: tuple[float, float]) -> tuple[float, float]:
    left, right = float(between[0]), float(between[1])
    if not left < right:
        raise ValueError(
            explain(
                expected="between=(a, b) with a < b.", got=f"{between!r}.", hint="between=(0, 1) is the whole path."
            )
        )
    return left, right
