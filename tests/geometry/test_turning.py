"""Angles of sequences of vectors, against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from lerpscape.geometry.turning import angle, directions, every_second, max_angle, rounding, tangent_integral, turning

pytestmark = pytest.mark.kernels

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
lengths = st.integers(2, 12)


def random_vectors(seed: int, points: int, size: int, rows: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((points, rows, size))


def arc(phi: float, points: int = 65) -> np.ndarray:
    angles = phi * np.linspace(0, 1, points) ** 1.5
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("phi", [1e-9, 0.1, 1.0, math.pi / 2, math.pi, 5.0, 2 * math.pi, 6 * math.pi])
def test_an_arc_turns_by_its_angle(phi: float) -> None:
    assert_allclose(turning(arc(phi)), phi, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("exponent", range(1, 16))
def test_angles_next_to_0_and_pi_keep_all_their_digits(exponent: int) -> None:
    small = 10.0**-exponent
    vector = np.array([np.cos(small), np.sin(small)])
    assert_allclose(angle(np.array([1.0, 0.0]), vector), small, rtol=1e-12)
    assert_allclose(math.pi - angle(np.array([-1.0, 0.0]), vector), small, rtol=1e-12, atol=4e-16)


def test_one_component_turns_by_pi_at_every_change_of_sign() -> None:
    assert turning(np.array([[1.0], [3.0], [-1.0], [-2.0], [0.5]])) == 2 * math.pi
    assert max_angle(np.array([[1.0], [3.0], [-1.0]])) == math.pi


def test_a_vector_of_zeros_is_skipped() -> None:
    corner = np.array([[0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 0]], dtype=float)
    assert_allclose(turning(corner), math.pi / 2)
    assert_allclose(max_angle(corner), math.pi / 2)
    units, moves = directions(corner)
    assert moves.tolist() == [False, True, False, False, True, False]
    assert units.tolist() == [[1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    assert turning(np.zeros((4, 2))) == 0
    assert max_angle(np.zeros((4, 2))) == 0


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_size_does_not_matter_however_extreme(scale: float) -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert_allclose(turning(vectors * scale), math.pi / 2)
    assert_allclose(max_angle(vectors * scale), math.pi / 2)


@given(seeds, lengths, sizes)
@settings(max_examples=60, deadline=None)
def test_invariant_to_scaling_rotation_and_reversal(seed: int, points: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = random_vectors(seed, points, size)
    scaled = vectors * generator.uniform(0.01, 100, (points, 3, 1))
    rotation = np.linalg.qr(generator.standard_normal((size, size)))[0]
    for other in (scaled, vectors @ rotation, vectors[::-1], -vectors):
        assert_allclose(turning(other), turning(vectors), rtol=1e-9, atol=1e-9)
        assert_allclose(max_angle(other), max_angle(vectors), rtol=1e-6, atol=1e-6)


@given(seeds, st.integers(3, 12), sizes)
@settings(max_examples=60, deadline=None)
def test_more_points_never_lower_it(seed: int, points: int, size: int) -> None:
    vectors = random_vectors(seed, points, size)
    fewer = vectors[every_second(points)]
    assert (turning(fewer) <= turning(vectors) + 1e-12).all()
    assert (max_angle(fewer) <= max_angle(vectors) + 1e-7).all()


@given(seeds, lengths, sizes)
@settings(max_examples=60, deadline=None)
def test_the_largest_angle_against_all_pairs_one_by_one(seed: int, points: int, size: int) -> None:
    vectors = random_vectors(seed, points, size)
    units, _ = directions(vectors)
    slow = np.max([angle(units[s], units[t]) for s in range(points) for t in range(s + 1, points)], axis=0)
    assert_allclose(max_angle(vectors), slow, atol=1e-7)
    assert (max_angle(vectors) <= turning(vectors) + 1e-7).all()


def test_the_largest_angle_of_a_long_sequence_is_formed_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors(0, 50, 3)
    whole = max_angle(vectors)
    monkeypatch.setattr("lerpscape.geometry.turning.STRIP_BYTES", 8 * 50 * 7)
    assert_allclose(max_angle(vectors), whole, atol=1e-12)


def test_the_integral_of_a_helix_and_of_a_line() -> None:
    alphas = np.linspace(0, 1, 101)
    phase = 3 * alphas
    zero = np.zeros_like(alphas)
    velocity = np.stack([-3 * np.sin(phase), 3 * np.cos(phase), zero + 4], axis=1)
    acceleration = np.stack([-9 * np.cos(phase), -9 * np.sin(phase), zero], axis=1)
    assert_allclose(tangent_integral(velocity, acceleration, alphas), 9 / 5, rtol=1e-12)
    assert_allclose(turning(velocity), 9 / 5, rtol=1e-4)
    assert tangent_integral(np.ones((3, 2)), 5 * np.ones((3, 2)), alphas[:3]) < 1e-15


def test_the_integral_leaves_out_where_nothing_moves() -> None:
    alphas = np.linspace(0, 1, 5)
    velocity = np.array([[1.0, 0], [1, 0], [0, 0], [1, 0], [1, 0]])
    acceleration = np.array([[0.0, 1], [0, 1], [0, 1], [0, 1], [0, 1]])
    assert tangent_integral(velocity, acceleration, alphas) == 0.5


def test_noise_counts_as_rounding_only_where_steps_are_as_small() -> None:
    generator = np.random.default_rng(0)
    line = np.tile([1.0, 0.0, 0.0], (400, 1)) + 1e-6 * generator.standard_normal((400, 3))
    assert rounding(line, noise=1.5e-6) > 0.5 * turning(line)
    bend = arc(2.0, 400)
    noisy = bend + 1e-6 * generator.standard_normal(bend.shape)
    assert rounding(noisy, noise=1e-6) < 1e-6
    assert rounding(noisy, noise=np.full(400, 1e-6)) == rounding(noisy, noise=1e-6)


@pytest.mark.parametrize("vectors", [np.zeros((1, 2)), np.zeros(3), np.zeros((2, 2, 2, 2))])
def test_refuses_what_is_no_sequence_of_vectors(vectors: np.ndarray) -> None:
    for read in (turning, max_angle):
        with pytest.raises(ValueError, match="at least two vectors in order"):
            read(vectors)
    with pytest.raises(ValueError, match="one shape, at every alpha"):
        tangent_integral(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(2))
