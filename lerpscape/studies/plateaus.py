"""The α at which the error plateau of each example ends: predicted from the last biases, and observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from torch import Tensor, nn

from lerpscape.base.arrays import Floats, Integers
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.geometry.outputs import OutputsOnPath
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.networks.reading import Data, Reader
from lerpscape.paths.path import ParamPath

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Plateaus(Result):
    """For every example, the α from which its prediction is right until the end; arrays of shape (examples,).

    `predicted` and `observed` are inf for examples that are wrong at the end. `bias` (classes,) is the last layer's
    bias at the end, `signal` (examples, classes) the logits at the end minus that bias, `targets` the classes. `degree`
    is r in z_j(α) = α^r s_j + α b_j. `step` is the widest step of the grid, within which `observed` is interpolated.
    """

    FORMAT = "lerpscape plateaus 2"
    PLOT = "plateaus.plot_plateaus"
    FIGURE = "plateaus.plateaus_figure"

    bias: Floats
    signal: Floats = field(repr=False)
    targets: Integers = field(repr=False)
    predicted: Floats = field(repr=False)
    observed: Floats = field(repr=False)
    degree: int
    last_layer: str
    step: float
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def known(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which examples are right at the end."""
        return np.isfinite(self.predicted) & np.isfinite(self.observed)

    @property
    def mean_error(self) -> float:
        """Mean `|predicted − observed|` over the examples that are right at the end; nan without any."""
        known = self.known
        return float(np.abs(self.predicted[known] - self.observed[known]).mean()) if known.any() else float("nan")

    def by_class(self) -> list[dict[str, float]]:
        """Per class: n, last-layer bias, mean lead of its signal over the best other, and median plateau ends."""
        rows = []
        for label in np.unique(self.targets):
            members = self.targets == label
            others = np.delete(self.signal[members], label, axis=1).max(axis=1)
            rows.append(
                {
                    "class": float(label),
                    "examples": float(members.sum()),
                    "bias": float(self.bias[label]),
                    "signal_margin": float((self.signal[members, label] - others).mean()),
                    "predicted": float(np.median(self.predicted[members])),
                    "observed": float(np.median(self.observed[members])),
                }
            )
        return rows

    @property
    def summary(self) -> str:
        """How well the biases predict the plateaus, in a sentence."""
        n, right = len(self.targets), int(self.known.sum())
        if not right:
            return f"None of {n} examples is right at the end: no plateau ends."
        return (
            f"Plateaus end at α = {self.predicted[self.known].mean():.3g} on average as the last biases predict "
            f"(degree {self.degree}), at {self.observed[self.known].mean():.3g} as observed; mean difference "
            f"{self.mean_error:.2g} over the {right} of {n} examples right at the end (grid step {self.step:.2g})."
        )

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        columns = {"class": self.targets, "predicted": self.predicted, "observed": self.observed}
        return data_frame(columns)


def predicted_plateau_ends(bias: Floats, signal: Floats, targets: Integers, degree: int) -> Floats:
    """The α from which each example is right, if z_j(α) = α^r s_j + α b_j: shape (examples,), inf where never.

    max over j with b_j > b_y of ((b_j − b_y) / (s_y − s_j))^{1/(r−1)}: as α → 0 the signals shrink by α^r, the biases
    only by α, so near 0 the class with the largest bias is predicted. For an example that is wrong at α = 1, inf.

    Raises `ValueError` for a degree below 2, for which biases shrink as fast as signals.

    Source: the model is of Wang, Wang, Zhou & Ge (2022); the closed form is derived.

    >>> predicted_plateau_ends(np.array([0.0, 1.0]), np.array([[4.0, 0.0], [0.0, 1.0]]), np.array([0, 1]), 3).tolist()
    [0.5, 0.0]
    """
    if degree < 2:
        raise ValueError(
            explain(
                expected="a degree of at least 2.", got=f"{degree}.", hint="It is the number of layers with weights."
            )
        )
    rows = np.arange(len(targets))
    ahead = bias[None, :] - bias[targets][:, None]
    lead = signal[rows, targets][:, None] - signal
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(ahead > 0, np.where(lead > 0, ahead / lead, np.inf), 0.0) ** (1 / (degree - 1))
    latest: Floats = ends.max(axis=1)
    latest[_margin(signal + bias, targets) <= 0] = np.inf
    return latest


