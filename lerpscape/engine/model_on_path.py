"""A module at given params: matched with a path, called without a trace left in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.engine.graph import Graph, traced
from lerpscape.networks.lending import Lender
from lerpscape.paths.checkpoints import Params, wrapper_prefix
from lerpscape.paths.distances import distances
from lerpscape.paths.line import Line
from lerpscape.paths.path import ParamPath


class ModelOnPath:
    """A module whose parameters and buffers come from a path, on one device and in one dtype.

    Tied weights are one tensor, non-persistent buffers come from the module, and every other tensor must be on the
    path under the module's name for it (wrapper prefixes aside).

    Raises `EndpointMismatch` for names or shapes that the module and the path do not share.
    """

    def __init__(
        self, model: nn.Module, path: ParamPath, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self.model = model
        self.lender = Lender(model)
        self.device = _device(model, path, device)
        self.dtype = dtype
        self.path = path.to(self.device, dtype)
        self.given = path
        self._names, self._constant = _matched_names(model, path)
        for name, tensor in self._constant.items():
            self._constant[name] = tensor.to(self.device, dtype if tensor.is_floating_point() else None)
        self.batch_norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}

    @cached_property
    def graph(self) -> Graph | str:
        """The module's traced operations, or why they are not known; traced once, for the planner and the evaluator."""
        return traced(self.model)

    def at(self, alpha: float) -> Params:
        """Every tensor of the module at α, by the module's names.

        They are copies: a module may write to them, and a path's ends must not change.
        """
        tensors = self.path.at(alpha)
        fresh = self.path.moving if type(self.path) is Line else ()  # any other path may keep what it gives
        state = self._by_name(tensors)
        return {name: tensor if self._names.get(name) in fresh else tensor.clone() for name, tensor in state.items()}

    def ends(self) -> tuple[Params, Params]:
        """Every tensor of the module at both ends, in the path's own memory but for buffers: not to be written to."""
        start, end = (self._by_name(side.tensors) for side in (self.path.start, self.path.end))
        for name, _ in self.model.named_buffers():
            start[name], end[name] = start[name].clone(), end[name].clone()
        return start, end

    def _by_name(self, tensors: Mapping[str, Tensor]) -> Params:
        return {name: tensors[known] for name, known in self._names.items()} | self._constant

    def as_trained(self, state: Params) -> Params:
        """The tensors with `requires_grad` where the module's own parameters have it.

        Nothing is differentiated by it, but torch chooses its kernels by it, and they round differently: a linear
        layer on sequences that are not contiguous, as those of an LSTM, is one product then and many if not.
        """
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: each.detach().requires_grad_() if name in trained else each for name, each in state.items()}

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the module's tensors that move."""
        velocity = self.path.velocity(alpha)
        if type(self.path) is not Line:
            velocity = {name: tensor.clone() for name, tensor in velocity.items()}
        return {name: velocity[known] for name, known in self._names.items() if known in velocity}

    def distances(self) -> tuple[float, float]:
        """‖θ_T − θ₀‖₂ over the module's parameters, tied ones once, and the same relative to ‖θ₀‖."""
        return distances(self.given.start, self.given.end, self._parameters())

    def compute_dtype(self) -> torch.dtype:
        """The floating-point type of the module's first parameter on the path, or buffer where it has none.

        Raises `ValueError` for a module without either.
        """
        tensors = [self.path.end.tensors[known] for known in (*self._parameters(), *self._names.values())]
        for tensor in tensors:
            if tensor.is_floating_point() or tensor.is_complex():
                return tensor.dtype
        raise ValueError(
            explain(
                expected="a model with parameters or floating-point buffers, which the path moves.",
                got=f"{type(self.model).__name__}, which has none.",
                hint="Give the model whose checkpoints these are.",
            )
        )

    def _parameters(self) -> list[str]:
        return [self._names[name] for name, _ in self.model.named_parameters()]

    def end_statistics(self) -> Params:
        """Running statistics of every batch-norm layer at the end of the path."""
        known = [name for name in self.running_statistics() if name in self._names]
        return {name: self.path.end.tensors[self._names[name]] for name in known}

    def running_statistics(self) -> list[str]:
        """Names of the running statistics of the batch-norm layers, also of those that keep none."""
        return [statistic(layer, which) for layer in self.batch_norms for which in ("mean", "var")]


def statistic(layer: str, which: str) -> str:
    """Name of a running statistic of the batch-norm layer of this name."""
    return f"{layer}.running_{which}" if layer else f"running_{which}"


def _device(model: nn.Module, path: ParamPath, device: torch.device | str | None) -> torch.device:
    """The asked device, else the module's, else (a module on `meta` is a mere plan) the path's."""
    if device is not None:
        return torch.device(device)
    tensors = [*model.parameters(), *path.start.tensors.values()]
    return next((tensor.device for tensor in tensors if tensor.device.type != "meta"), torch.device("cpu"))


def _matched_names(model: nn.Module, path: ParamPath) -> tuple[dict[str, str], Params]:
    """The path's name for each of the module's tensors, and the tensors that only the module has."""
    expected: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    persistent = model.state_dict(keep_vars=True)
    aliases = _aliases(persistent)
    prefix = wrapper_prefix(persistent)
    known: Mapping[str, Tensor] = path.end.tensors
    names: dict[str, str] = {}
    constant: Params = {}
    missing = []
    used = set()
    for name, tensor in expected.items():
        if name not in persistent:
            constant[name] = tensor.detach()
            continue
        candidates = [alias.removeprefix(prefix) for alias in aliases[name]]
        present = [candidate for candidate in candidates if candidate in known]
        used.update(present)
        if not present:
            missing.append(name)
            continue
        names[name] = present[0]
        for side in (path.start, path.end):
            _check_tied(present, side.tensors, side.source)
    extra = [name for name in known if name not in used]
    if missing or extra:
        parts = [f"{missing[:3]} missing from the checkpoints"] if missing else []
        parts += [f"{extra[:3]} unknown to the model"] if extra else []
        raise EndpointMismatch(
            explain(
                expected=f"checkpoints of {type(model).__name__}, with its {len(persistent)} names.",
                got=f"{' and '.join(parts)} ({len(missing)} and {len(extra)} in all).",
                hint="Check that the model factory builds the network of the checkpoints.",
            )
        )
    for name, found_name in names.items():
        if known[found_name].shape != expected[name].shape:
            raise EndpointMismatch(
                explain(
                    expected=f"checkpoints that fit the model: {name!r} of shape {tuple(expected[name].shape)}.",
                    got=f"{tuple(known[found_name].shape)} in {path.end.source}.",
                    hint="Build the model with the sizes the checkpoints were trained with.",
                )
            )
    return names, constant


def _aliases(persistent: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """For each name, every name of the same tensor object (tied weights)."""
    groups: dict[int, list[str]] = {}
    for name, tensor in persistent.items():
        groups.setdefault(id(tensor), []).append(name)
    return {name: groups[id(tensor)] for name, tensor in persistent.items()}


def _check_tied(names: list[str], tensors: Params, source: str) -> None:
    for name in names[1:]:
        if not torch.equal(tensors[name], tensors[names[0]]):
            raise EndpointMismatch(
                explain(
                    expected=f"equal values under {names[0]!r} and {name!r}, which the model ties.",
                    got=f"different values in {source}.",
                    hint="Build the model without tying, or check that the checkpoint is of this model.",
                )
            )
