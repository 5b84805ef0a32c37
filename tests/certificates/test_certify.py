"""certify() against closed forms, exact breakpoints, dense grids and the measured profile of a trained network."""

import copy
import math
import subprocess
import sys
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from random_networks import network
from torch import nn

import lerpscape as ls
from lerpscape.certificates import (
    affine_maps,
    enclosures,
    layer_rules,
    loss_enclosures,
    mean_bounds,
    moving_parameters,
    taylor_models,
)
from lerpscape.certificates.loss_enclosures import LOSS_RULES
from lerpscape.certificates.network import Network
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.undisturbed import undisturbed

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def scalar_line(start, end):
    return ls.Line({"weight": double([start])}, {"weight": double([end])})


SCALAR = nn.Linear(1, 1, bias=False).double()


def test_a_parabola_with_its_minimum_inside():
    x = torch.ones(4, 1, dtype=torch.float64)
    found = ls.certify(SCALAR, scalar_line(0.0, 1.0), [(x, 0.75 * x)], loss="squared_error")
    assert found.verdict == "violated"
    assert found.lower <= 1 / 16 <= found.upper <= 1.25 * found.lower
    assert (found.lowest, found.highest) == (0.75, 1.0)
    assert "Not monotonic, proved" in found.summary


def test_an_end_past_the_minimum_by_little():
    x = torch.ones(2, 1, dtype=torch.float64)
    past = 1e-3
    found = ls.certify(SCALAR, scalar_line(0.0, 1.0), [(x, (1 - past) * x)], loss="squared_error", gap=0.01)
    assert found.lower <= past**2 <= found.upper <= 1.01 * found.lower
    tolerant = ls.certify(SCALAR, scalar_line(0.0, 1.0), [(x, (1 - past) * x)], loss="squared_error", tolerance=1e-5)
    assert tolerant.verdict == "monotonic"
    assert tolerant.evaluations < found.evaluations


def test_an_end_at_the_minimum_stops_at_the_rounding():
    x = torch.ones(2, 1, dtype=torch.float64)
    found = ls.certify(SCALAR, scalar_line(0.0, 1.0), [(x, x)], loss="squared_error")
    assert found.lower == 0
    assert found.upper < 1e-12
    assert found.verdict in ("monotonic", "undecided")
    assert found.evaluations < 100
    assert ls.certify(SCALAR, scalar_line(0.0, 1.0), [(x, x)], loss="squared_error", tolerance=1e-9).verdict == (
        "monotonic"
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_a_plateau_is_proved_flat(loss):
    # dead units: their weights move, and nothing changes until the last layer's bias would
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    end = copy.deepcopy(model)
    with torch.no_grad():
        for each, scale in ((model, 1.0), (end, 2.0)):
            each[0].weight.copy_(-scale * torch.rand(3, 2))
            each[0].bias.fill_(-scale)
            each[2].weight.mul_(scale)
    x = torch.rand(5, 2).double()
    y = torch.zeros(5, dtype=torch.long) if loss == "cross_entropy" else torch.zeros(5, 3).double()
    found = ls.certify(model, ls.Line(model, end), [(x, y)], loss=loss)
    assert found.verdict == "monotonic"
    assert found.upper == 0
    assert set(found.direction) == {"flat"}
    assert found.certified_share == 1
    assert found.evaluations == 8


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_deep_product_is_a_polynomial(depth):
    # y = α^depth · x: L = (1.2α^depth − 1)², flat at 0, past its minimum at the end
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(depth)]).double()
    start, end = ({f"{i}.weight": double([c ** (1 / depth)]) for i in range(depth)} for c in (0.0, 1.2))
    x = torch.ones(3, 1, dtype=torch.float64)
    found = ls.certify(model, ls.Line(start, end), [(x, x)], loss="squared_error")
    assert found.verdict == "violated"
    assert found.lower <= 0.04 + 1e-12
    assert found.upper >= 0.04 - 1e-12
    grid = np.linspace(0, 1, 1001)
    low, high = found.loss_bounds(grid)
    true = (1.2 * grid**depth - 1) ** 2
    assert np.all((low <= true + 1e-12) & (true <= high + 1e-12))
    low, high = found.slope_bounds(grid)
    slope = 2 * (1.2 * grid**depth - 1) * 1.2 * depth * grid ** (depth - 1)
    assert np.all((low <= slope + 1e-12) & (slope <= high + 1e-12))


