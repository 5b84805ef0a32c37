"""The same curve by a loop: the tensors copied into a module, the caller's batches, the mean of the losses."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from fuzz import data, losses, modules
from fuzz.calls import Case

State = dict[str, Tensor]
STEP = 1e-6
# Values that float64 and float32 may differ by: some hundred roundings, relative to the largest loss of the curve.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}


class Loop:
    """The curve of a case, in the dtype of the call or in another one."""

    def __init__(self, case: Case, dtype: torch.dtype | None = None, *, alone: bool = False) -> None:
        self.case, self.dtype, self.alone = case, dtype or case.compute_dtype, alone
        self.points = [{name: self._to(each) for name, each in state.items()} for state in case.states()]
        batches = data.as_measured(case.batches(), case.container)
        self.batches = [data.mapped(batch, self._to) for batch in batches]
        self.policy_batches = [data.mapped(batch, self._to) for batch in case.batches()]
        self.loss = losses.LOSSES[case.loss]().plain
        self._kept = None if case.special else case.model().to(self.dtype)  # blocks without a state of their own

    def _to(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def state(self, alpha: float) -> State:
        start, end, third = self.points
        share, count = alpha, 1
        if self.case.path == "polyline":
            corners, count = [start, third, end, start], 3
            piece = min(max(int(np.floor(alpha * count + 1e-12)), 0), count - 1)
            start, end, share = corners[piece], corners[piece + 1], alpha * count - piece
        return {
            name: (1 - share) * start[name] + share * end[name]
            if each.is_floating_point()
            else (start if share < 0.5 else end)[name]
            for name, each in start.items()
        }

    def model(self, alpha: float) -> nn.Module:
        model = self._kept or self.case.model().to(self.dtype)
        state = self.state(alpha)
        if self.case.policy == "end":
            end = self.state(1.0)
            state |= {name: end[name] for name in state if name.endswith(("running_mean", "running_var"))}
        model.load_state_dict(state)
        model.eval()
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and self.case.policy not in ("interpolate", "end"):
                self._estimate(model, layer)
        return model

    def _estimate(self, model: nn.Module, layer: Any) -> None:
        """What `Recalibrate` and `BatchStatistics` say, for the one batch-norm layer that a case has."""
        if self.case.policy == "batch":
            layer.train()
            return
        layer.train(self.case.policy != "recalibrate")  # torch refuses single rows then
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().double().clone()))
        for batch in self.policy_batches:
            _called(model, copy.deepcopy(batch))
        hook.remove()
        layer.eval()
        rows = [each.movedim(1, -1).reshape(-1, each.shape[1]) for each in seen]
        mean, variance = torch.cat(rows).mean(0), torch.cat(rows).var(0, unbiased=False)
        if self.case.policy == "momentum":
            mean, variance = torch.zeros_like(mean), torch.ones_like(variance)
            for each in rows:
                mean = 0.7 * mean + 0.3 * each.mean(0)
                variance = 0.7 * variance + 0.3 * each.var(0, unbiased=len(each) > 1)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)

    def at(self, alpha: float) -> float:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, found = self.model(alpha), []
            torch.manual_seed(0)
            for number, batch in enumerate(copy.deepcopy(self.batches)):
                if self.alone and number:
                    model = self.model(alpha)
                outputs, targets = _called(model, batch)
                found.append(self.loss(outputs, targets))
            return float(torch.cat(found).double().mean())

    def curve(self, alphas: Any) -> np.ndarray:
        return np.array([self.at(float(alpha)) for alpha in alphas])


def _called(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, dict):
        targets = batch.pop("labels")
        return model(**batch), targets
    inputs, targets = batch
    if isinstance(inputs, dict):
        return model(**inputs), targets
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs), targets


def curves(case: Case, alphas: Any) -> list[np.ndarray]:
    """The right curves: one, or two where a model's state reaches from batch to batch."""
    found = [Loop(case).curve(alphas)]
    if any(name in modules.STATEFUL for name in case.blocks):
        found.append(Loop(case, alone=True).curve(alphas))
    return found


def tolerance(case: Case, alphas: Any, truth: np.ndarray) -> np.ndarray:
    """What a loss may be off by, for each α."""
    allowed = ROUNDING[case.compute_dtype] * (1e-3 + np.abs(truth))
    if case.compute_dtype is torch.float32 and not any(name in modules.RANDOM for name in case.blocks):
        allowed = allowed + 20 * _largest(truth - Loop(case, torch.float64).curve(alphas))
    if "autocast inside" in case.blocks:
        with mock.patch.object(torch, "autocast", return_value=nullcontext()):
            allowed = allowed + 0.2 * _largest(truth - Loop(case).curve(alphas))
    return allowed + (1e-6 * np.abs(truth) if "float32 inside" in case.blocks else 0)


def _largest(differences: np.ndarray) -> float:
    """The largest difference, NaN aside: beyond an end a variance may be negative, and the loss NaN at some α."""
    return float(np.nan_to_num(np.abs(differences)).max())


def slope_bounds(case: Case, alphas: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Between what dL/dα must be, from differences to both sides in float64; None where differences are noise."""
    noisy = any(modules.BLOCKS[name].float32 for name in case.blocks)
    if noisy or (any(name in modules.RANDOM for name in case.blocks) and case.compute_dtype is torch.float32):
        return None
    low, high = [], []
    loop = Loop(case, torch.float64)
    for alpha in map(float, alphas):
        before, here, after = loop.at(alpha - STEP), loop.at(alpha), loop.at(alpha + STEP)
        sides = (here - before) / STEP, (after - here) / STEP
        # Rounding of a loss over STEP; the curvature is the difference of the sides. In float32 a unit may fall on
        # the other side of its kink.
        room = 1e-14 * (1 + abs(here)) / STEP * 50 + 1e-4 * max(map(abs, sides))
        room += 0.05 * max(map(abs, sides)) if case.compute_dtype is torch.float32 else 0
        jump = abs(sides[1] - sides[0]) > 1e-2 * (1e-3 + max(map(abs, sides)))
        room += np.inf if jump and case.path != "polyline" else 0  # a kink within the step
        low.append(min(sides) - room)
        high.append(max(sides) + room)
    return np.array(low), np.array(high)
