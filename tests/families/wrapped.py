"""What is done to a model: wrapped, compiled, scripted, parametrised, pruned, quantised."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import lerpscape as ls
from families.family import Family
from families.images import classified, no_slope, vectors


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def with_layers(change: Any) -> Any:
    """A small network whose linear layers are changed."""

    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(
                change(nn.Linear(6, 6)), nn.Tanh(), change(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3)
            )

    return build


def pruned(layer: nn.Linear) -> nn.Linear:
    prune.l1_unstructured(layer, "weight", amount=0.4)
    return layer


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def symmetric(layer: nn.Linear) -> nn.Linear:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


class LowRank(nn.Module):
    """A frozen layer and a low-rank change of it; evaluation mode merges them, as loralib does."""

    def __init__(self, merges: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6), requires_grad=False)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(3, 2))
        self.merges, self.merged = merges, False

    def train(self, mode: bool = True) -> LowRank:
        super().train(mode)
        if self.merges and self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.b @ self.a
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight if self.merged else self.weight + self.b @ self.a)


def unmerged(model: nn.Module, item: Any) -> Any:
    """Nothing is merged in training mode, where there is no dropout either."""
    return classified(model.train(), item)


class Hooked(nn.Module):
    """A hook caps what the first layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.one.register_forward_hook(lambda module, inputs, output: output.clamp(max=1.0))
        self.two.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class Checkpointed(nn.Module):
    """Activations are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.utils.checkpoint.checkpoint(self.one, x, use_reentrant=False))


class Looked(nn.Module):
    """Parameters in lists and dictionaries, and a path that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ParameterList([nn.Parameter(torch.randn(6, 6) * 0.3) for _ in range(3)])
        self.heads = nn.ParameterDict({"low": nn.Parameter(torch.randn(6, 3)), "high": nn.Parameter(torch.randn(6, 3))})

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.tanh(x @ step)
        rows = [row @ self.heads["high" if row.detach().sum() > 0 else "low"] for row in x]
        return torch.stack(rows)


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model, torch.zeros(2, 6).double())


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))
    model(torch.zeros(1, 6))
    return model


def prefixed(start: nn.Module, end: nn.Module) -> tuple[Any, Any]:
    return tuple({f"module.{name}": value for name, value in each.state_dict().items()} for each in (start, end))


def averaged(start: nn.Module, end: nn.Module) -> tuple[Any, Any]:
    return start, torch.optim.swa_utils.AveragedModel(end)


def under_prefix(start: nn.Module, end: nn.Module) -> tuple[Any, Any]:
    return start, ls.checkpoint(torch.optim.swa_utils.AveragedModel(end), prefix="module.")


FAMILIES = [
    Family("wrapped in DataParallel", small, vectors, classified, model=nn.DataParallel),
    Family("names that begin with module.", small, vectors, classified, ends=prefixed),
    Family(
        "averaged weights (AveragedModel)",
        small,
        vectors,
        classified,
        ends=averaged,
        refused={"all": "prefix='module.'"},
        instead='`checkpoint(averaged, prefix="module.")`',
    ),
    Family("averaged weights, taken under their prefix", small, vectors, classified, ends=under_prefix),
    Family("compiled (torch.compile)", small, vectors, classified, model=lambda m: torch.compile(m, backend="eager")),
    Family("traced by torch.fx", small, vectors, classified, model=torch.fx.symbolic_trace),
    Family("TorchScript, scripted", small, vectors, classified, model=scripted, refused={"all": "TorchScript"}),
    Family("TorchScript, traced", small, vectors, classified, model=traced, refused={"all": "TorchScript"}),
    Family("weight norm", with_layers(parametrizations.weight_norm), vectors, classified),
    Family(
        "weight norm, the old one",
        with_layers(torch.nn.utils.weight_norm),
        vectors,
        classified,
    ),
    Family(
        "spectral norm",
        with_layers(parametrizations.spectral_norm),
        vectors,
        classified,
        refused={"all": "parametrisation"},
    ),
    Family(
        "spectral norm, the old one",
        with_layers(torch.nn.utils.spectral_norm),
        vectors,
        classified,
        refused={"all": "parametrisation"},
    ),
    Family(
        "orthogonal weights",
        with_layers(parametrizations.orthogonal),
        vectors,
        classified,
        refused={"all": "parametrisation"},
    ),
    Family("symmetric weights, a parametrisation of one's own", with_layers(symmetric), vectors, classified),
    Family("pruned", with_layers(pruned), vectors, classified),
    Family("low-rank layer", lambda: LowRank(False), vectors, classified),
    Family(
        "low-rank layer that merges in evaluation mode",
        lambda: LowRank(True),
        vectors,
        unmerged,
        refused=no_slope("more than set modes"),
    ),
    Family("hooks that change outputs", Hooked, vectors, classified),
    Family("activation checkpointing", Checkpointed, vectors, classified),
    Family("parameters in lists, branches by data", Looked, vectors, classified),
    Family("lazy layers, after a first call", lazy, vectors, classified),
]
