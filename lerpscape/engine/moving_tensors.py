"""The tensors of a model at α that carry how they move: dual numbers for forward mode, or leaves of autograd."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lerpscape.engine.backward import BackwardPass
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks import forward_ad
from lerpscape.networks.undisturbed import forward_mode, reverse_mode
from lerpscape.paths.checkpoints import Params

# How dℓ/dα is taken: example by example in forward mode, or of a sum over each batch by a backward pass.
Mode: TypeAlias = Literal["forward", "backward"]


@contextmanager
def tensors_at(
    on_path: ModelOnPath, alpha: float, *, derivative: bool, only: Collection[str] | None = None
) -> Iterator[Params]:
    """The model's tensors at α, as dual numbers that move with the path where derivatives are wanted.

    With `only`, the named ones alone move.
    """
    state = on_path.as_trained(on_path.at(alpha))
    if not derivative:
        yield state
        return
    with forward_mode(on_path.model), forward_ad.level():
        for name, velocity in on_path.velocity(alpha).items():
            if only is None or name in only:
                state[name] = forward_ad.dual(state[name], velocity)
        yield state


@contextmanager
def leaves_at(
    on_path: ModelOnPath, statistics: BatchNormStatistics, alpha: float, parts: int | None = None
) -> Iterator[tuple[Params, BackwardPass]]:
    """The model's tensors at α, which autograd follows where they move, and the backward passes to them.

    Batch-norm statistics that the policy estimates at α move as they do in forward mode.
    """
    moving, velocity_of = on_path.velocities(alpha)
    state = on_path.at(alpha)
    if statistics.replaces():
        moving = [name for name in moving if name not in on_path.end_statistics()]
    changes: Params = {}
    if statistics.estimates():
        with tensors_at(on_path, alpha, derivative=True) as duals:
            duals = statistics.apply(duals, alpha)
            for name in on_path.end_statistics():
                state[name], change = forward_ad.split(duals[name])
                if change is not None:
                    changes[name] = change
    else:
        state = statistics.apply(state, alpha)

    def velocity(name: str) -> Tensor:
        return changes[name] if name in changes else velocity_of(name)

    leaves = {name: state[name].detach().requires_grad_() for name in (*moving, *changes)}
    with reverse_mode(on_path.model), torch.enable_grad():
        yield state | leaves, BackwardPass(leaves, velocity, parts)
