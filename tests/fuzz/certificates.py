"""Certificates of small rectifier networks with twists, against rational arithmetic on a fine grid of α.

Logarithms of the cross entropy are taken with 60 digits. What the package proves must hold at every α of the grid: the
bounds of the loss and of the accuracy, and no rise between two of them larger than `upper`. A proof that the loss rises
names two α, between which it must rise by `lower`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import torch
from exact_networks import rectifier_network
from torch import Tensor, nn

import lerpscape as ls
from fuzz.data import CONTAINERS
from fuzz.modules import Apply
from fuzz.unchanged import Remembered

Rows = list[list[Fraction]]
LIMIT = 2.0
GRID = [Fraction(k, 24) for k in range(25)]


def _over_limit(h: Tensor) -> bool:
    return isinstance(h, Tensor) and bool(h.max() > LIMIT)


def _hook(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    def register(layer: nn.Module) -> None:
        layer.register_forward_hook(lambda module, given, out: change(out))

    return register


def _patch(layer: nn.Module) -> None:
    layer.forward = lambda x: x.relu().clamp(max=LIMIT)


def _behind(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    return lambda layer: nn.Sequential(layer, Apply(lambda module, h: function(h)))


def _clamped(rows: Rows) -> Rows:
    return [[min(value, Fraction(LIMIT)) for value in row] for row in rows]


def _halved_over_limit(rows: Rows) -> Rows:
    factor = Fraction(1, 2) if max(map(max, rows)) > LIMIT else 1
    return [[factor * value for value in row] for row in rows]


def _centred(rows: Rows) -> Rows:
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [[value - mean for value, mean in zip(row, means, strict=True)] for row in rows]


def _doubled_if_many(rows: Rows) -> Rows:
    return [[value * (2 if len(rows) > 1 else 1) for value in row] for row in rows]


# What is done to the first ReLU: by the module (changed, or replaced), and to its outputs in rational arithmetic.
TWISTS: dict[str, tuple[Callable[[nn.Module], nn.Module | None], Callable[[Rows], Rows]]] = {
    "plain": (lambda layer: None, lambda rows: rows),
    "guard, clamp": (_behind(lambda h: h.clamp(max=LIMIT) if _over_limit(h) else h), _clamped),
    "guard, halve": (_behind(lambda h: h * 0.5 if _over_limit(h) else h), _halved_over_limit),
    "hook": (_hook(lambda out: out.clamp(max=LIMIT)), _clamped),
    "hook over a limit": (_hook(lambda out: out * 0.5 if out.max() > LIMIT else out), _halved_over_limit),
    "patched forward": (_patch, _clamped),
    "less the batch's mean": (_behind(lambda h: h - h.mean(0)), _centred),
    "doubled in batches of two": (_behind(lambda h: h * 2 if len(h) > 1 else h * 1), _doubled_if_many),
}


@contextmanager
def _set(get: Callable[[], Any], change: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "nothing": nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default float16": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "medium precision": lambda: _set(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}
TARGETS = ("numbers", "classes", "probabilities", "all but 1e-17")


@dataclass(frozen=True)
class Proof:
    """A certificate to be tried."""

    seed: int
    twist: str = "plain"
    around: str = "nothing"
    targets: str = "numbers"
    container: str = "list"
    rows: int = 2
    growing: bool = False
    tolerance: float = 0.0
    gap: float = 0.25

    @property
    def special(self) -> bool:
        return self.twist != "plain" or self.targets == "all but 1e-17"

    def tags(self) -> list[str]:
        return [f"proof: {self.twist}", f"proof around: {self.around}", f"proof of: {self.targets}"]


def drawn_proof(seed: int) -> Proof:
    rng = random.Random(seed)
    return Proof(
        seed,
        twist=rng.choice(list(TWISTS)) if rng.random() < 0.5 else "plain",
        around=rng.choice(list(SURROUNDINGS)) if rng.random() < 0.3 else "nothing",
        targets=rng.choice(TARGETS),
        container=rng.choice(("list", "DataLoader", "views of one tensor", "refilled")),
        rows=rng.choice((1, 2, 5)),
        growing=rng.random() < 0.5,
        tolerance=rng.choice((0.0, 1e-9, 0.5)),
        gap=rng.choice((0.02, 0.25)),
    )


def _parts(proof: Proof) -> tuple[nn.Module, list[dict[str, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The network, both ends and the batches; every number is a small multiple of 1/8."""
    model, states, _, x, y = rectifier_network(9 * proof.seed + proof.seed % 3)  # ReLU, one to three hidden layers
    change, _ = TWISTS[proof.twist]
    replacement = change(model[1])
    if replacement is not None:
        model[1] = replacement
    x = torch.cat([x, x.flip(0) + 0.5, x - 0.25])
    y = torch.cat([y, y - 0.5, y.flip(0)])
    if y.shape[1] == 1 and proof.targets != "numbers":
        y = y.repeat(1, 2)
        states = [_doubled(state) for state in states]
        last = max(int(name.split(".")[0]) for name in states[0])
        model[last] = nn.Linear(model[last].in_features, 2).double()
    if proof.growing:
        x = x * torch.arange(1, len(x) + 1).double()[:, None]
    if proof.targets == "classes":
        y = y.argmax(1)
    elif proof.targets == "probabilities":
        y = nn.functional.one_hot(y.argmax(1), y.shape[1]).double() * 0.5 + 0.5 / y.shape[1]
    elif proof.targets == "all but 1e-17":
        y = torch.where(nn.functional.one_hot(y.argmax(1), y.shape[1]) > 0, 1.0, 1e-17).double()
    return model, states, list(zip(x.split(proof.rows), y.split(proof.rows), strict=True))