def exact_max_rise(polynomials, breaks):
    """Largest rise of a piecewise polynomial, from its values at breaks and at the roots of its derivative."""
    values = []
    for polynomial, left, right in zip(polynomials, breaks[:-1], breaks[1:], strict=True):
        roots = polynomial.deriv().roots()
        inside = sorted(float(r.real) for r in np.atleast_1d(roots) if abs(r.imag) < 1e-9 and left < r.real < right)
        values += [polynomial(left), *map(polynomial, inside), polynomial(right)]
    return max(value - min(values[: i + 1]) for i, value in enumerate(values))


@pytest.mark.parametrize("seed", range(12))
def test_exact_breakpoints_of_a_small_relu_network(seed):
    generator = torch.Generator().manual_seed(seed)
    ends = [torch.randn(4, 3, generator=generator, dtype=torch.float64) * (1 + seed % 3) for _ in range(2)]
    a, b = (each.numpy() for each in ends)  # rows: weight, bias, output weight of the unit
    x, y = torch.randn(5, generator=generator).double().numpy(), torch.randn(5, generator=generator).double().numpy()
    P = np.polynomial.Polynomial
    lines = [[P([a[k, i], b[k, i] - a[k, i]]) for i in range(3)] for k in range(4)]
    switches = {0.0, 1.0}
    for w, c, _ in lines:
        for each in x:
            root = (w * each + c).roots()
            switches |= {float(r) for r in root if 0 < r < 1}
    breaks = sorted(switches)
    polynomials = []
    for left, right in pairwise(breaks):
        loss = P([0.0])
        for inputs, wanted in zip(x, y, strict=True):
            active = [v * (w * inputs + c) for w, c, v in lines if (w * inputs + c)(0.5 * (left + right)) > 0]
            loss = loss + (sum(active, P([0.0])) - wanted) ** 2
        polynomials.append(loss / len(x))
    true = exact_max_rise(polynomials, breaks)

    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    states = [
        {"0.weight": each[:, :1], "0.bias": each[:, 1], "2.weight": each[:, 2].reshape(1, 4)}
        for each in map(torch.tensor, (a, b))
    ]
    data = [(torch.tensor(x).view(-1, 1), torch.tensor(y).view(-1, 1))]
    found = ls.certify(model, ls.Line(*states), data, loss="squared_error", gap=0.05)
    assert found.lower <= true + 1e-12
    assert true <= found.upper + 1e-12
    assert found.upper <= 1.06 * true + 1e-9
    grid = np.linspace(0, 1, 2001)
    exact = np.array([polynomials[max(0, np.searchsorted(breaks, t) - 1)](t) for t in grid])
    low, high = found.loss_bounds(grid)
    assert np.all(low <= exact + 1e-12)
    assert np.all(exact <= high + 1e-12)


def exact_loss(states, alpha, x, y):
    """Mean squared error of a ReLU network, in rational arithmetic."""

    def exact(values):
        rows = values.tolist()
        return [[Fraction(v) for v in row] for row in rows] if values.dim() == 2 else [Fraction(v) for v in rows]

    def at(name):
        one, other = (exact(state[name]) for state in states)
        if isinstance(one[0], list):
            return [
                [(1 - alpha) * p + alpha * q for p, q in zip(*r, strict=True)] for r in zip(one, other, strict=True)
            ]
        return [(1 - alpha) * p + alpha * q for p, q in zip(one, other, strict=True)]

    layers, total = sorted({name.split(".")[0] for name in states[0]}), Fraction(0)
    for row, wanted in zip(exact(x), exact(y), strict=True):
        for layer in layers:
            row = [
                sum((w * h for w, h in zip(weights, row, strict=True)), bias)
                for weights, bias in zip(at(f"{layer}.weight"), at(f"{layer}.bias"), strict=True)
            ]
            row = [max(value, Fraction(0)) for value in row] if layer != layers[-1] else row
        total += sum((value - target) ** 2 for value, target in zip(row, wanted, strict=True))
    return total / len(x)


