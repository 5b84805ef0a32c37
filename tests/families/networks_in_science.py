"""Networks of physics, graphs, densities and operators: complex weights, derivatives inside, objects as batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from families.family import Family, batches, integers, normal
from families.images import Losses, by, classified, squared


def gradient(of: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(of.sum(), by, create_graph=True)[0]


class Physics(nn.Module):
    """A network that is to obey u″ + u = 0: its residual has second derivatives of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            u = self.net(x)
            residual = gradient(gradient(u, x), x) + u
        return residual


class Energy(nn.Module):
    """Energies and forces, which are minus their gradient by the places."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.requires_grad_(True)
        energy = self.net(x)
        return energy, -gradient(energy, x)


def energies(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    return (outputs[0] - targets[0]).square().mean(1) + (outputs[1] - targets[1]).square().mean(1)


def molecules() -> list[Any]:
    parts = zip(normal(11, 6).split(4), normal(11, 1, seed=3).split(4), normal(11, 6, seed=4).split(4), strict=True)
    return [(x, (e, f)) for x, e, f in parts]


class Spectral(nn.Module):
    """A Fourier neural operator with complex weights (Li et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.lower = nn.Linear(1, 4), nn.Linear(4, 1)
        self.weight = nn.Parameter(0.3 * torch.randn(4, 4, 3, dtype=torch.cdouble))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x).transpose(1, 2)
        modes = torch.fft.rfft(h)
        out = torch.zeros_like(modes)
        out[..., :3] = torch.einsum("bim,iom->bom", modes[..., :3], self.weight)
        return self.lower(torch.tanh(torch.fft.irfft(out, n=h.shape[-1]) + h).transpose(1, 2))


class Branches(nn.Module):
    """A deep operator network: what a function is, and where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk = nn.Linear(5, 8), nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8))

    def forward(self, functions: Tensor, places: Tensor) -> Tensor:
        return torch.einsum("bk,bnk->bn", self.branch(functions), self.trunk(places))


@dataclass
class Graphs:
    """Several graphs as one object, as libraries for graphs have it."""

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    num_graphs: int


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.read = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, graphs: Graphs) -> Tensor:
        h = graphs.x
        for layer in (self.one, self.two):
            m = layer(h)
            source, target = graphs.edge_index
            h = torch.relu(m + torch.zeros_like(m).index_add(0, target, m[source]))
        return self.read(h.new_zeros(graphs.num_graphs, 6).index_add(0, graphs.batch, h))


class Nodes(nn.Module):
    """Attention over the edges of one graph; the nodes are the examples, some of which are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.score, self.read = nn.Linear(4, 6), nn.Linear(12, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.lift(x)
        source, target = edges
        weights = F.leaky_relu(self.score(torch.cat([h[source], h[target]], 1)), 0.2).squeeze(1).exp()
        total = torch.zeros(len(x), dtype=x.dtype).index_add(0, target, weights)
        mixed = torch.zeros_like(h).index_add(0, target, weights[:, None] * h[source])
        return self.read(torch.tanh(h + mixed / (total[:, None] + 1e-6)))


def graphs() -> list[Any]:
    data = []
    for i, sizes in enumerate([(3, 5, 2), (4, 4, 6, 3)]):
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0).tolist()
        edges = [integers(2, 2 * n, below=n, seed=n) + at for n, at in zip(sizes, first, strict=True)]
        number = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        data.append(
            (
                Graphs(normal(sum(sizes), 4, seed=i), torch.cat(edges, 1), number, len(sizes)),
                integers(len(sizes), below=3, seed=i),
            )
        )
    return data


def nodes() -> list[Any]:
    labels = integers(12, below=3)
    labels[::3] = -100
    return [((normal(12, 4), integers(2, 40, below=12)), labels)]


def node_losses(model: nn.Module, item: Any) -> Losses:
    x, y = item
    return F.cross_entropy(model(*x), y, reduction="none"), (y != -100).double()


class Points(nn.Module):
    """A network on sets of points: a maximum over each."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.read = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ELU(), nn.Conv1d(8, 8, 1)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.each(x).amax(2))


class Spread(nn.Module):
    """A mean and the logarithm of a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.log_variance = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.body(x))
        return self.mean(h), self.log_variance(h)


