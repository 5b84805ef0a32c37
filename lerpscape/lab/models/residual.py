"""Residual networks for CIFAR, with batch norm and three ways to begin as (nearly) the identity."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.lab.models.initialisation import initialise
from lerpscape.lab.models.shapes import image_shape
from lerpscape.lab.options import Size

NORMS = ("batch_norm", "identity", "residual_scale", "fixup")


class Scale(nn.Module):
    """x ↦ s x with one parameter s."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs shaped like `x`."""
        return x * self.scale


class Shift(nn.Module):
    """x ↦ x + b with one parameter b, 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs shaped like `x`."""
        return x + self.bias


class Subsampled(nn.Module):
    """The shortcut where a stage begins: every second pixel, new channels all zero (option A of He et al. 2016)."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """Outputs with half the sides, rounded up, and the new channels behind the old."""
        return F.pad(F.avg_pool2d(x, 1, 2), (0, 0, 0, 0, 0, self.new_channels))


class Block(nn.Module):
    """x ↦ relu(shortcut(x) + branch(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the block."""
        return F.relu(self.shortcut(x) + self.branch(x))


def resnet(
    inputs: Sequence[int],
    outputs: int,
    *,
    depth: Size = 20,
    width: Size = 16,
    norm: str = "batch_norm",
    init: str = "kaiming",
    init_scale: float = 1.0,
) -> nn.Sequential:
    """Three stages of n blocks of two 3 × 3 convolutions, depth 6 n + 2, 1, 2 and 4 times the width (He et al. 2016).

    `norm` says what keeps the signal in bounds and how the network begins:

    * `batch_norm`: after every convolution, which then has no bias.
    * `identity`: the same, and the scale of the last batch norm of each branch is 0 at first (Goyal et al. 2017).
    * `residual_scale`: no batch norm, biases, and a scalar behind each branch, 0 at first (SkipInit: De & Smith 2020).
    * `fixup`: no batch norm, scalar shifts and scales, the first convolution of each branch scaled down by
      (number of blocks)^−½, the second and the last linear layer 0 at first (Zhang, Dauphin & Ma 2019).

    With batch norm, depths 20, 32, 44, 56 and 110 have 269,722, 464,154, 658,586, 853,018 and 1,727,962 parameters for
    CIFAR-10. `init` and `init_scale` are those of `initialise`, before the zeros of the last three.

    Raises `ConfigError` for examples that are no images, other depths and other words.

    >>> sum(p.numel() for p in resnet((3, 32, 32), 10, depth=20).parameters())
    269722
    """
    channels, *_ = image_shape(inputs, "resnet")
    if depth % 6 != 2 or depth < 8:
        raise ConfigError(
            explain(expected="a depth of 6 n + 2.", got=f"{depth}.", hint="20, 32, 44, 56 and 110 are usual.")
        )
    if norm not in NORMS:
        raise ConfigError(unknown_name("norm of 'resnet'", norm, NORMS))
    stages = OrderedDict[str, nn.Module](stem=nn.Sequential(*_convolution(channels, width, 1, norm), nn.ReLU()))
    size = width
    for stage, multiple in enumerate((1, 2, 4), start=1):
        blocks = []
        for index in range(depth // 6):
            wider = stage > 1 and index == 0
            shortcut = Subsampled(multiple * width - size) if wider else nn.Identity()
            blocks.append(Block(_branch(size, multiple * width, 2 if wider else 1, norm), shortcut))
            size = multiple * width
        stages[f"stage{stage}"] = nn.Sequential(*blocks)
    before: list[nn.Module] = [Shift()] if norm == "fixup" else []
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *before, nn.Linear(size, outputs))
    model = nn.Sequential(stages)
    initialise(model, init, init_scale)
    _begin_quietly(model, norm)
    return model


def _convolution(inside: int, outside: int, stride: int, norm: str) -> list[nn.Module]:
    """A convolution with what follows it at once."""
    convolution = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=norm == "residual_scale")
    if norm == "residual_scale":
        return [convolution]
    return [convolution, Shift() if norm == "fixup" else nn.BatchNorm2d(outside)]


def _branch(inside: int, outside: int, stride: int, norm: str) -> nn.Sequential:
    first = [*_convolution(inside, outside, stride, norm), nn.ReLU()]
    second = _convolution(outside, outside, 1, norm)
    if norm == "fixup":
        convolution, shift = second
        return nn.Sequential(Shift(), *first, Shift(), convolution, Scale(1.0), shift)
    return nn.Sequential(*first, *second, *([Scale(0.0)] if norm == "residual_scale" else []))


def _begin_quietly(model: nn.Sequential, norm: str) -> None:
    """Set to 0, or scale down, what the initialisations `identity` and `fixup` ask for."""
    branches = [module.branch for module in model.modules() if isinstance(module, Block)]
    with torch.no_grad():
        for branch in branches:
            if norm == "identity":
                [*_, last] = (layer for layer in branch.modules() if isinstance(layer, nn.BatchNorm2d))
                last.weight.zero_()
            elif norm == "fixup":
                first, second = (layer for layer in branch.modules() if isinstance(layer, nn.Conv2d))
                first.weight.mul_(len(branches) ** -0.5)
                second.weight.zero_()
        if norm == "fixup":
            [*_, linear] = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
            linear.weight.zero_()
            linear.bias.zero_()
