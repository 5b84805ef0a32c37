"""Random directions from a checkpoint, scaled to its own weights, for pictures of the loss around it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.paths.checkpoints import Checkpoint, Source, as_vector, checkpoint, in_dtype
from lerpscape.paths.matching import first_tied_names

Scale: TypeAlias = Literal["filter", "layer"]


def random_direction(center: Source, seed: int, scale: Scale = "filter") -> Checkpoint:
    """The checkpoint θ + d, a random direction d away from `center`, whose size is that of the weights themselves.

    d is Gaussian. With `"filter"` every row of a weight (the weights of one unit or filter, along the first dimension)
    has the norm of that row of θ; with `"layer"` every weight has the norm of the whole. So networks that differ only
    in the scale of their units have the same picture. Biases, the parameters of norm layers and all others of one
    dimension stay, and so do buffers; tied weights stay tied.

    Raises `ValueError` for another scale, or a checkpoint whose parameters all have one dimension.

    Source: Li et al. (2018), section 4.

    >>> moved = random_direction({"w": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "b": torch.ones(2)}, seed=0)
    >>> change = moved.tensors["w"] - torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> change.norm(dim=1), moved.tensors["b"]
    (tensor([5.0000, 2.0000]), tensor([1., 1.]))
    """
    if scale not in ("filter", "layer"):
        raise ValueError(
            explain(expected='scale="filter" or "layer".', got=f"{scale!r}.", hint='scale="filter", as Li et al. do.')
        )
    center = checkpoint(center)
    if all(center.tensors[name].dim() < 2 for name in center.parameters):
        raise ValueError(
            explain(
                expected="parameters with two dimensions or more, the weights that a random direction moves.",
                got=f"{center.source}, whose parameters all have one.",
                hint="Use noise_like for a random end, or a Plane through checkpoints of yours.",
            )
        )
    generator = torch.Generator().manual_seed(seed)
    first = first_tied_names(center)
    moved: dict[str, Tensor] = {}
    # In alphabetical order, because a module and its file have the same tensors in different orders.
    for name in sorted(first[name] for name in center.parameters):
        weight = center.tensors[name]
        if name in moved or weight.dim() < 2:
            continue
        drawn = torch.randn(weight.shape, generator=generator, dtype=in_dtype(weight, torch.float64))
        rows = (len(weight), -1) if scale == "filter" else (1, -1)
        unit = drawn.reshape(rows) / drawn.reshape(rows).norm(dim=1, keepdim=True)
        norms = as_vector(weight).reshape(rows).norm(dim=1, keepdim=True)
        change = (unit * norms.cpu()).reshape(weight.shape)
        moved[name] = (weight.to(change.dtype) + change.to(weight.device)).to(weight.dtype)
    tensors = {name: moved.get(first[name], tensor) for name, tensor in center.tensors.items()}
    return Checkpoint(tensors, center.parameters, f"a random direction (seed {seed}, by {scale}) from {center.source}")
