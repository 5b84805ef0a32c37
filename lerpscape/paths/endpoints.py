"""Other ends for a path: a new initialisation, noise, zero, and networks with permuted hidden units."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.networks.lending import Lender, independent
from lerpscape.networks.reading import Data, Reader
from lerpscape.networks.symmetries import Symmetry, rearranged, symmetry
from lerpscape.networks.undisturbed import preserved_generators, undisturbed
from lerpscape.paths.checkpoints import Checkpoint, Params, Source, as_vector, checkpoint, in_dtype
from lerpscape.paths.fitting_names import fitting_prefixes
from lerpscape.paths.matching import abbreviated, first_tied_names, matched
from lerpscape.paths.unit_matching import match_by_activations, match_by_weights

# Rounding error allowed, relative to the largest output, when outputs in float64 are compared before and after
# permuting hidden units.
_ROUNDING = 1e-9
BUILT_BY = "lerpscape_built_by"  # attribute of a module: the function of a seed that builds it


def fresh_init(model: nn.Module | Callable[..., nn.Module], seed: int) -> Checkpoint:
    """A new random initialisation of a network, drawn from a seed.

    `model` is a function that builds the network, which is given the seed if it has an argument `seed`, and else draws
    from the global generators; or a network all of whose layers with parameters have a method `reset_parameters`. If
    the network's constructor initialises it in another way, pass the function; a network of `lerpscape.lab.models`
    knows its own. The caller's random generators are restored.

    Raises `TypeError` that names a layer with parameters but without that method.

    >>> one, again = (fresh_init(nn.Linear(2, 2), seed=3).tensors["weight"] for _ in range(2))
    >>> torch.equal(one, again)
    True
    """
    with preserved_generators(), torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        built = _drawn(model, seed)
    init = checkpoint(built)
    return Checkpoint(init.tensors, init.parameters, f"a fresh init of {type(built).__name__} (seed {seed})")


def _drawn(model: nn.Module | Callable[..., nn.Module], seed: int) -> nn.Module:
    """A network drawn anew: by the function that builds it, where that is known, or by its layers."""
    factory = getattr(model, BUILT_BY, None) if isinstance(model, nn.Module) else model
    if factory is None:
        assert isinstance(model, nn.Module)
        return _reset(independent(model))
    built: nn.Module = factory(seed=seed) if takes_seed(factory) else factory()
    return built


def takes_seed(factory: Callable[..., Any]) -> bool:
    """Whether a function has an argument `seed`.

    >>> takes_seed(lambda seed: seed), takes_seed(lambda: 0)
    (True, False)
    """
    try:
        return "seed" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some classes of other languages have no signature
        return False


def noise_like(params: Source, seed: int) -> Checkpoint:
    """Gaussian noise g, scaled to the norm of each parameter: ε_p = ‖θ_p‖ g/‖g‖. Buffers are those of `params`.

    >>> noise = noise_like({"w": torch.tensor([3.0, 4.0])}, seed=0)
    >>> round(float(noise.tensors["w"].norm()), 5)
    5.0
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=in_dtype(tensor, torch.float64))
        length = float(drawn.norm())
        scaled = drawn * (float(as_vector(tensor).norm()) / length) if length else drawn
        return scaled.to(tensor.device, tensor.dtype)

    return _with_parameters(checkpoint(params), noise, f"noise (seed {seed}) with the norms of")


def zeros_like(params: Source) -> Checkpoint:
    """All parameters zero; buffers are those of `params`.

    >>> zeros_like({"w": torch.ones(2)}).tensors
    {'w': tensor([0., 0.])}
    """
    return _with_parameters(checkpoint(params), torch.zeros_like, "zero in place of")


def permuted(model: nn.Module, params: Source, seed: int, inputs: Tensor | None = None) -> Checkpoint:
    """The checkpoint with its hidden units in a random order, which does not change the function of the network.

    Works for networks of linear, convolution, embedding and norm layers, activations, pooling, flatten and additions.
    `inputs` is a batch of inputs, from which the shapes of layers are determined; it is not needed for a network that
    begins with a linear layer. The outputs before and after are compared in float64, on `inputs` and on Gaussian noise
    of the same shape.

    Raises `TypeError` that names a layer or operation of another kind, and `EndpointMismatch` if `params` is not a
    checkpoint of the model.

    >>> model = nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 1))
    >>> moved = permuted(model, model, seed=0)
    >>> torch.equal(moved.tensors["0.bias"], model[0].bias), torch.equal(moved.tensors["2.bias"], model[2].bias)
    (False, True)
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = _inputs_of(model) if inputs is None else inputs
    with undisturbed(model):
        symmetries = symmetry(model, inputs)
        if not symmetries.sizes:
            raise TypeError(
                explain(
                    expected="a network with hidden units.",
                    got=f"none in {type(model).__name__}.",
                    hint="Give a deeper one.",
                )
            )
        orders = {space: torch.randperm(size, generator=generator) for space, size in enumerate(symmetries.sizes)}
        return _reordered(model, checkpoint(params), symmetries, orders, inputs, f"(units permuted, seed {seed})")


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
    """The checkpoint `b` with its hidden units in the order that best matches those of `a`; its function is unchanged.

    `method="weights"` maximises Σ ⟨θ_a, P θ_b⟩ over permutations P by coordinate descent, with one linear assignment
    problem for each layer of units. It takes the best of three starting points: the layers matched from first to last,
    the given order, and a random order. `method="activations"` maximises the correlation of the activations of matched
    units on `data`. `inputs` are those of `permuted`, by default from `data`.

    The line from `a` to the result often has a lower barrier. With batch norm, measure it with
    `batch_norm=Recalibrate(train_data)`, as REPAIR does: statistics that are interpolated between two networks are too
    small between them.

    Raises `TypeError` that names a layer or operation of another kind than `permuted` allows, and `ValueError` for
    `method="activations"` without data.

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
        symmetries = symmetry(model, inputs)
        names = _checkpoint_names(model, end)
        first, second = _state(start.tensors, names), _state(end.tensors, names)
        if method == "weights":
            orders = match_by_weights(symmetries, first, second, seed)
        else:
            assert data is not None
            orders = match_by_activations(model, symmetries, first, second, data)
        return _reordered(model, end, symmetries, orders, inputs, f"(units aligned with {start.source})")


