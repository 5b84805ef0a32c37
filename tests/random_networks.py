"""Random networks of every supported layer, and what they really do along a line, in float64."""

import copy
from unittest import mock

import torch
from torch import nn
from torch.func import functional_call, jvp, vmap

from lerpscape.networks.batch_norm import EndStatistics, InterpolateStatistics

ACTIVATIONS = (nn.ReLU, lambda: nn.LeakyReLU(0.1), nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU)
MORE_ACTIVATIONS = (
    nn.ELU,
    lambda: nn.ELU(1.7),
    lambda: nn.ELU(0.4),
    nn.SELU,
    nn.Softplus,
    lambda: nn.Softplus(beta=2.5),
    nn.Hardtanh,
    lambda: nn.Hardtanh(-0.3, 1.1),
    nn.ReLU6,
    nn.Hardswish,
    nn.Mish,
)


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return x + self.scale * self.inner(x) - 0.25


class Functional(nn.Module):
    """Functions and methods in place of layers."""

    def __init__(self, width):
        super().__init__()
        self.one = nn.Linear(width, width)
        self.two = nn.Conv1d(1, 2, 3)

    def forward(self, x):
        x = torch.relu(self.one(x)) * 0.5 + nn.functional.leaky_relu(x, 0.2)
        x = nn.functional.dropout(torch.tanh(self.two(x.unsqueeze(1))), 0.5, self.training)
        x = nn.functional.max_pool1d(x, 2)
        return -x.view(x.size(0), -1) + x.mean(dim=2).sigmoid().mean(dim=1, keepdim=True)


def dense(generator, depth, activations, width=6, classes=3):
    layers, size = [], 5
    for _ in range(depth):
        pick = int(torch.randint(len(activations) + 3, (1,), generator=generator))
        layers.append(nn.Linear(size, width, bias=bool(torch.randint(2, (1,), generator=generator))))
        if pick == len(activations):
            layers += [nn.BatchNorm1d(width), nn.ReLU()]
        elif pick == len(activations) + 1:
            layers.append(Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU())))
        elif pick == len(activations) + 2:
            layers += [nn.Dropout(), Functional(width), nn.Identity()]
            size = 2 * ((width - 2) // 2)
            continue
        else:
            layers.append(activations[pick]())
        size = width
    return nn.Sequential(*layers, nn.Linear(size, classes)), (5,)


def convolutional(generator, depth, activations, classes=3):
    layers, channels, side = [], 1, 8
    for _ in range(min(depth, 2)):
        pick = int(torch.randint(4, (1,), generator=generator))
        layers.append(nn.Conv2d(channels, 4, 3, padding=1, bias=pick != 1))
        if pick == 1:
            layers.append(nn.BatchNorm2d(4))
        layers.append(activations[int(torch.randint(len(activations), (1,), generator=generator))]())
        layers.append((nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1))[pick])
        channels, side = 4, side // 2
    if depth > 2:
        layers.append(Residual(nn.Conv2d(4, 4, 3, padding=1, groups=2)))
    if depth > 3:
        layers.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * side * side, classes)), (1, 8, 8)


def network(seed, examples=8, activations=ACTIVATIONS):
    """Two ends of a random network, data for it, and a batch-norm policy."""
    generator = torch.Generator().manual_seed(seed)
    make = convolutional if seed % 3 == 2 else dense
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, shape = make(generator, 1 + seed % 4, activations)
        model = model.double()
        end = copy.deepcopy(model)
        for parameter in end.parameters():
            width = parameter.shape[-1] if parameter.dim() else 1
            parameter.data += (0.1, 0.5, 2.0)[seed // 3 % 3] * torch.randn(parameter.shape) / width**0.5
        for each in (model, end):
            for module in each.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.3, 2.0)
        x = torch.randn(examples, *shape).double()
    y = torch.randint(3, (examples,), generator=generator)
    policy = EndStatistics() if seed % 2 else InterpolateStatistics()
    return model.eval(), end.eval(), x, y, policy


def plain_batch_norm(self, x):
    """Batch norm in evaluation mode by its formula: torch's own has no derivative for its statistics."""
    mean, variance, weight, bias = (
        each.view(-1, *([1] * (x.dim() - 2))) for each in (self.running_mean, self.running_var, self.weight, self.bias)
    )
    return (x - mean) / (variance + self.eps).sqrt() * weight + bias


def outputs(model, at, velocity, x, shifts):
    """Outputs and their derivatives at middle + shift, shape (shifts, examples, …), by forward-mode differentiation."""

    def along(shift):
        def run(s):
            state = {name: value + s * velocity[name] if name in velocity else value for name, value in at.items()}
            return functional_call(model, state, (x,))

        return jvp(run, (shift,), (torch.ones_like(shift),))

    with torch.no_grad(), mock.patch.object(nn.modules.batchnorm._BatchNorm, "forward", plain_batch_norm):
        return vmap(along)(shifts)
