"""A check by other means: the caller's module, with an end's numbers in its own tensors, against what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lerpscape.base.errors import CallFailed, explain
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.networks.batches import Batch
from lerpscape.networks.lending import kept
from lerpscape.networks.losses import evaluated
from lerpscape.networks.undisturbed import seed
from lerpscape.paths.checkpoints import Params

ENDS = (1.0, 0.0)
# Losses may differ by so many rounding units of the narrower type: the same operations on the same numbers, in kernels
# that may round in another order.
ROUNDING_UNITS = 4096


class _Changes(Exception):
    """The module writes to what it holds when it is called: its own tensors are not to be written to."""


def self_check(objective: Objective, batches: list[Batch]) -> str:
    """Compare one batch's losses at both ends with those of the module as its user would call it; says what was done.

    Every measurement lends tensors to the module. Here each end's numbers are put into the memory of the module's own
    parameters and buffers, as `load_state_dict` does, the module is switched to evaluation and called on the batch;
    afterwards its tensors have their own memory again. The first of `batches` that the module takes is compared. Where
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
    own = batch.to(on_path.device, on_path.dtype and _floating_type(model)).cloned()
    with kept(model), _loaded(model, state), torch.set_grad_enabled(execution.with_gradients):
        model.eval()
        seed(on_path.device)
        outputs = own.call(model, with_targets=loss.takes_targets)
        return measured, evaluated(loss, outputs, own.targets, own.examples).values.detach()


def _floating_type(model: nn.Module) -> torch.dtype | None:
    """The type of the first of a module's tensors that has one."""
    return next((each.dtype for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()), None)


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
    tolerance = ROUNDING_UNITS * torch.finfo(narrower).eps
    one, other = measured.double(), expected.double()
    finite = other[other.isfinite()].abs()
    scale = float(finite.max()) if len(finite) else 0.0
    close = torch.isclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    if not close.all():
        worst = int((~close).int().argmax())
        raise ValueError(
            explain(
                expected="the losses that the model itself gives with an end's tensors loaded into it.",
                got=f"{float(one[worst]):.6g} for {float(other[worst]):.6g}, the loss of an example at α = {alpha:g}: "
                f"{name} with tensors lent to it is not {name} with tensors loaded into it.",
                hint="Something in it keeps what was computed from its weights, or acts when its mode is switched. "
                "Measure a model without it, or pass self_check=False if this is meant.",
            )
        )
