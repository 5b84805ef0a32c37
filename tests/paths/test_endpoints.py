"""Other ends: what they are, what they leave alone, and the same function in another order of units."""

from __future__ import annotations

import random as standard_random
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import Attention, Tied, classes, cnn, generator, mlp, random, seeded
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.lab.models import build
from lerpscape.networks.symmetries import symmetry


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm_one = nn.BatchNorm2d(outside)
        self.two = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm_two = nn.BatchNorm2d(outside)
        changed = inside != outside or stride != 1
        self.short = nn.Conv2d(inside, outside, 1, stride) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm_two(self.two(F.relu(self.norm_one(self.one(x)))))
        return F.relu(inner + self.short(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6, 6, 1), Block(6, 8, 2), Block(8, 8, 1))
        self.read = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        return self.read(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Functional(nn.Module):
    """Depthwise convolution, functional pooling, view, mean over positions, two heads that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.depth = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.act = nn.PReLU(5)
        self.head = nn.Linear(20, 7)
        self.other = nn.Linear(5, 7)
        self.last = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.depth(F.leaky_relu(self.conv(x), 0.2)))
        pooled = F.max_pool2d(x, 3)
        hidden = self.head(pooled.view(pooled.size(0), -1)) + self.other(x.mean((2, 3)))
        return F.log_softmax(self.last(F.dropout(torch.tanh(hidden) * 2, 0.5, self.training)), 1)


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((1, 6), (6, 8)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(32, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3)]
    return nn.Sequential(*layers, *head)


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 7))


NETWORKS = {
    "mlp": (mlp, random(9, 4, seed=1)),
    "cnn": (cnn, random(9, 1, 4, 4, seed=1)),
    "vgg": (vgg, random(9, 1, 8, 8, seed=1)),
    "resnet": (ResNet, random(9, 1, 8, 8, seed=1)),
    "functional": (Functional, random(9, 1, 8, 8, seed=1)),
    "words": (words, classes(9, 5, seed=1, count=7)),
}


def network(name: str, seed: int) -> nn.Module:
    """Trained-like: norm layers have statistics, scales and shifts of their own."""
    model = seeded(NETWORKS[name][0], seed).double().eval()
    with torch.no_grad():
        for index, tensor in enumerate([*model.parameters(), *model.buffers()]):
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(
                    0.2 * torch.randn(tensor.shape, generator=generator(seed + index), dtype=tensor.dtype).abs()
                )
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_units_change_every_hidden_layer_and_not_the_function(name: str) -> None:
    model, inputs = network(name, 0), NETWORKS[name][1]
    moved = ls.paths.permuted(model, model, seed=3, inputs=inputs)
    before, after = model(inputs), torch.func.functional_call(model, moved.tensors, (inputs,))
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-13)
    changed = {name for name, tensor in moved.tensors.items() if not torch.equal(tensor, model.state_dict()[name])}
    tied = {tie.name for ties in symmetry(model, inputs).ties for tie in ties}
    assert changed == tied
    assert {name for name, tensor in model.named_parameters() if tensor.dim() > 1} <= changed
    line = ls.Line(model, moved)
    middle = torch.func.functional_call(model, line.at(0.5), (inputs,))
    assert not torch.allclose(before, middle, rtol=1e-3)


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", NETWORKS)
def test_alignment_takes_a_permutation_back_exactly(name: str, method: str) -> None:
    model, inputs = network(name, 0), NETWORKS[name][1]
    data = [(inputs[:5], classes(5, seed=0)), (inputs[5:], classes(4, seed=1))]
    for seed in range(3):
        moved = ls.paths.permuted(model, model, seed=seed, inputs=inputs)
        back = ls.paths.aligned(model, model, moved, data, method=method)  # type: ignore[arg-type]
        assert all(torch.equal(tensor, back.tensors[name]) for name, tensor in model.state_dict().items())


def test_alignment_takes_the_barrier_between_permuted_copies_away() -> None:
    model, inputs, targets = network("vgg", 0), random(40, 1, 8, 8, seed=2), classes(40, seed=3)
    data = [(inputs, targets)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    model.eval()
    moved = ls.paths.permuted(model, model, seed=0, inputs=inputs)
    with torch.no_grad():  # a bit off, so that there is a line between the two
        nearly = {k: v + 1e-12 if v.is_floating_point() else v for k, v in moved.tensors.items()}

    def barrier(end: ls.paths.Checkpoint) -> float:
        line = ls.Line(model, end)
        return ls.profile(model, line, data, alphas=11, batch_norm=ls.InterpolateStatistics()).barrier("mean")

    far = barrier(moved)
    near = barrier(ls.paths.aligned(model, model, nearly, inputs=inputs))
    assert far > 0.05
    assert near == pytest.approx(0, abs=1e-10)  # the nudge of 1e-12 times the sizes of weights and activations
    again = ls.profile(model, ls.Line(model, moved), data, alphas=11, batch_norm=ls.Recalibrate(data), derivative=False)
    assert again.loss[0] == pytest.approx(again.loss[-1], rel=1e-9)  # one function, also with statistics anew


def test_weight_matching_finds_the_best_order_where_brute_force_can_look() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    a, b = (seeded(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), s).double() for s in (1, 2))
    found = ls.paths.aligned(model, a, b)

    def likeness(tensors: dict[str, Tensor]) -> float:
        return sum(float((tensor * tensors[name]).sum()) for name, tensor in a.state_dict().items())

    best = -np.inf
    for order in map(list, permutations(range(5))):
        state = b.state_dict()
        moved = {"0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order]}
        best = max(best, likeness({**state, **moved, "2.weight": state["2.weight"][:, order]}))
    assert likeness(found.tensors) == pytest.approx(best, rel=1e-13)
    assert ls.Line(a, found).distance() < ls.Line(a, b).distance()


def test_permuted_is_seeded_and_names_what_it_did() -> None:
    model = network("mlp", 0)
    one, again, other = (ls.paths.permuted(model, model, seed=seed) for seed in (1, 1, 2))
    assert one.digest() == again.digest() != other.digest()
    assert one.source == "module Sequential (units permuted, seed 1)"


def test_tied_layers_are_permuted_together_or_stay() -> None:
    class Shared(nn.Module):
        """The same hidden layer twice: its inputs and outputs are one space."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.loop, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.again = self.loop

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.again(torch.relu(self.loop(torch.relu(self.first(x)))))))

    model = seeded(Shared, 0).double()
    moved = ls.paths.permuted(model, model, seed=0)
    assert torch.equal(moved.tensors["loop.weight"], moved.tensors["again.weight"])
    assert len(symmetry(model, random(2, 3, seed=0)).sizes) == 1
    tied = seeded(Tied, 0)
    found = ls.paths.permuted(tied, tied, seed=0, inputs=classes(2, 4, seed=0, count=7))
    assert torch.equal(found.tensors["embed.weight"], found.tensors["read.weight"])


