"""Tensors of two checkpoints that differ and yet have no line between them: they are refused, or they jump."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lerpscape.base.errors import EndpointMismatch, explain

# What quantised layers keep beside their integers.
_SCALES = re.compile(r"(^|_)(scales?|zero_points?|q?zeros|absmax|quant_map|SCB|scale_inv)(_\w+)?$")
_EIGHT_BITS = (torch.int8, torch.uint8)
_FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith("float8_"))
# The unit vectors of spectral_norm, of both kinds, and the base of an orthogonal parametrisation.
_UNIT_VECTORS = re.compile(r"(^|\.)(parametrizations\.\w+\.\d+\.(_u|_v|base)|\w+_(u|v))$")


def is_float8(tensor: Tensor) -> bool:
    """Whether a tensor has a floating-point type of 8 bits, in which torch does not compute."""
    return tensor.dtype in _FLOAT8


def refuse_unlike_vectors(start: Mapping[str, Tensor], end: Mapping[str, Tensor], parameters: Collection[str]) -> None:
    """Refuse tensors that differ and cannot be interpolated: quantised weights, integer parameters, unit vectors.

    Raises `EndpointMismatch` that names the first one.
    """
    for name, tensor in start.items():
        quantised = _is_quantised(name, tensor, start) or _is_quantised(name, end[name], end)
        integers = name in parameters and not (tensor.is_floating_point() or tensor.is_complex())
        turning = _UNIT_VECTORS.search(name) is not None and _is_unit_vector(name, start)
        if not (quantised or integers or turning) or _same(tensor, end[name]):
            continue
        if turning:
            raise EndpointMismatch(
                explain(
                    expected="tensors that lie in a vector space.",
                    got=f"{name!r}, which a parametrisation keeps, and which on a line between the two would be wrong.",
                    hint="Compare the weights that it makes: at both ends and in the model, call "
                    'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight"), or '
                    "torch.nn.utils.remove_spectral_norm(layer).",
                )
            )
        raise EndpointMismatch(
            explain(
                expected="weights in floating-point numbers.",
                got=f"{name!r} of {str(tensor.dtype).removeprefix('torch.')}, "
                f"{'quantised' if quantised else 'an integer parameter'}, different at the two ends.",
                hint="Multiply quantised weights by their scales at both ends, and give the model plain weights.",
            )
        )


def jumping(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ and are not interpolated: flags, counters and indices, at α = ½.

    >>> jumping({"seen": torch.tensor(1)}, {"seen": torch.tensor(2)})
    ['seen']
    """
    return [
        name
        for name, tensor in start.items()
        if not (tensor.is_floating_point() or tensor.is_complex()) and not torch.equal(tensor, end[name])
    ]


def parametrised(names: Collection[str]) -> list[str]:
    """Names of the weights that a parametrisation computes from other tensors.

    >>> parametrised(["0.parametrizations.weight.original0", "1.weight_g", "1.weight_v"])
    ['0.weight', '1.weight']
    """
    new = (re.fullmatch(r"(.*?)\.?parametrizations\.(\w+)\.original\d*", name) for name in names)
    old = (re.fullmatch(r"(.*?)\.?(\w+)_(?:g|orig)", name) for name in names if _has_old_pair(name, names))
    return list(dict.fromkeys(".".join(filter(None, match.groups())) for match in (*new, *old) if match))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other.to(one.device))


def _has_old_pair(name: str, names: Collection[str]) -> bool:
    return (name.endswith("_g") and f"{name[:-1]}v" in names) or (name.endswith("_orig") and f"{name[:-4]}u" in names)


def _is_unit_vector(name: str, tensors: Mapping[str, Tensor]) -> bool:
    return "parametrizations." in name or f"{name[:-1]}orig" in tensors


def _is_quantised(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor looks like the integers, or 8-bit floats, of a quantised weight."""
    if tensor.is_complex() or tensor.dtype is torch.bool or (tensor.is_floating_point() and not is_float8(tensor)):
        return False
    if tensor.dtype is torch.int8 or (tensor.dtype in _EIGHT_BITS and tensor.numel() > 1):
        return True
    module, _, own = name.rpartition(".")
    inside = f"{module}." if module else ""
    beside = (other.removeprefix(inside) for other in tensors if other.startswith(inside) and other != name)
    scaled = any("." not in other and _SCALES.search(other) for other in beside)
    return scaled and tensor.numel() > 1 and own != "num_batches_tracked"
