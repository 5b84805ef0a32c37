"""Models whose loss on the line has a closed form: models linear in their parameters, and two linear layers.

The outputs of a model that is linear in θ move along straight lines, so its squared error is a parabola in α. The
outputs of two linear layers f(x) = W₂W₁x are quadratic in α. If the singular vectors of W₁ and W₂ are those of the
target map, the product aᵢbᵢ of two numbers learns the singular value sᵢ of mode i, by descent on ½(sᵢ − aᵢbᵢ)².

Source: Saxe, McClelland & Ganguli (2014) for the modes; the loss on the line is derived here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.geometry.gauss_length import gauss_length
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.geometry.output_projections import OutputPaths, output_paths
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile

LOSS = "squared_error"
POINTS = 51


class Fourier(nn.Module):
    """Fixed features of a number x: 1, cos πkx and sin πkx for k = 1 … frequencies."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (examples, 2·frequencies + 1) for x of shape (examples, 1)."""
        angles = torch.pi * x * torch.arange(1, self.frequencies + 1, dtype=x.dtype, device=x.device)
        return torch.cat([torch.ones_like(x), angles.cos(), angles.sin()], dim=1)


@dataclass(frozen=True)
class LinearModel:
    """A model linear in its parameters, measured on the line from θ₀ to θ₀ + c(θ* − θ₀), with c the `overshoot`.

    θ* is the least-squares solution and `best` its loss, in squared output units. `profile` and `gauss` are measured.
    """

    overshoot: float
    best: float
    profile: Profile
    gauss: GaussLength
    paths: OutputPaths

    def expected_loss(self, alphas: Floats) -> Floats:
        """L(α) = L* + (1 − cα)²(L(0) − L*), with c the overshoot."""
        expected: Floats = self.best + (1 - self.overshoot * alphas) ** 2 * (self.profile.loss[0] - self.best)
        return expected

    @property
    def expected_rise(self) -> float:
        """(c−1)²(L(0) − L*) for an overshoot c > 1, where the line passes the minimum, and 0 otherwise."""
        return float(max(self.overshoot - 1, 0) ** 2 * (self.profile.loss[0] - self.best))


