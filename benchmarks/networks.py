"""Networks that the benchmarks measure."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fully_connected(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """Two convolutions beside a shortcut that halves the picture by leaving out and fills new channels with zeros."""

    def __init__(self, inner: int, outer: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=not batch_norm)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=not batch_norm)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outer) if batch_norm else nn.Identity() for _ in range(2))
        self.new, self.stride = outer - inner, stride

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.norms[0](self.first(inputs)))
        hidden = self.norms[1](self.second(hidden))
        if self.new:
            inputs = F.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(hidden + inputs)


def residual(batch_norm: bool) -> nn.Module:
    """ResNet-20 for pictures of 32 × 32."""
    first = nn.Conv2d(3, 16, 3, 1, 1, bias=not batch_norm)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(16) if batch_norm else nn.Identity(), nn.ReLU()]
    inner = 16
    for outer in (16, 32, 64):
        for k in range(3):
            layers.append(Block(inner, outer, 2 if k == 0 and outer > 16 else 1, batch_norm))
            inner = outer
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Tied(nn.Module):
    """A language model whose input and output embedding are one tensor."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(vocabulary, width), nn.Linear(width, width)
        self.read = nn.Linear(width, vocabulary, bias=False)
        self.read.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(torch.tanh(self.mix(self.embedding(tokens))))


class Attention(nn.Module):
    """A language model of torch's own Transformer layer, which fuses its operations in evaluation mode."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, width, batch_first=True)
        self.read = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(self.layer(self.embedding(tokens)))


def moved(model: nn.Module, distance: float = 0.02) -> nn.Module:
    """The same network with every parameter moved a little."""
    end = deepcopy(model)
    with torch.no_grad():
        for parameter in end.parameters():
            parameter.add_(distance * torch.randn_like(parameter))
    return end
