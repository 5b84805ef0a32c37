"""Gauss length of models along lines, against closed forms and float64 oracles."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.geometry.grid_refinement import halved

DOUBLE = torch.float64


class Curve(nn.Module):
    """Puts out a curve of one parameter that runs from 0 to 1, the same for every example."""

    def __init__(self, curve: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))
        self.curve = curve

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x) * self.curve(self.t)


def ends(start: float = 0.0, end: float = 1.0) -> ls.Line:
    return ls.Line({"t": torch.tensor(start, dtype=DOUBLE)}, {"t": torch.tensor(end, dtype=DOUBLE)})


def examples(count: int = 3, dtype: torch.dtype = DOUBLE) -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(count, 1, dtype=dtype), torch.zeros(count, 2, dtype=dtype))]


def measured(curve: Callable[[Tensor], Tensor], line: ls.Line | None = None, **choices: Any) -> ls.GaussLength:
    return ls.gauss_length(Curve(curve), line or ends(), examples(), **choices)


def arc(phi: float, reparametrise: Callable[[Tensor], Tensor] = lambda t: t) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.stack([(phi * reparametrise(t)).cos(), (phi * reparametrise(t)).sin()])


def spiral(t: Tensor) -> Tensor:
    return torch.stack([t * (4 * t).cos(), t * (4 * t).sin(), (2 * t).exp()]) + t


def net(
    kind: type[nn.Module] = nn.Tanh, seed: int = 0, dtype: torch.dtype = DOUBLE, sizes: tuple[int, ...] = (5, 16, 16, 3)
) -> tuple[nn.Module, ls.Line]:
    """A network and a line between two random states of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inside, outside in pairwise(sizes):
            layers += [nn.Linear(inside, outside), kind()]
        model = nn.Sequential(*layers[:-1]).to(dtype)
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.7 * torch.randn_like(parameter))
    return model, ls.Line(model, other)


def inputs(count: int = 7, size: int = 5, dtype: torch.dtype = DOUBLE) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, generator=generator, dtype=dtype)
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(3)]  # the last batch has one


@pytest.mark.parametrize("phi", [0.1, math.pi / 2, 3 * math.pi])
@pytest.mark.parametrize("method", ["turning", "integral", "polygon"])
def test_an_arc_has_its_angle_within_the_error_reported(phi: float, method: Any) -> None:
    for bend in (lambda t: t, lambda t: t + 0.3 * t * t):
        found = measured(arc(phi, bend), ends(), method=method, alphas=65, budget=4097)
        scale = float(bend(torch.tensor(1.0, dtype=DOUBLE)))
        assert (np.abs(found.per_example - phi * scale) <= found.error + 1e-9).all()
        assert found.converged, found.error
        assert found.method == method
    assert_allclose(found.max_angle, min(phi * scale, math.pi), atol=0.05 if method == "polygon" else 0.02)


def test_a_model_linear_in_its_parameters_turns_by_exactly_nothing() -> None:
    model, line = net(sizes=(5, 3))
    for method in ("turning", "integral"):
        found = ls.gauss_length(model, line, inputs(), method=method)
        assert (found.per_example == 0).all()
        assert (found.max_angle == 0).all()
        assert found.share_below_half_pi == 1
        assert not found.degenerate.any()
    assert ls.gauss_length(model, line, inputs(), method="polygon").mean < 1e-12


def test_a_kink_counts_in_the_turning_and_not_in_the_integral() -> None:
    def kink(t: Tensor) -> Tensor:
        return torch.stack([t, torch.relu(t - 0.4)])

    assert_allclose(measured(kink).per_example, math.pi / 4, rtol=1e-14)
    assert_allclose(measured(kink, method="polygon").per_example, math.pi / 4, rtol=1e-14)
    assert (measured(kink, method="integral").per_example == 0).all()


@pytest.mark.parametrize("method", ["turning", "integral", "polygon"])
def test_scaling_rotation_reversal_and_speed_change_nothing(method: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=generator))[0]
    plain = measured(spiral, method=method)
    allowed = plain.mean_error + 1e-9
    changed = [
        measured(lambda t: 1e-7 * spiral(t), method=method),
        measured(lambda t: spiral(t) @ rotation, method=method),
        measured(spiral, ends(1.0, 0.0), method=method),
    ]
    for other in changed:
        assert_allclose(other.per_example, plain.per_example, rtol=1e-9)
        assert_allclose(other.max_angle, plain.max_angle, atol=1e-6)
    hasty = measured(lambda t: spiral((t + t**2) / 2), method=method)
    assert_allclose(hasty.per_example, plain.per_example, atol=float(allowed + hasty.mean_error))