def _doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    last = max(int(name.split(".")[0]) for name in state)
    return {
        name: torch.cat([each, -each.flip(-1) if each.dim() > 1 else each / 2]) if name.startswith(f"{last}.") else each
        for name, each in state.items()
    }


class Exact:
    """The loss and the accuracy at rational α."""

    def __init__(self, proof: Proof) -> None:
        _, states, batches = _parts(proof)
        self.twist, self.squared = TWISTS[proof.twist][1], proof.targets == "numbers"
        self.batches = [([[Fraction(v) for v in row] for row in x.tolist()], y.tolist()) for x, y in batches]
        self.ends = [{name: self._fractions(each) for name, each in state.items()} for state in states]
        self.layers = sorted({name.split(".")[0] for name in states[0]}, key=int)

    @staticmethod
    def _fractions(tensor: Tensor) -> list[Any]:
        rows = tensor.double().tolist()
        return [[Fraction(v) for v in row] if isinstance(row, list) else Fraction(row) for row in rows]

    def at(self, alpha: Fraction) -> tuple[Any, Fraction]:
        losses, right = [], 0
        weights = [self._layer(layer, alpha) for layer in self.layers]
        for x, y in self.batches:
            rows = x
            for depth, (weight, bias) in enumerate(weights):
                if depth:
                    rows = [[max(value, Fraction(0)) for value in row] for row in rows]
                    rows = self.twist(rows) if depth == 1 else rows
                rows = [
                    [
                        sum((w * v for w, v in zip(unit, row, strict=True)), b)
                        for unit, b in zip(weight, bias, strict=True)
                    ]
                    for row in rows
                ]
            for z, target in zip(rows, y, strict=True):
                losses.append(_squared_error(z, target) if self.squared else _cross_entropy(z, target))
                right += isinstance(target, int) and z.index(max(z)) == target
        return sum(losses) / len(losses), Fraction(right, len(losses))

    def _layer(self, layer: str, alpha: Fraction) -> tuple[Rows, list[Fraction]]:
        (a, b), (c, d) = ((end[f"{layer}.weight"], end[f"{layer}.bias"]) for end in self.ends)
        weight = [[u + alpha * (v - u) for u, v in zip(*rows, strict=True)] for rows in zip(a, c, strict=True)]
        return weight, [u + alpha * (v - u) for u, v in zip(b, d, strict=True)]


