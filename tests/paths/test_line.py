from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import Attention, Tied, cnn, random, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lerpscape as ls


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=8))
def test_ends_are_bitwise_exact(values: list[float]) -> None:
    start, end = torch.tensor(values, dtype=torch.float32), torch.tensor(values[::-1], dtype=torch.float32)
    if torch.equal(start, end):
        return
    line = ls.Line({"w": start}, {"w": end})
    assert torch.equal(line.at(0.0)["w"], start)
    assert torch.equal(line.at(1.0)["w"], end)


def test_the_plain_formula_would_not_be_exact_at_the_end() -> None:
    """Why `torch.lerp`: start + 1·(end − start) loses the end."""
    start, end = torch.tensor([1e8]), torch.tensor([0.1])
    assert not torch.equal(start + 1.0 * (end - start), end)
    assert torch.equal(ls.Line({"w": start}, {"w": end}).at(1.0)["w"], end)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_points_and_velocity(alpha: float) -> None:
    a, b = random(5, seed=0), random(5, seed=1)
    line = ls.Line({"w": a}, {"w": b})
    torch.testing.assert_close(line.at(alpha)["w"], (1 - alpha) * a + alpha * b, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(line.velocity(alpha)["w"], b - a, rtol=0, atol=0)


def test_integers_and_equal_tensors_come_from_the_nearer_end() -> None:
    mask = torch.tensor([0.0, float("-inf")])
    start = {"w": torch.zeros(1), "count": torch.tensor(1), "mask": mask}
    end = {"w": torch.ones(1), "count": torch.tensor(7), "mask": mask.clone()}
    line = ls.Line(start, end)
    assert [int(line.at(alpha)["count"]) for alpha in (0.0, 0.49, 0.5, 1.0)] == [1, 1, 7, 7]
    assert torch.equal(line.at(0.3)["mask"], mask)  # lerp would give −inf − (−inf) = nan
    assert set(line.velocity(0.3)) == {"w"}


def test_mixed_dtypes_survive_and_the_wider_of_two_holds() -> None:
    start = {"half": torch.zeros(2, dtype=torch.float16), "w": torch.zeros(2, dtype=torch.bfloat16)}
    end = {"half": torch.ones(2, dtype=torch.float16), "w": torch.ones(2, dtype=torch.float32)}
    at = ls.Line(start, end).at(0.25)
    assert at["half"].dtype == torch.float16 and at["w"].dtype == torch.float32
    assert float(at["w"][0]) == 0.25


def test_low_precision_alphas_are_not_rounded_first() -> None:
    """0.1 in bfloat16 is 0.10009765625: α must not take the dtype of the weights."""
    line = ls.Line({"w": torch.zeros(1, dtype=torch.bfloat16)}, {"w": torch.full((1,), 1024.0, dtype=torch.bfloat16)})
    assert float(line.at(0.1)["w"]) == float(torch.tensor(102.4).bfloat16())


def test_tied_names_share_one_tensor_and_count_once() -> None:
    start, end = seeded(Tied, 0), seeded(Tied, 1)
    line = ls.Line(start, end)
    direct = sum(
        float((b.detach().double() - a.detach().double()).square().sum())
        for a, b in zip(start.parameters(), end.parameters(), strict=True)
    )
    assert line.distance() == pytest.approx(direct**0.5, rel=1e-14)
    assert set(line.layer_distances()) == {"embed.weight", "mix.weight", "mix.bias"}


def test_distances_are_over_parameters_only() -> None:
    start, end = seeded(cnn, 0), seeded(cnn, 1)
    with torch.no_grad():
        end[1].running_mean.add_(100)
        end[1].weight.add_(2.0)
    line = ls.Line(start, end)
    a = torch.cat([p.detach().flatten().double() for p in start.parameters()])
    b = torch.cat([p.detach().flatten().double() for p in end.parameters()])
    assert line.distance() == pytest.approx(float((b - a).norm()), rel=1e-13)
    assert line.relative_distance() == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-13)
    layers = line.layer_distances()
    assert layers["1.weight"] == pytest.approx(4.0)
    assert np.sqrt(sum(d**2 for d in layers.values())) == pytest.approx(line.distance())
    assert line.layer_distances(relative=True)["1.weight"] == pytest.approx(2.0)  # ‖θ₀‖ of four ones is 2
    assert ls.Line(start.state_dict(), end.state_dict()).distance() == pytest.approx(line.distance(), rel=1e-14)


def test_relative_distance_from_zero_is_infinite() -> None:
    line = ls.Line({"a": torch.zeros(2), "b": torch.ones(1)}, {"a": torch.ones(2), "b": torch.ones(1)})
    assert line.layer_distances(relative=True) == {"a": float("inf"), "b": 0.0}


def test_distance_accumulates_in_float64() -> None:
    start = {"w": torch.zeros(1_000_000, dtype=torch.float16)}
    end = {"w": torch.full((1_000_000,), 0.5, dtype=torch.float16)}
    assert ls.Line(start, end).distance() == 500.0  # the square 250,000 overflows float16


def test_mismatched_ends_are_named() -> None:
    with pytest.raises(ls.EndpointMismatch, match=r"(?s)'a' only in a state dict; 'b', 'c', 'd' and 1 more only in"):
        ls.Line({"a": torch.zeros(1)}, {name: torch.zeros(1) for name in "bcde"})
    with pytest.raises(ls.EndpointMismatch, match=r"'w'; 'w' is \(2,\) in .* and \(3,\) in"):
        ls.Line({"w": torch.zeros(2)}, {"w": torch.zeros(3)})


def test_two_equal_ends_are_refused_as_a_shared_state_dict() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ls.EndpointMismatch, match=r"copy\.deepcopy\(model\.state_dict\(\)\)"):
        ls.Line(model.state_dict(), model)


def test_a_line_is_a_snapshot_of_its_ends() -> None:
    start, end = seeded(Attention, 0), seeded(Attention, 1)
    line = ls.Line(start.state_dict(), end)
    before = line.at(1.0)["read.weight"].clone()
    with torch.no_grad():
        end.read.weight.add_(1)
        start.read.weight.add_(1)
    assert torch.equal(line.at(1.0)["read.weight"], before)
    assert not torch.equal(line.at(0.0)["read.weight"], start.read.weight)