def gaussian(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    mean, log_variance = outputs
    return F.gaussian_nll_loss(mean, targets, log_variance.exp(), reduction="none").mean(1)


def pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    share = torch.tensor([0.1, 0.5, 0.9], dtype=outputs.dtype)
    error = targets - outputs
    return torch.maximum(share * error, (share - 1) * error).mean(1)


class Mixture(nn.Module):
    """A mixture density: an object of torch.distributions is its output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Any:
        weights, means, widths = self.net(x).chunk(3, 1)
        parts = torch.distributions.Normal(means, F.softplus(widths) + 0.1)
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=weights), parts)


def log_density(outputs: Any, targets: Tensor) -> Tensor:
    return -outputs.log_prob(targets.squeeze(1))


class Flow(nn.Module):
    """A normalising flow of two coupling layers; the data are their own targets."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(2))
        self.register_buffer("order", torch.tensor([3, 4, 5, 0, 1, 2]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for net in (self.one, self.two):
            kept, moved = x.chunk(2, 1)
            scale, shift = net(kept).chunk(2, 1)
            scale = torch.tanh(scale)
            x, total = torch.cat([kept, moved * scale.exp() + shift], 1)[:, self.order], total + scale.sum(1)
        return x, total


def likelihood(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    x, total = outputs
    return 0.5 * x.square().sum(1) - total


class ActNorm(nn.Module):
    """A flow's normalisation that is set by the first batch; a flag says that it was."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift, self.read = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6)), nn.Linear(6, 3)
        self.register_buffer("initialized", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        if not self.initialized:
            self.shift.data, self.scale.data = -x.mean(0), 1 / x.std(0)
            self.initialized.fill_(True)
        return self.read((x + self.shift) * self.scale)


class Denoiser(nn.Module):
    """A diffusion model: the noise and the times are part of the data (Ho, Jain & Abbeel 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.times, self.net = nn.Embedding(10, 6), nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 6))
        self.register_buffer("kept", torch.linspace(0.99, 0.1, 10))

    def forward(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        kept = self.kept[t][:, None]
        return self.net(kept.sqrt() * x + (1 - kept).sqrt() * noise + self.times(t)) - noise


class Drawn(nn.Module):
    """A Bayesian layer that draws its weights in each call from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(torch.randn(3, 6) * 0.3), nn.Parameter(torch.zeros(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(3, 6, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
        return F.linear(x, self.mean + 0.3 * self.spread.exp() * noise)


class Flowing(nn.Module):
    """A neural ordinary differential equation in ten Runge–Kutta steps."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.read = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            a = self.field(x)
            b = self.field(x + 0.1 * a)
            x = x + 0.2 * b
        return self.read(x)


class Adapted(nn.Module):
    """A step of gradient descent on a support set inside the forward (Finn, Abbeel & Levine 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 6) * 0.3), nn.Parameter(torch.zeros(3))

    def forward(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = F.cross_entropy(F.linear(support, self.weight, self.bias), labels)
            steps = torch.autograd.grad(loss, (self.weight, self.bias), create_graph=True)
        return F.linear(query, self.weight - 0.5 * steps[0], self.bias - 0.5 * steps[1])


class Hyper(nn.Module):
    """A network whose output is the weights of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(2, 6 * 3)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        return torch.einsum("bi,bio->bo", x, self.make(task).view(-1, 6, 3))


def solved(model: nn.Module, item: Any) -> Losses:
    x, _ = item
    return model(x).square().mean(1), None


def regression(width: int = 1) -> list[Any]:
    return batches(normal(11, 6), normal(11, width, seed=3))


def tasks() -> list[Any]:
    return [
        (
            (normal(5, 6, seed=i), integers(5, below=3, seed=i), normal(4, 6, seed=9 + i)),
            integers(4, below=3, seed=8 + i),
        )
        for i in range(3)
    ]


def waves() -> list[Any]:
    return batches(normal(7, 8, 1), normal(7, 8, 1, seed=3), size=4)


FAMILIES = [
    Family(
        "physics-informed network",
        Physics,
        lambda: batches(normal(11, 1), torch.zeros(11, 1).double()),
        solved,
        "mean_squared_error",
    ),
    Family("energies and forces", Energy, molecules, by(energies), energies),
    Family(
        "Fourier neural operator",
        Spectral,
        waves,
        by(lambda z, y: (z - y).square().flatten(1).mean(1)),
        "mean_squared_error",
    ),
    Family(
        "deep operator network",
        Branches,
        lambda: batches(normal(7, 5), normal(7, 4, 1, seed=3), normal(7, 4, seed=4), size=4),
        squared,
        "squared_error",
    ),
    Family("graph convolution, graphs as objects", Convolved, graphs, classified),
    Family("graph attention, nodes left out", Nodes, nodes, node_losses),
    Family("point sets", Points, lambda: batches(normal(7, 3, 9), integers(7, below=3), size=4), classified),
    Family("Gaussian likelihood", Spread, regression, by(gaussian), gaussian),
    Family(
        "quantiles",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
        regression,
        by(pinball),
        pinball,
    ),
    Family("mixture density, a distribution as output", Mixture, regression, by(log_density), log_density),
    Family("normalising flow", Flow, lambda: batches(normal(11, 6), normal(11, 6)), by(likelihood), likelihood),
    Family(
        "normalisation set by the first batch",
        ActNorm,
        lambda: batches(normal(11, 6), integers(11, below=3)),
        classified,
    ),
    Family(
        "diffusion, noise in the data",
        Denoiser,
        lambda: batches(normal(11, 6), integers(11, below=10), normal(11, 6, seed=3), torch.zeros(11, 6).double()),
        squared,
        "squared_error",
    ),
    Family(
        "Bayesian layer, its own generator", Drawn, lambda: batches(normal(11, 6), integers(11, below=3)), classified
    ),
    Family("neural differential equation", Flowing, lambda: batches(normal(11, 6), integers(11, below=3)), classified),
    Family("gradient step inside the forward", Adapted, tasks, classified),
    Family(
        "hypernetwork", Hyper, lambda: batches(normal(11, 6), normal(11, 2, seed=3), integers(11, below=3)), classified
    ),
]
