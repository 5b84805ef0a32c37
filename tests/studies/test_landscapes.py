"""The loss around one network: directions of its own scale, against weights moved by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lerpscape as ls
from lerpscape.paths import Plane, random_direction
from lerpscape.studies import Landscape, landscape


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)
    return nn.Sequential(*layers).double()


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    return [(inputs, torch.randint(0, 4, (30,), generator=generator))]


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_every_filter_moves_by_its_own_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype) * 3
    tensors = {"w": weight, "bias": torch.ones(4), "running_mean": torch.ones(4)}
    by_filter, by_layer = (random_direction(tensors, 5, scale).tensors for scale in ("filter", "layer"))  # type: ignore[arg-type]
    rows = (by_filter["w"] - weight).flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, weight.flatten(1).norm(dim=1), rtol=1e-5, atol=0)
    torch.testing.assert_close((by_layer["w"] - weight).norm(), weight.norm(), rtol=1e-5, atol=0)
    assert all(torch.equal(moved[name], tensors[name]) for moved in (by_filter, by_layer) for name in list(tensors)[1:])
    again, other = (random_direction(tensors, seed).tensors["w"] for seed in (5, 6))
    assert torch.equal(again, by_filter["w"])
    assert not torch.allclose(other, by_filter["w"])


def test_tied_weights_stay_tied_and_units_of_norm_zero_stay() -> None:
    weight = torch.ones(3, 2)
    weight[1] = 0
    moved = random_direction({"a": weight, "b": weight}, 0).tensors
    assert torch.equal(moved["a"], moved["b"])
    assert torch.equal(moved["a"][1], torch.zeros(2))


def test_the_loss_is_that_of_a_network_moved_by_hand() -> None:
    center = network()
    found = landscape(center, center, data(), seed=4, radius=0.8, points=5)
    directions = [random_direction(center, 8 + axis).tensors for axis in (0, 1)]
    ((inputs, targets),) = data()
    for row, t in enumerate(found.at):
        for column, s in enumerate(found.at):
            moved = copy.deepcopy(center)
            with torch.no_grad():
                for name, parameter in moved.named_parameters():
                    one, other = (direction[name] - parameter for direction in directions)
                    parameter += s * one + t * other
                expected = float(cross_entropy(moved(inputs), targets))
            assert found.losses[row, column] == pytest.approx(expected, rel=1e-12)
    low = np.unravel_index(found.losses.argmin(), (5, 5))
    assert found.lowest == (found.at[low[1]], found.at[low[0]])
    assert "no proof of anything beyond them" in found.summary


def test_a_trajectory_is_projected() -> None:
    center = network()
    plane = Plane.around(center, seed=2)
    on_it = {0: plane.at(0.4, -0.3), 1: plane.at(0.0, 0.5), 2: dict(center.state_dict())}
    found = landscape(center, center, data(), seed=2, points=3, trajectory=[*on_it.values()])
    np.testing.assert_allclose(found.trajectory, [[0.4, -0.3], [0, 0.5], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.apart, 0, atol=1e-7)
    away = landscape(center, center, data(), seed=2, points=3, trajectory=[network(9), center])
    assert 0.5 < away.apart[0] < 1  # another network has next to nothing in two random directions
    assert away.apart[1] == 0


def test_a_stopped_landscape_goes_on_and_is_kept(tmp_path: Path) -> None:
    center = network()

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    kept: dict[str, Any] = {"partial": tmp_path / "landscape.partial", "points": 7}
    with pytest.raises(KeyboardInterrupt):
        landscape(center, center, data(), progress=stop, **kept)
    steps: list[int] = []
    found = landscape(center, center, data(), progress=lambda done, total: steps.append(done), **kept)
    assert steps[0] > 20  # of 49: it did not begin again
    np.testing.assert_allclose(found.losses, landscape(center, center, data(), points=7).losses, rtol=1e-12)
    found.save(tmp_path / "landscape.json")
    assert Landscape.load(tmp_path / "landscape.json") == found
    found.figure().savefig(tmp_path / "landscape.png")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape(network(), network(), data(), points=4), "an odd number of points ≥ 3"),
        (lambda: landscape(network(), network(), data(), radius=0.0), "radius > 0"),
        (lambda: landscape(network(), network(1), data(), plane=Plane.around(network())), "origin is the network"),
        (lambda: random_direction(network(), 0, "row"), 'scale="filter" or "layer"'),  # type: ignore[arg-type]
        (lambda: random_direction({"b": torch.ones(3)}, 0), "whose parameters all have one"),
        (lambda: Plane.around({"b": torch.ones(3)}), "whose parameters all have one"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_plane_beside_the_network_is_refused() -> None:
    """Its nearest point to the network is its origin, but the network lies in another layer's direction."""
    origin, one, other, beside = (cast(Any, network()) for _ in range(4))
    with torch.no_grad():
        one[0].weight[0] += 1
        other[0].weight[1] += 1
        beside[2].weight += 1
    plane = Plane(origin, one, other)
    assert plane.coordinates(beside) == (0, 0)
    with pytest.raises(ValueError, match="origin is the network"):
        landscape(beside, beside, data(), plane=plane, points=3)


def test_batch_norm_needs_a_policy() -> None:
    normalised = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)).double()
    with pytest.raises(ValueError, match="the model has 1 batch-norm layers"):
        landscape(normalised, normalised, data(), points=3)
    found = landscape(normalised, normalised, data(), points=3, batch_norm=ls.Recalibrate(data()))
    assert np.isfinite(found.losses).all()
