"""What else the enclosures prove: steps, accuracy, angles between velocities; against grids and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import network, outputs
from torch import nn

import lerpscape as ls
from lerpscape.certificates import loss_enclosures
from lerpscape.certificates.angles import AngleBounds
from lerpscape.certificates.results import largest_step
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import EndStatistics

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def parabola():
    """L = (α − ¾)² for all four examples."""
    x = torch.ones(4, 1, dtype=torch.float64)
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    return ls.certify(nn.Linear(1, 1, bias=False).double(), line, [(x, 0.75 * x)], loss="squared_error")


@pytest.mark.parametrize("width", [1 / 24, 0.1, 0.5, 0.75, 1.0])
def test_the_largest_step_of_a_parabola(width):
    true = 0.0625 - (0.25 - width) ** 2  # over the last step of this width
    lower, upper = parabola().max_step(width)
    assert lower <= true + 1e-12
    assert true - 1e-12 <= upper
    assert upper - lower <= 1e-6


def test_a_step_needs_a_width():
    for width in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="0 < width"):
            parabola().max_step(width)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=2, max_size=12),
    st.floats(0.01, 1.0),
    st.integers(0, 1000),
)
def test_the_largest_step_of_lines_against_a_grid(values, width, seed):
    generator = np.random.default_rng(seed)
    lines = np.array(values[: len(values) // 2 * 2]).reshape(-1, 2)
    cuts = np.sort(generator.uniform(0.01, 0.99, len(lines) - 1))
    edges = np.concatenate([[0.0], cuts, [1.0]])
    if (np.diff(edges) < 1e-6).any():
        return
    alphas = np.linspace(0, 1, 40_001)
    index = np.clip(np.searchsorted(edges, alphas, side="right") - 1, 0, len(lines) - 1)
    share = (alphas - edges[index]) / np.diff(edges)[index]
    line = (1 - share) * lines[index, 0] + share * lines[index, 1]
    area = np.concatenate([[0.0], np.cumsum(0.5 * (line[1:] + line[:-1]) * np.diff(alphas))])
    steps = np.interp(alphas + width, alphas, area) - area
    true = steps[alphas <= 1 - width].max()
    # the grid is off by a jump of the line times its spacing at every cut
    assert abs(largest_step(edges, lines, width) - true) <= 6 * len(lines) / 40_000


LONGER = [pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 2)]


@pytest.mark.parametrize("seed", [1, 3, 4, 5, *LONGER])
def test_the_accuracy_and_steps_of_a_dense_grid_stay_in_their_bounds(seed):
    model, end, x, y, policy = network(seed, examples=40)
    line = ls.Line(model, end)
    found = ls.certify(model, line, [(x, y)], batch_norm=policy, budget=40)
    profile = ls.profile(model, line, [(x, y)], alphas=769, batch_norm=policy, dtype=torch.float64)
    low, high = found.accuracy_bounds(profile.alphas)
    assert np.all((low <= profile.accuracy + 1e-12) & (profile.accuracy <= high + 1e-12))
    for stride in (32, 96):  # 1/24 and 1/8
        lower, upper = found.max_step(stride / 768)
        true = (profile.loss[stride:] - profile.loss[:-stride]).max()
        assert lower <= upper
        assert true <= upper + 1e-11
    assert (low > 0).any()


def test_decisions_made_too_sure_are_caught(monkeypatch):
    original = loss_enclosures.LOSS_RULES["cross_entropy"]

    def sure(outputs, targets):
        return loss_enclosures.class_decisions(type(outputs)(outputs.centre, None, None, outputs.reach), targets)

    rule = loss_enclosures.LossRule(original.value, original.slope, sure)
    monkeypatch.setitem(loss_enclosures.LOSS_RULES, "cross_entropy", rule)

    def escapes(seed):
        model, end, x, y, policy = network(seed, examples=40)
        found = ls.certify(model, ls.Line(model, end), [(x, y)], batch_norm=policy, budget=40)
        profile = ls.profile(model, ls.Line(model, end), [(x, y)], alphas=769, batch_norm=policy, dtype=torch.float64)
        low, high = found.accuracy_bounds(profile.alphas)
        return np.any((low > profile.accuracy + 1e-12) | (profile.accuracy > high + 1e-12))

    assert any(escapes(seed) for seed in range(6))


def test_no_accuracy_where_nothing_is_right():
    assert parabola().accuracy_low is None
    with pytest.raises(ValueError, match="with correct predictions"):
        parabola().accuracy_bounds(np.array([0.5]))


class Ray(nn.Module):
    """z ⊙ (z times a weight): along the line below it moves on a ray, from standing still."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)

    def forward(self, x):
        z = self.layer(x)
        return z * self.second(z)


