"""No output, loss or derivative ever leaves its enclosure; an enclosure made slightly too small is caught."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_networks import ACTIVATIONS, MORE_ACTIVATIONS, network, outputs

import lerpscape.certificates.affine_maps as affine_maps
import lerpscape.certificates.enclosures as enclosures
import lerpscape.certificates.layer_rules as layer_rules
import lerpscape.certificates.loss_enclosures as loss_enclosures
import lerpscape.certificates.noises as noises
import lerpscape.certificates.smooth_functions as smooth_functions
import lerpscape.certificates.taylor_models as taylor_models
from lerpscape.certificates.layer_rules import RULES
from lerpscape.certificates.loss_enclosures import LOSS_RULES
from lerpscape.certificates.network import Network
from lerpscape.certificates.taylor_models import Form, TaylorModel
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import EndStatistics
from lerpscape.networks.layer_kinds import PAD
from lerpscape.networks.losses import LOSSES
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.line import Line

# On first use of forward mode torch 2.13 warns about its own torch.jit.script.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*not yet implemented the batching rule"),  # the oracle is slow for Mish
]
LOSS_NAMES = tuple(LOSS_RULES)


def targets_of(loss, y, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    if loss == "cross_entropy":
        soft = torch.rand(len(y), 3, generator=generator, dtype=torch.float64)
        return soft / soft.sum(1, keepdim=True) if seed % 5 == 4 else y
    if loss == "binary_cross_entropy":
        return torch.rand(outputs.shape, generator=generator, dtype=torch.float64).round(decimals=seed % 2)
    return torch.randn(outputs.shape, generator=generator, dtype=torch.float64)


def escape(form, values, shifts):
    """How far values (shifts, …) leave a form, in units of the oracle's own rounding; at most 1 for a sound one."""
    shape = (-1, *([1] * form.centre.dim()))
    tilt = torch.zeros_like(form.centre) if form.tilt is None else form.tilt
    remainder = torch.zeros_like(form.centre) if form.remainder is None else form.remainder
    error = (values - form.centre - shifts.view(shape) * tilt).abs() - remainder
    return float((error / (1e-11 * (1 + values.abs()))).max())


