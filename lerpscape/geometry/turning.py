"""How far sequences of vectors turn, in radians: angles that are accurate near 0 and near π, and their sums.

In numpy and float64. Sequences have shape (points, rows, size), one row per example, or (points, size) for a single
one. A vector of zeros has no direction: it is skipped, and the vectors before and after it are compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain

# Memory for the dot products of all pairs of a sequence, which are computed in strips.
STRIP_BYTES = 1 << 24

# An output that changes by less than this many units of rounding counts as not moving.
STILL = 16


def directions(vectors: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Unit vectors along the first axis, and where there is one.

    v̂ = v / ‖v‖, shape as given. A vector of zeros gets the direction before it or, at the beginning of the sequence,
    the one after it; the second result, shape (points, rows), is False there. Rows without any direction are zero.

    >>> directions(np.array([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]]))[0].tolist()
    [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    """
    values = np.asarray(vectors, dtype=np.float64)
    largest = np.abs(values).max(axis=-1, keepdims=True)
    moves = largest[..., 0] > 0
    units = values / np.where(largest > 0, largest, 1)  # scaled first: squares neither overflow nor vanish
    lengths = np.linalg.norm(units, axis=-1, keepdims=True)
    units = units / np.where(lengths > 0, lengths, 1)
    if moves.all():
        return units, moves
    positions = np.arange(len(values)).reshape(-1, *[1] * (moves.ndim - 1))
    latest = np.maximum.accumulate(np.where(moves, positions, -1), axis=0)
    source = np.where(latest < 0, moves.argmax(axis=0), latest)
    return np.take_along_axis(units, source[..., None], axis=0), moves


def angle(first: Floats, second: Floats) -> Floats:
    """Angle between unit vectors: 2·atan2(‖u − v‖, ‖u + v‖), in radians, shape without the last axis.

    Accurate to rounding from 0 to π, unlike the arc cosine of a dot product, which loses half the digits at both ends.
    0 where a vector is zero.

    Source: Kahan (2006), "How futile are mindless assessments of roundoff in floating-point computation?", §12.

    >>> float(angle(np.array([1.0, 0.0]), np.array([1.0, 1e-12])))
    1e-12
    """
    angles: Floats = 2 * np.arctan2(
        np.linalg.norm(first - second, axis=-1),
        np.linalg.norm(first + second, axis=-1),
    )
    return np.where((first != 0).any(axis=-1) & (second != 0).any(axis=-1), angles, 0.0)


def turning(vectors: Floats) -> Floats:
    """Total angle through which a sequence of vectors turns: Σ_i angle(v_i, v_{i+1}), in radians, shape (rows,).

    For velocities z′(α_i) it is a lower bound of the Gauss length of the path z, kinks included: more points never
    lower it (triangle inequality on the sphere), and it converges to the true value. Vectors with one component turn by
    π whenever their sign changes.

    Raises `ValueError` for fewer than two vectors.

    Source: derived; the length of the spherical polygon inscribed in the curve of unit tangents.

    >>> square = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> float(turning(square)) / np.pi
    1.5
    """
    units, _ = directions(_sequence(vectors))
    total: Floats = angle(units[:-1], units[1:]).sum(axis=0)
    return total


