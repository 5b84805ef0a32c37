"""Output paths projected to two or three dimensions, and how far they bend away from their chords."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.engine.measurement import Alphas, MeasurementOptions, alpha_grid, opened
from lerpscape.geometry.grid_refinement import Refinement
from lerpscape.geometry.outputs import OutputsOnPath
from lerpscape.geometry.turning import STILL
from lerpscape.networks.reading import Data
from lerpscape.paths.path import ParamPath

Projection: TypeAlias = Literal["pca", "random"]


@dataclass(frozen=True, eq=False)
class OutputPaths(Result):
    """Paths of chosen examples' outputs, and their projection to two or three dimensions.

    `outputs` has shape (points, examples, size), `velocity` too (None where it was not measured). `basis`, shape
    (dimensions, size), has orthonormal rows; `projected` is (outputs − centre) along it, shape
    (points, examples, dimensions), and `projected_velocity` the same of the velocity. `explained` is the share of the
    squared deviation from the mean that each direction shows. `labels` are class numbers, or example numbers.
    """

    FORMAT = "lerpscape output paths 2"
    FIGURE = "gauss.output_paths_figure"

    alphas: Floats
    outputs: Floats = field(repr=False)
    velocity: Floats | None = field(repr=False)
    examples: tuple[int, ...]
    labels: tuple[str, ...]
    projection: Projection
    basis: Floats = field(repr=False)
    centre: Floats = field(repr=False)
    explained: Floats
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def projected(self) -> Floats:
        """The paths along the basis, shape (points, examples, dimensions), in output units."""
        return (self.outputs - self.centre) @ self.basis.T

    @property
    def projected_velocity(self) -> Floats | None:
        """The velocities along the basis, in output units per α."""
        return None if self.velocity is None else self.velocity @ self.basis.T

    def onto(self, other: OutputPaths) -> OutputPaths:
        """The same paths in the projection of another result, to compare the two."""
        return _projected(self, other.basis, other.centre, other.projection)

    @property
    def summary(self) -> str:
        """How much of the paths the projection shows, in a sentence."""
        return (
            f"Outputs of {len(self.examples)} examples on {len(self.alphas)} points; {len(self.basis)} directions "
            f"({self.projection}) show {100 * self.explained.sum():.3g} % of their squared deviation from the mean."
        )


@dataclass(frozen=True, eq=False)
class Linearity(Result):
    """How far output paths bend away from their chords, on average over α and examples.

    `value` in squared output units with `error`, its difference from the value on every second point of the grid;
    `per_example` of shape (examples,); `relative` is each example's value over ‖z(1) − z(0)‖², without unit (inf where
    the ends coincide and the path leaves them).
    """

    FORMAT = "lerpscape linearity 2"

    value: float
    error: float
    per_example: Floats
    relative: Floats
    alphas: Floats
    label: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """The mean and its error in a sentence."""
        return (
            f"Output paths bend away from their chords by {self.value:.4g} squared output units on average over "
            f"{len(self.per_example)} examples ({len(self.alphas)} points; on every second one it differs by "
            f"{self.error:.2g})."
        )


def output_paths(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    examples: int | Sequence[int] = 10,
    alphas: Alphas = 101,
    projection: Projection = "pca",
    dimensions: Literal[2, 3] = 2,
    seed: int = 0,
    velocity: bool = True,
    **options: Unpack[MeasurementOptions],
) -> OutputPaths:
    """Measure the outputs z(α; x) of chosen examples, and project them to two or three dimensions.

    * `examples`: how many, from the first on, or their numbers in the data.
    * `alphas`: as for `profile`.
    * `projection`: `"pca"`, the principal components of all paths together, or `"random"` orthonormal directions, drawn
      with `seed`. A projection hides turning in the other directions.
    * `velocity`: also z′(α), for arrows; needs a model with forward-mode derivatives.
    * `options`: see `MeasurementOptions`.

    Raises `ValueError` for examples that the data does not have, and what `profile` raises.

    Source: Lucas et al. (2021), for logit paths.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 3, bias=False)
    >>> line = Line({"weight": torch.zeros(3, 1)}, {"weight": torch.tensor([[3.0], [0.0], [4.0]])})
    >>> paths = output_paths(model, line, [(torch.ones(2, 1), torch.tensor([0, 7]))], examples=[1], alphas=3)
    >>> paths.labels, paths.projected.shape, float(np.ptp(paths.projected[:, 0, 0]))
    (('7',), (3, 1, 2), 5.0)
    """
    grid = alpha_grid(alphas)
    wanted = list(range(examples)) if isinstance(examples, int) else [int(number) for number in examples]
    if not wanted or min(wanted) < 0 or dimensions not in (2, 3) or projection not in ("pca", "random"):
        raise ValueError(
            explain(
                expected='at least one example, projection "pca" or "random", and 2 or 3 dimensions.',
                got=f"{examples!r}, {projection!r} and {dimensions!r}.",
                hint="examples=10 takes the first ten.",
            )
        )
    with opened(output_paths, model, path, data, options, without=["self_check"]) as measurement:
        reader = measurement.reader
        order: Literal[0, 1] = 1 if velocity else 0
        outputs = OutputsOnPath(
            measurement.on_path, measurement.statistics, reader.first[0], order=order, per="example"
        )
        paths: dict[int, tuple[NDArray[Any], str]] = {}
        offset = 0
        with measurement.progress_bar(len(reader), "output paths") as report:
            for batch in reader.batches():
                placed = outputs.place(batch)
                count = outputs.layouts([placed])[0].examples
                rows = [number - offset for number in wanted if offset <= number < offset + count]
                if rows:
                    samples = np.stack([_array(outputs.at(float(a), [placed])[0][:, rows]) for a in grid])
                    for position, row in enumerate(rows):
                        paths[offset + row] = samples[:, :, position], _label(batch.targets, row, offset)
                offset += count
                report(1)
        how = measurement.how(seed=seed)
    missing = [number for number in wanted if number not in paths]
    if missing:
        raise ValueError(
            explain(
                expected=f"examples below {offset}, the number in the data.",
                got=f"{missing[:3]}.",
                hint="Count from 0.",
            )
        )
    samples = np.stack([paths[number][0] for number in wanted], axis=2)  # (points, derivatives, examples, size)
    unprojected = OutputPaths(
        alphas=grid,
        outputs=samples[:, 0],
        velocity=samples[:, 1] if velocity else None,
        examples=tuple(wanted),
        labels=tuple(paths[number][1] for number in wanted),
        projection=projection,
        basis=np.empty((0, samples.shape[-1])),
        centre=np.zeros(samples.shape[-1]),
        explained=np.empty(0),
        label=measurement.label,
        how=how,
    )
    return _projected(unprojected, *_directions(unprojected.outputs, projection, dimensions, seed), projection)


def linearity(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    alphas: Alphas = 50,
    **options: Unpack[MeasurementOptions],
) -> Linearity:
    """How far output paths are from their chords: ∫ mean_x ‖component of z(α)−z(0) orthogonal to z(1)−z(0)‖² dα.

    0 for straight paths, whatever their speed; in squared output units, by the trapezoid rule on `alphas`. Where an
    example's ends coincide there is no chord, and its whole displacement counts. Needs no derivative.

    * `alphas`: as for `profile`, from 0 to 1.
    * `options`: see `MeasurementOptions`.

    Raises `ValueError` for a grid that does not run from 0 to 1, and what `profile` raises.

    Source: the released code of Lucas et al. (2021).

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(1, 3, bias=False)
    >>> line = Line({"weight": torch.zeros(3, 1)}, {"weight": torch.ones(3, 1)})
    >>> linearity(model, line, [(torch.ones(2, 1), torch.zeros(2))]).value < 1e-12
    True
    """
    grid = alpha_grid(alphas)
    if grid[0] != 0 or grid[-1] != 1:
        raise ValueError(
            explain(
                expected="alphas from 0 to 1, between which the chord runs.",
                got=f"alphas from {grid[0]:.4g} to {grid[-1]:.4g}.",
                hint="Use a count.",
            )
        )
    with opened(linearity, model, path, data, options, without=["self_check"]) as measurement:
        reader, on_path = measurement.reader, measurement.on_path
        outputs = OutputsOnPath(on_path, measurement.statistics, reader.first[0], order=0, per="example")
        off_chord = partial(_off_chord, float(torch.finfo(on_path.compute_dtype()).eps))
        refinement = Refinement(outputs, grid, off_chord, keep=slice(0, 1), precision=None, budget=len(grid))
        values, coarse, chords = [], [], []
        with measurement.progress_bar(0, "linearity") as report:
            for track in refinement.tracks(reader, report):
                coarse.append(track.lengths[0])
                values.append(track.lengths[1])
                ends = np.asarray(track.samples[[0, -1], 0], dtype=np.float64)
                chords.append(np.square(ends[1] - ends[0]).sum(axis=-1))
        how = measurement.how()
    per_example, chord = np.concatenate(values), np.concatenate(chords)
    value = float(per_example.mean())
    return Linearity(
        value=value,
        error=abs(value - float(np.concatenate(coarse).mean())),
        per_example=per_example,
        relative=np.divide(per_example, chord, out=np.where(per_example > 0, np.inf, 0.0), where=chord > 0),
        alphas=grid,
        label=measurement.label,
        how=how,
    )


def _off_chord(eps: float, alphas: Floats, samples: Floats) -> Floats:
    """∫ ‖component of z(α) − z(0) orthogonal to the chord‖² dα for every row."""
    outputs = np.linalg.norm(samples[:, 0], axis=-1).max(axis=0)[:, None]
    moved = samples[:, 0] - samples[0, 0]
    chord = moved[-1]
    length = np.linalg.norm(chord, axis=-1, keepdims=True)
    unit = np.divide(chord, length, out=np.zeros_like(chord), where=length > STILL * eps * outputs)
    across = moved - unit * (moved * unit).sum(axis=-1, keepdims=True)
    area: Floats = np.trapezoid(np.square(across).sum(axis=-1), alphas, axis=0)
    return area


def _directions(outputs: Floats, projection: Projection, dimensions: int, seed: int) -> tuple[Floats, Floats]:
    """An orthonormal basis and the mean of the paths; if outputs have fewer dimensions, the last rows are zeros."""
    flat = outputs.reshape(-1, outputs.shape[-1])
    centre = flat.mean(axis=0)
    if projection == "pca":
        rows = np.linalg.svd(flat - centre, full_matrices=False)[2][:dimensions]
        # The sign of a singular vector is arbitrary: fixed, so that the same paths give the same picture.
        rows = rows * np.where(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    else:
        drawn = np.random.default_rng(seed).standard_normal((outputs.shape[-1], min(dimensions, outputs.shape[-1])))
        rows = np.linalg.qr(drawn)[0].T
    basis = np.zeros((dimensions, outputs.shape[-1]))
    basis[: len(rows)] = rows
    return basis, centre


def _projected(paths: OutputPaths, basis: Floats, centre: Floats, projection: Projection) -> OutputPaths:
    centred = (paths.outputs - paths.outputs.mean(axis=(0, 1))).reshape(-1, paths.outputs.shape[-1])
    total = float(np.square(centred).sum())
    explained = np.square(centred @ basis.T).sum(axis=0) / (total or 1.0)
    replaced = vars(paths) | {"basis": basis, "centre": centre, "projection": projection, "explained": explained}
    return OutputPaths(**replaced)


def _label(targets: Any, row: int, offset: int) -> str:
    if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
        return str(int(targets[row]))
    return f"example {offset + row}"


def _array(stack: Tensor) -> NDArray[np.float64]:
    return stack.detach().cpu().double().numpy()