def worst_escape(seed, points=64, widths=(0.5, 0.25, 2.0**-5, 2.0**-9), activations=ACTIVATIONS):
    """The furthest that outputs, losses and derivatives of a random network leave their enclosures."""
    model, end, x, y, policy = network(seed, activations=activations)
    line = Line(model, end)
    loss = LOSS_NAMES[seed // 3 % len(LOSS_NAMES)]
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    with undisturbed(model):
        on_path = ModelOnPath(model, line, "cpu", torch.float64)
        traced = Network(on_path, policy)
        fixed = on_path.end_statistics() if isinstance(policy, EndStatistics) else {}
        velocity = {name: moves for name, moves in on_path.velocity(0.5).items() if name not in fixed}
        for reach in widths:
            places = int(0.5 / reach)
            middle = reach * (2 * int(torch.randint(places, (1,), generator=generator)) + 1)
            at = on_path.at(middle) | fixed
            shifts = torch.cat([torch.linspace(-1, 1, points - 2), torch.rand(2, generator=generator)]).double() * reach
            z, rate = outputs(model, at, velocity, x, shifts)
            enclosed = traced.enclose(x, traced.parameters(middle, reach), reach)
            worst = max(worst, escape(enclosed.value, z, shifts), escape(enclosed.slope, rate, shifts))
            targets = targets_of(loss, y, z[0], seed)
            slope = LOSS_RULES[loss].slope(enclosed, targets)

            def values(z, loss=loss, targets=targets):
                return torch.stack([LOSSES[loss].values(each, targets) for each in z])

            with torch.no_grad():
                true, change = torch.func.jvp(values, (z,), (rate,))
            for bound, tilt, side in ((slope.low, slope.low_tilt, 1), (slope.high, slope.high_tilt, -1)):
                outside = side * (bound + shifts.view(-1, 1) * tilt - change) / (1e-11 * (1 + change.abs()))
                worst = max(worst, float(outside.max()))
            point = traced.enclose(x, traced.parameters(middle, 0.0), 0.0)
            value, error = LOSS_RULES[loss].value(point.value, targets)
            exact = values(outputs(model, at, velocity, x, torch.zeros(1).double())[0])[0]
            worst = max(worst, float((((value - exact).abs() - error) / (1e-13 * (1 + exact.abs()))).max()))
            assert torch.isfinite(true).all()
    return worst


@pytest.mark.parametrize("seed", [*range(36), 132])
def test_nothing_leaves_the_enclosure(seed):
    assert worst_escape(seed) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_nothing_leaves_the_enclosure_of_many_networks(block):
    for seed in range(100 + 30 * block, 130 + 30 * block):
        assert worst_escape(seed, points=300) <= 1, seed


@pytest.mark.parametrize("seed", range(300, 324))
def test_nothing_leaves_the_enclosure_with_other_activations(seed):
    assert worst_escape(seed, activations=MORE_ACTIVATIONS) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_nothing_leaves_the_enclosure_of_many_networks_with_other_activations(block):
    for seed in range(400 + 30 * block, 430 + 30 * block):
        assert worst_escape(seed, points=300, activations=MORE_ACTIVATIONS) <= 1, seed


def smaller(form, share):
    return Form(form.centre, form.tilt, None if form.remainder is None else form.remainder * share, form.reach)


def small_hull(low, high, reach):
    return smaller(taylor_models.hull(low, high, reach), 0.8)


ORIGINAL = {
    "smooth": enclosures.smooth,
    "multiply": taylor_models.multiply_forms,
    "square": affine_maps._half_square,
    "softmax": loss_enclosures._softmax_slope,
    "products": affine_maps._products,
    "kink": enclosures.kink,
    "largest": enclosures.largest,
    "effect": noises.signed_effect,
    "joined": noises.joined,
}


def small_smooth(model, function):
    found = ORIGINAL["smooth"](model, function)
    slope = None if found.slope is None else smaller(found.slope, 0.7)
    return taylor_models.TaylorModel(smaller(found.value, 0.7), slope)


def small_product(one, other):
    return smaller(ORIGINAL["multiply"](one, other), 0.6)


def small_square(square, reach):
    return ORIGINAL["square"](square, 0.9 * reach)


def small_softmax(*arguments):
    low, low_tilt, high, high_tilt = ORIGINAL["softmax"](*arguments)
    room = 0.15 * (high - low)
    return low + room, low_tilt, high - room, high_tilt


def half_of_moved(*arguments):
    """Half of what the uncertainty of the inputs does through the moving weights."""
    products = ORIGINAL["products"](*arguments)
    return replace(products, moved=None if products.moved is None else 0.5 * products.moved)


def small_gap(model, slope_below):
    """The value of a switching unit with a little less than the gap of the chord."""
    found = ORIGINAL["kink"](model, slope_below)
    return taylor_models.TaylorModel(smaller(found.value, 0.9), found.slope)


def small_largest(model):
    found = ORIGINAL["largest"](model)
    return taylor_models.TaylorModel(smaller(found.value, 0.5), found.slope)


def small_effect(noise, weights):
    found = ORIGINAL["effect"](noise, weights)
    return None if found is None else 0.6 * found


def small_sources(fresh, *others):
    """New sources of half their size."""
    return ORIGINAL["joined"](None if fresh is None else 0.5 * fresh, *others)


MUTANTS = [
    (loss_enclosures, "signed_effect", small_effect),
    (taylor_models, "joined", small_sources),
    (enclosures, "joined", small_sources),
    (affine_maps, "joined", small_sources),
    (enclosures, "hull", small_hull),
    (layer_rules, "smooth", small_smooth),
    (enclosures, "multiply_forms", small_product),
    (affine_maps, "_half_square", small_square),
    (affine_maps, "_products", half_of_moved),
    (layer_rules, "kink", small_gap),
    (layer_rules, "largest", small_largest),
    (loss_enclosures, "_softmax_slope", small_softmax),
    (loss_enclosures, "multiply_forms", small_product),
]


@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    MUTANTS,
    ids=[f"{module.__name__.split('.')[-1]}-{mutant.__name__}" for module, _, mutant in MUTANTS],
)
def test_an_enclosure_made_too_small_is_caught(monkeypatch, module, name, mutant):
    monkeypatch.setattr(module, name, mutant)
    assert any(worst_escape(seed) > 1 for seed in range(60))