def test_refining_never_lowers_the_turning() -> None:
    for kind in (nn.ReLU, nn.Tanh):
        model, line = net(kind)
        for method in ("turning", "polygon"):
            found = ls.gauss_length(model, line, inputs(), method=method, precision=1e-9, budget=129)
            means = [level.mean for level in found.levels]
            assert [level.points for level in found.levels] == [17, 33, 65, 129]
            assert all(later >= earlier - 1e-12 for earlier, later in pairwise(means))
            assert found.mean == means[-1]


def test_refining_is_the_same_as_measuring_on_the_finer_grid() -> None:
    model, line = net(nn.ReLU)
    refined = ls.gauss_length(model, line, inputs(), precision=1e-9, budget=129)
    at_once = ls.gauss_length(model, line, inputs(), alphas=129, precision=None)
    assert_allclose(refined.per_example, at_once.per_example, rtol=1e-13)
    assert_allclose(refined.error, at_once.error, atol=1e-13)
    assert_allclose(refined.max_angle, at_once.max_angle, atol=1e-7)
    assert_allclose(refined.alphas, at_once.alphas, atol=1e-15)
    assert_allclose(halved(halved(np.linspace(0, 1, 33))), at_once.alphas, atol=1e-15)


def test_only_batches_that_need_it_are_refined() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return x * spiral(self.t) + (1 - x) * self.t

    data = [(torch.full((2, 1), size, dtype=DOUBLE), torch.zeros(2)) for size in (0.0, 1.0, 0.0)]
    found = ls.gauss_length(Two(), ends(), data, precision=1e-3)
    assert found.points[[0, 1, 4, 5]].tolist() == [33] * 4
    assert (found.points[2:4] > 33).all()
    assert (found.error <= 1e-3).all()
    alone = ls.gauss_length(Two(), ends(), data[1:2], precision=1e-3)
    assert_allclose(found.per_example[2:4], alone.per_example, rtol=1e-14)


def test_order_of_convergence_is_two_on_smooth_networks() -> None:
    model, line = net(nn.Tanh)
    exact = ls.gauss_length(model, line, inputs(4), alphas=1025, precision=None).mean
    for method, expected in (("turning", 2), ("integral", 2), ("polygon", 1)):
        off = [
            abs(ls.gauss_length(model, line, inputs(4), method=method, alphas=n, precision=None).mean - exact)
            for n in (33, 65)
        ]
        assert abs(math.log2(off[0] / off[1]) - expected) < 0.25, (method, off)


def test_turning_and_integral_agree_on_smooth_networks_and_not_on_relu() -> None:
    def pair(kind: type[nn.Module]) -> tuple[float, float]:
        model, line = net(kind)
        return tuple(
            ls.gauss_length(model, line, inputs(), method=m, alphas=129, precision=None).mean
            for m in ("turning", "integral")
        )

    turned, integral = pair(nn.Tanh)
    assert_allclose(turned, integral, rtol=2e-3)
    turned, integral = pair(nn.ReLU)
    assert turned > 1.2 * integral


@pytest.mark.parametrize("kind", [nn.Tanh, nn.ReLU, nn.Sigmoid])
def test_the_integrand_is_the_finite_difference_of_the_unit_tangent(kind: type[nn.Module]) -> None:
    model, line = net(kind)
    data = inputs()
    x = torch.cat([batch for batch, _ in data])

    def tangent(alpha: float) -> Tensor:
        def outputs(at: Tensor) -> Tensor:
            moved = {
                k: line.start.tensors[k] + at * (line.end.tensors[k] - line.start.tensors[k]) for k in line.end.tensors
            }
            return torch.func.functional_call(model, moved, (x,))

        at = torch.tensor(alpha, dtype=DOUBLE)
        velocity = torch.autograd.functional.jvp(outputs, at, torch.ones_like(at))[1]
        return velocity / velocity.norm(dim=1, keepdim=True)

    step = 1e-6
    grid = np.linspace(0, 1, 9)
    rates = np.stack([((tangent(a + step) - tangent(a - step)).norm(dim=1) / (2 * step)).numpy() for a in grid])
    expected = np.trapezoid(rates, grid, axis=0)
    found = ls.gauss_length(model, line, data, method="integral", alphas=9, precision=None)
    assert_allclose(found.per_example, expected, rtol=2e-6)


