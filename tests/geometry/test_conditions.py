"""The sufficient condition: random paths, paths just beyond π/2, and networks, against what their errors do."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.geometry import conditions

DOUBLE = torch.float64
DEGREE = 4


class Polynomials(nn.Module):
    """For an example made of coefficients (degree, size), the curve Σ_k c_k t^(k+1)."""

    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, coefficients: Tensor) -> Tensor:
        powers = torch.stack([self.t ** (k + 1) for k in range(coefficients.shape[1])])
        return (coefficients * powers[:, None]).sum(1)


class Corner(nn.Module):
    """Runs straight, and at α = ½ turns by the example's angle; a ReLU does it."""

    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, angle: Tensor) -> Tensor:
        before, after = self.t - torch.relu(self.t - 0.5), torch.relu(self.t - 0.5)
        return torch.cat([before + after * angle.cos(), after * angle.sin()], dim=1)


LINE = ls.Line({"t": torch.tensor(0.0, dtype=DOUBLE)}, {"t": torch.tensor(1.0, dtype=DOUBLE)})


def random_paths(count: int, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(count, DEGREE, size, dtype=DOUBLE, generator=generator)
    coefficients[:, 1:] *= 1.5 * torch.rand(count, 1, 1, dtype=DOUBLE, generator=generator)
    return [(part, part.sum(1)) for part in coefficients.split(500)]


@pytest.mark.parametrize(
    ("size", "seed"), [(2, 0), pytest.param(3, 1, marks=pytest.mark.slow), pytest.param(8, 2, marks=pytest.mark.slow)]
)
def test_of_thousands_of_random_paths_under_half_pi_none_rises(size: int, seed: int) -> None:
    data = random_paths(3000, size, seed)
    found = ls.geometry.sufficient_condition(Polynomials(), LINE, data, alphas=65, precision=None)
    short, narrow = found.gauss_length < math.pi / 2, found.max_angle < math.pi / 2
    assert short.sum() > 850
    assert found.monotone[short].all()
    assert found.monotone[narrow].all()
    assert narrow[short].all()
    assert (~found.monotone).sum() > 20  # the errors of others do rise: the statement is not empty
    assert (found.monotone & ~narrow).sum() > 0  # sufficient, not necessary
    assert found.counts[True, True, True] == short.sum()
    assert sum(found.counts.values()) == 3000
    assert found.counts[True, True, False] == found.counts[False, True, False] == 0
    assert found.gap.max() < 1e-12
    # The verdict on single errors, from values alone.
    times = np.linspace(0, 1, 513)
    with torch.no_grad():
        c = torch.cat([x for x, _ in data]).numpy()
    z = np.einsum("pk,nkd->pnd", times[:, None] ** np.arange(1, DEGREE + 1), c)
    losses = np.square(z - z[-1]).sum(-1)
    rises = (losses - np.minimum.accumulate(losses, axis=0)).max(axis=0)
    assert (rises[found.monotone] < 1e-3 * losses[0][found.monotone]).all()  # less than the coarser grid can see
    assert (rises[narrow] < 1e-12).all()


def test_two_thousand_five_hundred_random_paths_with_turning_under_half_pi() -> None:
    short = 0
    for seed in range(10, 14):
        found = ls.geometry.sufficient_condition(
            Polynomials(), LINE, random_paths(2500, 3, seed), alphas=33, precision=None
        )
        short += int((found.gauss_length < math.pi / 2).sum())
        assert found.monotone[found.gauss_length < math.pi / 2].all()
    assert short >= 2500


@pytest.mark.parametrize(("beyond", "monotone"), [(-0.05, True), (0.05, False), (0.2, False)])
def test_the_condition_is_tight(beyond: float, monotone: bool) -> None:
    angle = torch.full((1, 1), math.pi / 2 + beyond, dtype=DOUBLE)
    data = [(angle, Corner().to(DOUBLE).forward(angle).detach())]
    found = ls.geometry.sufficient_condition(Corner(), LINE, data, alphas=129, precision=None)
    assert_allclose(found.gauss_length, math.pi / 2 + beyond, rtol=1e-12)
    assert_allclose(found.max_angle, math.pi / 2 + beyond, rtol=1e-12)
    assert found.monotone.tolist() == [monotone]
    if not monotone:  # the rise of two straight legs, b²cos²φ, as far as the grid sees it
        assert_allclose(found.rise, (0.5 * math.cos(math.pi / 2 + beyond)) ** 2, rtol=0.2)


def test_a_large_turn_to_and_fro_meets_the_sharper_condition_only() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([4 * math.pi * self.t, (4 * math.pi * self.t).sin()]) * x

    data = [(torch.ones(1, 1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE))]
    found = ls.geometry.sufficient_condition(Waves(), LINE, data)
    assert_allclose(found.gauss_length, 4 * math.pi / 2, rtol=1e-3)  # 8 quarters of a wave, π/4 each
    assert_allclose(found.max_angle, math.pi / 2, atol=2e-3)
    shallow = ls.geometry.sufficient_condition(Waves(), LINE, [(torch.tensor([[1.0, 0.9]], dtype=DOUBLE), data[0][1])])
    assert shallow.counts[False, True, True] == 1
    assert "no             yes               yes                    1" in shallow.table()


def network(seed: int = 0, kind: type[nn.Module] = nn.ReLU) -> tuple[nn.Module, ls.Line, list[tuple[Tensor, Tensor]]]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 12), kind(), nn.Linear(12, 12), kind(), nn.Linear(12, 3)).to(DOUBLE)
        end = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in end.parameters():
                parameter.add_(0.6 * torch.randn_like(parameter))
        x = torch.randn(40, 4, dtype=DOUBLE)
        y = end(x).detach() + 0.1 * torch.randn(40, 3, dtype=DOUBLE)
    return model, ls.Line(model, end), [(x[:25], y[:25]), (x[25:39], y[25:39]), (x[39:], y[39:])]


