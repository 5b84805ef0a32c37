"""What every layer puts out: features of all examples, by the name of the layer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lerpscape.base.errors import NonFiniteOutput, explain
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batches import Batch, Caller, Reader
from lerpscape.networks.undisturbed import seed
from lerpscape.paths.checkpoints import Params


class Features:
    """Outputs of the layers of a model at any α of a path, one row per example, in float64.

    Layers are modules without children whose output is a floating-point tensor with the examples first, or the modules
    that `patterns` match. A layer called more than once has a number behind its name: `relu`, `relu#2`, …

    Raises `ValueError` for a pattern that matches no module, with the nearest names.
    """

    def __init__(
        self, on_path: ModelOnPath, statistics: BatchNormStatistics, reader: Reader, patterns: Sequence[str] | None
    ) -> None:
        self.on_path = on_path
        self.statistics = statistics
        self.reader = reader
        modules = dict(on_path.model.named_modules())
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
        """Features at α by layer in the order of the calls, shape (examples, size).

        Raises `NonFiniteOutput` for NaN or inf.
        """
        seed(self.on_path.device)
        state = self.statistics.apply(self.on_path.at(alpha), alpha)
        parts: dict[str, list[Tensor]] = {}
        for batch in self.reader.batches():
            for name, values in self._of_batch(state, batch.to(self.on_path.device, self.on_path.dtype)).items():
                parts.setdefault(name, []).append(values)
        found = {name: torch.cat(each) for name, each in parts.items()}
        for name, values in found.items():
            if not torch.isfinite(values).all():
                raise NonFiniteOutput(
                    explain(
                        expected="finite features.",
                        got=f"NaN or inf from layer {name!r} at α = {alpha:.6g}.",
                        hint="Measure with dtype=torch.float64, or leave that layer out with layers=[…].",
                    )
                )
        return found

    def _of_batch(self, state: Params, batch: Batch) -> dict[str, Tensor]:
        calls: dict[str, int] = {}
        found: dict[str, Tensor] = {}

        def watch(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                calls[name] = calls.get(name, 0) + 1
                if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 2:
                    return
                if batch.examples is not None and len(output) != batch.examples:
                    return
                key = name if calls[name] == 1 else f"{name}#{calls[name]}"
                found[key] = output.detach().flatten(1).double().clone()  # an in-place layer may come next

            return hook

        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.callback(module.register_forward_hook(watch(name)).remove)
            self.statistics.call(Caller(self.on_path.model), state, batch)
        return found