def test_outputs_with_one_number_turn_by_pi_at_each_change_of_direction() -> None:
    found = measured(lambda t: ((t - 0.3) * (t - 0.6) * (t - 0.9))[None])
    assert_allclose(found.per_example, 2 * math.pi, rtol=1e-15)
    assert (found.max_angle == math.pi).all()
    flat = ls.gauss_length(Flat(), ls.Line({"w": torch.zeros(5)}, {"w": torch.ones(5)}), inputs(dtype=torch.float32))
    assert flat.per_example.tolist() == [0.0] * 7  # outputs of shape (examples,)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def test_an_output_that_stands_still_for_a_while_is_skipped_and_counted() -> None:
    def pause(t: Tensor) -> Tensor:  # east, rest, north
        return torch.stack([torch.clamp(t, max=0.25), torch.relu(t - 0.75)])

    for method in ("turning", "polygon"):
        found = measured(pause, method=method)
        assert_allclose(found.per_example, math.pi / 2, rtol=1e-14)
        assert (found.degenerate >= 15).all()
        assert "do not move" in found.summary
    assert (measured(pause, method="integral").per_example == 0).all()


def test_an_output_that_never_moves_has_length_0_and_is_counted() -> None:
    model, line = net(nn.ReLU, sizes=(5, 16, 3))
    dead = {name: tensor.clone() for name, tensor in line.start.tensors.items()}
    dead["0.weight"].mul_(0), dead["0.bias"].fill_(-1), dead["2.bias"].fill_(0.5)
    moved = dead | {"2.weight": dead["2.weight"] + 1}
    for method in ("turning", "integral", "polygon"):
        found = ls.gauss_length(model, ls.Line(dead, moved), inputs(), method=method)
        assert (found.per_example == 0).all()
        assert (found.max_angle == 0).all()
        assert (found.degenerate == 33 - (method == "polygon")).all()


def test_rounding_of_a_standing_output_is_no_direction() -> None:
    # normalised outputs do not follow the length of the weights: what moves is rounding
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 3, dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(x @ self.w, (3,), eps=0.0)

    weight = torch.randn(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    data = [(torch.randn(5, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)), torch.zeros(5))]
    for method in ("turning", "polygon"):
        found = ls.gauss_length(Normalised(), ls.Line({"w": weight}, {"w": 3 * weight}), data, method=method)
        assert (found.per_example == 0).all()
        assert (found.degenerate == 33 - (method == "polygon")).all()


def test_results_do_not_depend_on_batches_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, line = net(nn.ReLU)
    data = inputs(10)
    x = torch.cat([part for part, _ in data])
    for method in ("turning", "integral", "polygon"):
        expected = ls.gauss_length(model, line, [(x, torch.zeros(10))], method=method, alphas=33, precision=None)
        split = ls.gauss_length(model, line, data, method=method, alphas=33, precision=None)
        with monkeypatch.context() as patch:
            patch.setattr("lerpscape.geometry.grid_refinement.SAMPLE_BYTES", 1000)  # one batch at a time, in files
            patch.setattr("lerpscape.geometry.grid_refinement.BLOCK_BYTES", 1000)  # one row at a time
            patch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 100)
            small = ls.gauss_length(model, line, data, method=method, alphas=17, precision=1e-9, budget=33)
        for name in ("per_example", "error", "max_angle", "degenerate", "example"):
            assert_allclose(getattr(split, name), getattr(expected, name), atol=1e-7)
            assert_allclose(getattr(small, name), getattr(expected, name), atol=1e-7)


def test_samples_go_to_a_file_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lerpscape.geometry import grid_refinement

    monkeypatch.setattr(grid_refinement, "SAMPLE_BYTES", 1000)
    assert isinstance(grid_refinement._empty((1000, 2), np.dtype(float)), np.memmap)
    assert not isinstance(grid_refinement._empty((10, 2), np.dtype(float)), np.memmap)


