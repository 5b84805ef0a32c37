"""Small piecewise-linear networks in rational arithmetic: where units switch along a line, and the loss between.

Between two switches the output is a polynomial in α, one degree higher for every layer, and the squared error one of
twice that degree. Switches and extrema are roots, isolated between those of the derivative and halved to 2⁻⁶⁴.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import lcm

import torch
from torch import nn

Polynomial = tuple[Fraction, ...]  # coefficients of 1, α, α², …
BITS = 64


def plus(one, other):
    if len(one) < len(other):
        one, other = other, one
    return (*(a + b for a, b in zip(one, other, strict=False)), *one[len(other) :])


def times(one, other):
    found = [Fraction(0)] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            found[i + j] += a * b
    return tuple(found)


def derivative(polynomial):
    return tuple(k * c for k, c in enumerate(polynomial))[1:] or (Fraction(0),)


def value(polynomial, alpha):
    found = Fraction(0)
    for coefficient in reversed(polynomial):
        found = found * alpha + coefficient
    return found


def signs(polynomial):
    """The sign at k·2⁻⁶⁴ as a function of k, in integers."""
    scale = lcm(*(c.denominator for c in polynomial))
    whole = [int(c * scale) << BITS * (len(polynomial) - 1 - i) for i, c in enumerate(polynomial)]

    def sign(k):
        found = 0
        for coefficient in reversed(whole):
            found = found * k + coefficient
        return (found > 0) - (found < 0)

    return sign


def changes(polynomial, left, right):
    """Where the polynomial changes its sign in (left, right), to the 2⁻⁶⁴ below or exactly; all in units of 2⁻⁶⁴."""
    if not any(polynomial[1:]):
        return []
    sign = signs(polynomial)
    found = []
    for low, high in pairwise([left, *changes(derivative(polynomial), left, right), right]):
        at_low, at_high = sign(low), sign(high)
        if at_low == 0 and low > left:
            found.append(low)
        if at_low * at_high < 0:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if sign(middle) == at_low else (low, middle)
            found.append(high)
    return found


@dataclass(frozen=True)
class Exact:
    """The mean loss on pieces: `cuts` has one number more than there are polynomials."""

    cuts: tuple[Fraction, ...]
    polynomials: tuple[Polynomial, ...]

    def at(self, alpha):
        """The polynomial of the piece that an α is in."""
        index = max(i for i, cut in enumerate(self.cuts[:-1]) if cut <= alpha)
        return self.polynomials[index]

    @property
    def max_rise(self):
        """From the values at cuts and extrema."""
        lowest, found = None, Fraction(0)
        for polynomial, (left, right) in zip(self.polynomials, pairwise(self.cuts), strict=True):
            ends = int(left * 2**BITS), int(right * 2**BITS)
            inside = [Fraction(k, 2**BITS) for k in changes(derivative(polynomial), *ends)]
            for alpha in (left, *inside, right):
                loss = value(polynomial, alpha)
                lowest = loss if lowest is None else min(lowest, loss)
                found = max(found, loss - lowest)
        return found


def exact_curve(states, negative_slope, x, y):
    """The mean squared error of a network of linear layers on the line between two states, piece by piece."""
    layers = sorted({name.split(".")[0] for name in states[0]}, key=int)
    weights = []
    for layer in layers:
        rows = []
        for unit in range(len(states[0][f"{layer}.bias"])):
            ends = [[*s[f"{layer}.weight"][unit].tolist(), float(s[f"{layer}.bias"][unit])] for s in states]
            rows.append([(Fraction(a), Fraction(b) - Fraction(a)) for a, b in zip(*ends, strict=True)])
        weights.append(rows)
    below, whole = Fraction(negative_slope), 2**BITS

    def pieces(hidden, left, right, depth):
        """(left, right, outputs) in order; every entry of `hidden` is a polynomial."""
        before = [
            sum_of(times(w, h) for w, h in zip(row, (*hidden, (Fraction(1),)), strict=True)) for row in weights[depth]
        ]
        if depth == len(weights) - 1:
            return [(left, right, before)]
        cuts = sorted({left, right, *(k for unit in before for k in changes(unit, left, right))})
        found = []
        for low, high in pairwise(cuts):
            middle = Fraction(low + high, 2 * whole)
            active = [unit if value(unit, middle) >= 0 else times(unit, (below,)) for unit in before]
            found += pieces(active, low, high, depth + 1)
        return found

    every = []
    for row, wanted in zip(x.tolist(), y.tolist(), strict=True):
        found = pieces([(Fraction(v),) for v in row], 0, whole, 0)
        losses = [
            sum_of(times(gap, gap) for z, t in zip(z, wanted, strict=True) for gap in [plus(z, (-Fraction(t),))])
            for *_, z in found
        ]
        every.append(([left for left, *_ in found], losses))
    cuts = sorted({whole, *(left for lefts, _ in every for left in lefts)})
    polynomials = []
    for left in cuts[:-1]:
        here = [losses[max(i for i, each in enumerate(lefts) if each <= left)] for lefts, losses in every]
        polynomials.append(times(sum_of(here), (Fraction(1, len(x)),)))
    return Exact(tuple(Fraction(k, whole) for k in cuts), tuple(polynomials))


def sum_of(polynomials):
    found = (Fraction(0),)
    for polynomial in polynomials:
        found = plus(found, polynomial)
    return found


def rectifier_network(seed):
    """Two ends of a network of one to three hidden layers with data; every number is a small multiple of 1/8."""
    generator = torch.Generator().manual_seed(seed)
    depth, negative_slope = 1 + seed % 3, (0.0, 0.0, 0.25)[seed // 3 % 3]
    inputs, examples = 1 + seed % 2, 2 + seed % 2
    sizes = [inputs, *[(4, 3, 2)[depth - 1]] * depth, 1 + seed // 2 % 2]
    layers = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()

    def drawn(*shape):
        return torch.randint(-12, 13, shape, generator=generator).double() / 8

    states = [{name: drawn(*tensor.shape) for name, tensor in model.state_dict().items()} for _ in range(2)]
    return model, states, negative_slope, drawn(examples, sizes[0]), drawn(examples, sizes[-1])
