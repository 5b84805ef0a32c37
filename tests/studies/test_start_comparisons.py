"""Fresh starts come from the function that made the network, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import generator
from torch import nn

from lerpscape.lab.models import build
from lerpscape.paths.endpoints import fresh_init
from lerpscape.studies import starts

DATA = [(torch.randn(12, 40, generator=generator(1)), torch.randint(0, 3, (12,), generator=generator(2)))]


def network(init: Callable[[nn.Module], None] | None = None, seed: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 3))
        for layer in model if init else ():
            if isinstance(layer, nn.Linear) and init:
                with torch.no_grad():
                    init(layer)
    return model.eval()


def scaled(layer: Any) -> None:
    layer.weight.mul_(0.1)


def sparse(layer: Any) -> None:
    nn.init.sparse_(layer.weight, sparsity=0.6, std=1.0)


def zero_bias(layer: Any) -> None:
    layer.bias.zero_()


def xavier(layer: Any) -> None:
    nn.init.xavier_normal_(layer.weight)


def compared(start: nn.Module, **options: Any) -> Any:
    end = network(seed=77)
    choices = {"fresh": 3, "noise": 0, "zero": False, "alphas": 3, "batch_norm": "interpolate"} | options
    from lerpscape import InterpolateStatistics

    choices["batch_norm"] = InterpolateStatistics()
    return starts(start, start, end, DATA, progress=False, **choices)


@pytest.mark.parametrize("init", [scaled, sparse, zero_bias, xavier], ids=lambda init: init.__name__)
def test_a_network_initialised_in_another_way_than_its_layers_is_refused(init: Callable[..., None]) -> None:
    start = network(init)
    with pytest.raises(ValueError, match=r"(?s)distribution that the network.*factory=, the function"):
        compared(start)
    found = compared(start, factory=lambda seed: network(init, 1000 + seed))
    assert found.families.count("fresh init") == 3


@pytest.mark.parametrize("seed", range(20))
def test_a_network_initialised_as_its_layers_are_is_not(seed: int) -> None:
    assert compared(network(seed=1000 + seed), seed=seed, fresh=1).families == ("own init", "fresh init")


def test_a_factory_that_fixes_its_own_seed_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match=r"the same one for the seeds 0 and 3: it fixes its own seed"):
        compared(network(seed=9), factory=lambda: network(seed=5))
    with pytest.raises(ValueError, match=r"it fixes its own seed"):
        compared(network(), factory=lambda: network(seed=5))
    found = compared(network(), factory=lambda seed=0: network(seed=100 + seed))
    assert len(np.unique(found.losses[1:, 0])) == 3


def test_a_permuted_start_is_the_same_function_elsewhere() -> None:
    found = compared(network(), fresh=0, permuted=2)
    assert found.families == ("own init", "permuted", "permuted")
    # Sums over units in another order: equal to rounding in float32.
    np.testing.assert_allclose(found.losses[:, 0], found.losses[0, 0], rtol=1e-5)
    assert np.abs(found.losses[1:, 1] - found.losses[0, 1]).min() > 1e-4


@pytest.mark.parametrize("options", [{"init_scale": 0.1}, {"init": "sparse"}, {"init": "xavier"}, {}], ids=str)
def test_a_network_of_the_laboratory_knows_how_it_is_drawn(options: dict[str, Any]) -> None:
    sizes = {"inputs": (40,), "outputs": 3, "widths": (30,)}
    model, other = (build("fully_connected", **sizes, seed=seed, **options) for seed in (1, 2))
    drawn = fresh_init(model, 2)
    for name, tensor in other.state_dict().items():
        assert torch.equal(drawn.tensors[name], tensor)
