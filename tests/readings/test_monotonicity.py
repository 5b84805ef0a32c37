from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lerpscape as ls

pytestmark = pytest.mark.kernels

losses = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def brute_force(values: list[float]) -> float:
    return max(values[j] - values[i] for i in range(len(values)) for j in range(i, len(values)))


@given(losses)
def test_max_rise_is_the_largest_later_difference(values: list[float]) -> None:
    assert ls.max_rise(values) == brute_force(values)


@given(losses, st.integers(-1000, 1000), st.sampled_from([0.25, 2.0, 8.0]))
def test_max_rise_ignores_offsets_and_scales(values: list[float], offset: int, scale: float) -> None:
    shifted = ls.max_rise([value + offset for value in values])
    assert shifted == pytest.approx(ls.max_rise(values), abs=1e-12 * (1000 + abs(offset)))
    assert ls.max_rise([value * scale for value in values]) == pytest.approx(scale * ls.max_rise(values))
    assert 0 <= ls.max_rise(values) <= max(values) - min(values)


@given(losses, st.data())
def test_refining_a_grid_never_lowers_max_rise(values: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    coarse = [value for value, kept in zip(values, keep, strict=True) if kept]
    if len(coarse) > 1:
        assert ls.max_rise(coarse) <= ls.max_rise(values)


@given(losses)
def test_rises_are_disjoint_and_the_highest_is_max_rise(values: list[float]) -> None:
    found = ls.rises(values)
    assert max((rise.height for rise in found), default=0.0) == ls.max_rise(values)
    assert (ls.max_rise(values) == 0) == (found == ())
    for rise in found:
        assert rise.opens < rise.peak <= rise.closes
        assert rise.width == rise.closes - rise.opens
    for left, right in pairwise(found):
        assert left.closes <= right.opens
        assert left.returns


def test_a_rise_at_the_last_point_counts() -> None:
    values = [3.0, 2.0, 1.0, 1.5]
    assert ls.max_rise(values) == 0.5
    (rise,) = ls.rises(values)
    assert (rise.opens, rise.closes, rise.returns) == (2 / 3, 1.0, False)


def test_two_bumps_are_two_rises_and_a_plateau_is_none() -> None:
    found = ls.rises([5.0, 4.0, 4.5, 4.0, 3.0, 3.0, 3.25, 2.0])
    assert [(rise.height, rise.returns) for rise in found] == [(0.5, True), (0.25, True)]
    assert ls.rises([1.0, 1.0, 1.0]) == ()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "reading",
    [
        ls.max_rise,
        ls.rises,
        lambda v: ls.is_monotonic(v, 0),
        ls.readings.relative_rise,
        ls.readings.max_step,
        lambda v: ls.barrier(v, "mean"),
        ls.readings.local_convexity,
        ls.readings.global_convexity,
        lambda v: ls.readings.plateau(v, 0.1),
        ls.readings.area,
        lambda v: ls.readings.hidden_rises(v, [0.0] * len(v)),
    ],
)
def test_nan_and_inf_have_no_verdict(reading: object, bad: float) -> None:
    with pytest.raises(ls.NonFiniteLoss, match="at position 1 "):
        reading([1.0, bad, 0.0])  # type: ignore[operator]


def test_an_increasing_curve_is_not_monotonic() -> None:
    assert not ls.is_monotonic([1.0, 2.0, 3.0], tolerance=0.1)
    assert ls.is_monotonic([1.0, 1.0], tolerance=0)


@pytest.mark.parametrize("tolerance", [-1e-9, float("nan")])
def test_a_negative_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance ≥ 0"):
        ls.is_monotonic([1.0, 0.0], tolerance)


def test_tolerance_is_inclusive() -> None:
    assert ls.is_monotonic([0.5, 1.0], tolerance=0.5)


