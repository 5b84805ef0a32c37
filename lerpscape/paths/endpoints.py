"""Other ends for a path: a fresh start, noise, zero, and the same function with its hidden units in another order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.networks.batches import Data
from lerpscape.networks.symmetries import Symmetry, rearranged, symmetry
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, checkpoint, wrapper_prefix
from lerpscape.paths.matching import listed, matched
from lerpscape.paths.unit_matching import by_activations, by_weights

# How far outputs in float64 may differ, relative to the largest, for two networks to be the same function: rounding.
_SAME = 1e-9


def fresh_init(model: nn.Module | Callable[[], nn.Module], seed: int) -> Checkpoint:
    """A new initialisation of a network: what its factory, or its layers' own initialisation, draws from a seed.

    `model` is a function without arguments that builds the network, or a network whose layers know how to initialise
    themselves (`reset_parameters`). A network that its constructor initialises otherwise needs its factory.
    The caller's random generators stay as they are.

    Raises `TypeError` that names a layer with parameters of its own that cannot initialise itself.

    >>> one, again = (fresh_init(nn.Linear(2, 2), seed=3).tensors["weight"] for _ in range(2))
    >>> torch.equal(one, again)
    True
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            built = _reset(deepcopy(model)) if isinstance(model, nn.Module) else model()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    found = checkpoint(built)
    return Checkpoint(found.tensors, found.parameters, f"a fresh init of {type(built).__name__} (seed {seed})")


def noise_like(params: Source, seed: int) -> Checkpoint:
    """Gaussian noise with the norm of each parameter: ε_p = ‖θ_p‖ g/‖g‖. Buffers are those of `params`.

    >>> noise = noise_like({"w": torch.tensor([3.0, 4.0])}, seed=0)
    >>> round(float(noise.tensors["w"].norm()), 5)
    5.0
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        length = float(drawn.norm())
        scaled = drawn * (float(tensor.double().norm()) / length) if length else drawn
        return scaled.to(tensor.device, tensor.dtype)

    return _with_parameters(checkpoint(params), noise, f"noise (seed {seed}) with the norms of")


def zeros_like(params: Source) -> Checkpoint:
    """All parameters zero; buffers are those of `params`.

    >>> zeros_like({"w": torch.ones(2)}).tensors
    {'w': tensor([0., 0.])}
    """
    return _with_parameters(checkpoint(params), torch.zeros_like, "zero in place of")


def permuted(model: nn.Module, params: Source, seed: int, inputs: Tensor | None = None) -> Checkpoint:
    """The same function with its hidden units in a random order, checked on the spot in float64.

    Works for networks of linear, convolution, embedding and norm layers, activations, pooling, flatten and additions.
    `inputs` is a batch of inputs to learn shapes from; networks that begin with a linear layer do without. The check
    compares outputs on `inputs` and on Gaussian numbers of their shape.

    Raises `TypeError` that names a layer or operation of another kind, and `EndpointMismatch` where `params` does not
    fit the model.

    >>> model = nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 1))
    >>> moved = permuted(model, model, seed=0)
    >>> torch.equal(moved.tensors["0.bias"], model[0].bias), torch.equal(moved.tensors["2.bias"], model[2].bias)
    (False, True)
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = _inputs_of(model) if inputs is None else inputs
    with undisturbed(model):
        found = symmetry(model, inputs)
        if not found.sizes:
            raise TypeError(
                explain(
                    expected="a network with hidden units.",
                    got=f"none in {type(model).__name__}.",
                    hint="Give a deeper one.",
                )
            )
        orders = {space: torch.randperm(size, generator=generator) for space, size in enumerate(found.sizes)}
        return _reordered(model, checkpoint(params), found, orders, inputs, f"(units permuted, seed {seed})")


def aligned(
    model: nn.Module,
    a: Source,
    b: Source,
    data: Data | None = None,
    *,
    method: Literal["weights", "activations"] = "weights",
    inputs: Tensor | None = None,
    seed: int = 0,
) -> Checkpoint:
    """The network `b` with its hidden units in the order that fits `a` best; its function stays the same.

    `method="weights"` maximises Σ ⟨θ_a, P θ_b⟩ over the orders P by coordinate descent, one linear assignment for each
    space of units, from three starts: front to back, as it is, and at random. `method="activations"` maximises the
    correlation of the units' values on `data`, which it needs. `inputs` as in `permuted`; by default from `data`.

    The line from `a` to the result often has a lower barrier. With batch norm, measure it with
    `batch_norm=Recalibrate(train_data)`: statistics interpolated between two networks understate the variance on the
    way, and estimating them anew is what REPAIR does.

    Raises `TypeError` that names a layer of an architecture that is not understood, and `ValueError` without data.

    Sources: Ainsworth, Hayase & Srinivasa (2023); Li et al. (2016); Jordan et al. (2023) for REPAIR.

    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> back = aligned(model, model, permuted(model, model, seed=1))
    >>> torch.equal(back.tensors["0.weight"], model[0].weight)
    True
    """
    start, end = matched(checkpoint(a), checkpoint(b))
    if method == "activations" and data is None:
        raise ValueError(
            explain(expected='data for method="activations".', got="None.", hint='Pass data, or use method="weights".')
        )
    if inputs is None:
        inputs = _inputs_of(model) if data is None else _first_inputs(data)
    with undisturbed(model):
        found = symmetry(model, inputs)
        names = _known_names(model, end)
        if method == "weights":
            orders = by_weights(
                found, start.tensors, end.tensors, {name: known[0] for name, known in names.items()}, seed
            )
        else:
            assert data is not None
            states = [{name: each.tensors[known[0]] for name, known in names.items()} for each in (start, end)]
            orders = by_activations(model, found, states[0], states[1], data)
        return _reordered(model, end, found, orders, inputs, f"(units aligned with {start.source})")


