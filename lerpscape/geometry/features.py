"""Features: the outputs of each layer for all examples, by the name of the layer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lerpscape.base.errors import NonFiniteOutput, explain
from lerpscape.engine.measurement import Measurement
from lerpscape.networks.batches import Batch, Caller
from lerpscape.networks.undisturbed import seed
from lerpscape.paths.checkpoints import Params


class Features:
    """Outputs of the layers of a model at any α of a path, one row per example, in float64.

    Layers are the modules without children, or those that `patterns` match; outputs other than floating-point tensors
    with one row per example are left out. A layer called more than once gets numbers: `relu`, `relu#2`, …

    Raises `ValueError` for a pattern that matches no module, with the nearest names.
    """

    def __init__(self, measurement: Measurement, patterns: Sequence[str] | None) -> None:
        self._on_path, self._reader = measurement.on_path, measurement.reader
        self._statistics = measurement.statistics
        modules = dict(self._on_path.model.named_modules())
        if patterns is None:
            chosen = [name for name, module in modules.items() if not list(module.children())]
        else:
            chosen = [name for name in modules if any(fnmatchcase(name, pattern) for pattern in patterns)]
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in modules):
                    near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.0)
                    raise ValueError(
                        explain(
                            expected="patterns that match modules of the model.",
                            got=f"{pattern!r}.",
                            hint=f"Nearest names: {near}.",
                        )
                    )
        self._modules = {name: modules[name] for name in chosen}

    def at(self, alpha: float) -> dict[str, Tensor]:
        """Features at α by layer, in the order of the calls, shape (examples, size).

        Raises `NonFiniteOutput` for NaN or inf.
        """
        seed(self._on_path.device)
        state = self._statistics.apply(self._on_path.at(alpha), alpha)
        parts: dict[str, list[Tensor]] = {}
        for batch in self._reader.batches():
            for name, values in self._of_batch(state, batch.to(self._on_path.device, self._on_path.dtype)).items():
                parts.setdefault(name, []).append(values)
        features = {name: torch.cat(batches) for name, batches in parts.items()}
        for name, values in features.items():
            if not torch.isfinite(values).all():
                raise NonFiniteOutput(
                    explain(
                        expected="finite features.",
                        got=f"NaN or inf from layer {name!r} at α = {alpha:.6g}.",
                        hint="Measure with dtype=torch.float64, or leave that layer out with layers=[…].",
                    )
                )
        return features

    def _of_batch(self, state: Params, batch: Batch) -> dict[str, Tensor]:
        calls: dict[str, int] = {}
        features: dict[str, Tensor] = {}

        def watch(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                calls[name] = calls.get(name, 0) + 1
                if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 2:
                    return
                if batch.examples is not None and len(output) != batch.examples:
                    return
                key = name if calls[name] == 1 else f"{name}#{calls[name]}"
                features[key] = output.detach().flatten(1).double().clone()  # the next layer may work in place

            return hook

        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.callback(module.register_forward_hook(watch(name)).remove)
            self._statistics.call(Caller(self._on_path.model), state, batch)
        return features