def _reordered(
    model: nn.Module, params: Checkpoint, symmetries: Symmetry, orders: Mapping[int, Tensor], inputs: Tensor, words: str
) -> Checkpoint:
    """The checkpoint with its hidden units in these orders, after checking that the outputs stay the same."""
    names = _checkpoint_names(model, params)
    tensors = rearranged(params.tensors, symmetries, orders, names)
    before, after = _state(params.tensors, names), _state(tensors, names)
    trials = [inputs]
    if inputs.is_floating_point():
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        trials.append(noise.to(inputs.device))
    for trial in trials:
        old, new = (_outputs(model, state, trial) for state in (before, after))
        error = float((old - new).abs().max())
        if not error <= _ROUNDING * float(old.abs().max()):
            raise TypeError(
                explain(
                    expected="an architecture whose function does not change with the order of its hidden units.",
                    got=f"outputs of {type(model).__name__} that differ by {error:.3g}, or are not finite.",
                    hint="One of its layers depends on the order of units in a way that tracing does not show: "
                    "permute by hand.",
                )
            )
    return Checkpoint(tensors, params.parameters, f"{params.source} {words}")


def _outputs(model: nn.Module, state: Params, inputs: Tensor) -> Tensor:
    """The model's outputs in float64, where the order of summation changes them least."""
    wide = {name: tensor.to(in_dtype(tensor, torch.float64)) for name, tensor in state.items()}
    for name, buffer in model.named_buffers():
        if name not in wide:  # buffers that are not persistent are not in a checkpoint
            wide[name] = buffer.to(in_dtype(buffer, torch.float64))
    with Lender(model).lend({name: tensor.clone() for name, tensor in wide.items()}):
        outputs: Tensor = model(inputs.double() if inputs.is_floating_point() else inputs)
    return outputs


def _state(tensors: Params, names: Mapping[str, list[str]]) -> Params:
    """Tensors of a checkpoint by the model's names; `names` as from `_checkpoint_names`."""
    return {name: tensors[checkpoint_names[0]] for name, checkpoint_names in names.items()}


def _checkpoint_names(model: nn.Module, params: Checkpoint) -> dict[str, list[str]]:
    """All names that each tensor of the model has in the checkpoint, by its first name in the model.

    Raises `EndpointMismatch` if one is missing or has another shape.
    """
    state = model.state_dict(keep_vars=True)
    taken, prefix = fitting_prefixes(params.tensors, state)
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in state.items():
        same = names.setdefault(first.setdefault(id(tensor), name), [])
        if taken + name.removeprefix(prefix) in params.tensors:
            same.append(taken + name.removeprefix(prefix))
    wrong = [name for name, same in names.items() if not same or params.tensors[same[0]].shape != state[name].shape]
    if wrong:
        raise EndpointMismatch(
            explain(
                expected=f"a checkpoint of {type(model).__name__}.",
                got=f"{params.source}, where {abbreviated(wrong)} is missing or has another shape.",
                hint="Pass the model that the checkpoint was saved from.",
            )
        )
    return names


def _inputs_of(model: nn.Module) -> Tensor:
    """Random inputs for a model whose first layer with parameters is linear.

    Raises `ValueError` for other models.
    """
    first = next((module for module in model.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if not isinstance(first, nn.Linear):
        raise ValueError(
            explain(
                expected="inputs=, a batch of inputs from which the shapes of layers are determined.",
                got=f"None, for a model that begins with {type(first).__name__}.",
                hint="Pass one batch: inputs=next(iter(data))[0].",
            )
        )
    return torch.randn(4, first.in_features, generator=torch.Generator().manual_seed(0)).to(first.weight.device)


def _first_inputs(data: Data) -> Tensor:
    inputs = Reader(data).first[0].inputs
    if not isinstance(inputs, Tensor):
        raise TypeError(
            explain(
                expected="a model whose input is one tensor.",
                got=f"inputs of type {type(inputs).__name__}.",
                hint="Pass inputs=a tensor.",
            )
        )
    return inputs


def _with_parameters(params: Checkpoint, change: Callable[[Tensor], Tensor], words: str) -> Checkpoint:
    first = first_tied_names(params)
    # In alphabetical order, because a module and its file have the same tensors in different orders.
    changed = {first[name]: change(params.tensors[name]) for name in sorted(params.parameters)}
    tensors = {name: changed.get(first[name], tensor) for name, tensor in params.tensors.items()}
    return Checkpoint(tensors, params.parameters, f"{words} {params.source}")


def _reset(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise TypeError(
                explain(
                    expected="a method reset_parameters of every layer with parameters.",
                    got=f"{name or type(model).__name__!r}, a {type(module).__name__} with parameters.",
                    hint="Pass the function that builds the network instead of the network.",
                )
            )
    return model
