"""The constants of GELU and SiLU, proved by interval arithmetic on all of the line; one made too small is not."""

import mpmath
import pytest
import torch
from mpmath import iv, mp

from lerpscape.certificates import smooth_functions

# Beyond it everything decays like (3 + x)³e^(−x) at most, which falls from 12 on and is below 0.03 there.
TAIL = 12


def proved_below(function, limit, left, right, depth=0):
    """Whether function ≤ limit on [left, right], by enclosing it and halving where that does not show."""
    if function(iv.mpf([left, right])).b <= limit:
        return True
    middle = 0.5 * (left + right)
    if depth > 30 or function(iv.mpf(middle)).a > limit:
        return False
    return proved_below(function, limit, left, middle, depth + 1) and proved_below(
        function, limit, middle, right, depth + 1
    )


def normal(x):
    return iv.exp(-x * x / 2) / iv.sqrt(2 * iv.pi)


def below(x):
    """The normal distribution's Φ, which increases; mpmath's own value is good to far more than 1e-12."""
    margin = mp.mpf(10) ** -12
    return iv.mpf([mp.ncdf(mp.mpf(x.a)) - margin, mp.ncdf(mp.mpf(x.b)) + margin])


def sigmoid(x):
    return 1 / (1 + iv.exp(-x))


def silu_third(x):
    s = sigmoid(x)
    first = s * (1 - s)
    return first * (3 * (1 - 2 * s) + x * (1 - 6 * first))


def silu_second(x):
    s = sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


# f = x/2 + an even function: f′(x) + f′(−x) = 1, |f″| and |f‴| are even, so that x ≥ 0 is enough.
CASES = {
    "GELU": (
        lambda x: below(x) + x * normal(x),
        lambda x: normal(x) * (2 - x * x),
        lambda x: normal(x) * x * (x * x - 4),
    ),
    "SILU": (lambda x: sigmoid(x) + x * sigmoid(x) * sigmoid(-x), silu_second, silu_third),
}


@pytest.mark.parametrize("name", CASES)
def test_the_constants_hold_everywhere(name):
    one = torch.ones(1)
    low, high, second, third = (float(bound) for bound in getattr(smooth_functions, name).around(-one, one))
    first_of, second_of, third_of = CASES[name]
    for function, limit in (
        (first_of, high),
        (lambda x: 1 - first_of(x), high),  # f′(−x)
        (lambda x: -first_of(x), -low),
        (second_of, second),
        (lambda x: -second_of(x), second),
        (third_of, third),
        (lambda x: -third_of(x), third),
    ):
        assert proved_below(function, limit, 0.0, float(TAIL))
    assert (3 + TAIL) ** 3 * mpmath.exp(-TAIL) < min(second, third, high - 1, -low)


@pytest.mark.parametrize("name", CASES)
def test_constants_one_per_cent_smaller_are_not_proved(name):
    one = torch.ones(1)
    _, _, second, third = (float(bound) for bound in getattr(smooth_functions, name).around(-one, one))
    _, second_of, third_of = CASES[name]
    assert not proved_below(second_of, 0.99 * second, 0.0, 4.0)
    assert not (
        proved_below(third_of, 0.99 * third, 0.0, 4.0) and proved_below(lambda x: -third_of(x), 0.99 * third, 0.0, 4.0)
    )
