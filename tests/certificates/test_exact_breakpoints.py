"""Certificates against the exact curve of small rectifier networks: one to three hidden layers, squared error."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from exact_networks import changes, derivative, exact_curve, rectifier_network, value
from torch import nn

import lerpscape as ls
from lerpscape.certificates import mean_bounds
from lerpscape.certificates.brackets import Piece

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

# Cuts are exact to 2⁻⁶⁴; near them the neighbouring polynomial is off by that times a slope of at most some thousands.
SLIP = Fraction(1, 2**48)


def test_roots_of_a_polynomial():
    # (α − ¼)(α − ½)²(α − ⅔), whose double root is no change of sign
    polynomial = (Fraction(1),)
    for root in ("1/4", "1/2", "1/2", "2/3"):
        shifted = (Fraction(0), *polynomial)
        scaled = (*(-Fraction(root) * c for c in polynomial), Fraction(0))
        polynomial = tuple(a + b for a, b in zip(shifted, scaled, strict=True))
    found = [Fraction(k, 2**64) for k in changes(polynomial, 0, 2**64)]
    assert [found[0], found[-1] - Fraction(1, 2**64) <= Fraction(2, 3) <= found[-1]] == [Fraction(1, 4), True]
    assert derivative((Fraction(3), Fraction(2), Fraction(5))) == (2, 10)


def test_one_unit_by_hand():
    # relu(1 − 2α)·2 against 1: (2 − 4α − 1)² up to ½, then 1; falls to 0 at ¼, then rises to 1
    states = [
        {"0.weight": torch.tensor([[w]]), "0.bias": torch.tensor([0.0]), "2.weight": torch.tensor([[2.0]])}
        | {"2.bias": torch.tensor([0.0])}
        for w in (1.0, -1.0)
    ]
    found = exact_curve(states, 0.0, torch.ones(1, 1), torch.ones(1, 1))
    assert found.cuts == (0, Fraction(1, 2), 1)
    assert [value(found.at(a), a) for a in map(Fraction, (0, "1/4", "1/2", 1))] == [1, 0, 1, 1]
    assert found.max_rise == 1


@pytest.mark.parametrize("seed", range(6))
def test_the_exact_curve_is_the_networks(seed):
    model, states, slope, x, y = rectifier_network(seed)
    exact = exact_curve(states, slope, x, y)
    profile = ls.profile(
        model, ls.Line(*states), [(x, y)], alphas=np.linspace(0, 1, 129), loss="squared_error", dtype=torch.float64
    )
    mine = [float(value(exact.at(Fraction(a)), Fraction(a))) for a in profile.alphas]
    np.testing.assert_allclose(mine, profile.loss, rtol=1e-12, atol=1e-12)
    assert profile.max_rise <= float(exact.max_rise) + 1e-12


def broken(seed):
    """What of a network's certificate its exact curve breaks; and how many pieces the curve has."""
    model, states, negative_slope, x, y = rectifier_network(seed)
    exact = exact_curve(states, negative_slope, x, y)
    found = ls.certify(model, ls.Line(*states), [(x, y)], loss="squared_error", gap=0.05)
    true, wrong = exact.max_rise, []
    if not Fraction(found.lower) <= true + SLIP or not true - SLIP <= Fraction(found.upper):
        wrong.append("bracket")
    if found.verdict == "violated" and found.upper > 1.05 * found.lower:
        wrong.append("gap")
    for alpha, low, high in zip(found.edges, found.loss_low, found.loss_high, strict=True):
        if not Fraction(low) <= value(exact.at(Fraction(alpha)), Fraction(alpha)) <= Fraction(high):
            wrong.append("loss")
    places = sorted(
        {*np.linspace(0, 1, 65), *map(float, exact.cuts), *(float(a + b) / 2 for a, b in pairwise(exact.cuts))}
    )
    inside = np.array([a for a in places if min(abs(Fraction(a) - cut) for cut in exact.cuts) > SLIP])
    for alpha, low, high in zip(inside, *found.slope_bounds(inside), strict=True):
        slope = value(derivative(exact.at(Fraction(alpha))), Fraction(alpha))
        if not Fraction(low) - SLIP <= slope <= Fraction(high) + SLIP:
            wrong.append("slope")
    return wrong, len(exact.polynomials)


