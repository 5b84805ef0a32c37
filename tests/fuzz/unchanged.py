"""What a caller owns, remembered by identity and value, and compared afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fuzz.data import tensors


class Remembered:
    """The model with its attributes, modes, hooks and tensors; the line's points; the batches; torch's own state."""

    def __init__(self, model: nn.Module, path: Any, batches: Any) -> None:
        self.owners = model, path, batches
        self.before = self._all()

    def changes(self) -> list[str]:
        """Names of what is another thing or has another value now."""
        after = self._all()
        names = dict.fromkeys([*self.before, *after])
        return [name for name in names if not _same(self.before.get(name), after.get(name))]

    def _all(self) -> dict[str, Any]:
        model, path, batches = self.owners
        found: dict[str, Any] = {}
        for place, module in model.named_modules(remove_duplicate=False):
            for name, value in vars(module).items():
                if name.startswith("_flat_weight"):  # LSTMs make them anew where they differ from the parameters
                    continue
                if name in ("_parameters", "_buffers", "_modules") or "hooks" in name:
                    for key, part in value.items():
                        found[f"{place}.{name}.{key}"] = _summary(part)
                else:
                    found[f"{place}.{name}"] = _summary(value)
        for end in (path.start, path.end):
            for name, tensor in end.tensors.items():
                found[f"path {id(end)} {name}"] = _summary(tensor)
        if batches is not None:
            for number, batch in enumerate(batches):
                for part, tensor in enumerate(tensors(batch)):
                    found[f"batch {number} tensor {part}"] = _summary(tensor)
        return found | {
            "gradients": torch.is_grad_enabled(),
            "default dtype": torch.get_default_dtype(),
            "threads": torch.get_num_threads(),
            "generator": torch.get_rng_state().clone(),
            "numpy generator": np.random.get_state()[1].copy(),
            "fast path": torch.backends.mha.get_fastpath_enabled(),
            "oneDNN": torch.backends.mkldnn.enabled,
            "matmul precision": torch.get_float32_matmul_precision(),
        }


def _summary(value: Any) -> Any:
    if isinstance(value, Tensor):
        kept = value.detach().clone()
        return id(value), value.data_ptr(), value.requires_grad, value.is_leaf, kept
    if isinstance(value, (list, tuple, dict, set)):
        return id(value), [id(part) for part in value]
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    return id(value)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return (
            one.shape == other.shape
            and one.dtype == other.dtype
            and bool(torch.equal(one.nan_to_num(), other.nan_to_num()))
        )
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
