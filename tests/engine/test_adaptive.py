from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.adaptive import (
    FIRST,
    FIRST_ALONE,
    MOST,
    PILOT_GRID,
    interpolated,
    interval_errors,
    next_points,
    pilot_size,
)

FINE = np.linspace(0, 1, 4001)


class Height(nn.Module):
    """Puts out its parameter, which runs from 0 to 1, so that the loss may be any function of α."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.value.expand(len(inputs))


def along(curve: Any, **choices: Any) -> ls.Profile:
    data = [(torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3))]
    start, end = Height(0.0), Height(1.0)
    return ls.profile(
        start, ls.Line(start, end), data, loss=lambda z, y: curve(z), **({"alphas": "adaptive"} | choices)
    )


def barrier(centre: float, width: float, height: float, rate: float) -> Any:
    return lambda z: torch.exp(-rate * z) + height * torch.exp(-0.5 * ((z - centre) / width) ** 2)


def test_a_cubic_is_known_at_once() -> None:
    found = along(lambda z: z**3 - z)
    assert len(found.alphas) == FIRST + 1 and found.how["adaptive"]["settled"]  # one more where it is the lowest
    assert found.max_rise == pytest.approx(2 / 3**1.5, rel=1e-3)
    assert found.how["adaptive"]["estimated_error"] < 1e-5  # the pilot sample's slopes are differences
    curve = interpolated(found.alphas, found.loss, found.derivative, FINE)
    np.testing.assert_allclose(curve, FINE**3 - FINE, atol=1e-14)


def cases(count: int = 20) -> list[tuple[float, float, float, float]]:
    """Barriers with a standard deviation of 0.01: two grid points of fifty see anything of them."""
    draw = np.random.default_rng(0)
    return [(draw.uniform(0.05, 0.95), 0.01, draw.uniform(0.02, 0.2), draw.uniform(1, 6)) for _ in range(count)]


@pytest.mark.parametrize("case", cases())
def test_no_barrier_of_twenty_is_missed(case: tuple[float, float, float, float]) -> None:
    curve = barrier(*case)
    found = along(curve, precision=1e-3)
    fine = curve(torch.tensor(FINE)).numpy()
    assert found.how["adaptive"]["settled"]
    drawn = interpolated(found.alphas, found.loss, found.derivative, FINE)
    assert np.abs(drawn - fine).max() < 1.5e-3 * np.ptp(fine)  # an estimate: half as much again is allowed
    assert ls.max_rise(drawn) == pytest.approx(ls.max_rise(fine), abs=3e-3 * np.ptp(fine))
    assert found.max_rise == pytest.approx(ls.max_rise(fine), abs=3e-3 * np.ptp(fine))  # and so do the points
    assert len(found.alphas) <= 25


def test_a_bump_between_all_points_is_missed_and_the_docs_say_so() -> None:
    between = (PILOT_GRID[112] + PILOT_GRID[113]) / 2
    found = along(barrier(between, 0.0003, 0.2, 2.0))
    assert found.how["adaptive"]["settled"] and found.max_rise == 0.0


@pytest.mark.parametrize("derivative", [True, False])
def test_a_kink_is_closed_in_on(derivative: bool) -> None:
    found = along(lambda z: (z - 0.437).abs(), derivative=derivative, precision=1e-3)
    near = np.sort(np.abs(found.alphas - 0.437))
    assert near[0] < 0.01 and len(found.alphas) < 40
    drawn = interpolated(found.alphas, found.loss, found.derivative, FINE)
    assert np.abs(drawn - np.abs(FINE - 0.437)).max() < 3e-3


def test_noise_ends_at_the_most_points_and_says_so() -> None:
    found = along(lambda z: torch.sin(1e6 * z), derivative=False)
    assert len(found.alphas) == MOST and not found.how["adaptive"]["settled"]


def test_nan_ends_the_search() -> None:
    found = along(lambda z: z / (z - 0.5) * 0 + z)  # 0/0 at one half
    assert len(found.alphas) == FIRST_ALONE and len(found.invalid) == 1 and not found.how["adaptive"]["settled"]


def test_batches_that_cannot_be_divided_have_no_pilot_sample() -> None:
    """A bump between the first points is found with a pilot sample, and only then."""
    bump = barrier(0.4375, 0.004, 0.2, 2.0)
    whole = [{"inputs": torch.zeros(3, 1, dtype=torch.float64), "labels": torch.zeros(3)}]
    start, end = Height(0.0), Height(1.0)
    found = ls.profile(start, ls.Line(start, end), whole, loss=lambda z, y: bump(z), alphas="adaptive")
    assert found.how["adaptive"]["pilot_examples"] == 0 and found.max_rise == 0.0
    assert along(bump).how["adaptive"]["pilot_examples"] == 3 and along(bump).max_rise > 0.15


def test_what_only_the_other_examples_show_is_closed_in_on() -> None:
    """The pilot sample has every hundredth example or so; those that it leaves out bend where it is straight."""
    count = 4000
    few = np.round(np.linspace(0, count - 1, pilot_size(count))).astype(int)
    weight = torch.ones(count, 1, dtype=torch.float64)
    weight[few] = 0
    data = [(weight, torch.zeros(count, dtype=torch.float64))]
    start, end = Height(0.0), Height(1.0)
    line = ls.Line(start, end)

    class Weighted(Height):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.exp(-2 * self.value) + inputs[:, 0] * torch.sin(9 * self.value)

    found = ls.profile(Weighted(0.0), line, data, loss=lambda z, y: z, alphas="adaptive")
    fine = ls.profile(Weighted(0.0), line, data, loss=lambda z, y: z, alphas=401)
    assert found.how["adaptive"]["pilot_examples"] == len(few) and found.how["adaptive"]["settled"]
    drawn = interpolated(found.alphas, found.loss, found.derivative, fine.alphas)
    assert np.abs(drawn - fine.loss).max() < 1.5e-3 * np.ptp(fine.loss)


def test_the_points_between_have_covariances_with_all_others() -> None:
    data = [(torch.rand(7, 1).double(), torch.rand(7).double())]
    start, end = Height(0.0), Height(1.0)
    found = ls.profile(start, ls.Line(start, end), data, loss=lambda z, y: (z**6 - y) ** 2, alphas="adaptive")
    fixed = ls.profile(start, ls.Line(start, end), data, loss=lambda z, y: (z**6 - y) ** 2, alphas=found.alphas)
    assert len(found.alphas) > FIRST
    np.testing.assert_allclose(found.covariance, fixed.covariance, atol=1e-15)
    np.testing.assert_allclose(found.loss, fixed.loss, rtol=1e-14)


def test_what_makes_no_sense_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="a precision above 0"):
        along(lambda z: z, precision=0.0)
    with pytest.raises(ValueError, match=r"(?s)together with precision=.*0.01 with fixed alphas.*leave precision= out"):
        along(lambda z: z, alphas=5, precision=1e-2)
    with pytest.raises(ValueError, match=r"(?s)fixed alphas together with partial=.*leave partial= out"):
        along(lambda z: z, partial=tmp_path / "kept")
    with pytest.raises(ValueError, match=r"(?s)a count of at least 2.*'often'"):
        along(lambda z: z, alphas="often")


def test_every_inner_point_is_predicted_from_its_neighbours() -> None:
    grid = np.linspace(0, 1, 5)
    values = grid**4
    (errors, lone) = interval_errors(grid, values, 4 * grid**3), interval_errors(grid, values, None)
    # x⁴ on an interval of width h misses its cubic by (h/2)⁴ in the middle, and its slope by nothing
    np.testing.assert_allclose(errors, 0.25**4 / 4, rtol=1e-9)
    assert (lone > 0).all()
    assert len(next_points(grid, values, 4 * grid**3, 0.01)) == 0
    assert len(next_points(grid, values, 4 * grid**3, 1e-4)) == 4


@pytest.mark.parametrize(
    ("kind", "widths", "optimizer", "lr"),
    [
        (nn.ReLU, (128, 128), torch.optim.SGD, 0.1),
        (nn.Tanh, (64, 64, 64), torch.optim.SGD, 0.1),
        (nn.ReLU, (128, 128, 128), torch.optim.Adam, 0.01),
        (nn.ReLU, (64,) * 5, torch.optim.SGD, 0.05),
        (nn.GELU, (64, 64), torch.optim.Adam, 0.003),
    ],
)
def test_five_trained_networks_in_fifteen_evaluations(kind: Any, widths: Any, optimizer: Any, lr: float) -> None:
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    data = list(zip(x.split(256), y.split(256), strict=True))
    sizes = (64, *widths, 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), kind())]
        start = nn.Sequential(*layers[:-1])
        end = deepcopy(start)
        steps = optimizer(end.parameters(), lr=lr)
        for _ in range(20):
            for part in torch.randperm(len(x)).split(64):
                steps.zero_grad()
                F.cross_entropy(end(x[part]), y[part]).backward()
                steps.step()
    line = ls.Line(start, end)
    fine = ls.profile(start, line, data, alphas=401, derivative=False)
    found = ls.profile(start, line, data, alphas="adaptive", precision=1e-3)
    drawn = interpolated(found.alphas, found.loss, found.derivative, fine.alphas)
    assert len(found.alphas) <= 15
    assert np.abs(drawn - fine.loss).max() <= 1e-3 * np.ptp(fine.loss)
