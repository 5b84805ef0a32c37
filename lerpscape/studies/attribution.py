"""Which parts of a network make a rise: its layers, or, with batch norm, its weights against its statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.execution import ModuleExecution, Objective, why_no_derivative
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.provenance import measured_with
from lerpscape.networks.batch_norm import BatchNormPolicy, InterpolateStatistics
from lerpscape.networks.batches import Data, Reader
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.studies.contributions import Contributions
from lerpscape.studies.quadrature import Integral, integrate

Groups: TypeAlias = Literal["module", "tensor"] | Callable[[str], str]
# Which tensors a part moves, and whether batch-norm statistics stay where they are meanwhile.
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
    tolerance: float = 1e-2,
    budget: int = 65,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
) -> Contributions:
    """Take the change of the mean loss between two α apart by layer: L(b) − L(a) = Σ_g ∫ ⟨∇_g L, dθ_g/dα⟩ dα.

    The parts add up to the change because the chain rule does; each is a path integral of exact forward-mode
    derivatives, one pass per layer and α, under whatever batch-norm policy: a layer's part includes what it does
    through the statistics of layers behind it. Attribution is along this path; another path shares the change out
    differently.

    * `between`: the two α; None takes the largest rise of a profile on `alphas` points.
    * `by`: one part per module that owns parameters, per tensor, or what your function calls the group of a name.
    * `tolerance`: the grid is halved until the parts add up, and each changes by no more, than this share of
      `Σ |parts|`.
    * `budget`: the most α that halving may use.
    * the rest as for `profile`.

    Raises `ValueError` where nothing rises and no `between` is given, and for models without a forward-mode
    derivative; `NonFiniteLoss` for NaN losses.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    >>> ends = [{f"{i}.weight": torch.full((1, 1), w).double() for i in (0, 1)} for w in (0.0, 1.0)]
    >>> x = torch.ones(4, 1).double()
    >>> found = layer_contributions(model, Line(*ends), [(x, 0 * x)], loss="squared_error", between=(0, 1))
    >>> found.names, found.parts.round(12).tolist(), found.change  # y = α², L = α⁴, half of dL/dα each
    (('0', '1'), [0.5, 0.5], 1.0)
    """
    choices = {"batch_norm": batch_norm, "device": device, "dtype": dtype, "progress": progress}
    if between is None:
        between = _largest_rise(profile(model, path, data, loss=loss, alphas=alphas, derivative=False, **choices))  # type: ignore[arg-type]
    with undisturbed(model):
        slopes = _Slopes(model, path, data, find_loss(loss), batch_norm, device, dtype)
        groups: dict[str, Part] = {name: (names, False) for name, names in slopes.groups(by).items()}
        return slopes.contributions(groups, between, tolerance, budget, progress, label)


def statistics_contributions(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    batch_norm: BatchNormPolicy,
    loss: str | PerExample | Loss = "cross_entropy",
    between: tuple[float, float] | None = None,
    alphas: int = 50,
    tolerance: float = 1e-2,
    budget: int = 65,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
) -> Contributions:
    """How much of a change of the loss is weights, and how much is batch-norm statistics that move with α.

    `weights` is ∫ of dL/dα with every statistic held at its value at α, `statistics` the rest: what the loss does
    because means and variances move. Arguments as for `layer_contributions`.

    Raises `ValueError` for a model without batch norm, and what `layer_contributions` raises.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False)).double()
    >>> x = torch.tensor([[-1.0], [1.0]]).double()
    >>> states = [{**model.state_dict(), "0.weight": torch.full((1, 1), w).double()} for w in (1.0, 2.0)]
    >>> from lerpscape.networks.batch_norm import BatchStatistics
    >>> found = statistics_contributions(
    ...     model, Line(*states), [(x, 0 * x)], batch_norm=BatchStatistics(), loss="squared_error", between=(0, 1)
    ... )
    >>> found.names, bool(abs(found.parts.sum()) < 1e-4)  # normalised: what the weight does, its variance undoes
    (('weights', 'statistics'), True)
    """
    choices = {"batch_norm": batch_norm, "device": device, "dtype": dtype, "progress": progress}
    if between is None:
        between = _largest_rise(profile(model, path, data, loss=loss, alphas=alphas, derivative=False, **choices))  # type: ignore[arg-type]
    with undisturbed(model):
        slopes = _Slopes(model, path, data, find_loss(loss), batch_norm, device, dtype)
        if not slopes.on_path.batch_norms:
            raise ValueError(
                explain(
                    expected="a model with batch norm.",
                    got="one without.",
                    hint="layer_contributions takes its layers apart.",
                )
            )
        whole: dict[str, Part] = {"weights": (None, True), "statistics": (None, False)}
        return slopes.contributions(whole, between, tolerance, budget, progress, label, remainder="statistics")


class _Slopes:
    """dL/dα of a model on a path, in parts, at any α: sums over the examples in float64."""

    def __init__(
        self,
        model: nn.Module,
        path: ParamPath,
        data: Data,
        loss: Loss,
        batch_norm: BatchNormPolicy | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.loss = loss
        self.reader = Reader(data)
        self.on_path = ModelOnPath(model, path, device, dtype)
        self.policy = batch_norm
        self.statistics = statistics = BatchNormStatistics(self.on_path, batch_norm)
        self.tell: Callable[[int], None] = lambda _: None
        self.objective = Objective(self.on_path, loss, statistics, derivative=True)
        self.module = ModuleExecution(self.objective)
        self.examples = 0
        reason = why_no_derivative(self.objective, self.reader.first[0])
        if reason is not None:
            raise ValueError(
                explain(
                    expected="a model and a loss with a derivative in forward mode, to attribute the change to parts.",
                    got=f"none: {reason}.",
                    hint="Where one operation lacks it, write that operation in plain torch ones.",
                )
            )

    def groups(self, by: Groups) -> dict[str, list[str]]:
        """Names of the model's tensors that shape the curve, by part."""
        statistics = set(self.on_path.end_statistics())
        found: dict[str, list[str]] = {}
        moving = {name for alpha in (0.0, 0.5, 1.0) for name in self.on_path.velocity(alpha)}
        for name in self.on_path.at(0.0):
            parameter = name in dict(self.on_path.model.named_parameters())
            if name in statistics and not isinstance(self.policy, InterpolateStatistics):
                continue  # the policy puts others in their place
            if not parameter and name not in moving:
                continue
            if callable(by):
                group = by(name)
            elif by == "tensor":
                group = name
            else:
                owner = name.rpartition(".")[0] or "model"
                group = owner if parameter else f"{owner} (statistics)" if name in statistics else name
            found.setdefault(group, []).append(name)
        return found

    def contributions(
        self,
        parts: Mapping[str, Part],
        between: tuple[float, float],
        tolerance: float,
        budget: int,
        progress: Progress,
        label: str,
        remainder: str | None = None,
    ) -> Contributions:
        """Integrate the parts; `remainder` is what its derivative has beyond that of all other parts."""
        left, right = _ordered(between)
        began = time.perf_counter()
        names = list(parts)
        with progress_bar(progress, total=0, what=f"contributions {label}".strip()) as self.tell:
            losses = self._sums([left, right], {"nothing moves": ((), False)})[0]
            if not np.isfinite(losses).all():
                raise NonFiniteLoss(
                    explain(
                        expected="finite losses at both ends of the stretch.",
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

            def settled(found: Integral) -> bool:
                allowed = tolerance * np.abs(found.values).sum()
                off = abs(losses[1] - losses[0] - found.values.sum())
                return bool(off <= allowed and (found.errors <= allowed).all())

            found = integrate(slopes, left, right, settled=settled, budget=budget)
        return Contributions(
            names=tuple(names),
            parts=found.values,
            errors=found.errors,
            between=(left, right),
            losses=(float(losses[0]), float(losses[1])),
            alphas=found.points,
            slopes=found.samples,
            tolerance=tolerance,
            examples=self.examples,
            unit=self.loss.unit,
            loss_name=self.loss.name,
            label=label,
            how=measured_with(self.on_path, self.statistics, began),
        )

    def _sums(self, alphas: list[float], parts: Mapping[str, Part]) -> tuple[Floats, Floats]:
        """Mean losses of shape (points,) and mean derivatives of shape (points, parts)."""
        losses, slopes = np.zeros(len(alphas)), np.zeros((len(alphas), len(parts)))
        self.examples = 0
        for chunk in self.reader.chunks():
            placed = [self.objective.place(batch) for batch in chunk]
            for i, alpha in enumerate(alphas):
                for j, (only, held) in enumerate(parts.values()):
                    row = self.module.at(alpha, placed, only=only, held=held, tell=self.tell)
                    slopes[i, j] += 0.0 if row.slopes is None else float(row.slopes.double().sum())
                losses[i] += float(row.losses.double().sum())
            self.examples += len(row.losses)
        return losses / self.examples, slopes / self.examples


def _largest_rise(found: Profile) -> tuple[float, float]:
    if not found.rises:
        raise ValueError(
            explain(
                expected="a loss that rises somewhere, or the stretch to take apart.",
                got=f"one that never rises on {len(found.alphas)} points.",
                hint="between=(0, 1) takes the whole path; more alphas look closer.",
            )
        )
    largest = max(found.rises, key=lambda rise: rise.height)
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