FUNCTIONS = {
    "TANH": (smooth_functions.TANH, torch.tanh),
    "SIGMOID": (smooth_functions.SIGMOID, torch.sigmoid),
    "GELU": (smooth_functions.GELU, F.gelu),
    "SILU": (smooth_functions.SILU, F.silu),
    "RSQRT": (smooth_functions.RSQRT, torch.rsqrt),
    "ELU": (smooth_functions.ELU, F.elu),
    **{
        f"softplus {beta} {threshold}": (
            smooth_functions.softplus(beta, threshold),
            partial(F.softplus, beta=beta, threshold=threshold),
        )
        for beta, threshold in ((1.0, 20.0), (2.5, 20.0), (0.3, math.inf), (1.5, 2.0))
    },
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bounds_of_derivatives_hold_on_random_intervals(name):
    function, kind = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(400, generator=generator, dtype=torch.float64) * 3
    low = low.abs() + 0.01 if name == "RSQRT" else low
    high = low + torch.rand(400, generator=generator, dtype=torch.float64) ** 3 * 4
    x = low + (high - low) * torch.linspace(0, 1, 300, dtype=torch.float64).unsqueeze(1)

    def derivative(f):
        def run(values):
            values = values.detach().requires_grad_()
            return torch.autograd.grad(f(values).sum(), values, create_graph=True)[0]

        return run

    f, f1, f2, *_ = function.at(x)
    first, second = derivative(kind)(x).detach(), derivative(lambda values: function.at(values)[1])(x).detach()
    third = derivative(lambda values: function.at(values)[2])(x).detach()
    for mine, exact in ((f, kind(x)), (f1, first), (f2, second)):
        np.testing.assert_allclose(mine, exact, rtol=1e-9, atol=1e-12)
    low1, high1, most2, most3 = function.around(low, high)
    assert bool((first >= low1 - 1e-12 * first.abs()).all())
    assert bool((first <= high1 + 1e-12 * first.abs()).all())
    for exact, most in ((second, most2), (third, most3)):
        assert bool((exact.abs() <= most * (1 + 1e-9) + 1e-9).all())


def test_nothing_is_known_of_a_second_derivative_over_its_jump():
    """The derivative of ELU about 0, and of a softplus about its threshold, is no line with a small remainder."""
    low, high = torch.tensor([-0.1, 0.0, 0.1, -0.2]), torch.tensor([0.1, 0.3, 0.2, 0.0])
    third = smooth_functions.ELU.around(low, high)[3]
    assert third.isinf().tolist() == [True, True, False, False]
    of_softplus = smooth_functions.softplus(2.0, 3.0).around(low + 1.5, high + 1.5)
    assert [bound.isinf().tolist() for bound in of_softplus] == [[True, True, False, True]] * 4


def test_padding_adds_exact_zeros_within_each_example():
    def drawn(seed):
        return torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    form = Form(drawn(0), drawn(1), drawn(2), reach=0.25)
    pad = RULES[PAD]
    found = pad(TaylorModel(form, form), (1, 0, 0, 2))
    for part in (found.value, found.slope):
        for name in ("centre", "tilt", "remainder"):
            padded = getattr(part, name)
            assert torch.equal(padded[:, :3, 1:], getattr(form, name))
            assert padded.shape == (2, 5, 5) and not padded[:, 3:].any() and not padded[:, :, 0].any()
    with pytest.raises(ValueError, match="padding with zeros"):
        pad(TaylorModel(form, None), (1, 1), "constant", 0.5)
    with pytest.raises(ValueError, match="mode='circular'"):
        pad(TaylorModel(form, None), (1, 1), mode="circular")
    with pytest.raises(ValueError, match="padding within an example"):
        pad(TaylorModel(form, None), (0, 0, 0, 0, 0, 1))