def test_float32_warns_where_its_rounding_counts_and_float64_does_not() -> None:
    model, line = net(nn.Tanh, dtype=torch.float32)
    straight = ls.Line(line.start.tensors, {k: v * 1.0001 for k, v in line.start.tensors.items()})
    data = inputs(dtype=torch.float32)
    found = ls.gauss_length(model, line, data)
    exact = ls.gauss_length(model, line, data, dtype=DOUBLE)
    assert found.how["dtype"] == "float32"
    assert found.rounding.max() < 1e-3
    assert_allclose(found.per_example, exact.per_example, atol=1e-3)
    assert 1e-8 < found.how["direction_noise"] < 1e-5
    bent = ls.Line(line.start.tensors, {k: v * 1.05 for k, v in line.start.tensors.items()})
    many: dict[str, Any] = {"alphas": 401, "precision": None}
    # Rounding of velocities hardly adds up: ten thousand points would be needed to turn by a hundredth of a radian.
    assert ls.gauss_length(model, straight, data, **many).rounding.max() < 4e-4
    assert ls.gauss_length(model, straight, data, dtype=DOUBLE, **many).rounding.max() < 1e-9
    with pytest.warns(UserWarning, match=r"float32 may account for"):
        ls.gauss_length(model, straight, data, precision=1e-6, budget=513)
    # Secants are another matter, so they are taken in float64 unless asked otherwise.
    assert ls.gauss_length(model, bent, data, method="polygon", alphas=501, precision=None).how["dtype"] == "float64"
    with pytest.warns(UserWarning, match=r"float32 may account for"):
        ls.gauss_length(model, bent, data, method="polygon", alphas=501, precision=None, dtype=torch.float32)


def test_summaries() -> None:
    model, line = net(nn.ReLU)
    found = ls.gauss_length(model, line, inputs(8), label="a")
    assert found.mean == found.per_example.mean()
    assert_allclose(found.stderr, found.per_example.std(ddof=1) / math.sqrt(8))
    assert found.mean_error == found.error.mean()
    assert found.share_below_half_pi == np.mean(found.per_example < math.pi / 2)
    assert found.share_max_angle_below_half_pi >= found.share_below_half_pi
    assert (found.max_angle <= found.per_example + 1e-7).all()
    assert found.example.tolist() == list(range(8))
    assert found.position is None
    assert_allclose(found.by_example, found.per_example)
    assert "rad on average over 8 examples by turning" in found.summary


def test_a_frame_has_a_row_per_example() -> None:
    model, line = net(nn.ReLU)
    frame = ls.gauss_length(model, line, inputs(), budget=65).to_pandas()
    assert list(frame.columns)[:2] == ["example", "gauss_length"]
    assert len(frame) == 7


def test_nothing_in_the_model_or_the_random_state_changes() -> None:
    model, line = net(nn.ReLU)
    model = nn.Sequential(model, nn.Dropout(0.5))
    line = ls.Line(model, nn.Sequential(net(nn.ReLU, seed=3)[0], nn.Dropout(0.5)))
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    for method in ("turning", "integral", "polygon"):
        ls.gauss_length(model, line, inputs(), method=method, budget=33)
    assert model.training
    assert model[1].training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_progress_is_told_of_every_batch() -> None:
    model, line = net(nn.ReLU)
    calls: list[int] = []
    ls.gauss_length(model, line, inputs(), budget=65, precision=1e-9, progress=lambda done, _: calls.append(done))
    assert calls[-1] == 65 * 3


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_alphas() -> None:
    code = """
import resource, sys, torch, lerpscape as ls
from torch import nn
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 100)).double()
end = {k: v + 1 for k, v in model.state_dict().items()}
data = [(torch.randn(100, 5).double(), torch.zeros(100)) for _ in range(12)]
ls.gauss_length(model, ls.Line(model.state_dict(), end), data, alphas=int(sys.argv[1]), precision=None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    peaks = [
        float(subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True, check=True).stdout)
        for n in ("33", "1025")
    ]
    assert 1025 * 1200 * 100 * 8 / 2**20 > 900  # what all velocities together take (MiB)
    assert peaks[1] - peaks[0] < 350, peaks
