"""`sufficient_condition()`: for which examples the turning of the output path proves that the squared error falls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lerpscape.base.arrays import Floats, Integers
from lerpscape.base.errors import LerpscapeError, explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.geometry.gauss_length import FIRST_GRID
from lerpscape.geometry.grid_refinement import Refinement, Track, in_blocks
from lerpscape.geometry.outputs import OutputsOnPath
from lerpscape.geometry.turning import STILL, max_angle, secants, turning
from lerpscape.networks.losses import Loss, PerExample, find_loss
from lerpscape.networks.reading import Data
from lerpscape.paths.path import ParamPath

if TYPE_CHECKING:
    import pandas

HALF_PI = np.pi / 2
# Rounding error allowed for in angles close to π/2 (rad).
ANGLE_SLACK = 1e-6
SQUARED = ("squared_error", "mean_squared_error")


@dataclass(frozen=True, eq=False)
class Condition(Result):
    """For every example: how far its output path turns, and whether its squared error rises.

    Arrays have shape (examples,). `gauss_length` and `max_angle` in radians, `error` the length's change at the last
    halving. `rise` is the largest rise of ‖z(α) − z(1)‖², the error of the theorem; `target_rise` that of
    ‖z(α) − y‖² for the data's target y (both in squared output units); `gap` is ‖z(1) − y‖ / ‖z(0) − y‖: 0 where the
    final output is the target. `monotone` and `target_monotone`: no rise beyond rounding. `points` is the number of α.

    The theorem is about z* = z(1). Where the gap is not 0 it proves nothing about the target.
    """

    FORMAT = "lerpscape sufficient condition 1"

    gauss_length: Floats
    error: Floats
    max_angle: Floats
    rise: Floats
    monotone: NDArray[np.bool_]
    gap: Floats
    target_rise: Floats
    target_monotone: NDArray[np.bool_]
    points: Integers
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def counts(self) -> dict[tuple[bool, bool, bool], int]:
        """Number of examples of each kind: (length < π/2, max_angle < π/2, monotone towards z(1)).

        None are (True, False, …), as the length is at least the largest angle, nor (…, True, False), which would
        contradict the theorem.
        """
        kinds = list(zip(self.gauss_length < HALF_PI, self.max_angle < HALF_PI, self.monotone, strict=True))
        truths = [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False)]
        return {kind: sum(bool(np.array_equal(one, kind)) for one in kinds) for kind in truths}

    @property
    def share_below_half_pi(self) -> float:
        """Share of examples with a Gauss length under π/2."""
        return float(np.mean(self.gauss_length < HALF_PI))

    @property
    def share_max_angle_below_half_pi(self) -> float:
        """Share of examples with less than π/2 between any two velocities: the sharper condition."""
        return float(np.mean(self.max_angle < HALF_PI))

    @property
    def share_monotone(self) -> float:
        """Share of examples whose squared error towards z(1) never rises."""
        return float(np.mean(self.monotone))

    @property
    def share_target_monotone(self) -> float:
        """Share of examples whose squared error towards their target never rises."""
        return float(np.mean(self.target_monotone))

    @property
    def summary(self) -> str:
        """The shares, in a sentence."""

        def percent(share: float) -> str:
            return f"{100 * share:.3g} %"

        return (
            f"Of {len(self.monotone)} examples, {percent(self.share_below_half_pi)} have a Gauss length under π/2, "
            f"{percent(self.share_max_angle_below_half_pi)} a largest angle under π/2, and the squared error of "
            f"{percent(self.share_monotone)} falls all the way to z(1), that of "
            f"{percent(self.share_target_monotone)} to the target (median gap {np.median(self.gap):.2g})."
        )

    def table(self) -> str:
        """The counts as text, one line per kind that occurs."""
        lines = ["length < π/2   max angle < π/2   falls to z(1)   examples"]
        for (short, narrow, falls), count in self.counts.items():
            if count:
                words = ["yes" if holds else "no" for holds in (short, narrow, falls)]
                lines.append(f"{words[0]:<15}{words[1]:<18}{words[2]:<16}{count:>8}")
        return "\n".join(lines)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per example. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return data_frame(arrays)


def sufficient_condition(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    loss: str | PerExample | Loss = "squared_error",
    *,
    alphas: Alphas | None = None,
    precision: float | None = 0.01,
    budget: int = 513,
    **options: Unpack[MeasurementOptions],
) -> Condition:
    """Test the sufficient condition on each example, and compare it with the squared error of that example.

    Theorem: if any two velocities of z are less than π/2 apart, as they are where the Gauss length is under π/2, then
    ‖z(α) − z(1)‖² strictly decreases. For z(1) − z(α) is a sum of velocities, and each has a positive product with
    z′(α). It holds for one example at a time: a *mean* length under π/2 proves nothing about the mean loss.

    Angles are measured between the velocities and the secants between them, in their order on the path. For these the
    theorem holds exactly on the grid, and an example that violates it raises an error, as it would be a bug. A finer
    grid can only find more turning: `error` says how much the last halving found.

    * `loss`: `"squared_error"` or `"mean_squared_error"`. Targets have the shape of the outputs; they decide `gap`,
      `target_rise` and `target_monotone`, while the theorem is about z(1), whatever the target.
    * `alphas`, `precision`, `budget`: as for `gauss_length`.
    * `options`: see `MeasurementOptions`. By default `dtype` is float64, as rises of single examples are small
      differences.

    Raises `ValueError` for other losses (cross-entropy has no finite z*, so nothing follows for it), for fixed grids
    that do not run from 0 to 1, and for targets of another shape; otherwise what `gauss_length` raises.

    Sources: Lucas et al. (2021), for the length; the sharper condition by the largest angle is derived.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 2, bias=False)
    >>> line = Line({"weight": torch.zeros(2, 1)}, {"weight": torch.ones(2, 1)})
    >>> condition = sufficient_condition(model, line, [(torch.ones(4, 1), torch.ones(4, 2))])
    >>> condition.share_below_half_pi, condition.share_monotone, condition.gap.max()
    (1.0, 1.0, np.float64(0.0))
    """
    chosen = find_loss(loss)
    if chosen.name not in SQUARED:
        reason = (
            "cross-entropy has no finite z*: its logits grow without bound"
            if "entropy" in chosen.name
            else "not a distance"
        )
        raise ValueError(
            explain(
                expected=f"{' or '.join(SQUARED)}: the theorem is about ‖z(α) − z*‖² with z(1) = z*.",
                got=f"{chosen.name!r} ({reason}), for which turning proves nothing.",
                hint="gauss_length() measures the turning alone, for any loss.",
            )
        )
    grid = alpha_grid(FIRST_GRID if alphas is None else alphas)
    if grid[0] != 0 or grid[-1] != 1:
        raise ValueError(
            explain(
                expected="alphas from 0 to 1, as the theorem is about z(1).",
                got=f"alphas from {grid[0]:.4g} to {grid[-1]:.4g}.",
                hint="Leave alphas out, or include both ends.",
            )
        )
    options.setdefault("dtype", torch.float64)
    with opened(sufficient_condition, model, path, data, options, without=["self_check"]) as measurement:
        first = measurement.reader.first[0]
        outputs = OutputsOnPath(measurement.on_path, measurement.statistics, first, order=1, per="example")
        first = outputs.place(first)
        (layout,) = outputs.layouts([first])
        _targets(first.targets, (layout.examples, layout.size))  # wrong ones are refused before the work
        eps = float(torch.finfo(measurement.on_path.compute_dtype()).eps)
        refinement = Refinement(
            outputs,
            grid,
            lambda _, samples: turning(_steps(samples, eps)),
            keep=slice(0, 2),
            precision=precision,
            budget=budget,
        )
        with measurement.progress_bar(0, "condition") as report:
            parts = [_measured(track, eps) for track in refinement.tracks(measurement.reader, report)]
        condition = Condition(
            **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            label=measurement.label,
            how=measurement.how(loss=chosen.name, precision=precision, budget=budget),
        )
    _require_theorem(condition)
    return condition


def _steps(samples: Floats, eps: float) -> Floats:
    """v_0, s_0, v_1, s_1, …, v_n: velocities and the secants between them, shape (2·points − 1, rows, size).

    These are the directions of an inscribed polygon with two corners close to each point of the grid, so their turning
    is at most the path's.
    """
    steps = np.empty((2 * len(samples) - 1, *samples.shape[2:]))
    steps[::2] = samples[:, 1]
    steps[1::2] = secants(samples[:, 0], eps)
    return steps


def _measured(track: Track, eps: float) -> dict[str, NDArray[Any]]:
    """The arrays of a `Condition` for the examples of one batch."""
    outputs = np.asarray(track.samples[:, 0], dtype=np.float64)
    targets = _targets(track.batch.targets, outputs.shape[1:])
    rise, monotone = _falls(track, outputs, outputs[-1], eps)
    target_rise, target_monotone = _falls(track, outputs, targets, eps)
    start = np.linalg.norm(outputs[0] - targets, axis=-1)
    end = np.linalg.norm(outputs[-1] - targets, axis=-1)
    return {
        "gauss_length": track.lengths[-1],
        "error": track.error,
        "max_angle": in_blocks(lambda _, samples: max_angle(_steps(samples, eps)), track.alphas, track.samples),
        "rise": rise,
        "monotone": monotone,
        "gap": np.divide(end, start, out=np.where(end > 0, np.inf, 0.0), where=start > 0),
        "target_rise": target_rise,
        "target_monotone": target_monotone,
        "points": np.full(len(rise), len(track.alphas)),
    }


def _falls(track: Track, outputs: Floats, goal: Floats, eps: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Largest rise of ‖z(α) − goal‖² on the grid, and whether neither it nor the slope is above rounding."""
    offset = outputs - goal
    distance = np.linalg.norm(offset, axis=-1)
    squares = distance**2
    rise: Floats = (squares - np.minimum.accumulate(squares, axis=0)).max(axis=0)
    velocities = np.asarray(track.samples[:, 1], dtype=np.float64)
    slopes = 2 * (offset * velocities).sum(axis=-1)
    scale = STILL * eps * np.maximum(np.linalg.norm(outputs, axis=-1), np.linalg.norm(goal, axis=-1)).max(axis=0)
    speeds = np.linalg.norm(velocities, axis=-1)
    steep = (slopes > 2 * scale * speeds + STILL * eps * distance * speeds).any(axis=0)
    return rise, (rise <= 2 * scale * (distance.max(axis=0) + scale)) & ~steep