def test_a_ray_does_not_turn_and_nothing_is_known_where_it_stands_still():
    model = Ray().double()
    start = {"layer.weight": torch.zeros(2, 1), "second.weight": torch.tensor([[0.0, 0.0], [0.0, 0.0]])}
    end = {"layer.weight": torch.tensor([[1.0], [2.0]]), "second.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    # z = α(x, 2x), the output α³(x², 4x²)
    found = ls.certificates.certify_angles(
        model, ls.Line(start, end), [(torch.tensor([[1.0], [3.0]]).double(), torch.zeros(2, 2))], intervals=8
    )
    assert np.all(found.lower < 1e-5)
    assert np.all(found.upper == np.pi)  # it stands still at α = 0


@pytest.mark.parametrize("angle", [0.5, 1.2, 2.0])
def test_the_angle_of_a_kink(angle):
    # one unit moves all the way, one switches on at α = ½ and turns the velocity from (1, 0) towards the angle
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    turn = torch.tensor([math.cos(angle) - 1, math.sin(angle)], dtype=torch.float64)
    fixed = torch.stack([torch.tensor([1.0, 0.0], dtype=torch.float64), turn], 1)
    start = {"0.weight": torch.zeros(2, 1), "0.bias": torch.tensor([1.0, -0.5]), "2.weight": fixed}
    end = {"0.weight": torch.zeros(2, 1), "0.bias": torch.tensor([2.0, 0.5]), "2.weight": fixed}
    line = ls.Line(*({name: tensor.double() for name, tensor in state.items()} for state in (start, end)))
    found = ls.certificates.certify_angles(model, line, [(torch.zeros(3, 1).double(), torch.zeros(3, 2))])
    assert np.all(np.abs(found.lower - angle) < 1e-5)
    assert np.all(angle <= found.upper)
    assert (found.proved_share, found.refuted_share) == ((1.0, 0.0) if angle < np.pi / 2 else (0.0, 1.0))
    assert "right angle" in found.summary


@pytest.mark.parametrize(("proved", "refuted", "left"), [(9, 1, "0"), (5, 1, "40"), (0, 0, "100")])
def test_shares_of_angles_add_up(proved, refuted, left):
    lower = np.array([0.1] * proved + [2.0] * refuted + [0.1] * (10 - proved - refuted))
    upper = np.array([0.2] * proved + [2.1] * refuted + [2.0] * (10 - proved - refuted))
    summary = AngleBounds(lower, upper, 8, {}).summary
    assert f"refuted for {10 * refuted} %, undecided for {left} %" in summary  # 1 − 0.9 − 0.1 is not 0


@pytest.mark.parametrize("seed", range(6))
def test_angles_on_a_grid_stay_in_their_bounds(seed):
    model, end, x, y, policy = network(3 * seed + seed % 2)
    line = ls.Line(model, end)
    found = ls.certificates.certify_angles(model, line, [(x, y)], intervals=64, batch_norm=policy)
    on_path = ModelOnPath(model, line, "cpu", torch.float64)
    fixed = on_path.end_statistics() if isinstance(policy, EndStatistics) else {}
    velocity = {name: moves for name, moves in on_path.velocity(0.5).items() if name not in fixed}
    with torch.no_grad():
        _, rate = outputs(model, on_path.at(0.5) | fixed, velocity, x, torch.linspace(-0.5, 0.5, 201).double())
    unit = rate / rate.norm(dim=2, keepdim=True)
    cosine = torch.einsum("ink,jnk->nij", unit, unit).amin((1, 2)).clamp(-1, 1)
    true = torch.acos(cosine).numpy()
    assert np.all(true <= found.upper + 1e-6)
    assert np.all(found.lower <= found.upper + 1e-6)


def test_angles_need_a_line_and_a_power_of_two():
    line = ls.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
    data = [(torch.ones(1, 1), torch.ones(1, 1))]
    with pytest.raises(ValueError, match="power of two"):
        ls.certificates.certify_angles(nn.Linear(1, 1, bias=False), line, data, intervals=12)
    with pytest.raises(TypeError, match="Line"):
        ls.certificates.certify_angles(nn.Linear(1, 1, bias=False), None, data)
