"""Residual networks for CIFAR, with batch norm or one of three initialisations close to the identity."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.lab.models._shapes import image_shape
from lerpscape.lab.models.initialisation import initialise
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


class SubsampledShortcut(nn.Module):
    """The shortcut into a new stage: every second pixel, zeros in the new channels (He et al. 2016, option A)."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """Outputs with half the height and width, rounded up, and the new channels after the old."""
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
    """Three stages of n blocks of two 3 × 3 convolutions: depth 6 n + 2, channels 1, 2, 4 × width (He et al. 2016).

    `norm` selects the normalisation and the initialisation:

    * `batch_norm`: batch norm after every convolution, which then has no bias.
    * `identity`: the same, with the scale of the last batch norm of each branch initially 0 (Goyal et al. 2017).
    * `residual_scale`: no batch norm, biases, and a scalar after each branch, initially 0 (SkipInit: De & Smith 2020).
    * `fixup`: no batch norm, scalar shifts and scales, the first convolution of each branch multiplied by
      (number of blocks)^−½, the second one and the last linear layer initially 0 (Zhang, Dauphin & Ma 2019).

    With batch norm, depths 20, 32, 44, 56 and 110 have 269,722, 464,154, 658,586, 853,018 and 1,727,962 parameters for
    CIFAR-10. `init` and `init_scale` are those of `initialise`, applied before `norm` sets parameters to 0.

    Raises `ConfigError` for examples that are not images, and for other values of `depth` and `norm`.

    >>> sum(p.numel() for p in resnet((3, 32, 32), 10, depth=20).parameters())
    269722
    """
    channels, *_ = image_shape(inputs, "resnet")
    if depth % 6 != 2 or depth < 8:
        raise ConfigError(
            explain(expected="a depth of 6 n + 2.", got=f"{depth}.", hint="Usual depths are 20, 32, 44, 56 and 110.")
        )
    if norm not in NORMS:
        raise ConfigError(unknown_name("norm of 'resnet'", norm, NORMS))
    stages = OrderedDict[str, nn.Module](stem=nn.Sequential(*_convolution(channels, width, 1, norm), nn.ReLU()))
    size = width
    for stage, multiple in enumerate((1, 2, 4), start=1):
        blocks = []
        for index in range(depth // 6):
            wider = stage > 1 and index == 0
            shortcut = SubsampledShortcut(multiple * width - size) if wider else nn.Identity()
            blocks.append(Block(_branch(size, multiple * width, 2 if wider else 1, norm), shortcut))
            size = multiple * width
        stages[f"stage{stage}"] = nn.Sequential(*blocks)
    shift: list[nn.Module] = [Shift()] if norm == "fixup" else []
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *shift, nn.Linear(size, outputs))
    model = nn.Sequential(stages)
    initialise(model, init, init_scale)
    _zero_branch_ends(model, norm)
    return model


def _convolution(in_channels: int, out_channels: int, stride: int, norm: str) -> list[nn.Module]:
    """A convolution, followed by batch norm or a scalar shift according to `norm`."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=norm == "residual_scale")
    if norm == "residual_scale":
        return [convolution]
    return [convolution, Shift() if norm == "fixup" else nn.BatchNorm2d(out_channels)]


def _branch(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Sequential:
    first = [*_convolution(in_channels, out_channels, stride, norm), nn.ReLU()]
    second = _convolution(out_channels, out_channels, 1, norm)
    if norm == "fixup":
        convolution, shift = second
        return nn.Sequential(Shift(), *first, Shift(), convolution, Scale(1.0), shift)
    return nn.Sequential(*first, *second, *([Scale(0.0)] if norm == "residual_scale" else []))


def _zero_branch_ends(model: nn.Sequential, norm: str) -> None:
    """Set parameters to 0, or scale them, as `identity` and `fixup` require."""
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
