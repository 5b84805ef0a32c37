"""3 × 3 convolutions by tiles give what convolutions give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import assert_same, batches, by_module, classes, random, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lerpscape as ls
from lerpscape import compiling, duals, planning, winograd
from lerpscape.batches import batch_of
from lerpscape.buffers import Buffers
from lerpscape.choices import Sizes, chosen
from lerpscape.dividing import first_rows
from lerpscape.functional import ModelOnPath, undisturbed
from lerpscape.graphs import Graph, traced
from lerpscape.losses import NAMED
from lerpscape.normalisation import Statistics
from lerpscape.planning import Walk
from lerpscape.winograd import saved_by_tiles, tiled_convolution

pytest.importorskip("numba", reason="numba, of lerpscape[fast], is not installed")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles wherever they can stand for a convolution, however small the network."""
    monkeypatch.setattr(winograd, "TURNING", 0)
    monkeypatch.setattr(winograd, "MAKING", 0)
    monkeypatch.setattr(winograd, "WORTH_TILING", 3)
    monkeypatch.setattr(planning, "WORTH_LOADING", 0)


def layer(inner: int, outer: int, padding: Any = 1, bias: bool = True) -> nn.Conv2d:
    return seeded(lambda: nn.Conv2d(inner, outer, 3, padding=padding, bias=bias), 0).double().requires_grad_(False)  # type: ignore[return-value]


