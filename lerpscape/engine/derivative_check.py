"""Comparing derivatives with difference quotients: the only way to see a derivative that is there, but wrong.

Where a tensor leaves the derivative's way and comes back (`.detach()`, `.data`, `.item()`, a straight-through
estimator, a rule of one's own that is wrong), either mode gives a number without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lerpscape.base.errors import CallFailed
from lerpscape.engine.backward import means_of_parts
from lerpscape.engine.execution import ModuleExecution, Objective
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.moving_tensors import Mode
from lerpscape.networks.batches import Batch
from lerpscape.networks.rebatching import evenly_spaced, same_layout

# A few values at α, one for each example or output, and with True their derivatives by α, None where they carry none.
ValuesAt: TypeAlias = Callable[[float, bool], tuple[Tensor, Tensor | None]]

# So many examples are compared, at these α: no knots, and nothing special lies there.
PROBE_EXAMPLES = 8
# Each backward pass goes through all of them: it is compared on the means of so many parts.
BACKWARD_PARTS = 2
PROBE_ALPHAS = 0.3729, 0.8191
NOT_FOLLOWED = "the loss does not follow the parameters through torch operations (numpy, detach or .data inside?)"
# A disagreement must be seen again so far away, where no kink of the first place can be.
AWAY = 1.37e-3
# Rounding of a value, in units of its type times 1 + |value|, is at most this, or what neighbouring values show.
ROUNDINGS = 32
# A network with more weights is compared in its own type, as copies in float64 would take gigabytes.
FLOAT64_WEIGHTS = 1 << 26


def why_no_derivative(objective: Objective, batches: list[Batch]) -> str | None:
    """Why there is no dℓ/dα in the objective's mode, or why it is not to be believed; None where it is right.

    It is found on a few examples of these batches of the data, at two α: by calling the module with dual numbers, or
    by backward passes, and by comparing every example's derivative, or the mean of each half of them, with the
    difference quotients of the loss (see `wrong_derivative`).
    """
    if objective.on_path.lender.acts_on_mode:
        return "the model does more than set modes when it is switched to evaluation, such as merging its weights"
    probe = few_examples(batches)
    try:
        _, slopes = losses_at(objective, probe)(PROBE_ALPHAS[0], True)
    except Exception:  # the caller's forward or loss, on a batch that was cut: the uncut one decides
        probe = batches[0]
        try:
            _, slopes = losses_at(objective, probe)(PROBE_ALPHAS[0], True)
        except (NotImplementedError, RuntimeError) as error:  # anything else wrong shows again without derivatives
            cause = error.__cause__ if isinstance(error, CallFailed) else error
            if not isinstance(cause, (NotImplementedError, RuntimeError)):
                raise
            return no_rule(cause, objective.derivative)
    if slopes is None:
        return NOT_FOLLOWED
    double = in_float64(objective.on_path)
    exact = None
    if double is not None:
        statistics = objective.statistics.on([(probe.inputs, probe.targets)], double)
        exact = losses_at(replace(objective, on_path=double, statistics=statistics), probe)
    return wrong_derivative(losses_at(objective, probe), exact, "dℓ/dα of an example", "its loss")


def no_rule(error: BaseException, mode: Mode | None = "forward") -> str:
    """Why there is no derivative in a mode, where torch raises this."""
    rule = "backward pass" if mode == "backward" else "forward-mode derivative"
    return f"an operation has no {rule}: {(str(error).splitlines() or ['no message'])[0]}"


def wrong_on_few_examples(
    on_path: ModelOnPath, batches: list[Batch], values: Callable[[ModelOnPath, Batch], ValuesAt], what: str, of: str
) -> str | None:
    """What `wrong_derivative` says of a few examples, also in float64; of the first batch where none can be cut.

    `values` gives the values of a batch, with the model on this path.
    """

    def wrong(probe: Batch) -> str | None:
        double = in_float64(on_path)
        exact = None if double is None else values(double, probe)
        return wrong_derivative(values(on_path, probe), exact, what, of)

    try:
        return wrong(few_examples(batches))
    except Exception:  # the caller's forward or loss, on a batch that was cut: the uncut one decides
        return wrong(batches[0])


def few_examples(batches: list[Batch]) -> Batch:
    """A few examples from all over these batches, or the first batch where examples cannot leave theirs."""
    if same_layout(batches) and any(len(batch.targets) for batch in batches):
        return evenly_spaced(batches, PROBE_EXAMPLES)[0]
    return batches[0]


def losses_at(objective: Objective, probe: Batch) -> ValuesAt:
    """The losses of a batch, with batch-norm statistics from this batch where any are estimated.

    Where backward passes give the derivatives, the means of two parts of the batch.
    """
    placed = objective.place(probe)
    objective = objective.recalibrated_on([placed])
    parts = BACKWARD_PARTS if objective.derivative == "backward" else None
    modules = {
        True: ModuleExecution(objective, parts),
        False: ModuleExecution(objective.without_derivative()),
    }

    def at(alpha: float, derivative: bool) -> tuple[Tensor, Tensor | None]:
        found = modules[derivative].at(alpha, [placed])
        return found.losses if parts is None else means_of_parts(found.losses, parts), found.slopes

    return at


def in_float64(on_path: ModelOnPath) -> ModelOnPath | None:
    """The model on the same path in float64; None where the device has none, or copies would take gigabytes."""
    tensors = [tensor for end in on_path.ends() for tensor in end.values() if tensor.is_floating_point()]
    if all(tensor.dtype == torch.float64 for tensor in tensors):
        return on_path
    if on_path.device.type == "mps" or sum(tensor.numel() for tensor in tensors) > 2 * FLOAT64_WEIGHTS:
        return None
    return ModelOnPath(on_path.model, on_path.given, on_path.device, torch.float64)


def wrong_derivative(at: ValuesAt, exact: ValuesAt | None, what: str, of: str) -> str | None:
    """How derivatives differ from the difference quotients of the values by more than rounding and curvature explain.

    `exact` gives the same in float64, `at` in the type of the measurement; None is returned where they agree. Each
    value is compared by itself, with steps h of 2 and 0.2 · eps^⅓ to both sides, eps the rounding unit. A derivative
    agrees if it lies between the quotients to the left and to the right, which leaves out a kink between them, give or
    take: twice their difference (curvature), four times the median difference of all values (their rounding),
    `ROUNDINGS` · eps · (1 + |value|) / h, and eps^¼ of its size, 1e-4 in float64. To be told wrong, one value must
    disagree for both steps, and one must do so again nearby. A network that rounds to a lower type inside is compared
    as one of that type.

    >>> x = torch.linspace(1, 2, 4).double()
    >>> def right(alpha, derivative):
    ...     return x * alpha**2, 2 * x * alpha
    >>> def wrong(alpha, derivative):
    ...     return x * alpha**2, x * alpha
    >>> wrong_derivative(right, right, "dx/da", "x"), wrong_derivative(wrong, wrong, "dx/da", "x")[:71]
    (None, 'dx/da at α = 0.3729 is 0.7458, the difference quotient of x 1.492: the ')
    """
    if exact is not None:
        try:
            found = _disagreement(exact, torch.finfo(torch.float64).eps)
            unit = 0.0 if found is None or _smooth(exact) else _rounding_unit(exact)
        except Exception:  # a network that does not run in float64 may raise anything
            unit = _rounding_unit(at)
        else:
            at = exact
    else:
        unit, found = _rounding_unit(at), None
    if unit > torch.finfo(torch.float64).eps:
        found = _disagreement(at, unit)
    return _in_words(found, what, of)


def compared_points(unit: float) -> list[tuple[float, bool]]:
    """All α at which `wrong_at_points` asks for values, and whether for their derivatives too."""
    points: list[tuple[float, bool]] = []
    for alpha in (place + away for place in PROBE_ALPHAS for away in (0.0, AWAY)):
        points.append((alpha, True))
        points += [(alpha + side, False) for step in _steps(unit) for side in (-step, step)]
    return points


def wrong_at_points(at: ValuesAt, unit: float, what: str, of: str) -> str | None:
    """What `wrong_derivative` says of values in a type with this rounding unit that are known at `compared_points`."""
    return _in_words(_disagreement(at, unit), what, of)


def _in_words(found: tuple[float, float, float] | None, what: str, of: str) -> str | None:
    if found is None:
        return None
    alpha, derivative, quotient = found
    return (
        f"{what} at α = {alpha:.4g} is {derivative:.4g}, the difference quotient of {of} {quotient:.4g}: "
        "the derivative is cut or wrong somewhere (detach, .data, .item(), a straight-through estimator, a wrong rule?)"
    )


def _disagreement(at: ValuesAt, unit: float) -> tuple[float, float, float] | None:
    """α, derivative and difference quotient of the value that disagrees most; None where all agree."""
    for alpha in PROBE_ALPHAS:
        found = _disagreement_at(at, alpha, unit)
        if found is not None and _disagreement_at(at, alpha + AWAY, unit) is not None:
            return found
    return None


def _disagreement_at(at: ValuesAt, alpha: float, unit: float) -> tuple[float, float, float] | None:
    value, slope = (None if each is None else each.double().flatten() for each in at(alpha, True))
    assert value is not None
    slope = torch.zeros_like(value) if slope is None else slope
    wrong, worst, best = torch.ones_like(value, dtype=torch.bool), torch.zeros_like(value), torch.zeros_like(value)
    for step in _steps(unit):
        before, after = (at(alpha + side, False)[0].double().flatten() for side in (-step, step))
        left, right = (value - before) / step, (after - value) / step
        turn = (right - left).abs()
        known = turn.isfinite()
        if not known.any():
            return None
        quotient = (left + right) / 2
        rounding = 4 * float(turn[known].median()) + ROUNDINGS * unit * (1 + value.abs()) / step
        tolerance = 2.5 * turn + rounding + unit**0.25 * (quotient.abs() + slope.abs())
        off = (slope - quotient).abs()
        wrong &= known & ~(off <= tolerance)  # a derivative that is NaN is wrong
        worst, best = torch.maximum(worst, off.nan_to_num(torch.inf)), quotient
    if not wrong.any():
        return None
    index = int(torch.where(wrong, worst, -1).argmax())
    return alpha, float(slope[index]), float(best[index])


def _steps(unit: float) -> tuple[float, float]:
    return 2 * unit ** (1 / 3), 0.2 * unit ** (1 / 3)


def _smooth(at: ValuesAt) -> bool:
    """Whether the values move by more than a rounding of float32, and without its steps.

    A network may make a tensor of float32 without rounding what it computes to it.
    """
    alpha, step = PROBE_ALPHAS[0], 2 * torch.finfo(torch.float64).eps ** (1 / 3)
    before, value, after = (at(alpha + side, False)[0].flatten() for side in (-step, 0.0, step))
    size = 1 + value.abs()
    moves, bends = (after - before).abs() / size, (after - 2 * value + before).abs() / size
    return bool(moves.nanmedian() > 1e-7 and bends.nanquantile(0.75) < 2e-9)


def _rounding_unit(at: ValuesAt) -> float:
    """The rounding unit of the lowest floating-point type of any result on the way to the values."""
    with _Types() as types:
        value, _ = at(PROBE_ALPHAS[0], False)
    return max(torch.finfo(dtype).eps for dtype in types.seen | {value.dtype})


class _Types(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the floating-point types of all results inside `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor) and result.is_floating_point():
                self.seen.add(result.dtype)
        return results
