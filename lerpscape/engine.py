"""Many α over the data: every α passes over a chunk of batches while it is in memory, each chunk is read once.

`functional_call` sets a model's tensors once for an α and a chunk, not once for a batch, so that walking a path
costs what a loop of load, evaluate, repeat costs, and less where reading the data is the price.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape import duals
from lerpscape.batches import Batch, Reader
from lerpscape.checkpoints import Params
from lerpscape.errors import three_parts
from lerpscape.functional import ModelOnPath, forward_mode
from lerpscape.losses import Loss, per_example_values
from lerpscape.monotonicity import Floats
from lerpscape.normalisation import Statistics
from lerpscape.partial import Arrays, Partial
from lerpscape.statistics import Moments

Report = Callable[[int], None]


@dataclass(frozen=True)
class Row:
    """The examples of one chunk at one α: losses, derivatives dℓ/dα, and how many predictions are right.

    `slopes` and `right` are NaN where they were not asked for or do not exist.
    """

    losses: Floats
    slopes: Floats
    right: float


class Sums:
    """Sums over the chunks seen so far, for every α, and the rows of the chunk at work. All in float64."""

    def __init__(self, points: int) -> None:
        self.moments = Moments(points)
        self.slopes = np.zeros(points)
        self.slope_squares = np.zeros(points)
        self.right = np.zeros(points)
        self.invalid = np.zeros(points, dtype=np.int64)
        self.first_invalid = np.full(points, -1, dtype=np.int64)
        self.chunks = 0
        self.rows: list[Row] = []

    def close_chunk(self) -> None:
        """Take the rows of the chunk at work into the sums."""
        losses = np.stack([row.losses for row in self.rows])
        for position in np.flatnonzero(~np.isfinite(losses).all(axis=1)):
            wrong = np.flatnonzero(~np.isfinite(losses[position]))
            if self.first_invalid[position] < 0:
                self.first_invalid[position] = self.moments.count + wrong[0]
            self.invalid[position] += len(wrong)
        self.moments.add(losses)
        with np.errstate(invalid="ignore"):  # infinite derivatives stay what they are
            self.slopes += [row.slopes.sum() for row in self.rows]
            self.slope_squares += [np.square(row.slopes).sum() for row in self.rows]
        self.right += [row.right for row in self.rows]
        self.chunks += 1
        self.rows = []

    def arrays(self) -> Arrays:
        """Everything, as arrays to write to disk."""
        kept = {name: np.asarray(value) for name, value in vars(self).items() if name not in ("moments", "rows")}
        kept |= {
            "count": np.asarray(self.moments.count),
            "mean": self.moments.mean,
            "comoment": self.moments.comoment,
        }
        for name in ("losses", "slopes", "right"):
            kept[f"rows_{name}"] = np.asarray([getattr(row, name) for row in self.rows])
        return kept

    @classmethod
    def restored(cls, points: int, arrays: Arrays | None) -> Sums:
        """The sums that were written as `arrays`; new ones for None."""
        sums = cls(points)
        if arrays is None:
            return sums
        kept: dict[str, Any] = dict(arrays)
        rows = zip(kept.pop("rows_losses"), kept.pop("rows_slopes"), kept.pop("rows_right"), strict=True)
        sums.rows = [Row(losses, slopes, float(right)) for losses, slopes, right in rows]
        sums.moments.count = int(kept.pop("count"))
        sums.moments.mean, sums.moments.comoment = kept.pop("mean"), kept.pop("comoment")
        sums.chunks = int(kept.pop("chunks"))
        vars(sums).update(kept)
        return sums


class Walk:
    """A model ready to be measured at any α of a path: per-example losses, derivatives and right predictions.

    With `derivative`, the first batch decides whether the model and the loss have one; `reason` says why not.
    """

    def __init__(
        self,
        on_path: ModelOnPath,
        loss: Loss,
        statistics: Statistics,
        report: Report,
        *,
        derivative: bool,
        probe: Batch,
    ) -> None:
        self.on_path = on_path
        self.statistics = statistics
        self.derivative = derivative
        self.reason: str | None = None if derivative else "not asked for"
        self._pass = _Pass(on_path.model, loss, report)
        if derivative:
            self.reason = self._why_no_derivative(_Pass(on_path.model, loss, lambda _: None), self.place(probe))
            self.derivative = self.reason is None

    def place(self, batch: Batch) -> Batch:
        """The batch on the device and in the dtype of the measurement."""
        return batch.to(self.on_path.device, self.on_path.dtype)

    def at(self, alpha: float, batches: list[Batch], *, only: Collection[str] | None = None, held: bool = False) -> Row:
        """Measure the batches at α.

        With `only`, derivatives are those of the named tensors' movement; with `held`, batch-norm statistics have the
        policy's values but do not move. A model that draws random numbers even in evaluation mode draws the same ones
        at every α.
        """
        torch.manual_seed(0)  # the caller's generators are put back by `undisturbed`
        with self._tensors(alpha, only) as state:
            if held:
                parts = self.statistics.call_held(self._pass, state, alpha, batches)
            else:
                parts = self.statistics.call(self._pass, self.statistics.apply(state, alpha), batches)
            losses, slopes = duals.split(torch.cat([values for values, _ in parts]))
        right = [correct for _, correct in parts if correct is not None]
        still = 0.0 if self.derivative else np.nan
        return Row(
            losses=_float64(losses),
            slopes=np.full(len(losses), still) if slopes is None else _float64(slopes),
            right=float(torch.cat(right).double().sum()) if right else float("nan"),
        )

    @contextmanager
    def _tensors(self, alpha: float, only: Collection[str] | None = None) -> Iterator[Params]:
        """The model's tensors at α, as dual numbers that move with the path where derivatives are wanted."""
        state = self.on_path.at(alpha)
        if not self.derivative:
            yield state
            return
        with forward_mode(self.on_path.model), duals.level():
            for name, velocity in self.on_path.velocity(alpha).items():
                if only is None or name in only:
                    state[name] = duals.dual(state[name], velocity)
            yield state

    def _why_no_derivative(self, once: _Pass, probe: Batch) -> str | None:
        try:
            with self._tensors(0.0) as state:
                ((values, _),) = self.statistics.call(once, state, [probe])
                tangent = duals.split(values)[1]
        except (NotImplementedError, RuntimeError) as error:  # anything else wrong shows again without derivatives
            return f"an operation has no forward-mode derivative: {str(error).splitlines()[0]}"
        if tangent is None:
            return "the loss does not follow the parameters through torch operations (numpy, detach or .data inside?)"
        return None


