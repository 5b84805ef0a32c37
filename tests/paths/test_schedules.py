"""Paths of every kind and their refinements: exact ends, exact velocities, digests that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from cases import CASES, Tied, cnn, mlp, random, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks import forward_ad
from lerpscape.paths.path import Path

STARTS = [seeded(cnn, seed).double() for seed in range(3)]
with torch.no_grad():
    for shift, module in enumerate(STARTS):
        for name, tensor in module.named_buffers():
            if "running" in name:
                tensor.add_(0.1 * shift + 0.1 * random(*tensor.shape, seed=shift).abs())
        for tensor in module.parameters():
            if tensor.dim() == 1:
                tensor.add_(0.3 * random(*tensor.shape, seed=shift + 10))
A, B, C = STARTS


def squared(alpha: Tensor) -> Tensor:
    return alpha**2


PATHS: dict[str, Callable[[], Path]] = {
    "line": lambda: ls.Line(A, B),
    "polyline": lambda: ls.Polyline(A, B, C),
    "bezier": lambda: ls.Bezier(A, B, C),
    "sphere": lambda: ls.SphericalLine(A, B),
    "line only, end": lambda: ls.Line(A, B).only("0"),
    "line only, start": lambda: ls.Line(A, B).only("0", "kind:biases", rest="start"),
    "line scheduled": lambda: ls.Line(A, B).schedule({"*.bias": squared, "9.weight": torch.sin}),
    "line held": lambda: ls.Line(A, B).schedule({"kind:norms": 1.0}),
    "line reversed": lambda: ls.Line(A, B).reversed(),
    "line between": lambda: ls.Line(A, B).between(-0.3, 1.4),
    "depths given": lambda: ls.Line(A, B).homogeneous_biases(A, {"0.bias": 1, "9.bias": 3}),
    "bezier only": lambda: ls.Bezier(A, B, C).only("kind:weights"),
    "bezier reversed": lambda: ls.Bezier(A, B, C).reversed(),
    "polyline between": lambda: ls.Polyline(A, B, C).between(0.2, 0.9),
    "all of it": lambda: (
        ls.SphericalLine(A, B).schedule({"9": squared}).only("9", "0", rest="start").between(0.1, 0.8).reversed()
    ),
}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Path:
    return PATHS[request.param]()


def test_ends_are_the_checkpoints_bit_for_bit(path: Path) -> None:
    for alpha, end in ((0.0, path.start), (1.0, path.end)):
        found = path.at(alpha)
        assert found.keys() == end.tensors.keys()
        assert all(torch.equal(tensor, end.tensors[name]) for name, tensor in found.items())


@pytest.mark.parametrize("alpha", [0.13, 0.61])
def test_velocity_is_the_derivative(path: Path, alpha: float) -> None:
    """Central differences of step 1e-5: error h²/6·|θ‴| + 1e-16/h, about 1e-10 for tensors of order one."""
    step = 1e-5
    before, after, velocity = path.at(alpha - step), path.at(alpha + step), path.velocity(alpha)
    for name, tensor in before.items():
        if not tensor.is_floating_point():
            continue
        slope = (after[name] - tensor) / (2 * step)
        expected = velocity.get(name, torch.zeros_like(tensor))
        torch.testing.assert_close(slope, expected, rtol=1e-8, atol=2e-9)
    assert velocity


def steps(count: int) -> ls.Polyline:
    """A scalar with slope (k+1) · `count` on piece k of `count`."""
    return ls.Polyline(*({"w": torch.tensor([k * (k + 1) / 2]).double()} for k in range(count + 1)))


@pytest.mark.parametrize("count", [3, 7, 10, 49, 100])
def test_a_knot_missed_by_rounding_is_the_knot(count: int) -> None:
    """At a knot the velocity is that of the next piece, however the α was computed; at 1 that of the last."""
    path, total = steps(count), 0.0
    for k in range(count + 1):
        slope = min(k + 1, count) * count
        for alpha in (k / count, k * (1 / count), 1 - (count - k) / count, 1 - (count - k) * (1 / count), total):
            assert path.velocity(alpha)["w"] == slope, (k, alpha)
            assert path.at(alpha)["w"] == k * (k + 1) / 2
        total += 1 / count if k < 4 else k / count - total + 1 / count  # sums of a few steps are off by some ulps
    assert path.velocity(1 / count - 1e-9)["w"] == count  # not rounding


@pytest.mark.parametrize(
    ("name", "path", "alpha", "slope"),
    [
        ("reversed", steps(10).reversed(), 0.7, -30),  # at knot 3, on the way down to 2
        ("reversed, at its end", steps(10).reversed(), 1.0, -10),
        ("reversed, at its start", steps(10).reversed(), 0.0, -100),
        ("a stretch that ends at a knot", steps(10).between(0.1, 0.3), 1.0, 30 * 0.2),
        ("a stretch that begins at a knot", steps(10).between(0.3, 0.7), 0.0, 40 * 0.4),
        ("a stretch backwards", steps(10).between(0.7, 0.3), 0.5, -50 * 0.4),
        ("a schedule that turns back", steps(10).schedule({"w": lambda a: 1 - a}), 0.7, -30),
        ("a schedule", steps(10).schedule({"w": lambda a: 0.5 * a}), 0.6, 0.5 * 40),
        ("reversed twice", steps(10).reversed().reversed(), 0.3, 40),
    ],
)
def test_derived_paths_have_the_velocity_of_the_piece_that_follows(
    name: str, path: Path, alpha: float, slope: float
) -> None:
    assert float(path.velocity(alpha)["w"]) == pytest.approx(slope, rel=1e-14), name
    side = -1e-6 if alpha == 1 else 1e-6
    quotient = float((path.at(alpha + side)["w"] - path.at(alpha)["w"]) / side)
    assert quotient == pytest.approx(slope, rel=1e-8)


def test_velocity_of_a_curve_agrees_with_forward_mode() -> None:
    """The Bezier polynomial and a schedule written out in α, differentiated by torch."""
    start, control, end = (each.state_dict()["0.weight"] for each in STARTS)
    with forward_ad.level():
        alpha = forward_ad.dual(torch.tensor(0.37, dtype=torch.float64), torch.ones((), dtype=torch.float64)) ** 2
        _, slope = forward_ad.split((1 - alpha) ** 2 * start + 2 * alpha * (1 - alpha) * control + alpha**2 * end)
    found = ls.Bezier(A, B, C).schedule({"*": squared}).velocity(0.37)["0.weight"]
    torch.testing.assert_close(found, slope, rtol=1e-13, atol=1e-14)


def test_digests_tell_paths_apart_and_know_them_again() -> None:
    digests = {name: make().digest() for name, make in PATHS.items()}
    assert len(set(digests.values())) == len(PATHS)
    assert digests == {name: make().digest() for name, make in PATHS.items()}
    line = ls.Line(A, B)
    by_power = [line.schedule({"*.bias": lambda a, p=power: a**p}).digest() for power in (2, 3)]
    assert by_power[0] != by_power[1]
    words = {make().describe() for name, make in PATHS.items() if name != "line reversed"}  # its ends share a source
    assert len(words) == len(PATHS) - 1


def test_every_path_can_be_measured_with_an_exact_derivative(path: Path) -> None:
    case = CASES[3]
    found = ls.profile(A, path, case.data(), alphas=[0.0, 0.3, 0.3 + 1e-5, 1.0], batch_norm=ls.InterpolateStatistics())
    assert found.derivative is not None
    slope = (found.loss[2] - found.loss[1]) / 1e-5
    middle = (found.derivative[1] + found.derivative[2]) / 2
    assert slope == pytest.approx(middle, rel=1e-5, abs=1e-7)
    for index, end in ((0, path.start), (3, path.end)):
        network = seeded(cnn, 9).double()
        network.load_state_dict(end.tensors)
        with torch.no_grad():
            losses = [nn.functional.cross_entropy(network.eval()(x), y, reduction="none") for x, y in case.data()]
        assert found.loss[index] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-12)


def test_turning_is_measured_on_curves_and_the_integral_refuses_them() -> None:
    data = CASES[0].data()
    ends = [seeded(mlp, seed).double() for seed in range(3)]
    curve = ls.Bezier(*ends)
    found = ls.gauss_length(ends[0], curve, data, alphas=9, precision=None)
    again = ls.gauss_length(ends[0], curve.reversed(), data, alphas=9, precision=None)
    assert found.mean == pytest.approx(again.mean, rel=1e-6)
    with pytest.raises(ValueError, match="a straight line, for method"):
        ls.gauss_length(ends[0], curve, data, alphas=9, method="integral")
    with pytest.raises((TypeError, ValueError), match=r"a Line, on which parameters are linear in α"):
        ls.certify(ends[0], curve, data)


def test_straight_refinements_of_a_line_stay_lines_that_can_be_certified() -> None:
    case = CASES[0]
    start, end = case.ends()
    for line in (ls.Line(start, end).only("5"), ls.Line(start, end).reversed(), ls.Line(start, end).between(0, 0.5)):
        assert type(line) is ls.Line
        proof = ls.certify(start, line, case.data(), budget=40)
        measured = ls.profile(start, line, case.data(), alphas=21)
        assert measured.max_rise <= proof.upper + 1e-12


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_only_moves_what_is_named(alphas: list[float]) -> None:
    for rest, held in (("start", A), ("end", B)):
        path = ls.Line(A, B).only("0", rest=rest)  # type: ignore[arg-type]
        for alpha in alphas:
            found = path.at(alpha)
            assert torch.equal(found["0.weight"], ls.Line(A, B).at(alpha)["0.weight"])
            assert all(
                torch.equal(found[name], tensor)
                for name, tensor in held.state_dict().items()
                if not name.startswith("0.")
            )


def test_kinds_and_patterns_mean_what_they_say() -> None:
    line = ls.Line(A, B)
    moving = lambda *patterns: set(line.only(*patterns).velocity(0.5))  # noqa: E731
    assert moving("kind:weights") == {"0.weight", "5.weight", "9.weight"}
    assert moving("kind:biases") == {"0.bias", "9.bias"}
    affine = {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert moving("kind:norms") == affine | {"6.running_mean", "6.running_var"}
    assert moving(re.compile(r"^[09]\.bias$")) == moving("0.bias", "9.bias") == {"0.bias", "9.bias"}
    assert moving("1") == moving("1.*") == affine


def test_tied_names_move_together() -> None:
    start, end = seeded(Tied, 0), seeded(Tied, 1)
    for path in (ls.Line(start, end), ls.SphericalLine(start, end), ls.Bezier(start, seeded(Tied, 2), end)):
        tensors = path.at(0.3)
        assert tensors["embed.weight"] is tensors["read.weight"]
        part = path.only("read", rest="start")
        assert set(part.velocity(0.3)) >= {"embed.weight"}
        found = ls.profile(start, part, CASES[6].data(), alphas=3, dtype=torch.float64)
        assert found.loss[0] != found.loss[1]


def test_homogeneous_biases_scale_a_relu_network_as_a_whole() -> None:
    """From zero, f(θ(α)) = α^depth f(θ_T), which moving everything by α is not."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)
    ).double()
    x = random(4, 1, 4, 4, seed=5)
    line = ls.Line(ls.paths.zeros_like(model), model)
    for path, same in ((line.homogeneous_biases(model), True), (line, False)):
        scaled = torch.func.functional_call(model, path.at(0.6), (x,))
        assert torch.allclose(scaled, 0.6**3 * model(x), rtol=1e-12, atol=1e-14) is same


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (cnn(), r"'1', a BatchNorm2d, which takes away the scale"),
        (seeded(Tied, 0), r"'embed', a Embedding"),
    ],
)
def test_depths_that_do_not_exist_are_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ls.Line(model, {k: v + 1 for k, v in model.state_dict().items()}).homogeneous_biases(model)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.one(x))