@pytest.mark.parametrize("seed", range(2))
def test_networks_agree_with_profiles_of_single_examples(seed: int) -> None:
    model, line, data = network(seed)
    found = ls.geometry.sufficient_condition(model, line, data, alphas=65, precision=None)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    for index in (0, 24, 25, 39):
        one = ls.profile(model, line, [(x[index : index + 1], y[index : index + 1])], loss="squared_error", alphas=65)
        assert_allclose(found.target_rise[index], one.max_rise, atol=1e-12)
        assert one.derivative is not None
        assert found.target_monotone[index] == (one.max_rise < 1e-12 and one.derivative.max() < 1e-10)
        assert_allclose(found.gap[index], math.sqrt(one.loss[-1] / one.loss[0]), rtol=1e-10)
    turning = ls.gauss_length(model, line, data, alphas=65, precision=None).per_example
    finer = ls.gauss_length(model, line, data, alphas=513, precision=None).per_example
    assert (found.gauss_length >= turning - 1e-12).all()  # the secants in between can only add
    assert (found.gauss_length <= finer + 0.05).all()


def test_summaries_and_columns() -> None:
    model, line, data = network()
    found = ls.geometry.sufficient_condition(model, line, data, "mean_squared_error", label="a")
    assert found.label == "a"
    assert found.how["loss"] == "mean_squared_error"
    assert found.share_monotone == found.monotone.mean()
    assert found.share_target_monotone == found.target_monotone.mean()
    assert found.share_below_half_pi <= found.share_max_angle_below_half_pi <= found.share_monotone
    assert (found.error <= 0.01).all() or (found.points >= 513 // 2).any()
    assert "Of 40 examples" in found.summary
    assert len(found.to_pandas()) == 40
    assert found.to_dict()["monotone"] == found.monotone.tolist()
    assert sum(int(line.split()[-1]) for line in found.table().splitlines()[1:]) == 40


def test_cross_entropy_is_refused_with_the_reason() -> None:
    model, line, data = network()
    with pytest.raises(ValueError, match=r"cross-entropy has no finite z\*"):
        ls.geometry.sufficient_condition(model, line, data, "cross_entropy")
    with pytest.raises(ValueError, match="not a distance"):
        ls.geometry.sufficient_condition(model, line, data, lambda z, y: (z - y).abs().sum(1))


def test_what_the_theorem_does_not_cover_is_refused() -> None:
    model, line, data = network()
    calls: list[int] = []
    with pytest.raises(ValueError, match=r"one_hot"):
        ls.geometry.sufficient_condition(
            model,
            line,
            [(x, torch.zeros(len(x), dtype=torch.long)) for x, _ in data],
            progress=lambda done, _: calls.append(done),
        )
    assert not calls  # found before the work
    with pytest.raises(ValueError, match="the theorem is about z"):
        ls.geometry.sufficient_condition(model, line, data, alphas=np.linspace(0, 0.9, 10))


def test_an_example_that_breaks_the_theorem_is_a_bug_and_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "max_angle", lambda vectors: np.zeros(vectors.shape[1]))
    wrong = torch.tensor([[2.5]], dtype=DOUBLE)
    with pytest.raises(ls.LerpscapeError, match="contradicts a theorem"):
        ls.geometry.sufficient_condition(Corner(), LINE, [(wrong, torch.zeros(1, 2, dtype=DOUBLE))])


def test_an_output_that_stands_still_is_monotone() -> None:
    model, line, data = network()
    dead: dict[str, Any] = {name: torch.zeros_like(tensor) for name, tensor in line.start.tensors.items()}
    moved = dead | {"4.weight": torch.ones_like(dead["4.weight"])}
    found = ls.geometry.sufficient_condition(model, ls.Line(dead, moved), [(x, torch.zeros_like(y)) for x, y in data])
    assert found.counts[True, True, True] == 40
    assert (found.gap == 0).all()
    assert (found.rise == 0).all()


def test_turning_that_velocities_on_the_grid_miss_shows_in_the_secants() -> None:
    class Bounce(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.stack([self.t, 3 * (2 * math.pi * self.t).sin() ** 2])

    data = [(torch.ones(1, 1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE))]
    grid: dict[str, Any] = {"alphas": 5, "precision": None}
    assert ls.gauss_length(Bounce(), LINE, data, **grid).mean < 1e-9  # all five velocities point the same way
    found = ls.geometry.sufficient_condition(Bounce(), LINE, data, **grid)
    assert found.max_angle[0] > 0.9 * math.pi
    assert found.monotone.tolist() == [False]