def test_residual_networks_with_padded_shortcuts_keep_their_stream_and_permute_inside_blocks() -> None:
    """Option A of the CIFAR ResNets adds zero channels behind the old, which must stay where they are."""
    model = build("resnet", inputs=(3, 16, 16), outputs=10, seed=0, depth=8).eval()
    inputs = random(3, 3, 16, 16, seed=0).float()
    moved = ls.paths.permuted(model, model, seed=0, inputs=inputs)
    changed = {name for name, tensor in moved.tensors.items() if not torch.equal(tensor, model.state_dict()[name])}
    assert len(symmetry(model, inputs).sizes) == 3  # one space inside each of three blocks
    assert changed == {f"stage{stage}.0.branch.{layer}.weight" for stage in (1, 2, 3) for layer in (0, 3)}
    back = ls.paths.aligned(model, model, moved, inputs=inputs)
    assert all(torch.equal(tensor, back.tensors[name]) for name, tensor in model.state_dict().items())


class Cut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)[:, :3])


class Sliding(nn.Module):
    """A linear layer on positions after convolution: units lie along another axis."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(1, 4, 1), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).mean((1, 2))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (Cut(), random(2, 4, seed=0).float(), r"'getitem', the operation 'getitem'"),
        (Sliding(), random(2, 1, 5, seed=0).float(), r"'two', a Linear, which works along axis 2"),
        (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), torch.zeros(1, 4, 2, 2), r"'0', a Conv2d in 2 groups"),
        (nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4)), torch.zeros(1, 2), r"'1', a GroupNorm"),
        (seeded(Attention, 0), classes(2, 4, seed=0, count=7), "layer"),
        (nn.Sequential(nn.Linear(2, 3)), torch.zeros(1, 2), "a network with hidden units"),
    ],
)
def test_architectures_that_are_not_understood_are_refused_by_name(
    model: nn.Module, inputs: Tensor, message: str
) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        ls.paths.permuted(model, model, seed=0, inputs=inputs)
    assert "\ntry: " in str(caught.value)


def test_what_tracing_does_not_show_is_found_out_on_the_spot() -> None:
    def first_apart(x: Tensor) -> Tensor:
        """Treats the first unit otherwise, which a ReLU does not."""
        return torch.cat([2 * x[:, :1], x[:, 1:]], 1).relu()

    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    assert ls.paths.permuted(model, model, seed=0)
    model[1].forward = first_apart  # fx keeps layers of torch.nn whole
    with pytest.raises(TypeError, match="outputs of Sequential that differ by"):
        ls.paths.permuted(model, model, seed=0)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="begins with Conv2d"):
        ls.paths.permuted(cnn(), cnn(), seed=0)
    with pytest.raises(ls.EndpointMismatch, match=r"'0\.weight'"):
        ls.paths.permuted(mlp(), nn.Linear(1, 1), seed=0)
    with pytest.raises(ValueError, match="data for method"):
        ls.paths.aligned(mlp(), mlp(), mlp(), method="activations")
    with pytest.raises(ls.EndpointMismatch, match="only in"):
        ls.paths.aligned(mlp(), mlp(), cnn())


def test_a_fresh_init_is_what_the_factory_draws() -> None:
    states = torch.get_rng_state(), standard_random.getstate()
    for factory in (mlp, cnn):
        drawn = seeded(factory, 5)
        for source in (factory, factory().double().float()):
            found = ls.paths.fresh_init(source, 5)
            assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in drawn.state_dict().items())
    model = network("cnn", 0)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ls.paths.fresh_init(model, 1)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in kept.items())
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    ls.paths.fresh_init(mlp, 5)
    assert torch.equal(torch.rand(1), expected)
    torch.set_rng_state(states[0])

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(TypeError, match="'1', a Scaled with parameters"):
        ls.paths.fresh_init(nn.Sequential(nn.Linear(1, 1), Scaled()), 0)


def test_noise_and_zero_keep_norms_buffers_and_ties() -> None:
    model = network("cnn", 0)
    noise, zero = ls.paths.noise_like(model, 0), ls.paths.zeros_like(model)
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(noise.tensors[name].norm(), tensor.detach().norm(), rtol=1e-12, atol=0)
        assert not zero.tensors[name].any()
    for name, tensor in model.named_buffers():
        assert torch.equal(noise.tensors[name], tensor) and torch.equal(zero.tensors[name], tensor)
    assert noise.digest() == ls.paths.noise_like(model, 0).digest() != ls.paths.noise_like(model, 1).digest()
    flat = torch.cat(
        [(noise.tensors[name] / tensor.detach().norm()).flatten() for name, tensor in model.named_parameters()]
    )
    assert abs(float(flat.mean())) < 4 * float(flat.std()) / len(flat) ** 0.5
    backwards = dict(reversed(model.state_dict().items()))  # files keep names in another order than modules
    assert torch.equal(ls.paths.noise_like(backwards, 0).tensors["0.weight"], noise.tensors["0.weight"])
    tied = ls.paths.noise_like(seeded(Tied, 0), 0)
    assert tied.tensors["embed.weight"] is tied.tensors["read.weight"]


def test_a_permuted_copy_is_recovered_without_coordinate_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any sweep of coordinate descent, which most often finds the way too but need not."""
    monkeypatch.setattr("lerpscape.paths.unit_matching._ROUNDS", 0)
    for name in ("mlp", "resnet"):
        model, inputs = network(name, 0), NETWORKS[name][1]
        back = ls.paths.aligned(model, model, ls.paths.permuted(model, model, seed=0, inputs=inputs), inputs=inputs)
        assert all(torch.equal(tensor, back.tensors[own]) for own, tensor in model.state_dict().items())
