"""A loss fitted to a model and its data: what its labels mean, what one example is, and what it weighs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.engine.comparison import KERNEL_UNITS, alike
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.measurement import Measurement
from lerpscape.engine.planner import PROBE_ALPHA
from lerpscape.engine.self_check import self_check
from lerpscape.networks.batches import Batch
from lerpscape.networks.class_losses import LEFT_OUT
from lerpscape.networks.label_meaning import check_meaning
from lerpscape.networks.losses import Loss, PerExample, Weights, find_loss
from lerpscape.networks.own_losses import MEANS, MeanOver
from lerpscape.networks.rebatching import layout, spread
from lerpscape.networks.undisturbed import drawn_since_seed

# On how many examples of a batch it is tried whether they influence each other.
PROBE_EXAMPLES = 64
# So many batches are tried for what a mean over a batch is weighed by.
TRIED = 8


@dataclass(frozen=True)
class FittedLoss:
    """A loss of a model on its data; `mixes` says whether the examples of a batch influence each other.

    `counted` names what a module's own mean is over, where that had to be found out; `checked` says what `self_check`
    compared.
    """

    loss: Loss
    mixes: bool
    first: Batch
    counted: str | None = None
    checked: str = "not made: all α advance together, block by block"

    def by_unit(self) -> Loss:
        """The loss with one value for each unit that is independent of the others: an example, or a whole batch."""
        return replace(self.loss, per="batch") if self.mixes else self.loss

    def describe(self) -> str:
        """What one example is, in words, for `how["example"]`.

        >>> from lerpscape.networks.batches import batch_of
        >>> batch = batch_of((torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.long)))
        >>> FittedLoss(find_loss("cross_entropy"), False, batch).describe()
        'one sequence (mean over its 5 tokens, those left out aside)'
        """
        if self.counted is not None:
            return f"one batch (the model's own mean, weighed by its {self.counted})"
        if self.loss.per == "batch":
            return "one batch (a single value, weighed as the loss says)"
        if self.mixes:
            return "one batch (its examples influence each other), weighed by its examples"
        targets = self.loss.read_targets(self.first.targets)
        labels = isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() > 1
        named = self.loss.name in ("cross_entropy", "next_token")
        words = "one example"
        if named and labels:
            whole, part = ("sequence", "tokens") if targets.dim() == 2 else ("image", "pixels")
            words = f"one {whole} (mean over its {targets[0].numel()} {part}, those left out aside)"
        elif named and not isinstance(targets, Tensor):
            words = "one sequence"
        if self.loss.weights == "positions":
            return f"{words}, weighed by their number"
        return words if self.loss.weights is None or named else f"{words}, weighed as the loss says"


def fitted(loss: str | PerExample | Loss, measurement: Measurement) -> FittedLoss:
    """The loss for a model on its data, once it is clear what it means there.

    Raises `ValueError` for labels that could mean two things, for examples along another dimension than the first, and
    for a model's own mean over a batch whose weight cannot be found out, and what `self_check` raises.
    """
    chosen = find_loss(loss)
    on_path, first = measurement.on_path, measurement.reader.first
    for batch in first[:TRIED]:
        check_meaning(chosen, on_path.model, batch)
    objective = Objective(on_path, chosen, measurement.statistics)
    counted = None
    if chosen.takes_targets and chosen.weights is None:
        chosen, counted = _own_mean(objective, first)
        objective = replace(objective, loss=chosen)
    found = settled(chosen, _mixes(objective, first[0]), first[0], counted)
    if not measurement.self_check:
        return replace(found, checked="not made: self_check=False")
    few = mixing_trial(objective, first[0])[:1]
    return replace(found, checked=self_check(objective, [*few, first[0]]))


def settled(chosen: Loss, mixes: bool, first: Batch, counted: str | None = None) -> FittedLoss:
    """The loss once it is known whether the examples of a batch influence each other.

    Raises `ValueError` where they may lie along another dimension than the first.
    """
    targets = first.targets
    positions = isinstance(targets, Tensor) and targets.dim() > 1 and targets.shape[1] > 1
    if mixes and chosen.batch_dim is None and positions and not targets.is_floating_point():
        raise ValueError(
            explain(
                expected="examples in the first dimension of inputs and targets, none of which influences another.",
                got=f"targets {tuple(targets.shape)} whose rows change each other's loss: time comes first, or the "
                "model or the loss compares the examples of a batch.",
                hint=f"Loss({chosen.name!r}, batch_dim=1) where time comes first; batch_dim=0 where rows are examples.",
            )
        )
    return FittedLoss(chosen, mixes, first, counted)


def _mixes(objective: Objective, batch: Batch) -> bool:
    """Whether the loss of an example changes with the others in its batch, where batches can be cut."""
    trial = mixing_trial(objective, batch)
    if not trial:
        return False
    try:
        losses = [ModuleExecution(objective).at(PROBE_ALPHA, [each]).numbers()[0] for each in trial]
    except Exception:  # a model or a loss of one batch size; what is wrong with the whole batch shows again
        return False
    if drawn_since_seed(objective.on_path.device):
        return False  # it draws random numbers, other ones for an example in another place
    return mixed(losses, objective.on_path.compute_dtype())


def mixing_trial(objective: Objective, batch: Batch) -> list[Batch]:
    """Examples together, and the same in two parts, to see whether they influence each other; [] where not."""
    count = batch.examples or 0
    loss = objective.loss
    if loss.per != "example" or loss.takes_targets or loss.batch_dim or objective.statistics.changes_with_data():
        return []
    if count < 4 or layout(batch) is None:
        return []
    batch = objective.place(spread(batch, PROBE_EXAMPLES))
    count = min(count, PROBE_EXAMPLES)
    cut = cut_at(count)
    return [batch, batch.part(0, cut), batch.part(cut, count)]


def mixed(losses: list[Floats], dtype: torch.dtype) -> bool:
    """Whether the losses of a `mixing_trial` differ by more than rounding."""
    whole, parts = losses[0], np.concatenate(losses[1:])
    return whole.shape != parts.shape or not alike(parts, whole, dtype).all()


def cut_at(count: int) -> int:
    """Where to cut a batch in two parts of other sizes than a caller would, single rows aside where it can be."""
    cut = max(3 * count // 8, min(2, count - 1))
    return cut - 1 if cut > 3 and cut % 2 == 0 else cut


def _own_mean(objective: Objective, batches: list[Batch]) -> tuple[Loss, str | None]:
    """A model's own loss: one value per example, or a mean over a batch with the weight that explains its parts.

    The mean over a batch times its weight has to be the sum of the same over two parts of it.
    """
    per_batch = replace(objective.loss, per="batch", weights=_one)
    trial = ModuleExecution(replace(objective, loss=per_batch))
    shape = ModuleExecution(replace(objective, loss=replace(per_batch, values=_shape_of(objective.loss.values))))
    placed = objective.place(batches[0])
    if float(shape.at(PROBE_ALPHA, [placed]).losses[0]):
        return replace(objective.loss, per="example"), None
    possible = {name: weight for name, weight in MEANS.items() if all(weight(b.targets) is not None for b in batches)}
    tolerance = KERNEL_UNITS * torch.finfo(objective.on_path.compute_dtype()).eps
    tried, left = 0, possible
    for whole, *parts in _pieces(batches):
        tried += 1
        left = _explaining(left, trial, [objective.place(each) for each in (whole, *parts)], tolerance)
    if len(left) > 1:  # no label is left out: which it is shows where some are
        for whole, *parts in _pieces([_partly_left_out(each) for each in batches]):
            try:
                left = _explaining(left, trial, [objective.place(each) for each in (whole, *parts)], tolerance) or left
            except Exception:  # a model in which −100 has no meaning
                break
    possible = left
    shares = [np.array([float(weight(b.targets)) for b in batches]) for weight in possible.values()]  # type: ignore[arg-type]
    alike = all(np.allclose(each / each.sum(), shares[0] / shares[0].sum()) for each in shares)
    if not shares or not (tried or alike) or not (alike or len(possible) == 1):
        raise ValueError(
            explain(
                expected="a model whose loss of a batch is a mean over its examples or its labels that count.",
                got=f"one that is neither: {type(objective.on_path.model).__name__} (tried on {tried} batches).",
                hint='Say what its mean is over: Loss("model", per="batch", weights=lambda targets: …) gives its '
                'number; or use "next_token", "cross_entropy" or a function of your own.',
            )
        )
    name = next(iter(possible))
    return replace(per_batch, weights=cast(Weights, possible[name]), unit=objective.loss.unit), name


def _explaining(
    possible: dict[str, MeanOver], trial: ModuleExecution, pieces: list[Batch], tolerance: float
) -> dict[str, MeanOver]:
    """Those weights by which the sum of a batch's mean is that of the means of its two parts."""
    measured = trial.at(PROBE_ALPHA, pieces)
    losses = measured.numbers()[0]
    # a model may round its loss to float32; a wider tolerance could not tell one mean from another
    tolerance = max(tolerance, KERNEL_UNITS / 64 * torch.finfo(measured.losses.dtype).eps)
    found = {}
    for name, weight in possible.items():
        weights = np.array([float(weight(each.targets)) for each in pieces])  # type: ignore[arg-type]
        sums = np.where(weights > 0, losses * weights, 0)
        if abs(sums[0] - sums[1:].sum()) <= tolerance * np.abs(sums).sum():
            found[name] = weight
    return found


