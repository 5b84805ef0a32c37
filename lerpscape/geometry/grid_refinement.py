"""A grid of α halved, batch by batch, until a number computed from each output path no longer changes.

Halving keeps the points there are, so each velocity is computed once. The samples of a batch are kept in memory if they
are small and in a temporary file otherwise: memory grows neither with the data nor with the number of α.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.geometry.outputs import Layout, OutputsOnPath
from lerpscape.geometry.turning import every_second
from lerpscape.networks.batches import Batch
from lerpscape.networks.reading import Reader

# Computes one number per row from a grid and the samples on it, shape (points, derivatives, rows, size).
Reading: TypeAlias = Callable[[Floats, Floats], Floats]
Report: TypeAlias = Callable[[int], None]

# Samples of the batches under refinement are kept in memory up to this size.
SAMPLE_BYTES = 1 << 27
# Work space of one reading, which decides how many rows it takes at a time.
BLOCK_BYTES = 1 << 24


@dataclass
class Track:
    """One batch, its samples on its finest grid, and the reading on each of its grids.

    `samples` has shape (points, derivatives, rows, size). `lengths` begins with the reading on every second point of
    the first grid, so there are always two to compare.
    """

    batch: Batch
    layout: Layout
    offset: int
    alphas: Floats
    samples: NDArray[np.floating[Any]]
    lengths: list[Floats] = field(default_factory=list)

    @property
    def error(self) -> Floats:
        """Change of the reading at the last halving, shape (rows,)."""
        return np.abs(self.lengths[-1] - self.lengths[-2])


class Refinement:
    """Halves `grid` until a halving changes the reading of every row by at most `precision`, up to `budget` points.

    `keep` says what is kept of each sample (0 the output, 1 its velocity, 2 its acceleration). With `precision` None
    the grid stays as it is.

    Raises `ValueError` for a budget below the first grid, fewer than three points, or a precision that is not positive.
    """

    def __init__(
        self,
        on_path: OutputsOnPath,
        grid: Floats,
        read: Reading,
        *,
        keep: slice,
        precision: float | None,
        budget: int,
    ) -> None:
        if len(grid) < 3:
            raise ValueError(
                explain(expected="at least three alphas.", got=f"{len(grid)}.", hint="Two points are a straight chord.")
            )
        if precision is not None and not precision > 0:
            raise ValueError(
                explain(
                    expected="a precision > 0 rad, or None.",
                    got=f"{precision}.",
                    hint="None measures on the given grid alone.",
                )
            )
        if precision is not None and budget < len(grid):
            raise ValueError(
                explain(
                    expected=f"a budget of at least the {len(grid)} alphas of the first grid.",
                    got=f"{budget}.",
                    hint="Raise budget=, or start from fewer alphas.",
                )
            )
        self._on_path = on_path
        self._grid = grid
        self._read = read
        self._keep = keep
        self._precision = float("inf") if precision is None else precision
        points = len(grid)
        while precision is not None and 2 * points - 1 <= budget:
            points = 2 * points - 1
        self._most_points = points

    def tracks(self, reader: Reader, report: Report) -> Iterator[Track]:
        """Every batch of the data in order, on a grid as fine as it needs."""
        (layout,) = self._on_path.layouts([self._on_path.place(reader.first[0])])
        derivatives = len(range(3)[self._keep])
        per_example = 8 * derivatives * layout.size * len(layout.example) / max(layout.examples, 1)
        offset = 0
        for chunk in reader.chunks():
            group: list[Batch] = []
            size = 0.0
            for index, batch in enumerate(chunk):
                group.append(self._on_path.place(batch))
                size += per_example * (batch.examples or layout.examples) * self._most_points
                if size >= SAMPLE_BYTES or index + 1 == len(chunk):
                    tracks = self._refined(group, offset, report)
                    offset += sum(track.layout.examples for track in tracks)
                    group, size = [], 0.0
                    while tracks:
                        yield tracks.pop(0)  # which releases its samples

    def _refined(self, batches: list[Batch], offset: int, report: Report) -> list[Track]:
        tracks = []
        for batch, layout in zip(batches, self._on_path.layouts(batches), strict=True):
            tracks.append(Track(batch, layout, offset, self._grid[:0], np.empty((0, 0, 0, 0))))
            offset += layout.examples
        grid, active = self._grid, tracks
        self._fill(active, grid, report)
        for track in active:
            coarse = every_second(len(grid))
            track.lengths += [
                in_blocks(self._read, grid[coarse], track.samples[coarse]),
                in_blocks(self._read, grid, track.samples),
            ]
        while len(grid) < self._most_points:
            active = [track for track in active if (track.error > self._precision).any()]
            if not active:
                break
            grid = halved(grid)
            self._fill(active, grid, report)
            for track in active:
                track.lengths.append(in_blocks(self._read, grid, track.samples))
        return tracks

    def _fill(self, tracks: list[Track], grid: Floats, report: Report) -> None:
        """Samples of the batches on `grid`, of which each track may already have every second point."""
        wanted = np.arange(len(grid)) if not len(tracks[0].alphas) else np.arange(1, len(grid), 2)
        fresh: list[NDArray[np.floating[Any]]] = []
        self._on_path.expect(grid[wanted], sum(track.layout.examples for track in tracks))
        for position in wanted:
            stacks = self._on_path.at(
                float(grid[position]), [track.batch for track in tracks], [track.offset for track in tracks]
            )
            for index, stack in enumerate(stacks):
                sample = _array(stack[self._keep])
                if position == wanted[0]:
                    fresh.append(_empty((len(grid), *sample.shape), sample.dtype))
                    if len(wanted) < len(grid):
                        fresh[index][::2] = tracks[index].samples
                        tracks[index].samples = fresh[index]
                fresh[index][position] = sample
            report(len(tracks))
        for track, samples in zip(tracks, fresh, strict=True):
            track.alphas, track.samples = grid, samples


def halved(grid: Floats) -> Floats:
    """The grid with the middle of every interval added.

    >>> halved(np.array([0.0, 0.5, 1.0]))
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    finer = np.empty(2 * len(grid) - 1)
    finer[::2] = grid
    finer[1::2] = (grid[:-1] + grid[1:]) / 2
    return finer


def in_blocks(read: Reading, alphas: Floats, samples: NDArray[np.floating[Any]]) -> Floats:
    """The reading of every row, in float64, taking as many rows at a time as fit the work space."""
    points, derivatives, rows, size = samples.shape
    step = max(1, BLOCK_BYTES // max(1, 8 * points * derivatives * size))
    parts = [
        read(alphas, np.asarray(samples[:, :, begin : begin + step], dtype=np.float64))
        for begin in range(0, rows, step)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _array(sample: Tensor) -> NDArray[np.floating[Any]]:
    """As a numpy array; types of less than four bytes become float32."""
    sample = sample.detach().cpu()
    array: NDArray[np.floating[Any]] = (sample if sample.itemsize >= 4 else sample.float()).numpy()
    return array


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """An array in memory or, if large, in a temporary file that is deleted with it."""
    if int(np.prod(shape)) * dtype.itemsize <= SAMPLE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
