"""What a model puts out along a path, and how that moves: z(α; x), z′ = dz/dα and z″, example by example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats, Integers
from lerpscape.base.errors import NonFiniteOutput, explain
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.derivative_check import ValuesAt, wrong_on_few_examples
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.geometry.taylor_rules import stack_of
from lerpscape.geometry.turning import STILL
from lerpscape.networks import forward_ad
from lerpscape.networks.batch_norm import BatchStatistics, EndStatistics
from lerpscape.networks.batches import Batch
from lerpscape.networks.second_derivatives import WrittenOut
from lerpscape.networks.undisturbed import forward_mode, seed
from lerpscape.paths.checkpoints import Params
from lerpscape.paths.path import ParamPath

# What is known of the layers is compared with the module at these α, to so many roundings of the largest output.
COMPARED = (0.0, 0.375, 1.0)
ROUNDINGS = 4096

# What one output vector belongs to. None: positions of outputs (examples, positions, classes), examples of all others.
Per: TypeAlias = Literal["example", "position"] | None


@dataclass(frozen=True)
class Layout:
    """Of one batch: the example of every row (its number in the batch), its position in a sequence, and two sizes."""

    example: Integers
    position: Integers | None
    examples: int
    size: int


class OutputsOnPath:
    """A model's outputs at any α of a path with their first `order` derivatives by α, exact to rounding.

    `order` 0 needs no differentiation, 1 takes one forward-mode derivative, 2 two nested ones. Batch norm follows its
    policy, derivative included; two derivatives exist for `EndStatistics` and `BatchStatistics`.

    Raises `ValueError` for what has no such derivative, `TypeError` for outputs that are no floating-point tensors.
    """

    def __init__(
        self,
        on_path: ModelOnPath,
        statistics: BatchNormStatistics,
        probe: Batch,
        *,
        order: Literal[0, 1, 2],
        per: Per = None,
    ) -> None:
        self.on_path = on_path
        self.statistics = statistics
        self.order = order
        self.per = per
        self._module = _Outputs(on_path.model)
        if order == 2 and on_path.batch_norms and not isinstance(statistics.policy, EndStatistics | BatchStatistics):
            raise ValueError(
                explain(
                    expected="batch-norm statistics that do not move with α by themselves, for a second derivative.",
                    got=f"{self.statistics.describe()}.",
                    hint='method="turning" differentiates every policy; EndStatistics() and BatchStatistics() have a '
                    "second derivative.",
                )
            )
        if order == 2:
            self._check_straight(on_path.given)
        self.stack = stack_of(self.on_path, probe) if order else None
        if order and self.stack is None:
            self._check_derivative(self.place(probe))
        if order == 2 and self.on_path.compute_dtype() == torch.float64:
            self._check_second_derivative(self.place(probe))

    def place(self, batch: Batch) -> Batch:
        """The batch on the device and in the dtype of the measurement."""
        return batch.to(self.on_path.device, self.on_path.dtype)

    def at(self, alpha: float, batches: list[Batch], offsets: list[int] | None = None) -> list[Tensor]:
        """Outputs and derivatives of each batch at α, shape (1 + order, rows, size).

        A row is an example or, for sequences, a position of one. Velocities below rounding of the outputs are 0.
        `offsets` are the numbers of the batches' first examples, for messages.

        Raises `NonFiniteOutput` for NaN or inf.
        """
        batch_rows = []
        for index, stack in enumerate(self._stacks(alpha, self.order, batches)):
            if not torch.isfinite(stack).all():
                raise _not_finite(stack, alpha, offsets[index] if offsets else 0)
            rows = self._rows(stack, batches[index])
            if self.order:
                length = torch.linalg.vector_norm(rows[0], dim=-1, keepdim=True)
                speed = torch.linalg.vector_norm(rows[1], dim=-1, keepdim=True)
                rows[1] = torch.where(speed > STILL * torch.finfo(rows.dtype).eps * length, rows[1], 0)
            batch_rows.append(rows)
        return batch_rows

    def expect(self, alphas: Floats, examples: int) -> None:
        """These α come next, in increasing order, for the same batches: work between them may be shared."""
        if self.stack is not None:
            self.stack.expect(alphas, examples)

    def layouts(self, batches: list[Batch]) -> list[Layout]:
        """What the rows of each batch belong to, and how large its output vectors are; to be asked for before `at`.

        Here what is known of the layers is compared with the module.
        """
        stacks = self._stacks(0.0, 0, batches)
        self._compare(batches, stacks)
        layouts = []
        for stack, batch in zip(stacks, batches, strict=True):
            size = self._rows(stack, batch).shape[-1]
            if not self._by_position(stack):
                layouts.append(Layout(np.arange(stack.shape[1]), None, stack.shape[1], size))
                continue
            examples, positions = np.indices(stack.shape[1:3])
            kept = self._kept(stack, batch).cpu().numpy()
            layouts.append(Layout(examples[kept], positions[kept], stack.shape[1], size))
        return layouts

    def _compare(self, batches: list[Batch], at_start: list[Tensor]) -> None:
        """Leave what is known of the layers, where it does not give what the module gives for these batches."""
        if self.stack is None:
            return
        for alpha in COMPARED:
            by_module = self._stacks(alpha, 0, batches) if alpha else at_start
            for (ours,), (given,) in zip(self.stack.derivatives(alpha, 0, batches), by_module, strict=True):
                room = ROUNDINGS * torch.finfo(given.dtype).eps * given.abs().max() if given.numel() else 0
                if ours.shape != given.shape or not bool(((ours - given).abs() <= room).all()):
                    self.stack = None
                    self._check_derivative(batches[0])
                    return

    def _stacks(self, alpha: float, order: int, batches: list[Batch]) -> list[Tensor]:
        """As the model gives them, derivatives stacked in front: shape (1 + order, examples, …).

        A model that draws random numbers even in evaluation mode draws the same ones at every α.
        """
        seed(self.on_path.device)
        if self.stack is not None and order:
            stacks = self.stack.derivatives(alpha, order, batches)
            for stack, batch in zip(stacks, batches, strict=True):
                _checked(stack[0], batch)
            return stacks
        if order == 2:
            return self._twice(alpha, batches)
        with self._tensors(alpha, order) as state:
            outputs = self.statistics.call(self._module, self.statistics.apply(state, alpha), batches)
            parts = [forward_ad.split(values) for values in outputs]
        if not order:
            return [value[None] for value, _ in parts]
        return [torch.stack([z, torch.zeros_like(z) if change is None else change]) for z, change in parts]

    @contextmanager
    def _tensors(self, alpha: float, order: int) -> Iterator[Params]:
        state = self.on_path.at(alpha)
        if not order:
            yield state
            return
        with forward_mode(self.on_path.model), forward_ad.level():
            for name, velocity in self.on_path.velocity(alpha).items():
                state[name] = forward_ad.dual(state[name], velocity)
            yield state

    def _twice(self, alpha: float, batches: list[Batch]) -> list[Tensor]:
        """z, z′ and z″ by a forward-mode derivative of a forward-mode derivative."""
        base, velocity = self.on_path.at(alpha), self.on_path.velocity(alpha)
        zero = torch.zeros((), dtype=self.on_path.compute_dtype(), device=self.on_path.device)
        one = torch.ones_like(zero)

        def outputs(step: Tensor) -> tuple[Tensor, ...]:
            state = base | {name: base[name] + step * change for name, change in velocity.items()}
            return tuple(self.statistics.call(self._module, self.statistics.apply(state, alpha), batches))

        def moving(step: Tensor) -> Any:
            return torch.func.jvp(outputs, (step,), (one,))

        with forward_mode(self.on_path.model), WrittenOut():
            nested: Any = torch.func.jvp(moving, (zero,), (one,))
        (values, first), (_, second) = nested
        return [torch.stack(parts) for parts in zip(values, first, second, strict=True)]

    def _by_position(self, stack: Tensor) -> bool:
        return stack.dim() > 3 and (self.per == "position" or (self.per is None and stack.dim() == 4))

    def _kept(self, stack: Tensor, batch: Batch) -> Tensor:
        """Positions that count: all but those whose target says "leave out" (−100)."""
        shape = stack.shape[1:3]
        targets = batch.targets
        if isinstance(targets, Tensor) and targets.shape == shape and not targets.is_floating_point():
            return targets != -100
        return torch.ones(shape, dtype=torch.bool, device=stack.device)

    def _rows(self, stack: Tensor, batch: Batch) -> Tensor:
        if self._by_position(stack):
            return stack.flatten(3)[:, self._kept(stack, batch)]
        return stack[..., None] if stack.dim() == 2 else stack.flatten(2).clone()

    def _check_straight(self, path: ParamPath) -> None:
        """A second derivative by α is one along the velocity only where the velocity stays the same."""
        velocities = [path.velocity(alpha) for alpha in (0.0, 0.37, 1.0)]
        for other in velocities[1:]:
            if any(not torch.equal(other[name], tensor) for name, tensor in velocities[0].items()):
                raise ValueError(
                    explain(
                        expected='a straight line, for method="integral".',
                        got=f"{path.describe()}, whose velocity changes with α.",
                        hint='method="turning" works on every path.',
                    )
                )

    def _check_derivative(self, probe: Batch) -> None:
        """Find out on one batch whether the outputs have the derivatives, and say why not."""
        (before,), (after,) = self._stacks(0.0, 0, [probe]), self._stacks(1.0, 0, [probe])
        try:
            with self._tensors(0.0, 1) as state:
                (values,) = self.statistics.call(self._module, self.statistics.apply(state, 0.0), [probe])
                tangent = forward_ad.split(values)[1]
            if self.order == 2:
                self._twice(0.0, [probe])
        except (NotImplementedError, RuntimeError) as error:  # without derivatives it worked, just above
            raise ValueError(
                explain(
                    expected=f"a model with {'two nested derivatives' if self.order == 2 else 'a derivative'} "
                    "in forward mode.",
                    got=f"an operation without one: {str(error).splitlines()[0]}",
                    hint='Outputs alone are needed by gauss_length(method="polygon") and output_paths(velocity=False)'
                    + ('; method="turning" needs one derivative.' if self.order == 2 else "."),
                )
            ) from error
        if tangent is None and not torch.equal(before, after):
            raise ValueError(
                explain(
                    expected="outputs that follow the parameters through torch operations.",
                    got="outputs that change from α = 0 to 1 but carry no derivative (numpy, detach or .data inside?).",
                    hint='Remove the break, or use method="polygon", which needs outputs only.',
                )
            )

        wrong = wrong_on_few_examples(self.on_path, [probe], self._values, "dz/dα of an output", "that output")
        if wrong is not None:
            raise ValueError(
                explain(
                    expected="outputs whose derivative by α agrees with their difference quotients.",
                    got=f"{wrong}.",
                    hint='Remove the break, or use method="polygon", which needs outputs only.',
                )
            )

    def _values(self, on_path: ModelOnPath, probe: Batch) -> ValuesAt:
        """The outputs for a batch, and dz/dα."""
        other = copy(self)
        other.on_path = on_path
        other.statistics = self.statistics.on([(probe.inputs, probe.targets)], on_path)
        placed = other.place(probe)

        def at(alpha: float, derivative: bool) -> tuple[Tensor, Tensor | None]:
            (stack,) = other._stacks(alpha, int(derivative), [placed])
            return stack[0], stack[1] if derivative else None

        return at

    def _check_second_derivative(self, probe: Batch) -> None:
        """Compare z″ with a difference of z′, as torch gives some operations a wrong one without a word.

        By the median over the rows: a kink within the difference makes single ones differ.
        """
        step, alpha = 1e-4, 0.4142
        (before,), (after,) = (self._stacks(at, 1, [probe]) for at in (alpha - step, alpha + step))
        (stack,) = self._stacks(alpha, 2, [probe])
        difference = ((after[1] - before[1]) / (2 * step)).flatten(1)
        speed, second = stack[1].flatten(1).norm(dim=1), stack[2].flatten(1)
        size = difference.norm(dim=1) + second.norm(dim=1) + 1e-4 * speed
        off = torch.where(size > 0, (second - difference).norm(dim=1) / size, 0).median()
        if not off < 0.02:
            raise ValueError(
                explain(
                    expected="a model whose second derivative in forward mode is right.",
                    got=f"one that differs from a difference of first derivatives by {100 * float(off):.0f} %: torch "
                    "differentiates an operation of it wrongly the second time.",
                    hint='method="turning" needs one derivative only.',
                )
            )


class _Outputs(nn.Module):
    """A model called on batches, as a module, for which its tensors are lent once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batches: list[Batch]) -> list[Tensor]:
        return [_checked(batch.call(self.model), batch) for batch in batches]


