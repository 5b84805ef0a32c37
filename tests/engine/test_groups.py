"""What the plain module computes at both ends serves every other α, and is left alone where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import assert_same, by_graph, by_module, by_plan, classes, ends, random
from torch import Tensor, fx, nn

import lerpscape as ls
from lerpscape.engine.graph import CapturedOutputs, Graph
from lerpscape.engine.groups import capture
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.engine.relu_sweep import ReLUSweep

ROWS = (9, 14, 6, 11)  # batches that the plan divides otherwise
DATA = [(random(rows, 30, seed=rows), classes(rows, seed=rows)) for rows in ROWS]


class Twice(nn.Module):
    """A first layer that is called two times for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(30, 8), nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(inputs)) + torch.tanh(self.first(inputs.flatten(1))))


def stack(*, inplace: bool = False) -> nn.Module:
    bend = nn.ReLU(inplace=inplace)
    return nn.Sequential(nn.Flatten(), nn.Linear(30, 8), bend, nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "stack": (stack, True),
    "written over": (lambda: stack(inplace=True), False),
    "called twice": (Twice, False),
}


@pytest.mark.parametrize("derivative", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sweeps", [True, False])
def test_first_layers_are_not_made_again(
    name: str, derivative: bool, sweeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, captured = NETWORKS[name]
    sweep_alphas = tuple(np.linspace(0, 1, 9).tolist()) if sweeps and name != "called twice" else ()
    plan = ExecutionPlan("graph", "as the test says", 7, group_size=23, sweep_alphas=sweep_alphas)
    made: list[int] = []
    first_layer, sweep = Graph._first_layer, ReLUSweep.__init__
    begun: list[int] = []

    def counted(graph: Graph, node: fx.Node, values: Any, state: Any) -> Any:
        result = first_layer(graph, node, values, state)
        made.append(len(result))
        return result

    def counted_sweep(self: ReLUSweep, first: Any, layer: Any, alphas: Any, known: Any = ()) -> None:
        begun.append(len(known))
        sweep(self, first, layer, alphas, known)

    monkeypatch.setattr(Graph, "_first_layer", counted)
    monkeypatch.setattr(ReLUSweep, "__init__", counted_sweep)
    start, end = ends(build)
    line, asked = ls.Line(start, end), {"alphas": 9, "derivative": derivative}
    found = by_plan(plan, start, line, DATA, **asked)
    assert bool(made) != captured
    assert bool(begun) == bool(sweep_alphas)
    assert set(begun) <= {1 + derivative}  # the hidden layer is not written over, and known at α = 0
    assert_same(found, by_module(start, line, DATA, **asked))


@pytest.mark.parametrize(
    ("alphas", "captured"),
    [(np.linspace(-1, 2, 13), True), (np.linspace(0, 0.9, 9), False), (np.linspace(0.1, 1, 9), False)],
)
def test_both_ends_must_be_among_the_alphas(alphas: Any, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    first_layer = Graph._first_layer
    monkeypatch.setattr(
        Graph, "_first_layer", lambda *known: made.append(len(first_layer(*known))) or first_layer(*known)
    )
    start, end = ends(stack)
    found = by_graph(7, 23, start, ls.Line(start, end), DATA, alphas=alphas)
    assert bool(made) != captured
    assert_same(found, by_module(start, ls.Line(start, end), DATA, alphas=alphas))


def test_a_layer_that_does_not_move_has_no_derivative() -> None:
    start, end = ends(stack)
    line = ls.Line(start, end).only("3", "5")
    assert_same(by_graph(7, 23, start, line, DATA, alphas=9), by_module(start, line, DATA, alphas=9))


def test_what_was_not_called_once_for_each_batch_or_was_written_over_is_left_out() -> None:
    node = fx.Graph().placeholder("layer")
    layer, inputs = nn.Linear(2, 2), torch.ones(3, 2)
    with torch.no_grad():
        with capture({node: layer}, 2) as captured:
            first, second = layer(inputs), layer(2 * inputs)
        assert [each.values[node].tolist() for each in captured] == [first.tolist(), second.tolist()]
        with capture({node: layer}, 2) as captured:
            layer(inputs)
        assert captured == [CapturedOutputs(), CapturedOutputs()]
        with capture({node: layer}, 1) as captured:
            layer(inputs).relu_()
        assert captured == [CapturedOutputs()]
    assert not layer._forward_hooks


class Clamped(nn.Module):
    """Writes to its own parameters, at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale = nn.Linear(30, 8), nn.Parameter(torch.rand(8))
        self.last = nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(inputs)) * self.scale.clamp_(max=0.5))


@pytest.mark.parametrize("derivative", [True, False])
def test_ends_are_not_written_to(derivative: bool) -> None:
    start, end = ends(Clamped)
    line = ls.Line(start, end)
    before = [{name: tensor.clone() for name, tensor in each.tensors.items()} for each in (line.start, line.end)]
    profile = ls.profile(start, line, DATA, alphas=9, derivative=derivative)
    assert "its forward changes 'scale'" in profile.how["plan"]
    for each, kept in zip((line.start, line.end), before, strict=True):
        assert all(torch.equal(each.tensors[name], tensor) for name, tensor in kept.items())