class _Pass(nn.Module):
    """One pass of a model and its loss over batches, as a module, so that `functional_call` sets its tensors once."""

    def __init__(self, model: nn.Module, loss: Loss, report: Report) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.report = report

    def forward(self, batches: list[Batch]) -> list[tuple[Tensor, Tensor | None]]:
        found = []
        for batch in batches:
            outputs = batch.call(self.model)
            values = per_example_values(self.loss, outputs, batch.targets, batch.examples)
            correct = self.loss.correct(outputs, batch.targets) if self.loss.correct else None
            found.append((values, correct))
            self.report(1)
        return found


def walk(measured: Walk, alphas: Floats, reader: Reader, partial: Partial, report: Report) -> tuple[Sums, str]:
    """Measure every α over all data; the sums, and a digest of the data.

    Per-example losses live as long as their chunk, so memory does not grow with the data. What is done is written
    to `partial` now and then, and when an exception passes through. `report` hears of work that need not be done again.
    """
    sums = Sums.restored(len(alphas), partial.load())
    hasher = hashlib.sha256()
    try:
        for index, chunk in enumerate(reader.chunks()):
            for batch in chunk:
                hasher.update(batch.digest())
            if index < sums.chunks:
                report(len(chunk) * len(alphas))
                continue
            placed = [measured.place(batch) for batch in chunk]
            if sums.rows:
                report(len(placed) * len(sums.rows))
            for alpha in alphas[len(sums.rows) :]:
                sums.rows.append(measured.at(float(alpha), placed))
                if partial.due():
                    partial.save(sums.arrays())
            _check_same_examples(sums.rows)
            sums.close_chunk()
    except BaseException:
        if sums.rows or sums.chunks:
            partial.save(sums.arrays())
        raise
    partial.save(sums.arrays())
    return sums, hasher.hexdigest()[:12]


def _check_same_examples(rows: list[Row]) -> None:
    sizes = {len(row.losses) for row in rows}
    if len(sizes) > 1:
        raise ValueError(
            three_parts(
                "the same number of losses at every α.",
                f"between {min(sizes)} and {max(sizes)}.",
                "A loss must not drop examples by their value.",
            )
        )


def _float64(values: Tensor) -> Floats:
    array: Floats = values.detach().double().cpu().numpy()
    return array