def test_branches_of_two_depths_are_refused_and_can_be_given() -> None:
    start, end = seeded(Residual, 0), seeded(Residual, 1)
    with pytest.raises(TypeError, match=r"'add', where branches of depths 0 and 1 meet"):
        ls.Line(start, end).homogeneous_biases(start)
    given_ = ls.Line(start, end).homogeneous_biases(start, {"one.bias": 2})
    torch.testing.assert_close(given_.at(0.5)["one.bias"], torch.lerp(start.one.bias, end.one.bias, 0.25).detach())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ls.Line(A, B).only("layer9.*"), r"(?s)'layer9\.\*', which matches none.*Most similar: '0.weight'"),
        (lambda: ls.Line(A, B).only("9.wieght"), r"(?s)Most similar: '9\.weight'"),
        (lambda: ls.Line(A, B).only("kind:bias"), r"one of kind:weights, kind:biases, kind:norms"),
        (lambda: ls.Line(A, B).only(), "at least one pattern"),
        (lambda: ls.Line(A, B).only("*.num_batches_tracked"), "patterns for tensors that differ"),
        (lambda: ls.Line(A, B).schedule({"0": squared, "*.bias": squared}), r"'0.bias', which match two"),
        (lambda: ls.Line(A, B).schedule({"0": torch.sqrt}).velocity(0.0), r"(?s)finite derivative.*φ′\(0\) = inf"),
        (lambda: ls.Line(A, B).schedule({"0": lambda a: 0.5}), r"float64 tensor of shape \(\), to such a tensor"),
        (lambda: ls.Line(A, B).schedule({}), "at least one pattern with a schedule"),
        (lambda: ls.Bezier(A, B, C).between(0.5, 0.5), "two different, finite values"),
        (lambda: ls.Line(A, B).between(0.5, 0.5), "two different, finite values"),
        (lambda: ls.Polyline(A), "at least two points"),
        (lambda: ls.SphericalLine({"w": torch.ones(2)}, {"w": -torch.ones(2)}), r"(?s)'w', at an angle of π between"),
        (lambda: ls.Plane(A, B, ls.Line(A, B).between(0.3, 2).end), "collinear to within rounding"),
    ],
)
def test_refusals_say_what_to_do(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\ntry: " in str(caught.value)


def test_equal_or_foreign_points_are_named() -> None:
    with pytest.raises(ls.EndpointMismatch, match="equal in all"):
        ls.Polyline(A, B, B)
    with pytest.raises(ls.EndpointMismatch, match="three equal"):
        ls.Bezier(A, A, A)
    with pytest.raises(ls.EndpointMismatch, match="only in"):
        ls.Polyline(A, B, seeded(mlp, 0))


def test_a_sphere_keeps_norms() -> None:
    start, end = {"w": random(50, seed=0)}, {"w": random(50, seed=1)}
    end["w"] *= start["w"].norm() / end["w"].norm()
    for alpha in (0.1, 0.5, 0.9):
        norm = ls.SphericalLine(start, end).at(alpha)["w"].norm()
        torch.testing.assert_close(norm, start["w"].norm(), rtol=1e-14, atol=0)
    halfway = ls.SphericalLine(start, end).at(0.5)["w"]
    torch.testing.assert_close(halfway @ start["w"], halfway @ end["w"], rtol=1e-12, atol=0)


def test_a_plane_knows_its_corners_and_what_lies_above_it() -> None:
    plane = ls.Plane(A, B, C)
    for corner, at in ((A, (0.0, 0.0)), (B, (1.0, 0.0)), (C, (0.0, 1.0))):
        assert plane.coordinates(corner) == at
        assert all(torch.equal(tensor, corner.state_dict()[name]) for name, tensor in plane.at(*at).items())
    assert plane.coordinates(plane.at(-0.7, 2.3)) == pytest.approx((-0.7, 2.3), rel=1e-12)
    assert plane.position(plane.at(-0.7, 2.3)).height == pytest.approx(0, abs=1e-12)
    # Distances on paper are those between the networks.
    for one, other in ((A, B), (B, C), (A, C)):
        apart = torch.dist(*(torch.tensor(plane.position(each)[:2], dtype=torch.float64) for each in (one, other)))
        assert float(apart) == pytest.approx(ls.Line(one, other).distance(), rel=1e-12)
    assert plane.from_flat(*plane.flat(0.3, -0.2)) == pytest.approx((0.3, -0.2), rel=1e-12)
    # Pythagoras for a network beside the plane, against least squares.
    other = seeded(cnn, 8).double()
    names = plane.origin.parameters
    vector = lambda model: torch.cat([model.state_dict()[name].flatten() for name in names])  # noqa: E731
    basis = torch.stack([vector(B) - vector(A), vector(C) - vector(A)], 1)
    solved = torch.linalg.lstsq(basis, (vector(other) - vector(A))[:, None])
    assert plane.coordinates(other) == pytest.approx(solved.solution.flatten().tolist(), rel=1e-10)
    left = vector(other) - vector(A) - (basis @ solved.solution).flatten()
    assert plane.position(other).height == pytest.approx(float(left.norm()), rel=1e-12)