def leaves_in_exact_arithmetic(seed):
    """Whether bounds are wrong for weights of very different sizes, which cancel: rounding is large."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    states = []
    for _ in range(2):
        state = {}
        for name, tensor in model.state_dict().items():
            sizes = 10.0 ** torch.randint(-5, 6, tensor.shape, generator=generator, dtype=torch.float64)
            state[name] = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * sizes
        states.append(state)
    x = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    found = ls.certify(model, ls.Line(*states), [(x, y)], loss="squared_error", budget=16)
    exact = [exact_loss(states, Fraction(alpha), x, y) for alpha in found.edges]
    wrong = [
        not Fraction(low) <= value <= Fraction(high)
        for value, low, high in zip(exact, found.loss_low, found.loss_high, strict=True)
    ]
    for index, (before, after) in enumerate(pairwise(exact)):
        half = Fraction(found.edges[index + 1] - found.edges[index]) / 2
        low, high = (half * sum(map(Fraction, line[index].tolist())) for line in (found.slope_low, found.slope_high))
        wrong.append(not low <= after - before <= high)
    return any(wrong)


def test_bounds_hold_in_exact_arithmetic():
    assert not any(leaves_in_exact_arithmetic(seed) for seed in range(6))


@pytest.mark.parametrize(
    ("put", "value", "usual"),
    [
        (torch.set_default_dtype, torch.bfloat16, torch.float32),
        (torch.set_float32_matmul_precision, "medium", "highest"),
        (torch.set_flush_denormal, True, False),
        (partial(torch.set_autocast_enabled, "cpu"), True, False),
    ],
    ids=["default dtype", "precision", "flushing", "autocast"],
)
def test_bounds_hold_in_exact_arithmetic_whatever_the_caller_switched(put, value, usual):
    put(value)
    try:
        assert not any(leaves_in_exact_arithmetic(seed) for seed in range(6))
    finally:
        put(usual)


def test_bounds_without_rounding_are_caught_by_exact_arithmetic(monkeypatch):
    for module in (
        affine_maps,
        enclosures,
        layer_rules,
        loss_enclosures,
        mean_bounds,
        moving_parameters,
        taylor_models,
    ):
        monkeypatch.setattr(module, "UNIT", 0.0)
    monkeypatch.setattr(Network, "compare", lambda *_: None)  # which would find out
    assert any(leaves_in_exact_arithmetic(seed) for seed in range(6))


@pytest.mark.parametrize("seed", range(8))
def test_a_dense_grid_never_leaves_the_certificate(seed):
    model, end, x, y, policy = network(seed)
    line = ls.Line(model, end)
    found = ls.certify(model, line, [(x[:3], y[:3]), (x[3:], y[3:])], batch_norm=policy, budget=40)
    profile = ls.profile(model, line, [(x, y)], alphas=501, batch_norm=policy, dtype=torch.float64)
    assert found.lower <= found.upper
    assert profile.max_rise <= found.upper + 1e-11
    for bounds, values in (
        (found.loss_bounds(profile.alphas), profile.loss),
        (found.slope_bounds(profile.alphas), profile.derivative),
    ):
        slack = 1e-10 * (1 + np.abs(values))
        assert np.all(bounds[0] <= values + slack)
        assert np.all(values <= bounds[1] + slack)


def digits_network(rate, epochs, past=1.0):
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data[:600] / 16.0), torch.tensor(digits.target[:600])
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)).double()
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    end = {name: torch.lerp(start[name], tensor, past) for name, tensor in model.state_dict().items()}
    return model, ls.Line(start, end), [(x, y)]


def test_a_network_trained_on_digits_is_proved_monotonic():
    model, line, data = digits_network(0.1, 10)
    found = ls.certify(model, line, data)
    assert found.verdict == "monotonic"
    assert found.upper == 0
    assert "never rises (over every α" in found.summary
    profile = ls.profile(model, line, data, alphas=201)
    assert profile.max_rise == 0
    low, high = found.loss_bounds(profile.alphas)
    assert np.all((low <= profile.loss) & (profile.loss <= high))


def test_a_network_pushed_past_its_minimum_is_proved_not_to_be():
    model, line, data = digits_network(0.1, 10, past=8.0)
    found = ls.certify(model, line, data, gap=0.25)
    profile = ls.profile(model, line, data, alphas=401)
    assert found.verdict == "violated"
    assert found.lower <= profile.max_rise * (1 + 1e-3)
    assert profile.max_rise <= found.upper <= 1.25 * found.lower


def test_batches_do_not_matter_and_nothing_is_disturbed():
    model, line, ((x, y),) = digits_network(0.1, 2)
    model.train()
    before, generator = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    whole = ls.certify(model, line, [(x, y)])
    parts = ls.certify(model, line, list(zip(x.split(77), y.split(77), strict=True)))
    assert model.training
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    np.testing.assert_allclose(whole.slope_high, parts.slope_high, rtol=1e-9)
    np.testing.assert_allclose(whole.loss_low, parts.loss_low, rtol=1e-12)
    assert (whole.examples, parts.examples) == (600, 600)


def many_examples(data, times):
    ((x, y),) = data
    return [(x + 0.01 * index, y) for index in range(times)]


def test_workers_share_the_examples_and_change_nothing():
    model, line, data = digits_network(0.1, 2)
    data = many_examples(data, 8)
    threads = torch.get_num_threads()
    one, two = (ls.certify(model, line, data, workers=workers).to_dict() for workers in (1, 2))
    assert torch.get_num_threads() == threads
    for found in (one, two):
        del found["how"]["threads"], found["how"]["seconds"]
    assert one == two
    with pytest.raises(ValueError, match="workers"):
        ls.certify(model, line, data, workers=0)


def test_a_pilot_sample_finds_where_to_cut():
    model, line, data = digits_network(0.1, 10)
    data = many_examples(data, 10)  # 6,000 examples: a search on 1,000 of them comes first
    found = ls.certify(model, line, data)
    assert found.verdict == "monotonic"
    assert found.evaluations <= found.intervals + 4
    assert found.examples == 6_000


def test_memory_does_not_grow_with_the_data():
    code = """