@pytest.mark.parametrize("block", range(3))
def test_the_true_largest_rise_lies_in_the_bracket(block):
    pieces = 0
    for seed in range(6 * block, 6 * block + 6):
        wrong, count = broken(seed)
        assert not wrong, seed
        pieces += count
    assert pieces > 24  # units do switch


@pytest.mark.slow
def test_the_true_largest_rise_lies_in_the_bracket_of_many_networks():
    for seed in range(100, 600):
        assert not broken(seed)[0], seed


def test_a_bracket_made_too_narrow_is_caught(monkeypatch):
    original = mean_bounds._piece

    def narrow(*arguments):
        found = original(*arguments)
        low, high = np.array(found.low), np.array(found.high)
        room = 0.05 * (high - low)
        return Piece(found.left, found.right, tuple(low + room), tuple(high - room))

    monkeypatch.setattr(mean_bounds, "_piece", narrow)
    assert any({"bracket", "slope"} & set(broken(seed)[0]) for seed in range(9))


def test_a_plateau_before_a_fall():
    # the unit is off until α = 0.3, where halving never cuts; with tolerance 0 only rounding is left of a rise there
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    data = [(torch.ones(2, 1).double(), 2 * torch.ones(2, 1).double())]
    found = ls.certify(model, unit_line(-0.3, 0.7), data, loss="squared_error")
    assert (found.lower, found.stopped) == (0.0, "rounding")
    assert found.upper <= 1e-12
    assert found.evaluations <= 100
    assert set(found.direction) == {"flat", "undecided", "falling"}
    assert 1 <= len(found.undecided) <= 2
    tolerant = ls.certify(model, unit_line(-0.3, 0.7), data, loss="squared_error", tolerance=1e-9)
    assert tolerant.verdict == "monotonic"
    assert tolerant.evaluations <= 40


def test_a_plateau_before_a_rise():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    x, y = torch.ones(2, 1).double(), torch.zeros(2, 1).double()
    found = ls.certify(model, unit_line(-0.3, 0.7), [(x, y)], loss="squared_error", gap=0.01)
    assert found.verdict == "violated"
    assert found.lower <= 0.7**2 <= found.upper <= 1.01 * found.lower
    assert found.direction[0] == "flat"


def unit_line(start, end):
    """A bias from start to end, before a unit and a layer that change nothing."""
    fixed = {"0.weight": torch.zeros(1, 1), "2.weight": torch.ones(1, 1), "2.bias": torch.zeros(1)}
    states = [fixed | {"0.bias": torch.tensor([bias])} for bias in (start, end)]
    return ls.Line(*({name: tensor.double() for name, tensor in state.items()} for state in states))


@pytest.mark.parametrize("rectified", [False, True])
def test_a_plateau_of_two_effects_that_cancel_is_not_cut_without_end(rectified):
    # u − u for two equal units: what is left of the derivative is O(r²), or where the unit switches O(r)
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU() if rectified else nn.Tanh(), nn.Linear(2, 1)).double()
    fixed = {"0.weight": torch.zeros(2, 1), "2.weight": torch.tensor([[1.0, -1.0]]), "2.bias": torch.zeros(1)}
    line = ls.Line(
        *({n: t.double() for n, t in (fixed | {"0.bias": torch.full((2,), b)}).items()} for b in (-0.3, 0.7))
    )
    data = [(torch.ones(3, 1).double(), torch.ones(3, 1).double())]
    found = ls.certify(model, line, data, loss="squared_error", budget=140 if rectified else 64)
    assert (found.lower, found.verdict) == (0.0, "undecided")
    assert found.stopped == ("rounding" if rectified else "budget")
    assert found.upper <= (1e-11 if rectified else 1e-3)
    assert f"A tolerance of {found.upper:.2g}" in found.summary
    tolerant = ls.certify(model, line, data, loss="squared_error", tolerance=0.01)
    assert tolerant.verdict == "monotonic"
    assert tolerant.evaluations <= 16


def test_an_end_past_the_minimum_of_a_network():
    # z = relu(2α), target 1.9: down to 0 at α = 0.95, then up by 0.01; with nothing of either past the tolerance
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    data = [(torch.ones(2, 1).double(), 1.9 * torch.ones(2, 1).double())]
    found = ls.certify(model, unit_line(0.0, 2.0), data, loss="squared_error", gap=0.01)
    assert found.verdict == "violated"
    assert found.lower <= 0.01 <= found.upper <= 1.01 * found.lower
    assert (found.highest, found.direction[-1]) == (1.0, "rising")
    assert found.evaluations <= 60