def max_angle(vectors: Floats) -> Floats:
    """Largest angle between any two vectors of a sequence: max over s < t, in radians, shape (rows,).

    At most the turning, and at most π. The pair is the one with the smallest dot product, which cannot distinguish
    angles that agree to 1e-8 rad; the angle of that pair is accurate.

    Raises `ValueError` for fewer than two vectors.

    Source: derived.

    >>> there_and_back = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    >>> float(turning(there_and_back)) / np.pi, float(max_angle(there_and_back)) / np.pi
    (0.5, 0.25)
    """
    units, _ = directions(_sequence(vectors))
    single = units.ndim == 2
    rows = np.ascontiguousarray((units[:, None] if single else units).swapaxes(0, 1))  # (rows, points, size)
    largest = np.empty(len(rows))
    strip = max(1, STRIP_BYTES // (8 * rows.shape[1]))
    for index, row in enumerate(rows):
        smallest, pair = np.inf, (0, 0)
        for begin in range(0, len(row), strip):
            products = row[begin : begin + strip] @ row.T
            position = int(products.argmin())
            one, other = divmod(position, len(row))
            if products[one, other] < smallest:
                smallest, pair = products[one, other], (begin + one, other)
        largest[index] = angle(row[pair[0]], row[pair[1]])
    return largest[0] if single else largest


def tangent_integral(velocity: Floats, acceleration: Floats, alphas: Floats) -> Floats:
    """Length of the curve of unit tangents by quadrature: ∫ ‖dv̂/dα‖ dα, in radians, shape (rows,).

    ‖dv̂/dα‖ = ‖z″ − v̂⟨v̂, z″⟩‖ / ‖z′‖, by the trapezoid rule on `alphas`, shape (points,). It misses kinks: where z′
    jumps, dv̂/dα is finite on both sides. Intervals with z′ = 0 at an end have no integrand and are left out.

    Raises `ValueError` for shapes that do not fit.

    Source: Lucas et al. (2021).

    >>> alphas = np.linspace(0, 1, 5)
    >>> circle = np.stack([-np.sin(alphas), np.cos(alphas)], axis=1)  # z′ on an arc of one radian
    >>> inward = np.stack([-np.cos(alphas), -np.sin(alphas)], axis=1)
    >>> float(tangent_integral(circle, inward, alphas))
    1.0
    """
    velocity, acceleration = _sequence(velocity), _sequence(acceleration)
    if velocity.shape != acceleration.shape or len(alphas) != len(velocity):
        raise ValueError(
            explain(
                expected="a velocity and an acceleration of one shape, at every alpha.",
                got=f"{velocity.shape}, {acceleration.shape} and {len(alphas)} alphas.",
                hint="Measure both on the same grid.",
            )
        )
    steps = np.diff(alphas).reshape(-1, *[1] * (velocity.ndim - 2))
    rate, moves = _tangent_rate(velocity, acceleration)
    kept = moves[:-1] & moves[1:]
    area: Floats = np.where(kept, steps * (rate[:-1] + rate[1:]) / 2, 0).sum(axis=0)
    return area


def secants(outputs: Floats, eps: float) -> Floats:
    """z(α_{i+1}) − z(α_i), shape (points − 1, rows, size); 0 where it is below rounding of the outputs.

    >>> secants(np.array([[[1.0]], [[1.5]], [[1.5 + 1e-15]]]), eps=2.2e-16).ravel()
    array([0.5, 0. ])
    """
    steps = np.diff(outputs, axis=0)
    lengths = np.linalg.norm(outputs, axis=-1)
    still = np.linalg.norm(steps, axis=-1) <= STILL * eps * np.maximum(lengths[:-1], lengths[1:])
    return np.where(still[..., None], 0.0, steps)


def rounding(vectors: Floats, noise: float | Floats) -> Floats:
    """How much of the turning may be rounding, if directions have errors of about `noise` rad; shape (rows,).

    Independent errors ε and η of two directions make their angle a appear as √(a² + ε² + η²), so the result is
    Σ_i a_i − √max(a_i² − ε² − η², 0), in radians. It is small if steps turn by much more than the noise, and all of the
    turning if they turn by less. `noise` is one number, or one per vector of shape (points, rows).

    >>> straight = np.array([[1.0, 0.0], [1.0, 1e-8], [1.0, 0.0]])
    >>> float(rounding(straight, noise=1e-7)) == float(turning(straight))
    True
    """
    units, _ = directions(_sequence(vectors))
    squares = np.broadcast_to(np.square(noise), units.shape[:-1])
    angles = angle(units[:-1], units[1:])
    shares: Floats = angles - np.sqrt(np.maximum(angles**2 - squares[:-1] - squares[1:], 0))
    total: Floats = shares.sum(axis=0)
    return total


def every_second(length: int) -> NDArray[np.intp]:
    """Positions of every second point of a grid, and of the last.

    >>> every_second(5), every_second(6)
    (array([0, 2, 4]), array([0, 2, 4, 5]))
    """
    kept = np.arange(0, length, 2)
    return kept if (length - 1) % 2 == 0 else np.append(kept, length - 1)


def _tangent_rate(velocity: Floats, acceleration: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """‖dv̂/dα‖ at every point, and whether z′ ≠ 0 there."""
    scale = np.abs(velocity).max(axis=-1, keepdims=True)
    moves = scale[..., 0] > 0
    scale = np.where(scale > 0, scale, 1)
    scaled, change = velocity / scale, acceleration / scale
    speed = np.where(moves, np.linalg.norm(scaled, axis=-1), 1)[..., None]
    unit = scaled / speed
    across = change - unit * (unit * change).sum(axis=-1, keepdims=True)
    return np.where(moves, np.linalg.norm(across / speed, axis=-1), 0.0), moves


def _sequence(vectors: Floats) -> Floats:
    values = np.asarray(vectors)
    if values.ndim not in (2, 3) or len(values) < 2:
        raise ValueError(
            explain(
                expected="at least two vectors in order: shape (points, size) or (points, rows, size).",
                got=f"shape {values.shape}.",
                hint="Use a grid with more α, or give a vector along the last axis.",
            )
        )
    return values