def _partly_left_out(batch: Batch) -> Batch:
    """A batch with labels left out so that what its two parts weigh tells all `MEANS` apart.

    The sequences of the first part keep the first label and the last one, the others their last three.
    """
    targets, count = batch.targets, batch.examples or 0
    if not isinstance(targets, Tensor) or targets.dim() != 2 or targets.is_floating_point() or targets.shape[1] < 5:
        return batch
    targets = targets.clone()
    targets[: cut_at(count), 1:-1] = LEFT_OUT
    targets[cut_at(count) :, :-3] = LEFT_OUT
    return Batch(batch.inputs, targets, batch.examples, batch.key, batch.number)


def _pieces(batches: list[Batch]) -> Iterator[tuple[Batch, Batch, Batch]]:
    """Batches with two parts of each, where they can be cut."""
    for batch in batches[:TRIED]:
        count = batch.examples or 0
        if count > 1 and layout(batch) is not None:
            cut = cut_at(count)
            yield batch, batch.part(0, cut), batch.part(cut, count)


def _one(targets: Any) -> Tensor:
    return torch.ones(1)


def _shape_of(values: PerExample) -> PerExample:
    """A loss that says with 1 that `values` gives one value per example, and with 0 that it gives one for a batch."""

    def found(outputs: Any, targets: Any) -> Tensor:
        each = values(outputs, targets)
        return each.new_tensor(float(each.dim()))

    return found