def linear_model(*, overshoot: float = 1.0, examples: int = 40, frequencies: int = 3, seed: int = 0) -> LinearModel:
    """Measure a linear readout of fixed features on the line from random weights to, or past, least squares.

    It fits two noisy functions of one number, so that outputs move in a plane. The line ends at θ₀ + c(θ* − θ₀) with
    the least-squares solution θ*: c = 1 is the limit of training, c > 1 lies past it.

    Raises `ValueError` for an overshoot that is not positive, or for too few examples.

    >>> model = linear_model(overshoot=1.5)
    >>> round(model.gauss.per_example.max(), 6), abs(model.profile.max_rise / model.expected_rise - 1) < 0.01
    (np.float64(0.0), True)
    """
    if overshoot <= 0 or not np.isfinite(overshoot):
        raise ValueError(explain(expected="an overshoot > 0.", got=f"{overshoot}.", hint="1 ends at least squares."))
    if examples <= 2 * frequencies + 1:
        raise ValueError(
            explain(
                expected=f"more examples than the {2 * frequencies + 1} features, so that least squares is unique.",
                got=f"{examples}.",
                hint="Use more examples or fewer frequencies.",
            )
        )
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, examples, dtype=torch.float64)[:, None]
    noise = 0.1 * torch.randn(examples, 2, generator=generator, dtype=torch.float64)
    y = torch.cat([x.sign() * x**2, (2 * x).cos()], dim=1) + noise
    features = Fourier(frequencies)
    start = torch.randn(2, 2 * frequencies + 1, generator=generator, dtype=torch.float64)
    best = torch.linalg.lstsq(features(x), y).solution.T
    model = nn.Sequential(features, nn.Linear(2 * frequencies + 1, 2, bias=False, dtype=torch.float64))
    line = Line({"1.weight": start}, {"1.weight": start + overshoot * (best - start)})
    data = [(x, y)]
    return LinearModel(
        overshoot=overshoot,
        best=float((features(x) @ best.T - y).square().sum(1).mean()),
        profile=profile(model, line, data, loss=LOSS, alphas=POINTS, progress=False, label=f"c = {overshoot:g}"),
        gauss=gauss_length(model, line, data, progress=False),
        paths=output_paths(model, line, data, examples=range(0, examples, max(examples // 8, 1))),
    )


@dataclass(frozen=True)
class TwoLayer:
    """Two linear layers trained by gradient descent, measured on the line from initialisation to trained weights.

    `first` and `second` are the weights aᵢ and bᵢ of the modes after every step, of shape (steps + 1, modes); `targets`
    are the singular values sᵢ that the products aᵢbᵢ learn.
    """

    profile: Profile
    gauss: GaussLength
    first: Floats
    second: Floats
    targets: Floats
    learning_rate: float

    def expected_loss(self, alphas: Floats) -> Floats:
        """L(α) = Σᵢ (sᵢ − aᵢ(α) bᵢ(α))² with both weights interpolated linearly, in squared output units."""
        first, second = (np.outer(1 - alphas, w[0]) + np.outer(alphas, w[-1]) for w in self.layer_weights)
        expected: Floats = np.square(self.targets - first * second).sum(axis=1)
        return expected

    @property
    def layer_weights(self) -> tuple[Floats, Floats]:
        """The weights of the modes in the first and in the second layer."""
        return self.first, self.second

    @property
    def crosses_origin(self) -> bool:
        """Whether a mode crossed the origin: both of its weights changed sign."""
        return bool(np.any((self.first[0] * self.first[-1] < 0) & (self.second[0] * self.second[-1] < 0)))


def two_layer(
    *,
    first: float,
    second: float,
    targets: Sequence[float] = (1.0, 0.5),
    learning_rate: float = 0.02,
    steps: int = 1000,
    examples: int = 20,
    seed: int = 0,
    label: str = "",
) -> TwoLayer:
    """Train W₂W₁x to fit a map U·diag(s)·Vᵀ, from W₁ = a·Vᵀ and W₂ = b·U, and measure the line.

    `first` is a, `second` is b and `targets` are the singular values s. The initialisation is aligned, because it has
    the singular vectors U and V of the map, and balanced if abs(a) = abs(b). Inputs are white, XᵀX/n = 1, so that
    descent on half the mean squared error is a ← a + η(s − ab)b, b ← b + η(s − ab)a in each mode. With u = (a+b)/√2 and
    v = (a−b)/√2, so that ab = ½(u² − v²), a step multiplies u by 1 + ηe and v by 1 − ηe, where e = s − ab. As long as
    η·abs(e) < 1 and e keeps its sign, as in gradient flow, one of u², v² grows and the other decreases, in training
    and on the line. Hence the loss never rises on the line, for any a and b, even if ab has the wrong sign. A negative
    factor makes a weight change sign: from a = b with ab > s + 1/η, descent moves to the valley on the other side of
    the origin, and the line to it passes over the maximum at W₂W₁ = 0.

    Raises `ValueError` for no targets, no steps or fewer examples than targets.

    >>> two_layer(first=0.1, second=0.1).profile.max_rise
    0.0
    >>> jumped = two_layer(first=2.0, second=2.0, learning_rate=0.4, steps=200)
    >>> jumped.crosses_origin, jumped.profile.max_rise > 0.9
    (True, True)
    """
    singular_values = np.asarray(targets, dtype=np.float64)
    modes = len(singular_values)
    if not 0 < modes <= examples or steps < 1:
        raise ValueError(
            explain(
                expected="at least one target, at least as many examples as targets, and at least one step.",
                got=f"{modes} targets, {examples} examples, {steps} steps.",
                hint="Raise the number that is too small.",
            )
        )
    generator = torch.Generator().manual_seed(seed)

    def orthogonal(rows: int) -> Tensor:
        basis: Tensor = torch.linalg.qr(torch.randn(rows, modes, generator=generator, dtype=torch.float64)).Q
        return basis

    left, right = orthogonal(modes), orthogonal(modes)
    x = examples**0.5 * orthogonal(examples)
    y = x @ right @ torch.diag(torch.tensor(singular_values)) @ left.T
    model = nn.Sequential(*(nn.Linear(modes, modes, bias=False, dtype=torch.float64) for _ in range(2)))
    inner, outer = list(model.parameters())
    with torch.no_grad():
        inner.copy_(first * right.T)
        outer.copy_(second * left)
    start = copy.deepcopy(model.state_dict())
    weights = np.empty((2, steps + 1, modes))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for step in range(steps + 1):
        with torch.no_grad():
            weights[:, step] = torch.stack([(inner @ right).diagonal(), (left.T @ outer).diagonal()]).numpy()
        if step < steps:
            optimizer.zero_grad()
            half = 0.5 * (model(x) - y).square().sum(1).mean()
            half.backward()
            optimizer.step()
    line, data = Line(start, model), [(x, y)]
    return TwoLayer(
        profile=profile(model, line, data, loss=LOSS, alphas=POINTS, progress=False, label=label),
        gauss=gauss_length(model, line, data, progress=False),
        first=weights[0],
        second=weights[1],
        targets=singular_values,
        learning_rate=learning_rate,
    )