import copy, resource, sys, torch, lerpscape as ls
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
end = copy.deepcopy(model)
for tensor in end.parameters():
    tensor.data += 0.1 * torch.randn_like(tensor)
batch = (torch.randn(1000, 64), torch.randint(10, (1000,)))
found = ls.certify(model, ls.Line(model, end), [batch] * int(sys.argv[1]), budget=8)
assert found.examples == 1000 * int(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    few, many = (
        int(subprocess.run([sys.executable, "-c", code, str(k)], capture_output=True, text=True, check=True).stdout)
        for k in (6, 24)
    )
    # kilobytes; one float64 per example and unit of one layer would be 9 MB more, everything kept over 100 MB
    assert many < few + 8_000


def test_the_search_goes_on_while_the_verdict_is_open():
    """A bracket narrower than the gap on both sides of the tolerance decides nothing."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    end = {name: tensor + torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    data = [(torch.randn(20, 3).double(), torch.arange(20) % 3)]
    first = ls.certify(model, ls.Line(model, end), data, progress=False)
    assert 0 < first.lower < first.upper <= 1.25 * first.lower
    for share in (0.02, 0.3, 0.6, 0.98):
        tolerance = first.lower + share * (first.upper - first.lower)
        proof = ls.certify(model, ls.Line(model, end), data, tolerance=tolerance, budget=4000, progress=False)
        assert proof.verdict != "undecided", (share, proof.summary)
        assert (proof.lower > tolerance) == (proof.verdict == "violated")


@pytest.mark.parametrize("small", [1e-17, 1e-30, 1e-300])
def test_a_weight_lost_in_the_sum_of_the_targets_is_not_forgotten(small):
    """The logits fall along the line for class 1, whose weight is below the rounding of their sum: the loss rises."""
    start, end = {"weight": double([40.0], [0.0])}, {"weight": double([800.0], [0.0])}
    model = nn.Linear(1, 2, bias=False).double()
    data = [(double([1.0]), double([1.0, small]))]
    alphas = np.linspace(0, 1, 2001)
    gaps = 40.0 + 760.0 * alphas
    rise = float(ls.max_rise([math.log1p(math.exp(-gap)) + small * gap for gap in gaps]))
    proof = ls.certify(model, ls.Line(start, end), data, progress=False)
    assert proof.verdict != "monotonic"
    assert proof.upper >= rise * (1 - 1e-9)


def test_the_budget_and_the_clock_end_the_search():
    model, line, data = digits_network(0.1, 10, past=8.0)
    small = ls.certify(model, line, data, gap=1e-9, budget=12)
    assert (small.stopped, small.evaluations) == ("budget", 12)
    assert ls.certify(model, line, data, gap=1e-9, seconds=0.0).stopped == "time"


def test_the_picture_shows_the_enclosure_and_what_is_decided():
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("agg")
    x = torch.ones(4, 1, dtype=torch.float64)
    found = ls.certify(SCALAR, scalar_line(0.0, 1.0), [(x, 0.75 * x)], loss="squared_error")
    axes = found.plot(Figure().subplots())
    labels = axes.get_legend_handles_labels()[1]
    assert {"falls, proved", "rises, proved", "proved bounds of the loss"} <= set(labels)
    assert axes.get_ylabel() == "loss (squared output units)"


def test_an_infinite_loss_has_no_certificate():
    x = torch.full((2, 1), 1e300, dtype=torch.float64)
    with pytest.raises(ls.NonFiniteLoss, match="not finite"):
        ls.certify(SCALAR, scalar_line(0.0, 1e10), [(x, x)], loss="squared_error")


class Unsupported(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return torch.cumsum(self.layer(x), 1)


class Branching(Unsupported):
    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        (Unsupported(), {}, TypeError, "operation 'cumsum'"),
        (nn.Sequential(nn.Linear(1, 1), nn.Softsign()), {}, TypeError, "type Softsign"),
        (nn.Sequential(nn.Linear(1, 2), nn.LayerNorm(2)), {}, TypeError, "type LayerNorm"),
        (Branching(), {}, TypeError, "torch.fx can trace"),
        (nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), {}, ValueError, "InterpolateStatistics"),
        (nn.Sequential(nn.Linear(1, 4), nn.Unflatten(1, (2, 2))), {}, TypeError, "Unflatten"),
        (nn.Linear(1, 1), {"loss": "hinge"}, ValueError, "hinge"),
        (nn.Linear(1, 1), {"budget": 3}, ValueError, "budget=3"),
        (nn.Linear(1, 1), {"dtype": torch.float32}, TypeError, "got: 'dtype'"),
    ],
)
def test_refusals_name_what_came_and_what_to_do(model, options, error, words):
    end = copy.deepcopy(model)
    for parameter in end.parameters():
        parameter.data += 1
    x = torch.ones(2, 1)
    with pytest.raises(error, match=words) as refusal:
        ls.certify(model, ls.Line(model, end), [(x, x)], **({"loss": "squared_error"} | options))
    assert "\ntry: " in str(refusal.value)


def test_an_interval_evaluated_twice_over_the_same_data_is_the_same():
    """The first layer's products are kept between intervals: they must not depend on which came first."""
    model, end, x, y, policy = network(4)
    with undisturbed(model):
        traced = Network(ModelOnPath(model, ls.Line(model, end), "cpu", torch.float64), policy)
        memory: dict = {}
        for middle, reach in ((0.5, 0.5), (0.25, 0.125), (0.25, 0.0), (0.75, 0.125)):
            kept = traced.enclose(x, traced.parameters(middle, reach), reach, memory)
            fresh = traced.enclose(x, traced.parameters(middle, reach), reach)
            np.testing.assert_allclose(kept.value.centre, fresh.value.centre, rtol=1e-9, atol=1e-9)
            if reach:
                one, other = (LOSS_RULES["cross_entropy"].slope(each, y) for each in (kept, fresh))
                np.testing.assert_allclose(one.high, other.high, rtol=1e-7, atol=1e-9)
    assert memory
    assert math.isfinite(float(one.high.sum()))
