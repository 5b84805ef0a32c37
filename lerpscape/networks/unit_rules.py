"""Layers, functions and methods that work on every unit alone, by what they do to the axes."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import nn

ELEMENTWISE_LAYERS = (
    nn.CELU,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.Mish,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)
POOLING_LAYERS = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
)
POOLING_FUNCTIONS = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
)
# What these read and write stays in its place: each position has a meaning of its own.
PINNING_FUNCTIONS = (F.pad, torch.cat, torch.concat)
# Of one tensor, of a tensor and numbers, or of tensors of one shape.
ELEMENTWISE_FUNCTIONS = (
    F.celu,
    F.dropout,
    F.elu,
    F.gelu,
    F.hardswish,
    F.hardtanh,
    F.leaky_relu,
    F.log_softmax,
    F.mish,
    F.relu,
    F.relu6,
    F.selu,
    F.sigmoid,
    F.silu,
    F.softmax,
    F.softplus,
    F.tanh,
    operator.add,
    operator.iadd,
    operator.mul,
    operator.neg,
    operator.sub,
    operator.truediv,
    torch.add,
    torch.mul,
    torch.relu,
    torch.sigmoid,
    torch.sub,
    torch.tanh,
    "add",
    "add_",
    "clone",
    "contiguous",
    "mul",
    "relu",
    "relu_",
    "sigmoid",
    "sub",
    "tanh",
)
