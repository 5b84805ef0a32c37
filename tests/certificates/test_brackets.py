"""The bracket of the largest rise, from bounds at points and of slopes between them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lerpscape.certificates.brackets import Piece, Point, bracket

NUMBERS = st.integers(-8, 8).map(lambda n: n / 4)


def curve(slopes):
    """A piecewise linear curve with four pieces for each interval: its corners, and the largest rise, exactly."""
    corners = [Fraction(1)]
    for slope in slopes:
        corners.append(corners[-1] + Fraction(slope) / len(slopes))
    low, rise = corners[0], Fraction(0)
    for corner in corners:
        low, rise = min(low, corner), max(rise, corner - min(low, corner))
    return corners, rise


@given(
    slopes=st.lists(st.tuples(*[NUMBERS] * 4), min_size=1, max_size=6),
    slack=st.sampled_from([0.0, 0.1, 1.0, 10.0, math.inf]),
    margin=st.sampled_from([0.0, 1e-9, 0.05]),
)
@example(slopes=[(0.0, 0.0, 0.0, 0.25), (0.0,) * 4, (0.0,) * 4], slack=0.0, margin=0.0)
@settings(max_examples=300, deadline=None)
def test_the_largest_rise_is_between_the_bounds(slopes, slack, margin):
    flat = [each for four in slopes for each in four]
    corners, rise = curve(flat)
    edges = np.linspace(0, 1, len(slopes) + 1)
    points = [
        Point(float(edge), float(value) - margin - 1e-15, float(value) + margin + 1e-15)
        for edge, value in zip(edges, corners[::4], strict=True)
    ]
    pieces = [
        Piece(float(left), float(right), (min(four) - slack,) * 2, (max(four) + slack,) * 2)
        for four, left, right in zip(slopes, edges[:-1], edges[1:], strict=True)
    ]
    found = bracket(points, pieces)
    assert found.lower <= rise <= found.upper
    for index, inside in enumerate(found.inside):
        part = corners[4 * index : 4 * index + 5]
        assert max(b - a for i, a in enumerate(part) for b in part[i:]) <= inside
    if all(max(piece.high) <= 0 for piece in pieces):
        assert found.upper == 0
    if found.upper > 0:
        worst = max(range(len(pieces)), key=lambda index: found.reached[index])
        assert found.inside[found.culprit[worst]] > 0


def test_lines_bound_a_parabola_almost_exactly():
    # L = (α − ¾)² has L′ = 2α − 3/2 and a largest rise of 1/16, at the end
    points = [Point(a, (a - 0.75) ** 2, (a - 0.75) ** 2) for a in (0.0, 0.5, 1.0)]
    pieces = [Piece(a, a + 0.5, (2 * a - 1.5, 2 * a - 0.5), (2 * a - 1.5, 2 * a - 0.5)) for a in (0.0, 0.5)]
    found = bracket(points, pieces)
    assert found.lower == 0
    assert found.upper == pytest.approx(1 / 16, rel=1e-12)
    assert found.culprit[1] == 1
    assert [piece.direction for piece in pieces] == ["falling", "undecided"]


def test_directions():
    assert Piece(0, 1, (0.0, 0.0), (0.0, 0.0)).direction == "flat"
    assert Piece(0, 1, (0.0, 1.0), (2.0, 1.0)).direction == "rising"
    assert Piece(0, 1, (-math.inf,) * 2, (math.inf,) * 2).direction == "undecided"
