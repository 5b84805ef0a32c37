"""A check by other means: the caller's module, with an end's numbers in its own tensors, against what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.errors import CallFailed, explain
from lerpscape.engine.comparison import alike
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.groups import ENDS
from lerpscape.engine.model_on_path import widest_type
from lerpscape.networks.batches import Batch
from lerpscape.networks.lending import kept
from lerpscape.networks.losses import evaluated
from lerpscape.networks.undisturbed import seed
from lerpscape.paths.checkpoints import Params


class _Changes(Exception):
    """The module writes to what it holds when it is called: its own tensors are not to be written to."""


def self_check(objective: Objective, batches: list[Batch]) -> str:
    """Compare one batch's losses at both ends with those of the module as its user would call it; says what was done.

    Every measurement lends tensors to the module. Here the module keeps its own parameters and buffers, which have each
    end's numbers as after `load_state_dict`, is switched to evaluation and called on the batch; afterwards they have
    their own memory again. The first of `batches` that the module takes is compared. Where
    none can be, the reason is returned.

    Raises `ValueError` where the two disagree by more than rounding, with both numbers.
    """
    why_not = _why_not(objective)
    for batch in [] if why_not else batches:
        try:
            pairs = [(alpha, *_both_ways(objective, alpha, batch)) for alpha in ENDS]
        except _Changes as error:
            why_not = str(error)
            break
        except Exception as error:  # the caller's model or loss, on a batch that was cut, or in its own type
            cause = error.__cause__ if isinstance(error, CallFailed) else error
            why_not = f"the model itself raised {type(cause).__name__}"
            continue
        for alpha, measured, expected in pairs:
            _compare(measured, expected, alpha, type(objective.on_path.model).__name__)
        return f"both ends by the model itself, n = {len(pairs[0][1])}"
    return f"not made: {why_not}"


def _why_not(objective: Objective) -> str | None:
    """Why a module cannot have an end's numbers in its own tensors, or would not be what is measured; else None."""
    on_path = objective.on_path
    own = [*on_path.model.parameters(), *on_path.model.buffers()]
    if objective.statistics.changes_with_data():
        return "batch-norm statistics come from data"
    if any(tensor.is_meta for tensor in own):
        return "the model has no numbers of its own"
    if any(tensor.device != on_path.device for tensor in own):
        return f"the model is not on {on_path.device}"
    return "the model holds views of its weights" if on_path.lender.holds_views else None


def _both_ways(objective: Objective, alpha: float, batch: Batch) -> tuple[Tensor, Tensor]:
    """The losses of a batch at an end: as measured, and by the module with the end's numbers in its tensors."""
    on_path, loss, model = objective.on_path, objective.loss, objective.on_path.model
    execution = ModuleExecution(objective)
    measured = execution.at(alpha, [objective.place(batch)]).losses
    if on_path.lender.changed and not on_path.lender.acts_on_mode:
        raise _Changes(f"a forward changes {on_path.lender.changed}")
    state = objective.statistics.apply(on_path.at(alpha), alpha)
    own = batch.to(on_path.device, on_path.dtype and widest_type(model)).cloned()
    with kept(model), _loaded(model, state), torch.set_grad_enabled(execution.with_gradients):
        model.eval()
        seed(on_path.device)
        outputs = own.call(model, with_targets=loss.takes_targets)
        return measured, evaluated(loss, outputs, own.targets, own.examples).values.detach()


@contextmanager
def _loaded(model: nn.Module, state: Params) -> Iterator[None]:
    """The module's own parameters and buffers have these numbers while inside, in other memory than before."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: tensor.data for name, tensor in own.items()}
    try:
        for name, tensor in own.items():
            if name in state:
                tensor.data = state[name].detach().to(tensor.dtype)
        yield
    finally:
        for name, tensor in own.items():
            tensor.data = before[name]


def _compare(measured: Tensor, expected: Tensor, alpha: float, name: str) -> None:
    """Raise `ValueError` where two computations of the same losses differ by more than rounding explains."""
    narrower = min((measured.dtype, expected.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    one, other = (each.double().cpu().numpy() for each in (measured, expected))
    close = alike(one, other, narrower)
    if not close.all():
        worst = int(np.argmin(close))
        raise ValueError(
            explain(
                expected="the losses that the model itself gives with an end's tensors loaded into it.",
                got=f"{one[worst]:.6g} for {other[worst]:.6g}, the loss of an example at α = {alpha:g}: "
                f"{name} with tensors lent to it is not {name} with tensors loaded into it.",
                hint="Something in it keeps what was computed from its weights, or acts when its mode is switched. "
                "Measure a model without it, or pass self_check=False if this is meant.",
            )
        )