def test_barriers_of_a_hump() -> None:
    values, alphas = [1.0, 2.0, 4.0, 1.0, 0.0], [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ls.barrier(values, "mean", alphas) == 3.5
    assert ls.barrier(values, "chord", alphas) == 3.5
    assert ls.barrier(values, "max", alphas) == 3.0
    assert ls.barrier(values, "midpoint", alphas) == 3.5
    assert ls.barrier(values, "signed", alphas) == -3.5


def test_signed_barrier_is_positive_where_the_path_finds_better_points() -> None:
    assert ls.barrier([1.0, 0.25, 1.0], "signed") == 0.75


def test_chord_barrier_weighs_both_ends_by_alpha() -> None:
    assert ls.barrier([1.0, 1.0, 0.0], "chord", [0.0, 0.75, 1.0]) == 0.75
    assert ls.barrier([2.0, 1.0, 0.0], "chord") == 0.0


def test_barrier_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(ValueError, match=r"α = 0\.5"):
        ls.barrier([1.0, 0.5, 0.2, 0.0], "midpoint")
    with pytest.raises(ValueError, match="'middle'"):
        ls.barrier([1.0, 0.0], "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from exactly 0 to exactly 1"):
        ls.barrier([1.0, 0.0], "max", [0.0, 0.9])


def test_convexity_of_one_minus_alpha_to_the_sixth_is_zero() -> None:
    alphas = np.linspace(0, 1, 25)
    assert ls.readings.global_convexity(1 - alphas**6, alphas) == 0
    assert ls.readings.local_convexity(1 - alphas**6) == 0
    assert (
        ls.readings.global_convexity((1 - alphas) ** 2, alphas) == ls.readings.local_convexity((1 - alphas) ** 2) == 1
    )


def test_area_of_known_curves() -> None:
    alphas = np.linspace(0, 1, 1001)
    assert ls.readings.area(3 - 2 * alphas, alphas) == pytest.approx(0.5, abs=1e-12)
    assert ls.readings.area((1 - alphas) ** 2, alphas) == pytest.approx(1 / 3, abs=1e-6)  # trapezoid error h²/6
    assert ls.readings.area(1 - alphas**6, alphas) == pytest.approx(6 / 7, abs=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.1, 0.5])
def test_plateau_of_a_power(eps: float) -> None:
    alphas = np.linspace(0, 1, 4001)
    assert ls.readings.plateau(1 - alphas**6, eps, alphas) == pytest.approx(
        eps ** (1 / 6), abs=2.5e-4 + (0.01 if eps == 0 else 0)
    )


def test_plateau_ends_where_the_curve_leaves_upwards_too() -> None:
    assert ls.readings.plateau([1.0, 1.2, 0.0], eps=0.1) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="share of the drop"):
        ls.readings.plateau([1.0, 0.0], eps=1.0)


def test_shares_of_a_drop_that_is_not_there_are_undefined() -> None:
    rising = [0.0, 0.5, 1.0]
    assert all(
        np.isnan([ls.readings.relative_rise(rising), ls.readings.area(rising), ls.readings.plateau(rising, 0.1)])
    )


def test_max_step_may_be_negative_and_shrinks_with_the_grid() -> None:
    assert ls.readings.max_step([3.0, 2.0, 0.0]) == -1.0
    assert ls.readings.max_step([0.0, 1.0]) == 2 * ls.readings.max_step([0.0, 0.5, 1.0])


def test_a_sign_change_of_the_derivative_is_a_hidden_rise() -> None:
    # L(α) = (α − 0.9)² on five points: the last step falls from 0.0225 to 0.01, though L rises from 0.9 on.
    alphas = np.linspace(0, 1, 5)
    found = ls.readings.hidden_rises((alphas - 0.9) ** 2, 2 * (alphas - 0.9), alphas)
    assert [(rise.left, rise.right) for rise in found] == [(0.75, 1.0)]
    assert found[0].estimate == pytest.approx(0.01, rel=1e-12)  # a cubic is exact on a parabola
    assert ls.max_rise((alphas - 0.9) ** 2) == 0


@pytest.mark.parametrize(("slope", "rises"), [(1e-12, 0), (-1e-12, 0), (1e-5, 1)])
def test_rounding_of_a_derivative_that_is_zero_is_no_rise(slope: float, rises: int) -> None:
    # L(α) = (1 − α)² ends in its minimum. A rise is about slope² / 4: 2.5e-11 from a slope of 1e-5, 2.5e-25 from 1e-12.
    alphas = np.linspace(0, 1, 201)
    derivative = -2 * (1 - alphas)
    derivative[-1] = slope
    assert len(ls.readings.hidden_rises((1 - alphas) ** 2, derivative, alphas)) == rises


def test_a_rise_that_the_points_show_is_not_hidden() -> None:
    assert ls.readings.hidden_rises([0.0, 1.0], [1.0, 1.0]) == ()


def test_an_unknown_derivative_hides_nothing() -> None:
    assert ls.readings.hidden_rises([1.0, 0.0], [float("nan"), 1.0]) == ()
    with pytest.raises(ValueError, match=r"one derivative per loss \(2\)"):
        ls.readings.hidden_rises([1.0, 0.0], [1.0])


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0]]])
def test_too_few_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two losses"):
        ls.max_rise(values)


def test_alphas_must_fit() -> None:
    with pytest.raises(ValueError, match="3 increasing alphas"):
        ls.rises([1.0, 0.5, 0.0], [0.0, 1.0, 0.5])
