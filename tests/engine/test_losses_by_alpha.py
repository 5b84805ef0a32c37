"""Rows of all α in one piece of memory; what a measurement keeps does not grow with the α."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import batches, classes, random
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, LossMatrix
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.losses import LOSSES


def row(*losses: float, slope: float | None = None, right: float | None = None) -> LossesAtAlpha:
    slopes = None if slope is None else torch.full((len(losses),), slope)
    return LossesAtAlpha(torch.tensor(losses), slopes, None if right is None else torch.tensor(right))


def test_rows_hold_what_was_appended_in_float64() -> None:
    rows = LossMatrix.of(4, [row(0.1, 2, slope=3, right=1), row(4, 5, slope=6, right=2)])
    losses, slopes, right = rows.numbers()
    assert slopes is not None and right is not None
    np.testing.assert_array_equal(losses, np.array([[np.float32(0.1), 2], [4, 5]], dtype=np.float64))
    assert slopes.tolist() == [[3, 3], [6, 6]] and right.tolist() == [1, 2]
    assert losses.dtype == slopes.dtype == right.dtype == np.float64
    assert len(rows) == 2 and rows[1].losses.tolist() == [4, 5] and rows[0].right == 1


def test_what_was_not_measured_stays_unmeasured() -> None:
    losses, slopes, right = LossMatrix.of(1, [row(1, 2)]).numbers()
    assert losses.tolist() == [[1, 2]] and slopes is None and right is None
    assert LossMatrix(3).numbers()[0].size == 0 and len(LossMatrix(3)) == 0


def test_groups_are_joined_in_order() -> None:
    first = LossMatrix.of(2, [row(1, 2, slope=0, right=2), row(3, 4, slope=1, right=1)])
    second = LossMatrix.of(2, [row(5, slope=2, right=0), row(6, slope=3, right=1)])
    losses, slopes, right = LossMatrix.joined([first, second]).numbers()
    assert slopes is not None and right is not None
    assert losses.tolist() == [[1, 2, 5], [3, 4, 6]]
    assert slopes.tolist() == [[0, 0, 2], [1, 1, 3]] and right.tolist() == [2, 2]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_examples_is_refused(count: int) -> None:
    """One example too: it would be spread over all."""
    rows = LossMatrix.of(2, [row(1, 2, 3)])
    with pytest.raises(
        ValueError, match=rf"(?s)same number of losses at every α.*3 at one, {count} at another.*must not drop examples"
    ):
        rows.append(row(*[1.0] * count))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def ends() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network().double(), network().double()


@pytest.mark.parametrize("derivative", [False, True])
def test_no_tensor_is_kept_for_an_alpha(derivative: bool) -> None:
    """A small tensor between large ones that come and go keeps their memory from being used again."""
    start, end = ends()
    alive: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        alive.append(sum(type(each) is Tensor for each in gc.get_objects()))
        return LOSSES["cross_entropy"].values(outputs, targets)

    data = batches(random(40, 6, seed=1), classes(40, seed=2), size=40)
    found = ls.profile(start, ls.Line(start, end), data, loss=loss, alphas=30, derivative=derivative)
    assert found.how["plan"].startswith("first layer shared by all α")
    between = alive[-28:]  # of the last 30 calls; before them the plan was tried, and the ends went by the module
    assert max(between) - min(between) <= 2, alive


def test_ends_are_read_where_they_lie() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    states = [{k: v.detach().clone() for k, v in model.state_dict().items()} for _ in range(2)]
    states[1]["0.weight"] += 1
    on_path = ModelOnPath(model, ls.Line(*states), None, None)
    for found, end in zip(on_path.ends(), (on_path.path.start, on_path.path.end), strict=True):
        assert found.keys() == states[0].keys()
        for name, tensor in found.items():
            assert tensor.equal(end.tensors[name])
            own = name in dict(model.named_buffers())  # which a module may write to
            assert (tensor.data_ptr() == end.tensors[name].data_ptr()) == (not own), name


def test_derivatives_load_nothing_of_the_compiler() -> None:
    """torch takes 50 MB and two seconds for it where a layer that stands still meets inputs that move."""
    code = """
import sys, torch, lerpscape as ls
from torch import nn
start, end = (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
data = [(torch.randn(40, 6), torch.zeros(40, dtype=torch.int64))]
before = "torch._dynamo" in sys.modules
found = ls.profile(start, ls.Line(start, end), data, alphas=12)
assert found.how["plan"].startswith("first layer shared"), found.how["plan"]
print(before, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == after
