"""Finding the one state dict in what a training script saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lerpscape.base.errors import explain

# Keys under which optimisers keep their tensors; these are not weights of the network.
_OPTIMISER = re.compile(r"(^|\.)opt(im(izers?)?)?(_states?)?(_dict)?(\.|$)")
# What modules save beside their tensors (`get_extra_state`).
EXTRA_STATE = "_extra_state"


def state_dict_in(saved: Any, path: Path, key: str | None) -> tuple[dict[str, Tensor], str]:
    """The state dict in saved, possibly nested dictionaries, and the key under which it is, "" for the whole.

    A state dict maps names to tensors only. `key` has the keys that lead to it, joined by dots.

    Raises `ValueError` for none, for more than one without a key (the message lists them), and for a wrong key.

    >>> state_dict_in({"epoch": 3, "net": {"w": torch.ones(1)}}, Path("run.pt"), None)
    ({'w': tensor([1.])}, 'net')
    """
    candidates = dict(_state_dicts(saved, "", set()))
    if key is None:
        chosen = [name for name in candidates if not _OPTIMISER.search(name)]
    else:
        chosen = [name for name in candidates if name == key] or [n for n in candidates if n.startswith(f"{key}.")]
    if len(chosen) == 1:
        return {name: _tensor(value) for name, value in candidates[chosen[0]].items()}, chosen[0]
    keys = [name for name in chosen or candidates if name]
    if keys:
        raise ValueError(
            explain(
                expected=f"one state dict in {path}" + (f" under {key!r}." if key is not None else "."),
                got="; ".join(f"{name!r}, {len(candidates[name])} tensors" for name in keys) + ".",
                hint=f"Choose one: checkpoint({str(path)!r}, key={keys[0]!r}); on the command line, --key {keys[0]}.",
            )
        )
    if key is not None and candidates:
        raise ValueError(
            explain(
                expected=f"a dictionary with the key {key!r} in {path}.",
                got="the tensors themselves, under no key.",
                hint="Leave the key out.",
            )
        )
    raise ValueError(
        explain(
            expected=f"{path} to hold a state dict, which maps names to tensors, bare or under a key.",
            got=f"{_first_other(saved)}.",
            hint='Save it with torch.save(model.state_dict(), "weights.pt").',
        )
    )


def _state_dicts(saved: Any, key: str, seen: set[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every state dict in nested dictionaries, by the keys that lead to it."""
    if not isinstance(saved, Mapping) or id(saved) in seen:
        return
    seen.add(id(saved))
    tensors = {name: value for name, value in saved.items() if _named(name) and not name.endswith(EXTRA_STATE)}
    if not all(map(_named, saved)):
        return
    if tensors and all(isinstance(value, (Tensor, np.ndarray)) for value in tensors.values()):
        if not key or any(map(_may_be_weight, tensors.values())):
            yield key, tensors
        return
    for name, value in saved.items():
        yield from _state_dicts(value, f"{key}.{name}" if key else name, seen)


def _named(name: Any) -> bool:
    return isinstance(name, str)


def _may_be_weight(value: Any) -> bool:
    """Whether a tensor or array is no metric, which is a scalar, and no generator's state, which is of integers."""
    real = value.is_floating_point() or value.is_complex() if isinstance(value, Tensor) else value.dtype.kind in "fc"
    return bool(value.ndim) and real


def _tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _first_other(saved: Any) -> str:
    """The first thing that is not a tensor with a name, in words."""
    name = None
    for _ in range(8):
        if not isinstance(saved, Mapping) or not saved:
            break
        name, saved = next((i for i in saved.items() if not isinstance(i[1], Tensor)), next(iter(saved.items())))
    what = getattr(saved, "words", None) or f"{'an empty ' if saved == {} else ''}{type(saved).__name__}"
    return what if name is None else f"{what} under {name!r}"
