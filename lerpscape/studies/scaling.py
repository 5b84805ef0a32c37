"""Predictions of a trained network scaled down, alone and with noise or its start added (Tao, 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, check_options, opened
from lerpscape.geometry.outputs import OutputsOnPath
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Checkpoint, Source, as_vector, checkpoint
from lerpscape.paths.endpoints import noise_like, zeros_like
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile
from lerpscape.studies.many_profiles import how_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ScaleCurve:
    """One start ε on its line to θ_T: arrays of shape (points,).

    `ratio` is κ‖ε‖/‖θ_T‖ with κ = (1−α)/α: the norm of the start relative to the end in (1−α)ε + αθ_T = α(θ_T + κε).
    For a start of zero it is that of the own start. `agreement` is the share of examples with the same prediction as at
    the end, `cosine` the mean cosine between logits and those at the end, centred over classes; nan where either is 0.
    """

    name: str
    norm: float
    ratio: Floats
    loss: Floats
    error: Floats
    agreement: Floats
    cosine: Floats


@dataclass(frozen=True, eq=False)
class ScaleInvariance(Result):
    """Lines from several starts to one end, by the ratio of start to end in the mixture. `end_norm` is ‖θ_T‖."""

    FORMAT = "lerpscape scale invariance 1"
    PLOT = "plateaus.plot_scaling"
    FIGURE = "plateaus.scaling_figure"

    alphas: Floats
    curves: tuple[ScaleCurve, ...]
    end_norm: float
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    def __iter__(self) -> Iterator[ScaleCurve]:
        return iter(self.curves)

    def __getitem__(self, name: str) -> ScaleCurve:
        return {curve.name: curve for curve in self.curves}[name]

    @property
    def summary(self) -> str:
        """The agreement with the end when scaled, and the ratio at which half of the predictions change."""
        zero = self["zero"]
        parts = [
            f"f(αθ_T) predicts as f(θ_T) for {100 * zero.agreement.min():.3g} % of {self.examples:,} examples or more "
            f"down to α = {self.alphas[0]:.3g}"
        ]
        for curve in self.curves:
            if curve.name != "zero":
                changed = np.flatnonzero(curve.agreement < 0.5)
                limit = f"up to {curve.ratio[changed[-1] + 1]:.3g}" if len(changed) else "at every ratio measured"
                parts.append(f"{curve.name}: half of the predictions stay {limit}")
        return "; ".join(parts) + " (ratio κ‖ε‖/‖θ_T‖)."

    def to_pandas(self) -> pandas.DataFrame:
        """One row per start and α. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        points, first = len(self.alphas), vars(self.curves[0])
        columns = {
            name: np.concatenate([np.broadcast_to(vars(curve)[name], points) for curve in self.curves])
            for name in first
        }
        return data_frame(columns | {"alpha": np.tile(self.alphas, len(self.curves))})