def _reordered(
    model: nn.Module, params: Checkpoint, found: Symmetry, orders: Mapping[int, Tensor], inputs: Tensor, words: str
) -> Checkpoint:
    names = _known_names(model, params)
    tensors = rearranged(params.tensors, found, orders, names)
    before, after = ({name: each[known[0]] for name, known in names.items()} for each in (params.tensors, tensors))
    trials = [inputs]
    if inputs.is_floating_point():
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        trials.append(noise.to(inputs.device))
    for trial in trials:
        one, other = (_outputs(model, state, trial) for state in (before, after))
        error = float((one - other).abs().max())
        if not error <= _SAME * float(one.abs().max()):
            raise TypeError(
                explain(
                    expected="an architecture whose function does not change with the order of its hidden units.",
                    got=f"outputs of {type(model).__name__} that differ by {error:.3g}, or are not finite.",
                    hint="A layer of it tells units apart in a way that tracing does not show: permute by hand.",
                )
            )
    return Checkpoint(tensors, params.parameters, f"{params.source} {words}")


def _outputs(model: nn.Module, state: Params, inputs: Tensor) -> Tensor:
    """The model's outputs in float64, where the order of sums matters least."""
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name, buffer in model.named_buffers():
        if name not in wide:  # not persistent: the module's own
            wide[name] = buffer.double() if buffer.is_floating_point() else buffer
    found: Tensor = functional_call(model, wide, (inputs.double() if inputs.is_floating_point() else inputs,))
    return found


def _known_names(model: nn.Module, params: Checkpoint) -> dict[str, list[str]]:
    """For each tensor of the module, by its first name: all its names in the checkpoint."""
    state = model.state_dict(keep_vars=True)
    prefix = wrapper_prefix(state)
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, tensor in state.items():
        known = found.setdefault(first.setdefault(id(tensor), name), [])
        if name.removeprefix(prefix) in params.tensors:
            known.append(name.removeprefix(prefix))
    wrong = [name for name, known in found.items() if not known or params.tensors[known[0]].shape != state[name].shape]
    if wrong:
        raise EndpointMismatch(
            explain(
                expected=f"a checkpoint of {type(model).__name__}.",
                got=f"{params.source}, where {listed(wrong)} is missing or has another shape.",
                hint="Pass the model that the checkpoint is of.",
            )
        )
    return found


def _inputs_of(model: nn.Module) -> Tensor:
    """Inputs for a model whose first layer with parameters is linear."""
    first = next((module for module in model.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if not isinstance(first, nn.Linear):
        raise ValueError(
            explain(
                expected="inputs=, a batch of inputs to learn shapes from.",
                got=f"None, for a model that begins with {type(first).__name__}.",
                hint="Pass one batch: inputs=next(iter(data))[0].",
            )
        )
    return torch.randn(4, first.in_features, generator=torch.Generator().manual_seed(0)).to(first.weight.device)


def _first_inputs(data: Data) -> Tensor:
    from lerpscape.networks.batches import Reader

    inputs = Reader(data).first[0].inputs
    if not isinstance(inputs, Tensor):
        raise TypeError(
            explain(
                expected="a model of one tensor.",
                got=f"inputs of type {type(inputs).__name__}.",
                hint="Pass inputs=a tensor.",
            )
        )
    return inputs


def _with_parameters(params: Checkpoint, change: Callable[[Tensor], Tensor], words: str) -> Checkpoint:
    from lerpscape.paths.matching import twins

    ties = twins(params)
    # In the order of the names: a module and its file have the same tensors in different orders.
    moved = {name: change(params.tensors[name]) for name in sorted(params.parameters)}
    by_tie = {ties[name]: tensor for name, tensor in moved.items()}
    tensors = {name: by_tie.get(ties[name], tensor) for name, tensor in params.tensors.items()}
    return Checkpoint(tensors, params.parameters, f"{words} {params.source}")


def _reset(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise TypeError(
                explain(
                    expected="layers that can initialise themselves (reset_parameters).",
                    got=f"{name or type(model).__name__!r}, a {type(module).__name__}, which has "
                    "parameters and not that.",
                    hint="Pass the function that builds the network in place of the network.",
                )
            )
    return model
