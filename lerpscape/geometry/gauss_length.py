"""`gauss_length()`: the angle through which output paths turn, kinks counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, Unpack, get_args

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.geometry.gauss_length_results import GaussLength, Level
from lerpscape.geometry.grid_refinement import Refinement, Track, in_blocks
from lerpscape.geometry.outputs import OutputsOnPath, Per
from lerpscape.geometry.turning import angle, directions, max_angle, rounding, secants, tangent_integral, turning
from lerpscape.networks.batches import Batch
from lerpscape.networks.reading import Data
from lerpscape.networks.rebatching import evenly_spaced, same_layout
from lerpscape.paths.path import ParamPath

Method: TypeAlias = Literal["turning", "integral", "polygon"]
METHODS: tuple[Method, ...] = get_args(Method)

FIRST_GRID = 33
# The rounding of directions is measured, against float64, on at most this many examples.
NOISE_EXAMPLES = 256


def gauss_length(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    method: Method = "turning",
    alphas: Alphas | None = None,
    precision: float | None = 0.01,
    budget: int = 513,
    per: Per = None,
    **options: Unpack[MeasurementOptions],
) -> GaussLength:
    """Measure how far each example's output path z(α) turns, in radians: the length of the curve of its unit tangent.

    0 for a straight line, π for a half circle. It does not change when outputs are scaled or rotated, nor when the path
    is reversed or run through at another speed. Sequences (examples, positions, classes) give one length per position,
    except positions whose target is −100.

    * `method`: `"turning"`, Σ_i angle(z′(α_i), z′(α_{i+1})) of exact velocities, counts the kinks of ReLU networks and
      grows to the true length as the grid is refined; `"integral"`, ∫ ‖dv̂/dα‖ dα with v̂ = z′/‖z′‖ by the trapezoid
      rule, is the published estimator and misses them; `"polygon"`, the turning of the secants z(α_{i+1}) − z(α_i),
      needs no derivative, and computes in float64 unless `dtype` says otherwise.
    * `alphas`: the first grid, a count or increasing values; 33 points by default.
    * `precision`: the grid is halved, batch by batch, until no length changes by more than this (rad). None measures
      on the first grid alone, and reports the change from every second of its points.
    * `budget`: the most points that halving may use.
    * `per`: `"example"` takes the whole output as one vector, `"position"` one vector for each entry of its second
      dimension; None takes positions of outputs with three dimensions.
    * `options`: see `MeasurementOptions`.

    Where an output does not move it has no direction: these α are skipped, and counted in `degenerate`.

    Raises what `profile` raises; also `ValueError` for a model without the derivative that the method needs,
    `TypeError` for outputs that are not floating-point tensors, and `NonFiniteOutput` for NaN.

    Sources: Lucas et al. (2021) for the quantity and the integral; the turning estimate is derived.

    >>> from lerpscape.paths.line import Line
    >>> class Arc(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.angle = nn.Parameter(torch.zeros(()).double())
    ...     def forward(self, x):
    ...         return x * torch.stack([self.angle.cos(), self.angle.sin()])
    >>> ends = [{"angle": torch.tensor(angle, dtype=torch.float64)} for angle in (0.0, np.pi / 2)]
    >>> data = [(torch.ones(3, 1).double(), torch.zeros(3, 2).double())]
    >>> length = gauss_length(Arc(), Line(*ends), data)
    >>> length.per_example.round(9), length.method, length.converged
    (array([1.57079633, 1.57079633, 1.57079633]), 'turning', True)
    """
    if method not in METHODS:
        raise ValueError(
            explain(
                expected=f"method= one of {', '.join(METHODS)}.", got=f"{method!r}.", hint='"turning" counts the kinks.'
            )
        )
    if method == "polygon" and options.get("dtype") is None:
        options["dtype"] = torch.float64  # secants are small differences of outputs
    with opened(gauss_length, model, path, data, options, without=["self_check"]) as measurement:
        first = measurement.reader.first
        order: Literal[0, 1, 2] = 0 if method == "polygon" else 1 if method == "turning" else 2
        outputs = OutputsOnPath(measurement.on_path, measurement.statistics, first[0], order=order, per=per)
        estimator = _Estimator(method, float(torch.finfo(measurement.on_path.compute_dtype()).eps))
        refinement = Refinement(
            outputs,
            alpha_grid(FIRST_GRID if alphas is None else alphas),
            estimator.length,
            keep={0: slice(0, 1), 1: slice(1, 2), 2: slice(1, 3)}[order],
            precision=precision,
            budget=budget,
        )
        noise = _direction_noise(outputs, first[0])
        with measurement.progress_bar(0, "Gauss length") as report:
            batches = [estimator.measured(track, noise) for track in refinement.tracks(measurement.reader, report)]
        how = measurement.how(
            largest_batch=max((batch.examples or 0) for batch in first),
            per="example" if batches[0].track.layout.position is None else "position",
            budget=budget,
            direction_noise=noise,
            derivatives="none" if not order else "Taylor coefficients" if outputs.stack else "forward mode",
        )
    length = _gathered(batches, method, precision, measurement.label, how)
    allowed = 0.01 if precision is None else precision
    if length.rounding.mean() > allowed:
        warnings.warn(
            explain(
                expected=f"rounding to be small beside {allowed:g} rad.",
                got=f"steps of α so small that {how['dtype']} may account for {length.rounding.mean():.2g} of "
                f"{length.mean:.3g} rad on average.",
                hint="Use dtype=torch.float64, or fewer alphas.",
            ),
            stacklevel=2,
        )
    return length


@dataclass(frozen=True)
class _BatchLengths:
    """What is measured of one batch; arrays of shape (rows,)."""

    lengths: list[Floats]
    error: Floats
    max_angle: Floats
    degenerate: Floats
    rounding: Floats
    track: Track


@dataclass(frozen=True)
class _Estimator:
    """What a method computes from samples of shape (points, derivatives, rows, size) with unit roundoff `eps`."""

    method: Method
    eps: float

    def length(self, alphas: Floats, samples: Floats) -> Floats:
        """The Gauss length of every row."""
        if self.method == "integral":
            return tangent_integral(samples[:, 0], samples[:, 1], alphas)
        return turning(self.vectors(samples))

    def vectors(self, samples: Floats) -> Floats:
        """The velocities or, of outputs alone, the secants; those below rounding of the outputs are 0."""
        return secants(samples[:, 0], self.eps) if self.method == "polygon" else samples[:, 0]

    def noise(self, samples: Floats, relative: float) -> float | Floats:
        """Error of each direction (rad), if outputs or velocities have this relative error."""
        if self.method != "polygon":
            return relative
        lengths = np.linalg.norm(samples[:, 0], axis=-1)
        steps = np.linalg.norm(self.vectors(samples), axis=-1)
        error = relative * np.hypot(lengths[:-1], lengths[1:])
        angles: Floats = np.minimum(np.divide(error, steps, out=np.zeros_like(steps), where=steps > 0), np.pi)
        return angles

    def measured(self, track: Track, noise: float) -> _BatchLengths:
        """Everything that is reported of a batch; its samples are released."""

        def of_rows(function: Callable[[Floats], Floats]) -> Floats:
            return in_blocks(lambda _, samples: function(samples), track.alphas, track.samples)

        def possible_rounding(samples: Floats) -> Floats:
            return rounding(self.vectors(samples), self.noise(samples, noise))

        measured = _BatchLengths(
            lengths=track.lengths,
            error=track.error,
            max_angle=of_rows(lambda samples: max_angle(self.vectors(samples))),
            degenerate=of_rows(lambda samples: (~directions(self.vectors(samples))[1]).sum(axis=0)),
            # A quadrature does not add up rounding from point to point.
            rounding=np.zeros_like(track.error) if self.method == "integral" else of_rows(possible_rounding),
            track=track,
        )
        track.samples = np.empty((0, 0, 0, 0))  # a slice would keep all of them in memory
        return measured


def _gathered(
    batches: list[_BatchLengths], method: Method, precision: float | None, label: str, how: dict[str, Any]
) -> GaussLength:
    if not sum(len(batch.error) for batch in batches):
        raise ValueError(
            explain(
                expected="at least one example, or position, that counts.",
                got="none: every target is −100, or the batches are empty.",
                hint='Check the targets, or use per="example".',
            )
        )
    tracks = [batch.track for batch in batches]
    finest = max((track.alphas for track in tracks), key=len)
    depth = max(len(batch.lengths) for batch in batches)
    levels = []
    for level in range(depth):
        values = np.concatenate([batch.lengths[min(level, len(batch.lengths) - 1)] for batch in batches])
        levels.append(Level(_points_before(len(finest), depth - 1 - level), float(values.mean())))
    positions = [track.layout.position for track in tracks if track.layout.position is not None]
    return GaussLength(
        method=method,
        per_example=np.concatenate([batch.lengths[-1] for batch in batches]),
        error=np.concatenate([batch.error for batch in batches]),
        max_angle=np.concatenate([batch.max_angle for batch in batches]),
        degenerate=np.concatenate([batch.degenerate for batch in batches]).astype(np.int64),
        points=np.concatenate([np.full(len(batch.error), len(batch.track.alphas)) for batch in batches]),
        rounding=np.concatenate([batch.rounding for batch in batches]),
        example=np.concatenate([track.layout.example + track.offset for track in tracks]),
        position=np.concatenate(positions) if positions else None,
        alphas=finest,
        precision=precision,
        levels=tuple(levels),
        label=label,
        how=how,
    )


def _points_before(points: int, halvings: int) -> int:
    """Points of the grid so many halvings ago; before the first, every second point (and the last)."""
    for _ in range(halvings):
        points = points // 2 + 1
    return points


def _direction_noise(outputs: OutputsOnPath, probe: Batch) -> float:
    """The error of a direction by rounding (rad), measured against float64 at two α on the first batch.

    The median over examples, because a ReLU that is on in one type and off in the other is no rounding. Without
    derivatives, the relative error of an output. A few hundred examples suffice, where a batch can be cut.
    """
    if same_layout([probe]) and not outputs.statistics.by_batch():
        (probe,) = evenly_spaced([probe], NOISE_EXAMPLES)
    on_path = outputs.on_path
    dtype = on_path.compute_dtype()
    unit = 4 * float(torch.finfo(dtype).eps)
    derivative = min(outputs.order, 1)
    if dtype == torch.float64:
        return unit
    try:
        in_float64 = ModelOnPath(on_path.model, on_path.given, on_path.device, torch.float64)
        statistics = BatchNormStatistics(in_float64, outputs.statistics.policy)
        exact = OutputsOnPath(in_float64, statistics, probe, order=outputs.order, per=outputs.per)
        differences = []
        for alpha in (0.3, 0.7):
            pair = [
                each.at(alpha, [each.place(probe)])[0][derivative].double().cpu().numpy() for each in (outputs, exact)
            ]
            if derivative:
                (ours, moves), (true, really_moves) = (directions(values[None]) for values in pair)
                differences.append(angle(ours[0], true[0])[(moves & really_moves)[0]])
            else:
                size = np.linalg.norm(pair[1], axis=-1)
                differences.append(np.linalg.norm(pair[0] - pair[1], axis=-1)[size > 0] / size[size > 0])
    except (RuntimeError, TypeError):  # a model, or a device, that has no float64
        return unit
    errors = np.concatenate(differences)
    return max(unit, float(np.median(errors))) if len(errors) else unit