def scale_invariance(
    model: nn.Module,
    start: Source,
    end: Source,
    data: Data,
    *,
    others: Mapping[str, Source] | None = None,
    seed: int = 0,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas = 25,
    **options: Unpack[MeasurementOptions],
) -> ScaleInvariance:
    """Does the trained network alone determine the prediction? Compares lines from its start, from noise and from zero.

    A point of the line is α(θ_T + κε) with κ = (1−α)/α. If predictions do not change with scale, the line from zero has
    the end's error at every α > 0, and the others show how much noise κε leaves predictions unchanged.

    * `others`: further starts by name, besides `own`, which is `start`, `noise`, Gaussian with the norm of each of its
      tensors (drawn with `seed`), and `zero`.
    * `loss`: as for `profile`.
    * `alphas`: number of points evenly spaced on (0, 1], or values in it.
    * `options`: see `MeasurementOptions`; `label` is the start's name. With batch norm, scale has no effect under
      `Recalibrate`, and has one with stored statistics.

    Raises `ValueError` for α outside (0, 1] or a loss without right answers, and what `profile` raises.

    Source: Tao (2024), scale invariance and monotonic linear interpolation.

    >>> model = nn.Linear(1, 2, bias=False).double()
    >>> ends = [{"weight": torch.tensor(w).double()} for w in ([[3.0], [0.0]], [[0.0], [4.0]])]
    >>> lines = scale_invariance(model, *ends, [(torch.ones(1, 1).double(), torch.tensor([1]))], alphas=4)
    >>> lines["zero"].error.tolist(), lines["own"].error.tolist(), lines["own"].ratio.tolist()
    ([0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [2.25, 0.75, 0.25, 0.0])
    """
    check_options(scale_invariance, options, without=["label"])
    grid = np.linspace(0, 1, alphas + 1)[1:] if isinstance(alphas, int) else alpha_grid(alphas)
    if len(grid) < 2 or grid[0] <= 0 or grid[-1] > 1:
        raise ValueError(
            explain(expected="alphas in (0, 1], at least two.", got=f"{alphas!r}."[:200], hint="alphas=25 is usual.")
        )
    own, target = checkpoint(start), checkpoint(end)
    starts = {"own": own, "noise": noise_like(own, seed), "zero": zeros_like(own)}
    repeated = set(starts) & set(others or {})
    if repeated:
        raise ValueError(
            explain(
                expected="names of their own for others.",
                got=f"{sorted(repeated)}.",
                hint="own, noise and zero are taken.",
            )
        )
    starts |= {name: checkpoint(source) for name, source in (others or {}).items()}
    lengths = _norm(own), _norm(target)
    curves = []
    for name, source in starts.items():
        line = Line(source, target)
        named: MeasurementOptions = {**options, "label": name}
        curve = profile(model, line, data, loss=loss, alphas=grid, derivative=False, **named)
        if curve.accuracy is None:
            raise ValueError(
                explain(
                    expected="a loss with right answers, as errors are compared.",
                    got=f"{curve.loss_name}.",
                    hint="cross_entropy.",
                )
            )
        agreement, cosine = _against_end(model, line, data, grid, options)
        length = _norm(source)
        ratio = (1 - grid) / grid * (length if length > 0 else lengths[0]) / lengths[1]
        curves.append(ScaleCurve(name, length, ratio, curve.loss, 1 - curve.accuracy, agreement, cosine))
    how = how_of(curve) | {"seed": seed, "end": target.source}
    return ScaleInvariance(grid, tuple(curves), lengths[1], curve.examples, curve.unit, how)


def _against_end(
    model: nn.Module, line: Line, data: Data, grid: Floats, options: MeasurementOptions
) -> tuple[Floats, Floats]:
    """Share of examples with the same prediction as at α = 1, and mean cosine of centred logits, at every α."""
    with opened(scale_invariance, model, line, data, options, without=["self_check"]) as measurement:
        reader = measurement.reader
        outputs = OutputsOnPath(measurement.on_path, measurement.statistics, reader.first[0], order=0, per="example")
        same, cosines, known, count = (np.zeros(len(grid)) for _ in range(4))
        for batch in reader.batches():
            placed = outputs.place(batch)
            end = outputs.at(1.0, [placed])[0][0].double()
            two = _centred(end)
            for i, alpha in enumerate(grid):
                here = outputs.at(float(alpha), [placed])[0][0].double()
                same[i] += float((here.argmax(1) == end.argmax(1)).sum())
                count[i] += len(here)
                one = _centred(here)
                sizes = one.norm(dim=1) * two.norm(dim=1)
                cosines[i] += float((one * two).sum(1)[sizes > 0].div(sizes[sizes > 0]).sum())
                known[i] += float((sizes > 0).sum())
    cosine: Floats = np.divide(cosines, known, out=np.full(len(grid), np.nan), where=known > 0)
    return same / count, cosine


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _norm(end: Checkpoint) -> float:
    return float(np.sqrt(sum(float(as_vector(end.tensors[name]).square().sum()) for name in end.parameters)))