def plateau_ends(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    alphas: Alphas = 101,
    degree: int | None = None,
    last_layer: str | None = None,
    **options: Unpack[MeasurementOptions],
) -> Plateaus:
    """Find the α at which each example's error plateau ends, predicted and observed, on a path from a small start.

    The prediction needs only the last layer's biases and the logits at the end; it is exact on the straight line from
    zero if the layers before the last bias are homogeneous of degree r, and approximate from a small initialisation.
    Observed is the last α at which the margin over the best other class becomes positive, interpolated linearly.

    * `alphas`: as for `profile`, up to 1.
    * `degree`: r, the number of layers with weights; None finds it by tracing.
    * `last_layer`: the module with the last bias; None takes the last one with a bias for every class.
    * `options`: see `MeasurementOptions`.

    Raises `ValueError` for targets that are no class numbers or a network without such a bias, `TypeError` where
    tracing finds no depth.

    Source: Wang, Wang, Zhou & Ge (2022).

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2)).double()
    >>> end = {"0.weight": [[1.0]], "2.weight": [[2.0], [0.0]], "2.bias": [0.0, 1.0]}
    >>> end = {name: torch.tensor(value).double() for name, value in end.items()}
    >>> line = Line({name: 0 * tensor for name, tensor in end.items()}, end)
    >>> plateaus = plateau_ends(model, line, [(torch.ones(1, 1).double(), torch.tensor([0]))])
    >>> plateaus.predicted.tolist(), plateaus.observed.round(3).tolist()  # 2α² > α from ½ on
    ([0.5], [0.5])
    """
    grid = alpha_grid(alphas)
    if grid[-1] != 1:
        raise ValueError(
            explain(expected="alphas up to 1, where the logits are read.", got=f"{grid[-1]:.4g}.", hint="Use a count.")
        )
    with opened(plateau_ends, model, path, data, options, without=["self_check"]) as measurement:
        reader, on_path = measurement.reader, measurement.on_path
        outputs = OutputsOnPath(on_path, measurement.statistics, reader.first[0], order=0, per="example")
        targets = _classes(reader)
        margins, ends = [], []
        with measurement.progress_bar(len(reader), "plateaus") as report:
            offset = 0
            for batch in reader.batches():
                placed = outputs.place(batch)
                own = targets[offset : offset + (batch.examples or 0)]
                logits = [_logits(outputs.at(float(alpha), [placed])[0][0]) for alpha in grid]
                margins.append(np.stack([_margin(at_alpha, own) for at_alpha in logits]))
                ends.append(logits[-1])
                offset += len(own)
                report(1)
        end = np.concatenate(ends)
        last = last_layer or _last_with_bias(model, end.shape[1])
        bias_name = f"{last}.bias" if last else "bias"
        if degree is None:
            degree = bias_depths(model)[bias_name]
        state = on_path.at(1.0)
        if bias_name not in state or len(state[bias_name]) != end.shape[1]:
            raise ValueError(
                explain(
                    expected=f"a last layer with a bias for each of the {end.shape[1]} classes.",
                    got=f"{last!r}.",
                    hint="last_layer= names it; a network without biases has no plateau of this kind.",
                )
            )
        bias = state[bias_name].detach().cpu().double().numpy()
        how = measurement.how()
    return Plateaus(
        bias=bias,
        signal=end - bias,
        targets=targets,
        predicted=predicted_plateau_ends(bias, end - bias, targets, degree),
        observed=_last_crossing(np.concatenate(margins, axis=1), grid),
        degree=degree,
        last_layer=last,
        step=float(np.diff(grid).max()),
        label=measurement.label,
        how=how,
    )


def _classes(reader: Reader) -> Integers:
    classes = []
    for batch in reader.batches():
        targets = batch.targets
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
            shape = (
                f"{tuple(targets.shape)}, {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
            )
            raise ValueError(
                explain(
                    expected="class numbers as targets, one per example.",
                    got=f"{shape}.",
                    hint="Plateaus are defined for classes.",
                )
            )
        classes.append(targets.cpu().numpy())
    return np.concatenate(classes).astype(np.int64)


def _logits(rows: Tensor) -> Floats:
    logits: Floats = rows.detach().cpu().double().numpy()
    return logits


def _margin(logits: Floats, targets: Integers) -> Floats:
    """The logit of the target minus the largest other logit."""
    rows = np.arange(len(targets))
    others = logits.copy()
    others[rows, targets] = -np.inf
    margin: Floats = logits[rows, targets] - others.max(axis=1)
    return margin


def _last_crossing(margins: Floats, grid: Floats) -> Floats:
    """The α from which each margin stays positive, interpolated linearly; 0 if always, inf if not at the end."""
    crossings = np.zeros(margins.shape[1])
    for example, margin in enumerate(margins.T):
        wrong = np.flatnonzero(margin <= 0)
        if not len(wrong):
            continue
        last = int(wrong[-1])
        if last == len(grid) - 1:
            crossings[example] = np.inf
            continue
        share = -margin[last] / (margin[last + 1] - margin[last])
        crossings[example] = grid[last] + share * (grid[last + 1] - grid[last])
    return crossings


def _last_with_bias(model: nn.Module, classes: int) -> str:
    names = [
        name.rpartition(".")[0]
        for name, tensor in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and tuple(tensor.shape) == (classes,)
    ]
    if not names:
        raise ValueError(
            explain(
                expected=f"a last layer with a bias for each of the {classes} classes.",
                got="a network without one.",
                hint="Without a last bias there is no such plateau: every predicted end would be 0.",
            )
        )
    return names[-1]
