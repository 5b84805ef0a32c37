"""A profile that reads both ends once: all α advance together, one block of the module after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import CallFailed, explain
from lerpscape.base.memory import available_bytes
from lerpscape.engine import derivative_check
from lerpscape.engine.accumulator import Accumulator
from lerpscape.engine.derivative_choice import Derivative
from lerpscape.engine.evaluate import Evaluation, digested, in_whole_batches
from lerpscape.engine.execution import Objective, Tell, joined
from lerpscape.engine.fitted_losses import FittedLoss, mixed, mixing_trial, settled
from lerpscape.engine.lockstep import Lockstep, NotInLockstep, Pass
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix, joined_weights
from lerpscape.engine.measurement import Measurement
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.planner import PROBE_ALPHA
from lerpscape.networks.batches import Batch
from lerpscape.networks.foreign_calls import located, needs_gradients, place_of
from lerpscape.networks.label_meaning import check_meaning
from lerpscape.networks.losses import Loss, evaluated

# Passes that wait at the same time, each with a thread of its own; and the share of free memory that they may take, so
# many times what the first one holds when it waits for its second block.
MOST_PASSES = 512
SHARE_OF_MEMORY = 0.5
TIMES_HELD = 2


@dataclass(frozen=True)
class Measured:
    """What was measured, the loss as it was found to be meant, and why derivatives are not to be believed."""

    evaluation: Evaluation
    found: FittedLoss
    reason: str | None


def measured_by_layers(
    measurement: Measurement,
    loss: Loss,
    alphas: Floats,
    derivative: Derivative,
    asked: bool | None,
    in_one_go: bool,
) -> Measured | None:
    """The losses at these α over all data, with dL/dα where wanted, block by block; None where it is done otherwise.

    The few examples on which derivatives are compared with difference quotients, and on which it is seen whether
    examples influence each other, come along. It is tried unless `asked` is False. `in_one_go` says that the
    measurement is neither adaptive, nor kept in a file, nor divided.

    Where an operation has no rule in forward mode and backward passes may take its place, that is α by α: None, too.

    Raises `ValueError` where it is asked for and cannot be done, as passes of this module influence each other.
    """
    why_not = _why_not(measurement, loss, in_one_go)
    if derivative == "backward":
        why_not = "its derivative is to be taken by backward passes, each through a whole network at one α"
    if asked is not False and why_not is None:
        for batch in measurement.reader.first:
            check_meaning(loss, measurement.on_path.model, batch)
        total = len(measurement.reader) * len(alphas)
        try:
            with measurement.progress_bar(total, "profile") as tell:
                objective = Objective(
                    measurement.on_path, loss, measurement.statistics, "forward" if derivative else None
                )
                try:
                    return _ByLayers(objective, measurement, alphas, tell, "not asked for").measured()
                except _NoRule as error:
                    if derivative is True and asked is None:  # backward passes give it, α by α
                        return None
                    objective = objective.without_derivative()
                    return _ByLayers(objective, measurement, alphas, tell, str(error)).measured()
        except NotInLockstep as error:
            why_not = str(error)
    if asked and why_not is not None:
        raise ValueError(
            explain(
                expected="a measurement whose α can advance together, for layer_major=True.",
                got=f"{why_not}.",
                hint="Leave layer_major out: each α is then measured by itself, with all weights at it in memory.",
            )
        )
    return None


def _why_not(measurement: Measurement, loss: Loss, in_one_go: bool) -> str | None:
    on_path = measurement.on_path
    if not on_path.lies_in_files:
        return "the path is no line between checkpoints in large files"
    if not in_one_go:
        return "adaptive points, partial=, workers= and metrics= need α by α"
    if on_path.batch_norms:
        return "the model has batch norm"
    if on_path.lender.acts_on_mode:
        return "the model does more than set modes when it is switched to evaluation"
    return "the loss is the model's own" if loss.takes_targets else None


class _NoRule(Exception):
    """An operation has no derivative in forward mode; says which."""


@dataclass(eq=False)
class _Point:
    """A batch at an α, to be measured; what comes `before` all others only tells how to read them."""

    alpha: float
    derivative: bool
    batch: Batch
    before: bool
    losses: LossesAtAlpha | None = None
    error: Exception | None = None


class _ByLayers:
    def __init__(
        self, objective: Objective, measurement: Measurement, alphas: Floats, tell: Tell, without: str
    ) -> None:
        self._objective, self._reader, self._alphas = objective, measurement.reader, alphas
        self._tell = in_whole_batches(tell)
        self._lockstep = Lockstep(objective.on_path)
        self._found: FittedLoss | None = None
        self._reason: str | None = None if objective.derivative else without
        self._trial: list[_Point] = []
        self._compared: list[_Point] = []
        self._unread: list[Callable[[], None]] = []  # outputs whose loss waits until it is known what it means

    def measured(self) -> Measured:
        """Carry everything out."""
        sums, digest = Accumulator(len(self._alphas)), hashlib.sha256()
        for chunk in digested(self._reader.chunks(), digest):
            rest = [self._objective.place(batch) for batch in chunk]
            while rest:
                done, losses = self._measure(rest)
                sums.add(LossMatrix.of(len(self._alphas), losses))
                rest = rest[done:]
        assert self._found is not None
        if self._objective.derivative:
            self._reason = self._wrong_derivative()
        plan = ExecutionPlan("layers", f"all α together, block by block ({len(self._lockstep.blocks)} blocks)")
        evaluation = Evaluation(self._alphas, sums, plan, digest.hexdigest()[:12])
        return Measured(evaluation, self._found, self._reason)

    def _measure(self, batches: list[Batch]) -> tuple[int, list[LossesAtAlpha]]:
        """How many of these batches memory holds at a time, at least one, and their losses at every α."""
        objective, first = self._objective, self._reader.first
        if self._found is None:
            trial = mixing_trial(objective, first[0])
            self._trial = [_Point(PROBE_ALPHA, False, batch, before=True) for batch in trial]
            if objective.derivative:
                self._compared = self._points(objective.place(derivative_check.few_examples(first)), self._unit())
        columns: list[list[_Point]] = []

        def of_batch(batch: Batch) -> list[_Point]:
            columns.append(
                [_Point(alpha, bool(objective.derivative), batch, before=False) for alpha in self._alphas.tolist()]
            )
            return columns[-1]

        def more(held: int) -> list[Pass]:
            room = SHARE_OF_MEMORY * available_bytes() / (TIMES_HELD * max(held, 1) * len(self._alphas))
            count = max(1, min(int(room), MOST_PASSES // len(self._alphas)))
            return [self._pass(point) for batch in batches[1:count] for point in of_batch(batch)]

        told = 0.0

        def tell(share: float) -> None:
            nonlocal told
            share = min(share, 1.0 - told)
            told += share
            self._tell(share * len(columns) * len(self._alphas))

        points = ([] if self._found else [*self._trial, *self._compared]) + of_batch(batches[0])
        self._read_on()
        self._run([self._pass(point) for point in points], more, tell)
        tell(1.0)
        rows = zip(*columns, strict=True)
        return len(columns), [_together([point.losses for point in row if point.losses]) for row in rows]

    def _run(self, passes: list[Pass], more: Callable[[int], list[Pass]], tell: Callable[[float], object]) -> None:
        try:
            self._lockstep.run(passes, more, tell)
        except CallFailed as error:
            if needs_gradients(error):
                raise NotInLockstep("its forward differentiates itself") from error
            if self._objective.derivative and isinstance(error.__cause__, (NotImplementedError, RuntimeError)):
                raise _NoRule(derivative_check.no_rule(error.__cause__)) from error
            raise

    def _pass(self, point: _Point) -> Pass:
        """The pass of a point; where it fails, so does the measurement, unless it only tells how to read others."""
        model, place = self._objective.on_path.model, place_of(point.batch.number, point.alpha)

        def call(at_once: Callable[[Callable[[], Any]], Any]) -> None:
            try:
                with point.batch.lent() as own:
                    with located("the model's forward", place):
                        outputs = own.call(model)
                    at_once(partial(self._read, point, own, [outputs]))
            except Exception as error:
                if not point.before:
                    raise
                point.error = error
                at_once(self._read_on)

        return Pass(point.alpha, point.derivative, call)

    def _read(self, point: _Point, own: Batch, outputs: list[Any]) -> None:
        """The losses of outputs, later where it is not yet known what the loss means."""
        if self._found is None and not point.before:
            self._unread.append(partial(self._read, point, own, outputs))
            return
        loss = self._objective.loss if point.before or self._found is None else self._found.by_unit()
        with located(f"the loss {loss.name!r}", place_of(own.number, point.alpha)):
            point.losses = joined([evaluated(loss, outputs.pop(), own.targets, own.examples)])
        self._read_on()

    def _read_on(self) -> None:
        """Once all that comes before is known: what the loss means, and the losses that waited for it."""
        if self._found is not None or any(point.losses is None and point.error is None for point in self._trial):
            return
        losses = [point.losses.numbers()[0] for point in self._trial if point.losses is not None]
        whole = 0 < len(losses) == len(self._trial)
        mixes = whole and mixed(losses, self._objective.on_path.compute_dtype())
        self._found = settled(self._objective.loss, mixes, self._reader.first[0])
        while self._unread:
            self._unread.pop()()

    def _unit(self) -> float:
        return torch.finfo(self._objective.on_path.compute_dtype()).eps

    def _points(self, batch: Batch, unit: float) -> list[_Point]:
        points = derivative_check.compared_points(unit)
        return [_Point(alpha, derivative, batch, before=True) for alpha, derivative in points]

    def _wrong_derivative(self) -> str | None:
        """Why derivatives are not to be believed; the whole first batch is measured where it could not be cut."""
        if any(point.error for point in self._compared):
            self._compared = self._points(self._objective.place(self._reader.first[0]), self._unit())
            self._run([self._pass(point) for point in self._compared], lambda _: [], lambda _: None)
            failed = next((point.error for point in self._compared if point.error), None)
            if failed is not None:
                raise failed
        known = {(point.alpha, point.derivative): point.losses for point in self._compared}

        def at(alpha: float, derivative: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
            losses = known[alpha, derivative]
            assert losses is not None
            return losses.losses, losses.slopes

        if at(derivative_check.PROBE_ALPHAS[0], True)[1] is None:
            return derivative_check.NOT_FOLLOWED
        return derivative_check.wrong_at_points(at, self._unit(), "dℓ/dα of an example", "its loss")


def _together(parts: list[LossesAtAlpha]) -> LossesAtAlpha:
    """The losses of several batches at one α."""
    slopes, right = (
        [each for each in column if each is not None]
        for column in zip(*((part.slopes, part.right) for part in parts), strict=True)
    )
    return LossesAtAlpha(
        torch.cat([part.losses for part in parts]),
        torch.cat(slopes) if slopes else None,
        torch.stack(right).sum() if right else None,
        joined_weights([(part.weights, part.losses) for part in parts]),
    )