def expected(convolution: nn.Conv2d, *tensors: Tensor | None) -> Tensor:
    return F.conv2d(*tensors, padding=convolution.padding)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(3, 11), st.integers(3, 11), st.integers(1, 5), st.integers(1, 5), st.integers(0, 1)
)
def test_tiles_give_what_the_convolution_gives(
    examples: int, height: int, width: int, inner: int, outer: int, padding: int
) -> None:
    one, images = layer(inner, outer, padding), random(examples, inner, height, width, seed=1)
    found = tiled_convolution(one, images, one.weight, one.bias, Buffers())
    # Weights are of order 1, and so are images: what is rounded is some 100 times larger.
    torch.testing.assert_close(found, expected(one, images, one.weight, one.bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("moving", ["images", "weight", "bias", "all"])
def test_derivatives_are_those_of_forward_mode(moving: str, memory: torch.memory_format) -> None:
    one = layer(3, 4, "same")
    images = random(300, 3, 6, 7, seed=1).contiguous(memory_format=memory)  # more than go into tiles at once
    tensors = {"images": images, "weight": one.weight, "bias": one.bias}
    with duals.level():
        for k, (name, tensor) in enumerate(tensors.items()):
            if tensor is not None and moving in (name, "all"):
                tensors[name] = duals.dual(tensor, random(*tensor.shape, seed=2 + k))
        found = duals.split(tiled_convolution(one, *tensors.values(), Buffers()))  # type: ignore[arg-type]
        wanted = duals.split(expected(one, *tensors.values()))
        for each, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(each, other, rtol=0, atol=1e-12)


def test_single_precision_loses_little() -> None:
    one, images = layer(64, 64), random(8, 64, 16, 16, seed=1)
    exact = expected(one, images, one.weight, one.bias)
    single = one.float()
    found = tiled_convolution(single, images.float(), single.weight, single.bias, Buffers())
    plain = expected(single, images.float(), single.weight, single.bias)
    errors = [float((each.double() - exact).norm() / exact.norm()) for each in (found, plain)]
    assert errors[0] < 10 * errors[1] < 1e-5


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    one, images = layer(5, 6), random(10, 5, 9, 9, seed=1)
    found = []
    for threads in (1, 3, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(tiled_convolution(one, images, one.weight, None, Buffers()))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_is_not_a_number_stays_with_its_example() -> None:
    one, images = layer(2, 3), random(3, 2, 8, 8, seed=1)
    images[1, 0, 4, 4] = torch.nan
    found = tiled_convolution(one, images, one.weight, one.bias, Buffers())
    assert found[[0, 2]].isfinite().all() and found[1].isnan().any()


def test_only_plain_convolutions_are_tiled() -> None:
    shape = torch.Size((1, 256, 16, 16))
    kinds: dict[str, Any] = {
        "stride": {"stride": 2},
        "dilation": {"dilation": 2},
        "groups": {"groups": 2},
        "padding": {"padding": 2},
        "mode": {"padding": 1, "padding_mode": "reflect"},
    }
    assert saved_by_tiles(nn.Conv2d(256, 256, 3, padding=1), shape, 100) > 0
    assert saved_by_tiles(nn.Conv2d(256, 256, 3, padding="valid"), shape, 100) > 0
    assert saved_by_tiles(nn.Conv2d(256, 256, 3), shape[1:], 100) == 0
    assert saved_by_tiles(nn.Conv2d(256, 256, 5), shape, 100) == 0
    for name, options in kinds.items():
        assert saved_by_tiles(nn.Conv2d(256, 256, 3, **options), shape, 100) == 0, name


class Residual(nn.Module):
    """A shortcut beside two convolutions, and layers that cannot be tiled."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) if norm else nn.Identity() for _ in range(2))
        self.smaller = nn.Conv2d(6, 5, 3, stride=2)
        self.read = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norms[0](self.first(x)))
        hidden = F.relu(self.norms[1](self.second(hidden)) + hidden)
        return self.read(self.smaller(F.max_pool2d(hidden, 2)).amax((2, 3)))


DATA = batches(random(23, 2, 10, 12, seed=5), classes(23, seed=6), 8)


def is_tiled(found: ls.Profile) -> bool:
    return "3 × 3 convolutions by tiles" in found.how["plan"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("derivative", [True, False])
@pytest.mark.parametrize("statistics", ["none", "saved", "exact", "pooled"])
def test_a_profile_by_tiles_is_that_of_the_module(
    statistics: str, derivative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = (seeded(lambda: Residual(statistics != "none"), seed).double() for seed in (0, 1))
    policies: dict[str, Any] = {
        "none": None,
        "saved": ls.InterpolateStatistics(),
        "exact": ls.Recalibrate(DATA),
        "pooled": ls.Recalibrate(DATA, pooled=True),
    }
    asked: dict[str, Any] = {"alphas": 7, "derivative": derivative, "batch_norm": policies[statistics]}
    found = ls.profile(start, ls.Line(start, end), DATA, **asked)
    assert is_tiled(found)
    divided = ls.profile(start, ls.Line(start, end), DATA, workers=2, **asked)
    assert_same(divided, found)
    assert_same(found, by_module(monkeypatch, start, ls.Line(start, end), DATA, **asked))


@pytest.mark.usefixtures("eager")
def test_without_a_compiler_convolutions_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = (seeded(lambda: Residual(False), seed).double() for seed in (0, 1))
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    found = ls.profile(start, ls.Line(start, end), DATA, alphas=7)
    assert not is_tiled(found) and "(faster with lerpscape[fast])" in found.how["plan"]


@pytest.mark.usefixtures("eager")
def test_small_networks_are_not_worth_loading_a_compiler_for(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = (seeded(lambda: Residual(False), seed).double() for seed in (0, 1))
    monkeypatch.setattr(planning, "WORTH_LOADING", compiling.WORTH_LOADING)
    plan = ls.profile(start, ls.Line(start, end), DATA, alphas=7).how["plan"]
    assert "traced operations" in plan and "tiles" not in plan and "fast" not in plan


def test_tiles_are_reason_enough_for_a_plan_of_many_examples_at_once() -> None:
    sizes = Sizes(largest=1 << 22, held=1 << 23, total=1 << 22, shared=1)
    graph = traced(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert isinstance(graph, Graph)
    found = [chosen(graph, sizes, 4, 4096, tiled=tiled) for tiled in (False, True)]
    assert [each.rows for each in found] == [16, 128]
    assert [replace(each, rows=128).saves(graph, [128]) for each in found] == [False, True]


@pytest.mark.usefixtures("eager")
def test_tiles_are_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = (seeded(lambda: Residual(False), seed).double() for seed in (0, 1))
    on_path, (x, y) = ModelOnPath(start, ls.Line(start, end), None, None), DATA[0]
    walk = Walk(
        on_path, NAMED["cross_entropy"], Statistics(on_path, None), print, derivative=False, probe=batch_of((x, y))
    )
    graph = traced(start)
    assert isinstance(graph, Graph)
    with undisturbed(start):
        sizes = walk._sizes(graph, first_rows([batch_of((x, y))], 1)[0])
    assert walk._may_tile(graph, sizes, 8, 100)
    monkeypatch.setattr(on_path, "device", torch.device("meta"))
    assert not walk._may_tile(graph, sizes, 8, 100)


@pytest.mark.usefixtures("eager")
def test_a_resumed_measurement_stays_with_its_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = (seeded(lambda: Residual(False), seed).double() for seed in (0, 1))
    whole = ls.profile(start, ls.Line(start, end), DATA, alphas=7)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    kept = tmp_path / "kept.npz"
    with pytest.raises(KeyboardInterrupt):
        ls.profile(start, ls.Line(start, end), DATA, alphas=7, partial=kept, progress=stop)
    with np.load(kept) as arrays:
        assert json.loads(str(arrays["plan"]))["tiled"]
    monkeypatch.setattr(planning, "WORTH_LOADING", np.inf)  # another machine would not choose them
    resumed = ls.profile(start, ls.Line(start, end), DATA, alphas=7, partial=kept)
    assert is_tiled(resumed)
    np.testing.assert_array_equal(resumed.loss, whole.loss)