def _targets(targets: Any, shape: tuple[int, ...]) -> Floats:
    """The targets as vectors of shape (examples, size)."""
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.dim():
        flat = targets.reshape(len(targets), -1)
        if tuple(flat.shape) == shape:
            vectors: Floats = flat.detach().cpu().double().numpy()
            return vectors
    came = f"{tuple(targets.shape)}, {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
    raise ValueError(
        explain(
            expected=f"floating-point targets with the {shape[1]} numbers of each output.",
            got=f"{came}.",
            hint="For class numbers: torch.nn.functional.one_hot(y, classes).float(), if that is what was trained on.",
        )
    )


def _require_theorem(condition: Condition) -> None:
    broken = np.flatnonzero((condition.max_angle < HALF_PI - ANGLE_SLACK) & ~condition.monotone)
    if len(broken):
        first = int(broken[0])
        raise LerpscapeError(
            explain(
                expected="the squared error of an example to fall to z(1) where its largest angle is under π/2.",
                got=f"{len(broken)} that do not; the first is {first}, with a largest angle of "
                f"{condition.max_angle[first]:.6g} rad and a rise of {condition.rise[first]:.3g}.",
                hint="This contradicts a theorem, so it is a bug: please report it with the model and the "
                "two checkpoints.",
            )
        )