def _squared_error(z: list[Fraction], target: list[float]) -> Fraction:
    return sum((v - Fraction(t)) ** 2 for v, t in zip(z, target, strict=True))


def _cross_entropy(z: list[Fraction], target: Any) -> Any:
    logits = [mpmath.mpf(v.numerator) / v.denominator for v in z]
    logs = [v - mpmath.log(mpmath.fsum(mpmath.exp(u) for u in logits)) for v in logits]
    if isinstance(target, int):
        return -logs[target]
    return -mpmath.fsum(mpmath.mpf(t) * log for t, log in zip(target, logs, strict=True))


def check_proof(proof: Proof) -> tuple[list[str], str | None, ls.Certificate | None]:
    """What is false about the certificate; the package's words if it is refused; and the certificate itself."""
    model, states, batches = _parts(proof)
    line, container = ls.Line(*states), CONTAINERS[proof.container](batches)
    owned = Remembered(model, line, container if isinstance(container, list) else None)
    loss = "squared_error" if proof.targets == "numbers" else "cross_entropy"
    options = {"tolerance": proof.tolerance, "gap": proof.gap, "budget": 60, "progress": False}
    try:
        with SURROUNDINGS[proof.around]():
            found = ls.certify(model, line, container, loss=loss, **options)
    except Exception as error:
        wrong = [f"changed: {name}" for name in owned.changes()[:3]]
        text = str(error)
        if not (text.startswith("expected:") and "\ntry:" in text):
            wrong.append(f"raises {type(error).__name__}: {text}")
        elif not proof.special and proof.around == "nothing":
            wrong.append(f"refused, though nothing is special: {text.splitlines()[1]}")
        return wrong, text.split("\n", 2)[1 if "\n" in text else 0].removeprefix("got: "), None
    wrong = [f"changed: {name}" for name in owned.changes()[:3]]
    with mpmath.workdps(60):
        wrong += _false(proof, found)
    return wrong, None, found


def _false(proof: Proof, found: ls.Certificate) -> list[str]:
    exact = Exact(proof)
    grid = sorted({*GRID, Fraction(found.lowest), Fraction(found.highest)})
    losses, accuracies = zip(*map(exact.at, grid), strict=True)
    known = dict(zip(grid, losses, strict=True))
    wrong, least, rise = [], losses[0], losses[0] * 0
    for loss in losses:
        least = min(least, loss)
        rise = max(rise, loss - least)
    if found.upper < rise:
        wrong.append(f"upper {found.upper:.6g}, but there is a rise of {float(rise):.6g}")
    true = known[Fraction(found.highest)] - known[Fraction(found.lowest)]
    if found.lower > 0 and found.lower > true:
        wrong.append(f"lower {found.lower:.6g}, but the rise that it names is {float(true):.6g}")
    alphas = np.array([float(alpha) for alpha in grid])
    inexact = 2.0**-46  # the float of a grid point is another α
    for alpha, loss, low, high in zip(grid, losses, *found.loss_bounds(alphas), strict=True):
        slip = inexact * (1 + abs(loss)) if Fraction(float(alpha)) != alpha else 0
        if not low - slip <= loss <= high + slip:
            wrong.append(f"the loss at {float(alpha):.4g} is {float(loss):.9g}, not in {low:.9g} to {high:.9g}")
            break
    if found.accuracy_low is not None:
        for alpha, right, low, high in zip(grid, accuracies, *found.accuracy_bounds(alphas), strict=True):
            if not low - 1e-12 <= right <= high + 1e-12:
                wrong.append(f"the accuracy at {float(alpha):.4g} is {float(right):.4g}, not in {low} to {high}")
                break
    return wrong
