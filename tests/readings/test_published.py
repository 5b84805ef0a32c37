"""Every published reading of a curve, against closed forms and the readings of a profile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lerpscape as ls
from lerpscape.base.arrays import Floats
from lerpscape.readings.published import Curve, published_readings
from lerpscape.readings.results import Readings


def read(loss: Floats, alphas: Floats | None = None, error: Floats | None = None, tolerance: float = 0.0) -> Readings:
    grid = np.linspace(0, 1, len(loss)) if alphas is None else alphas
    return published_readings(Curve(grid, np.asarray(loss, float), error, None), tolerance=tolerance, unit="nats")


def test_every_number_against_its_formula_by_hand() -> None:
    # Five points, a rise of 0.5 from ¼ to ½, and errors in % that do not move until the end.
    found = read(np.array([2.0, 1.0, 1.5, 0.5, 0.0]), error=np.array([90.0, 90, 90, 90, 10]))
    assert found.values() == {
        "max_rise": 0.5,
        "monotonic_0": 0.0,
        "monotonic_0.001": 0.0,
        "monotonic_0.01": 0.0,
        "rises": 1.0,
        "widest_rise": 0.5,
        "relative_rise": 0.25,
        "max_step": 0.5,
        "barrier_mean": 1.0,
        "barrier_mean_error": 40.0,
        "barrier_chord": 0.5,
        "barrier_max": 0.0,
        "barrier_midpoint": 0.5,
        "barrier_signed": -1.0,
        "barrier_signed_error": -40.0,
        "local_convexity": pytest.approx(2 / 3),
        "global_convexity": pytest.approx(2 / 3),
        "plateau_0.05": pytest.approx(0.025),
        "plateau_error_0.05": pytest.approx(0.7625),
        "area": pytest.approx(0.5),
    }
    # Half the grid, {0, ½, 1}: 2, 1.5, 0.
    assert found["max_rise"].half == 0.0
    assert found["max_rise"].sensitivity == -0.5
    assert found["barrier_chord"].half == 0.5
    assert found["local_convexity"].half == 0.0
    assert (found.points, found.half_points) == (5, 3)


def test_definitions_disagree_on_a_falling_curve_that_is_not_convex() -> None:
    """The mean of both ends lies below a monotone curve's start: a "barrier" where Lucas sees none."""
    alphas = np.linspace(0, 1, 25)
    found = read(1 - alphas**6)
    unobstructed, convex = found.disagreements[0], [each for each in found.disagreements if each.question == "convex"]
    assert {"max_rise", "max_step", "barrier_max"} <= set(unobstructed.yes)
    assert {"barrier_mean", "barrier_chord", "barrier_midpoint", "barrier_signed"} == set(unobstructed.no)
    assert convex == []  # both score 0
    assert found.decided_by_the_grid == ()
    assert any("no by barrier_mean" in sentence for sentence in found.sentences())


def test_a_rise_between_every_second_point_is_decided_by_the_grid() -> None:
    alphas = np.linspace(0, 1, 11)
    loss = 1 - alphas
    loss[5] += 0.2  # an odd point: half the grid never sees it
    found = read(loss)
    assert {"max_rise", "monotonic_0", "monotonic_0.001", "monotonic_0.01", "max_step"} <= set(
        found.decided_by_the_grid
    )
    assert "Another verdict on 6 of the 11 points: max_rise" in " ".join(found.sentences())


def test_the_tolerance_is_the_callers_and_in_the_unit_of_the_loss() -> None:
    loss = np.array([1.0, 0.5, 0.505, 0.2, 0.0])
    strict, forgiving = read(loss), read(loss, tolerance=0.01)
    assert (strict["max_rise"].verdict, forgiving["max_rise"].verdict) == (False, True)
    assert [strict[f"monotonic_{t}"].verdict for t in ("0", "0.001", "0.01")] == [False, False, True]
    with pytest.raises(ValueError, match="a tolerance ≥ 0"):
        read(loss, tolerance=-1)


def test_what_a_grid_or_a_curve_cannot_say_is_undefined() -> None:
    even = read(np.linspace(1, 0, 50))
    assert even["barrier_midpoint"].value is None  # 50 points have no ½
    assert even["barrier_midpoint"].verdict is None
    rising = read(np.linspace(0, 1, 5))
    assert rising["area"].value is None and rising["plateau_0.05"].value is None
    assert "plateau_error_0.05" not in rising.values()  # no accuracy was measured
    with pytest.raises(KeyError, match="Known: max_rise"):
        rising["min_delta"]
    with pytest.raises(ls.NonFiniteLoss):
        read(np.array([1.0, np.nan, 0.0]))


@given(st.lists(st.integers(-8, 8), min_size=3, max_size=30))
def test_half_is_the_reading_of_every_second_point(heights: list[int]) -> None:
    loss = np.array(heights, dtype=np.float64)
    grid = np.linspace(0, 1, len(loss))
    kept = sorted({*range(0, len(loss), 2), len(loss) - 1})
    found = read(loss)
    assert found["max_rise"].half == ls.max_rise(loss[kept])
    assert found["max_rise"].half <= found["max_rise"].value
    assert found["barrier_chord"].half == ls.barrier(loss[kept], "chord", grid[kept])
    assert found["local_convexity"].value == ls.readings.local_convexity(loss)
    assert {each.name for each in found if each.verdict is None} >= {"rises", "relative_rise", "area"}


def test_convexity_on_an_uneven_grid_looks_at_slopes() -> None:
    alphas = np.array([0.0, 0.1, 0.2, 0.9, 1.0])
    assert ls.readings.local_convexity((1 - alphas) ** 2, alphas) == 1
    assert ls.readings.local_convexity((1 - alphas) ** 2) < 1  # as if the grid were even
    assert ls.readings.local_convexity(1 - alphas**2, alphas) == 0


def test_to_pandas_and_to_dict_hold_every_row() -> None:
    found = read(np.array([2.0, 1.0, 1.5, 0.5, 0.0]))
    frame = found.to_pandas()
    assert frame["name"].tolist() == [each.name for each in found]
    assert frame["sensitivity"].tolist()[0] == -0.5
    saved = found.to_dict()
    assert saved["rows"][0]["source"] == "Lucas et al. 2021"
    assert saved["decided_by_the_grid"][0] == "max_rise"
    assert replace(found, tolerance=0.0) == found
