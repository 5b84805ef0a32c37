"""Sums over embeddings, several inputs and few points: what is shared, and that the numbers are the module's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, assert_same, by_module, classes, ends, random
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lerpscape as ls
from lerpscape import choices, planning
from lerpscape.batches import batch_of
from lerpscape.dividing import alike, counted, divided, gathered, spread
from lerpscape.graphs import Graph, traced

KEYED = next(case for case in CASES if case.name == "keyed")
Pool = Callable[[Tensor, Tensor], Tensor]


class Words(nn.Module):
    """Two embeddings of the same tokens, pooled, one of them by a function to be tried."""

    def __init__(self, pool: Pool, **options: Any) -> None:
        super().__init__()
        self.pool = pool
        self.words, self.places = nn.Embedding(7, 6, **options), nn.Embedding(7, 6)
        self.drop, self.hidden, self.read = nn.Dropout(0.5), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        pooled = self.pool(self.drop(self.words(tokens)), weights[..., None]) + torch.mean(self.places(tokens), dim=1)
        return self.read(torch.relu(self.hidden(pooled)))


POOLS: dict[str, tuple[Pool, int]] = {
    "weighted sum": (lambda x, w: (x * w).sum(1), 2),
    "weights first": (lambda x, w: torch.mul(w, x).sum(dim=1), 2),
    "mean of a ratio": (lambda x, w: (x / (w + 1)).mean(1), 2),
    "sum without what is padding": (lambda x, w: (x * (w != 0).float()).sum(1), 2),
    "sum of twice": (lambda x, w: torch.sum(2 * x * w, 1), 2),
    "not linear": (lambda x, w: (x * x * w).sum(1), 1),
    "divides by it": (lambda x, w: (w / x).sum(1), 1),
    "square by name": (lambda x, w: torch.mul(x, other=x).sum(1), 1),
    "with an offset": (lambda x, w: (x * w + 1).sum(1), 1),
    "largest": (lambda x, w: (x * w).amax(1), 1),
    "behind a bend": (lambda x, w: torch.tanh(x * w).sum(1), 1),
    "a whole number": (lambda x, w: torch.div(x, w + 1, rounding_mode="floor").sum(1), 1),
    "used twice": (lambda x, w: (x * w).sum(1) + x.sum(1), 1),
}


def words(pool: str = "weighted sum", **options: Any) -> Callable[[], nn.Module]:
    return lambda: Words(POOLS[pool][0], **options)


def data(rows: int = 23) -> list[Any]:
    weights = random(rows, 5, seed=2).abs() * (classes(rows, 5, seed=3, count=3) > 0)
    parts = classes(rows, 5, seed=1, count=7), weights, classes(rows, seed=4)
    return [((tokens, weight), y) for tokens, weight, y in zip(*(part.split(8) for part in parts), strict=True)]


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_a_sum_over_an_embedding_is_measured_as_the_module_does(
    pool: str, derivative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = ends(words(pool))
    graph = traced(start)
    assert isinstance(graph, Graph) and len(graph.shared) == POOLS[pool][1]
    line, asked = ls.Line(start, end), {"alphas": np.linspace(-0.1, 1.2, 14), "derivative": derivative}
    if pool == "a whole number" and derivative:
        return  # torch has no forward-mode derivative of it
    monkeypatch.setattr(choices, "FEWEST_ROWS", 1)
    found = ls.profile(start, line, data(), **asked)
    assert "first layer shared by all α" in found.how["plan"]
    assert_same(found, by_module(monkeypatch, start, line, data(), **asked))


@pytest.mark.parametrize("derivative", [False, True])
def test_dict_batches_are_shared_too_and_keep_their_ends(derivative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = ends(KEYED.build)
    line = ls.Line(start, end)
    found = ls.profile(start, line, KEYED.data(), derivative=derivative)
    assert "first layer shared by all α" in found.how["plan"]
    plain = by_module(monkeypatch, start, line, KEYED.data(), derivative=derivative)
    assert_same(found, plain)
    assert (found.loss[[0, -1]] == plain.loss[[0, -1]]).all()


class Product(nn.Module):
    """The product of two embeddings is a square in the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Embedding(7, 6), nn.Embedding(7, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return (self.one(tokens) * self.other(tokens)).sum(1)


def test_an_embedding_that_is_not_summed_or_multiplied_by_another_or_changes_when_looked_up_is_not_shared() -> None:
    for model, count in (
        (words(max_norm=1.0)(), 1),
        (nn.Sequential(nn.Embedding(7, 6), nn.Flatten()), 0),
        (Product(), 0),
    ):
        graph = traced(model)
        assert isinstance(graph, Graph) and len(graph.shared) == count


def test_rows_at_once_are_few_where_what_is_summed_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embeddings of a batch at work stay in the cache, though only their sum is kept."""
    start, end = ends(words())
    monkeypatch.setattr(choices, "FEWEST_ROWS", 1)
    monkeypatch.setattr(choices, "CACHE_BYTES", 10 * 5 * 6 * 8)  # ten examples' embeddings: five tokens, six float64
    found = ls.profile(start, ls.Line(start, end), data(200), derivative=False)
    assert ", 10 examples at a time" in found.how["plan"]


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 3)

    def forward(self, inputs: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.read(inputs if scale is None else inputs * scale)


def test_an_input_left_out_or_without_a_row_for_each_example_leaves_the_module_as_it_is() -> None:
    start, end = ends(Optional)
    line, x, y = ls.Line(start, end), random(8, 6, seed=1), classes(8, seed=2)
    for inputs, why in (
        ({"inputs": x}, "it takes other inputs than the batches have"),
        ((x,), "it takes other inputs than the batches have"),
        (x, "it takes other inputs than the batches have"),
        ((x, torch.ones(6, dtype=torch.float64)), "the batches are not tensors with a row of one kind"),
        ({"inputs": x, "scale": None}, "the batches are not tensors with a row of one kind"),
    ):
        found = ls.profile(start, line, [(inputs, y)], derivative=False)
        assert why in found.how["plan"]
        with torch.no_grad():
            expected = F.cross_entropy(start(**inputs) if isinstance(inputs, dict) else start(x), y)
        np.testing.assert_allclose(found.loss[0], float(expected), rtol=1e-14)
    both = ls.profile(start, line, [({"scale": torch.full((8, 1), 2.0).double(), "inputs": x}, y)])
    assert "first layer shared" in both.how["plan"]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 9))
def test_nested_batches_are_divided_in_order(sizes: list[int], rows: int) -> None:
    count = sum(sizes)
    ids, mask = torch.arange(2 * count).view(count, 2), torch.arange(count)
    given_batches = [
        batch_of({"ids": i, "extra": (m, [m.double()]), "labels": -m})
        for i, m in zip(ids.split(sizes), mask.split(sizes), strict=True)
    ]
    assert alike(given_batches) and counted(given_batches) == count
    found = list(divided(given_batches, rows))
    assert [each.examples for each in found[:-1]] == [rows] * (len(found) - 1)
    for batches in (found, [piece for group, _ in gathered(given_batches, rows) for piece in group]):
        assert torch.cat([each.inputs["ids"] for each in batches]).equal(ids)
        assert torch.cat([each.inputs["extra"][1][0] for each in batches]).equal(mask.double())
        assert torch.cat([each.targets for each in batches]).equal(-mask)
    np.testing.assert_allclose(sum(progress for _, progress in gathered(given_batches, rows)), len(sizes))
    [few] = spread(given_batches, 2)
    assert few.inputs["extra"][0].tolist() == ([0, count - 1] if count > 1 else [0])


def test_batches_of_other_lengths_types_or_names_are_not_alike() -> None:
    one = {"ids": torch.zeros(3, 5), "labels": torch.zeros(3)}
    for other in (
        one | {"ids": torch.zeros(3, 6)},
        one | {"ids": torch.zeros(3, 5).double()},
        one | {"ids": torch.zeros(2, 5)},
        one | {"mask": torch.zeros(3, 5)},
        one | {"labels": torch.zeros(3, 2)},
    ):
        assert not alike([batch_of(one), batch_of(other)])
    assert alike([batch_of(one), batch_of(dict(one))]) and not alike([])


def test_few_points_share_where_there_is_much_to_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point between the ends saves a product with the first layer's weights; the module makes the ends'."""
    start, end = ends(lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 100)))
    line, images = ls.Line(start, end), [(random(23, 30, seed=1), classes(23, seed=2))]
    for saved, points, shared in (
        (3 * 23 * 240, 5, True),
        (3 * 23 * 240 + 1, 5, False),
        (3 * 23 * 240 + 1, 6, True),
        (1, 2, False),
        (23 * 240, [0.2, 0.4, 0.6], True),  # those at the ends come on top
        (23 * 240 + 1, [0.2, 0.4, 0.6], False),
        (1, [0.2, 0.4], False),
    ):
        monkeypatch.setattr(planning, "WORTH_TRACING", saved)
        found = ls.profile(start, line, images, alphas=points)
        assert ("first layer shared" in found.how["plan"]) == shared, points
        assert ("too few points" in found.how["plan"]) == (not shared)
        with monkeypatch.context() as patched:
            patched.setattr(planning, "WORTH_TRACING", 0)
            patched.setattr(planning, "FEWEST_POINTS", 0)
            assert_same(found, by_module(patched, start, line, images, alphas=points))