def _checked(outputs: Any, batch: Batch) -> Tensor:
    """The output tensor of one batch, with examples in its first dimension."""
    tensor = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = f"a tensor of {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(
            explain(
                expected="a model whose output is a floating-point tensor, or has one called logits.",
                got=f"{kind}, which has no path to follow.",
                hint="Wrap the model in a module that returns logits: before argmax, and without the hidden state.",
            )
        )
    if tensor.dim() == 0 or (batch.examples is not None and len(tensor) != batch.examples):
        raise ValueError(
            explain(
                expected=f"outputs with the {batch.examples} examples of the batch in their first dimension.",
                got=f"shape {tuple(tensor.shape)}.",
                hint="Wrap the model in a module that transposes its output, or correct the targets.",
            )
        )
    return tensor


def _not_finite(stack: Tensor, alpha: float, offset: int) -> NonFiniteOutput:
    bad = (~torch.isfinite(stack)).reshape(*stack.shape[:2], -1).any(2).any(0)
    return NonFiniteOutput(
        explain(
            expected="finite outputs and derivatives: a path with NaN or inf has no direction.",
            got=f"NaN or inf for {int(bad.sum())} of the {len(bad)} examples of a batch at α = {alpha:.6g}, "
            f"the first is number {offset + int(bad.nonzero()[0])} of the data.",
            hint="Measure with dtype=torch.float64, or look at what the network does to that example.",
        )
    )
