"""A family of models, and the loop that a user would write for it: what every measurement of it is compared with.

The loop uses torch alone: a module of its own, `load_state_dict` with lerped tensors in float64, the batches as they
are given, one loss per example and Σwℓ / Σw. Derivatives are central differences of it; those of a layer are
⟨gradient, velocity⟩ by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CELLS = ("profile", "derivative", "contributions", "examples", "only", "resume")
ALPHAS = np.linspace(0.0, 1.0, 9)
# Where derivatives are compared: two of the α.
INNER = (2, 5)


@dataclass(frozen=True, eq=False)
class Family:
    """Models of one kind: how a user builds one, has data for it and computes its losses; what is asked of lerpscape.

    `loop(model, item)` gives the losses of one batch and their weights, None where all weigh alike. `refused` maps a
    cell of the table, or `"all"`, to what the refusal has to say; `instead` says in words what to do then. `needs` is
    the library without which it is skipped. `tolerance` is that of losses and `slopes` that of derivatives.
    """

    name: str
    build: Callable[[], nn.Module] = field(repr=False)
    data: Callable[[], list[Any]] = field(repr=False)
    loop: Callable[[nn.Module, Any], tuple[Tensor, Tensor | None]] = field(repr=False)
    loss: Any = field(default="cross_entropy", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    refused: Mapping[str, str] = field(default_factory=dict, repr=False)
    instead: str = field(default="", repr=False)
    needs: str = ""
    ends: Callable[[nn.Module, nn.Module], tuple[Any, Any]] | None = field(default=None, repr=False)
    model: Callable[[nn.Module], nn.Module] = field(default=lambda built: built, repr=False)
    tolerance: float = field(default=1e-9, repr=False)
    # Whether dL/dα is by autograd: models that round to float32 inside have no useful difference quotients.
    autograd: bool = field(default=False, repr=False)
    slopes: float = field(default=1e-6, repr=False)

    def __str__(self) -> str:
        return self.name

    def refusal(self, cell: str) -> str | None:
        """What the refusal in a cell says; None where it has to be right."""
        return self.refused.get("all", self.refused.get(cell))

    def built(self, seed: int) -> nn.Module:
        """A network drawn from a seed, in float64, no two of whose tensors are alike."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.build().double()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.is_floating_point() or parameter.is_complex():
                        parameter.add_(0.05 * torch.randn_like(parameter))
                for name, buffer in model.named_buffers():
                    if "running" in name:
                        buffer.mul_(1 + 0.3 * torch.rand_like(buffer)).add_(0.1 * torch.rand_like(buffer))
        return model


class Loop:
    """The loop between two networks of a family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.start, self.end = (family.built(seed).state_dict() for seed in (0, 1))
        self.data = family.data()

    def at(self, alpha: float, only: str | None = None) -> nn.Module:
        """A network at α; with `only`, what does not begin with it is as at the end."""
        model = self.family.built(2)
        moved = self.moved(only)
        tensors = {}
        for name, start in self.start.items():
            end = self.end[name]
            if name not in moved:
                tensors[name] = end
            elif start.is_floating_point() or start.is_complex():
                tensors[name] = start + alpha * (end - start)
            else:
                tensors[name] = start if alpha < 0.5 else end
        model.load_state_dict(tensors)
        return model.eval()

    def moved(self, only: str | None) -> set[str]:
        """The names of the tensors inside a module, or of a parameter, with the other names they have."""
        if only is None:
            return set(self.start)
        chosen = {name for name in self.start if name == only or name.startswith(f"{only}.")}
        model = self.family.built(2)
        held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        same = {id(held[name]) for name in chosen if name in held}
        return chosen | {name for name, tensor in held.items() if id(tensor) in same}

    def parts(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """The losses of all examples and their weights."""
        values, weights = zip(*(self.family.loop(model, item) for item in self.family.data()), strict=True)
        each = [torch.ones(len(v)) if w is None else w for v, w in zip(values, weights, strict=True)]
        return torch.cat(values), torch.cat(each).double()

    def loss(self, model: nn.Module) -> Tensor:
        """Σwℓ / Σw."""
        values, weights = self.parts(model)
        return (values * weights).sum() / weights.sum()

    @cache  # noqa: B019  (loops are kept for all tests of a family)
    def mean(self, alpha: float, only: str | None = None) -> float:
        """The mean loss at α."""
        return float(self.loss(self.at(alpha, only)).detach())

    def losses(self, only: str | None = None) -> np.ndarray:
        """The mean losses at all α."""
        return np.array([self.mean(float(alpha), only) for alpha in ALPHAS])

    def slope(self, alpha: float, only: str | None = None) -> float:
        """The central difference of fourth order."""
        if self.family.autograd and only is None:
            return sum(self.layers(alpha).values())
        step = 2e-6  # so close that no kink of a ReLU lies between
        near, far = (self.mean(alpha + k * step, only) - self.mean(alpha - k * step, only) for k in (1, 2))
        return (8 * near - far) / (12 * step)

    def layers(self, alpha: float) -> dict[str, float]:
        """⟨gradient, velocity⟩ of every module's own parameters."""
        model = self.at(alpha)
        named = {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
        for parameter in named.values():
            parameter.requires_grad_(True)
        gradients = torch.autograd.grad(self.loss(model), list(named.values()), allow_unused=True)
        slopes: dict[str, float] = {}
        for (name, _), gradient in zip(named.items(), gradients, strict=True):
            owner = name.rpartition(".")[0] or "model"
            step = (self.end[name] - self.start[name]).conj()
            part = 0.0 if gradient is None else float((gradient * step).real.sum())
            slopes[owner] = slopes.get(owner, 0.0) + part
        return slopes


@cache
def loop_of(family: Family) -> Loop:
    """The loop of a family, made once."""
    return Loop(family)


def generator(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def integers(*shape: int, below: int, seed: int = 2, least: int = 0) -> Tensor:
    """Integers from `least` to `below` − 1."""
    return torch.randint(least, below, shape, generator=generator(seed))


def batches(*tensors: Tensor, size: int = 5) -> list[Any]:
    """Pairs of inputs and targets; several inputs as a tuple."""
    parts = zip(*(tensor.split(size) for tensor in tensors), strict=True)
    return [(part[0] if len(part) == 2 else part[:-1], part[-1]) for part in parts]


def table(families: Sequence[Family]) -> str:
    """The table of `docs/models.md`: what is right, what is refused, and what to do then."""
    words = {"derivative": "derivative", "contributions": "contributions"}
    lines = ["| family | refused | what to do |", "|---|---|---|"]
    for family in families:
        refused = "all" if "all" in family.refused else ", ".join(words[cell] for cell in family.refused)
        lines.append(f"| {family.name} | {refused} | {family.instead} |")
    return "\n".join(lines)
