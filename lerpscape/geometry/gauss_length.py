"""`gauss_length()`: the angle through which output paths turn, kinks counted."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.engine.measurement import alpha_grid
from lerpscape.engine.provenance import measured_with
from lerpscape.geometry.gauss_length_results import GaussLength, Level
from lerpscape.geometry.grid_refinement import Refinement, Track, in_blocks
from lerpscape.geometry.outputs import OutputsOnPath, Per
from lerpscape.geometry.turning import angle, directions, max_angle, rounding, secants, tangent_integral, turning
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Batch, Data, Reader
from lerpscape.networks.rebatching import evenly_spaced, same_layout
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath

Method: TypeAlias = Literal["turning", "integral", "polygon"]
METHODS: tuple[Method, ...] = get_args(Method)

FIRST_GRID = 33
# Directions in the measurement's type are compared with float64 on at most so many examples.
NOISE_EXAMPLES = 256


def gauss_length(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    method: Method = "turning",
    alphas: int | Sequence[float] | Floats | None = None,
    tolerance: float | None = 0.01,
    budget: int = 513,
    per: Per = None,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress = None,
    label: str = "",
) -> GaussLength:
    """Measure how far each example's output path z(α) turns, in radians: the length of the curve of its unit tangent.

    0 for a straight line, π for a half circle. Scaling or rotating the outputs, reversing the path and running along
    it at another speed change nothing. Sequences (examples, positions, classes) give one length per position, without
    those whose target is −100.

    * `method`: `"turning"`, Σ_i angle(z′(α_i), z′(α_{i+1})) of exact velocities, counts the kinks of ReLU networks and
      grows to the true length as the grid is refined; `"integral"`, ∫ ‖dv̂/dα‖ dα with v̂ = z′/‖z′‖ by the trapezoid
      rule, is the published estimator and misses them; `"polygon"`, the turning of the secants z(α_{i+1}) − z(α_i),
      needs no derivative, and computes in float64 unless `dtype` says otherwise.
    * `alphas`: the first grid, a count or increasing values; 33 points by default.
    * `tolerance`: the grid is halved, batch by batch, until no example changes by more than this (rad). None measures
      on the first grid alone, and reports the change from every second of its points.
    * `budget`: the most α that refinement may use.
    * `per`: `"example"` takes the whole output as one vector, `"position"` one vector for each entry of its second
      dimension; None takes positions of outputs with three dimensions.
    * `batch_norm`, `device`, `dtype`, `progress`: as for `profile`. The path is the one whose loss `profile` plots.

    Raises what `profile` raises; also `ValueError` for a model without the derivative that the method needs,
    `TypeError` for outputs that are not floating-point tensors, and `NonFiniteOutput` for NaN. An output that stands
    still has no direction there: that stretch is passed over and counted in `degenerate`.

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
    >>> found = gauss_length(Arc(), Line(*ends), data)
    >>> found.per_example.round(9), found.method, found.converged
    (array([1.57079633, 1.57079633, 1.57079633]), 'turning', True)
    """
    if method not in METHODS:
        raise ValueError(
            explain(
                expected=f"method= one of {', '.join(METHODS)}.", got=f"{method!r}.", hint='"turning" counts the kinks.'
            )
        )
    began = time.perf_counter()
    if method == "polygon" and dtype is None:
        dtype = torch.float64  # secants are small differences of outputs
    with undisturbed(model):
        reader = Reader(data)
        order: Literal[0, 1, 2] = 0 if method == "polygon" else 1 if method == "turning" else 2
        on_path = OutputsOnPath(
            model, path, reader.first[0], order=order, per=per, batch_norm=batch_norm, device=device, dtype=dtype
        )
        reading = _Reading(method, float(torch.finfo(on_path.on_path.compute_dtype()).eps))
        refinement = Refinement(
            on_path,
            alpha_grid(FIRST_GRID if alphas is None else alphas),
            reading.length,
            keep={0: slice(0, 1), 1: slice(1, 2), 2: slice(1, 3)}[order],
            tolerance=tolerance,
            budget=budget,
        )
        noise = _direction_noise(on_path, reader.first[0], model, path, per, batch_norm)
        with progress_bar(progress, total=0, what=f"Gauss length {label}".strip()) as report:
            rows = [reading.row(track, noise) for track in refinement.tracks(reader, report)]
    found = _gathered(rows, method, tolerance, label)
    found.how.update(
        measured_with(on_path.on_path, on_path.statistics, began)
        | {
            "data_digest": refinement.data_digest,
            "largest_batch": max((batch.examples or 0) for batch in reader.first),
            "per": "example" if found.position is None else "position",
            "budget": budget,
            "direction_noise": noise,
            "derivatives": "none" if not order else "Taylor coefficients" if on_path.stack else "forward mode",
        }
    )
    allowed = 0.01 if tolerance is None else tolerance
    if found.rounding.mean() > allowed:
        warnings.warn(
            explain(
                expected=f"rounding to be small beside {allowed:g} rad.",
                got=f"steps of α so small that {found.how['dtype']} may account for {found.rounding.mean():.2g} of "
                f"{found.mean:.3g} rad on average.",
                hint="Use dtype=torch.float64, or fewer alphas.",
            ),
            stacklevel=2,
        )
    return found


@dataclass(frozen=True)
class _Rows:
    """The rows of one batch, read to the end."""

    lengths: list[Floats]
    error: Floats
    max_angle: Floats
    degenerate: Floats
    rounding: Floats
    track: Track


@dataclass(frozen=True)
class _Reading:
    """What a method reads off samples of shape (points, derivatives, rows, size) with this unit of rounding."""

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
        """How far each direction may be off, where outputs or velocities are off by this share of their length."""
        if self.method != "polygon":
            return relative
        lengths = np.linalg.norm(samples[:, 0], axis=-1)
        steps = np.linalg.norm(self.vectors(samples), axis=-1)
        error = relative * np.hypot(lengths[:-1], lengths[1:])
        found: Floats = np.minimum(np.divide(error, steps, out=np.zeros_like(steps), where=steps > 0), np.pi)
        return found

    def row(self, track: Track, noise: float) -> _Rows:
        """Everything that is known of a batch, after which its samples may go."""

        def read(what: Any) -> Floats:
            return in_blocks(lambda _, samples: what(samples), track.alphas, track.samples)

        def may_be_rounding(samples: Floats) -> Floats:
            return rounding(self.vectors(samples), self.noise(samples, noise))

        found = _Rows(
            lengths=track.lengths,
            error=track.error,
            max_angle=read(lambda samples: max_angle(self.vectors(samples))),
            degenerate=read(lambda samples: (~directions(self.vectors(samples))[1]).sum(axis=0)),
            # A quadrature does not add up rounding from point to point.
            rounding=np.zeros_like(track.error) if self.method == "integral" else read(may_be_rounding),
            track=track,
        )
        track.samples = np.empty((0, 0, 0, 0))  # not a view, which would hold on to all of them
        return found


def _gathered(rows: Iterable[_Rows], method: Method, tolerance: float | None, label: str) -> GaussLength:
    rows = list(rows)
    if not sum(len(row.error) for row in rows):
        raise ValueError(
            explain(
                expected="at least one example, or position, that counts.",
                got="none: every target is −100, or the batches are empty.",
                hint='Check the targets, or use per="example".',
            )
        )
    tracks = [row.track for row in rows]
    finest = max((track.alphas for track in tracks), key=len)
    depth = max(len(row.lengths) for row in rows)
    levels = []
    for level in range(depth):
        values = np.concatenate([row.lengths[min(level, len(row.lengths) - 1)] for row in rows])
        levels.append(Level(_points_before(len(finest), depth - 1 - level), float(values.mean())))
    positions = [track.layout.position for track in tracks if track.layout.position is not None]
    found = GaussLength(
        method=method,
        per_example=np.concatenate([row.lengths[-1] for row in rows]),
        error=np.concatenate([row.error for row in rows]),
        max_angle=np.concatenate([row.max_angle for row in rows]),
        degenerate=np.concatenate([row.degenerate for row in rows]).astype(np.int64),
        points=np.concatenate([np.full(len(row.error), len(row.track.alphas)) for row in rows]),
        rounding=np.concatenate([row.rounding for row in rows]),
        example=np.concatenate([track.layout.example + track.offset for track in tracks]),
        position=np.concatenate(positions) if positions else None,
        alphas=finest,
        tolerance=tolerance,
        levels=tuple(levels),
        label=label,
        how={},
    )
    return found


def _points_before(points: int, halvings: int) -> int:
    """Points of the grid so many halvings ago; before the first, every second point (and the last)."""
    for _ in range(halvings):
        points = points // 2 + 1
    return points


def _direction_noise(
    on_path: OutputsOnPath,
    probe: Batch,
    model: nn.Module,
    path: ParamPath,
    per: Per,
    batch_norm: BatchNormPolicy | None,
) -> float:
    """By how much directions are off for rounding (rad): measured against float64 at two α of the first batch.

    The median over examples, as a unit that switches between the two computations is no rounding. For outputs alone,
    the relative error of an output. A few hundred examples will do where they can be taken out of their batch.
    """
    if same_layout([probe]) and not on_path.statistics.by_batch():
        (probe,) = evenly_spaced([probe], NOISE_EXAMPLES)
    dtype = on_path.on_path.compute_dtype()
    unit = 4 * float(torch.finfo(dtype).eps)
    derivative = min(on_path.order, 1)
    if dtype == torch.float64:
        return unit
    try:
        exact = OutputsOnPath(
            model,
            path,
            probe,
            order=on_path.order,  # where that is 2, it is compared with differences
            per=per,
            batch_norm=batch_norm,
            device=on_path.on_path.device,
            dtype=torch.float64,
        )
        differences = []
        for alpha in (0.3, 0.7):
            pair = [
                each.at(alpha, [each.place(probe)])[0][derivative].double().cpu().numpy() for each in (on_path, exact)
            ]
            if derivative:
                (ours, moves), (true, really_moves) = (directions(values[None]) for values in pair)
                differences.append(angle(ours[0], true[0])[(moves & really_moves)[0]])
            else:
                size = np.linalg.norm(pair[1], axis=-1)
                differences.append(np.linalg.norm(pair[0] - pair[1], axis=-1)[size > 0] / size[size > 0])
    except (RuntimeError, TypeError):  # a model, or a device, that has no float64
        return unit
    found = np.concatenate(differences)
    return max(unit, float(np.median(found))) if len(found) else unit
