"""A grid of α made finer, batch by batch, until what is read off the output paths changes no more.

Every velocity is computed once: halving keeps the old points. What is kept of a batch lies in memory while it is small
and in a temporary file beyond, so neither the data nor the number of α decides how much memory is needed.
"""

from __future__ import annotations

import hashlib
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
from lerpscape.networks.batches import Batch, Reader

# From a grid and the samples on it, shape (points, derivatives, rows, size), one number per row.
Reading: TypeAlias = Callable[[Floats, Floats], Floats]
Report: TypeAlias = Callable[[int], None]

# Samples of the batches at work are held in memory up to this size.
SAMPLE_BYTES = 1 << 27
# Work space of one reading, which takes so many rows at a time.
BLOCK_BYTES = 1 << 24


@dataclass
class Track:
    """One batch, its samples on its finest grid, and the reading on every grid up to that.

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
    """How far to refine: from `grid` by halving until every row changes by at most `tolerance`, to `budget` points.

    `keep` picks what is kept of each sample (0 the output, 1 its velocity, 2 its acceleration). Without a tolerance the
    grid stays as it is.

    Raises `ValueError` for a budget below the first grid, fewer than three points, or a tolerance that is not positive.
    """

    def __init__(
        self,
        on_path: OutputsOnPath,
        grid: Floats,
        read: Reading,
        *,
        keep: slice,
        tolerance: float | None,
        budget: int,
    ) -> None:
        if len(grid) < 3:
            raise ValueError(
                explain(expected="at least three alphas.", got=f"{len(grid)}.", hint="A path of two points is a chord.")
            )
        if tolerance is not None and not tolerance > 0:
            raise ValueError(
                explain(
                    expected="a tolerance > 0 rad, or None.",
                    got=f"{tolerance}.",
                    hint="None measures on the given grid alone.",
                )
            )
        if tolerance is not None and budget < len(grid):
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
        self._tolerance = float("inf") if tolerance is None else tolerance
        self._hasher = hashlib.sha256()
        points = len(grid)
        while tolerance is not None and 2 * points - 1 <= budget:
            points = 2 * points - 1
        self._most_points = points

    @property
    def data_digest(self) -> str:
        """First 12 hex digits of a sha256 over the data read so far."""
        return self._hasher.hexdigest()[:12]

    def tracks(self, reader: Reader, report: Report) -> Iterator[Track]:
        """Every batch of the data in order, refined as far as it needs."""
        (layout,) = self._on_path.layouts([self._on_path.place(reader.first[0])])
        derivatives = len(range(3)[self._keep])
        per_example = 8 * derivatives * layout.size * len(layout.example) / max(layout.examples, 1)
        offset = 0
        for chunk in reader.chunks():
            for batch in chunk:
                self._hasher.update(batch.digest())
            group: list[Batch] = []
            size = 0.0
            for index, batch in enumerate(chunk):
                group.append(self._on_path.place(batch))
                size += per_example * (batch.examples or layout.examples) * self._most_points
                if size >= SAMPLE_BYTES or index + 1 == len(chunk):
                    found = self._refined(group, offset, report)
                    offset += sum(track.layout.examples for track in found)
                    group, size = [], 0.0
                    while found:
                        yield found.pop(0)  # and let go of its samples

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
            active = [track for track in active if (track.error > self._tolerance).any()]
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
                    fresh.append(_room((len(grid), *sample.shape), sample.dtype))
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
    """As numpy on the host; types that numpy lacks, or that would round again, become float32."""
    sample = sample.detach().cpu()
    found: NDArray[np.floating[Any]] = (sample if sample.itemsize >= 4 else sample.float()).numpy()
    return found


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """An empty array in memory, or in a temporary file that vanishes with it."""
    if int(np.prod(shape)) * dtype.itemsize <= SAMPLE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
