"""Tensors that are not points of a real vector space: complex ones move, flags jump, others are refused."""

from __future__ import annotations

import math

import pytest
import torch
from cases import generator, random
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import lerpscape as ls


class Spectral(nn.Module):
    """A Fourier layer: complex weights between real ones."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        drawn = generator(seed)
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128, generator=drawn))
        self.bias = nn.Parameter(torch.randn(2, dtype=torch.float64, generator=drawn))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x)[..., :3] @ self.weight, n=2) + self.bias


def test_complex_tensors_move_on_a_line() -> None:
    start = {"w": torch.ones(2, dtype=torch.complex64), "b": torch.zeros(1)}
    end = {"w": 1j * torch.ones(2, dtype=torch.complex64), "b": torch.ones(1)}
    line = ls.Line(start, end)
    at = line.at(0.4)
    torch.testing.assert_close(at["w"], torch.full((2,), 0.6 + 0.4j), rtol=1e-6, atol=0)
    assert line.distance() == pytest.approx(math.sqrt(2 * 2 + 1), rel=1e-12)
    assert line.relative_distance() == pytest.approx(math.sqrt(5 / 2), rel=1e-12)
    assert torch.equal(line.velocity(0.1)["w"], end["w"] - start["w"])
    assert torch.equal(line.at(0.0)["w"], start["w"]) and torch.equal(line.at(1.0)["w"], end["w"])
    assert line.to(torch.device("cpu"), torch.float64).at(0.5)["w"].dtype == torch.complex128


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complex_networks_are_measured_with_their_derivative(dtype: torch.dtype) -> None:
    start, end = Spectral(0), Spectral(1)
    x, y = random(8, 5, seed=2), random(8, 2, seed=3)
    found = ls.profile(
        start, ls.Line(start, end), [(x.to(dtype), y.to(dtype))], loss="squared_error", alphas=5, dtype=dtype
    )
    losses, step, model = [], 1e-6, Spectral(2)
    for alpha in [*found.alphas, 0.5 - step, 0.5 + step]:
        ends = zip(start.state_dict().items(), end.state_dict().values(), strict=True)
        model.load_state_dict({name: a + alpha * (b - a) for (name, a), b in ends})
        with torch.no_grad():
            losses.append(float((model(x) - y).square().sum(1).mean()))
    assert found.loss == pytest.approx(losses[:5], rel=20 * torch.finfo(dtype).eps)
    assert found.derivative is not None
    slope = (losses[-1] - losses[-2]) / (2 * step)
    # of the difference quotient in float64 (1e-16/1e-6), or of float32
    assert found.derivative[2] == pytest.approx(slope, rel=max(1e-7, 100 * torch.finfo(dtype).eps))
    assert found.how["dtype"] == str(dtype).removeprefix("torch.")
    assert found.distance == pytest.approx(ls.Line(start, end).distance(), rel=1e-12)


@pytest.mark.parametrize("path", ["spherical", "plane", "bezier", "noise"])
def test_complex_tensors_count_as_their_real_and_imaginary_parts(path: str) -> None:
    """The same numbers, as one complex and as two real tensors."""
    numbers = [random(4, 2, seed=seed).double() for seed in range(3)]
    real = [{"w": each} for each in numbers]
    paired = [{"w": torch.view_as_complex(each)} for each in numbers]
    if path == "spherical":
        one, other = ls.paths.SphericalLine(*real[:2]).at(0.3), ls.paths.SphericalLine(*paired[:2]).at(0.3)
    elif path == "bezier":
        one, other = ls.paths.Bezier(*real).at(0.3), ls.paths.Bezier(*paired).at(0.3)
    elif path == "noise":
        norms = [float(ls.paths.noise_like(each[0], 0).tensors["w"].norm()) for each in (real, paired)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-12)
        return
    else:
        planes = ls.Plane(*real), ls.Plane(*paired)
        fourth = random(4, 2, seed=9).double()
        places = planes[0].position({"w": fourth}), planes[1].position({"w": torch.view_as_complex(fourth)})
        assert tuple(places[0]) == pytest.approx(tuple(places[1]), rel=1e-12)
        one, other = planes[0].at(0.2, 0.3), planes[1].at(0.2, 0.3)
    torch.testing.assert_close(one["w"], torch.view_as_real(other["w"]), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        ({"q": torch.tensor([100], dtype=torch.int8), "scale": torch.tensor([1.0])}, "'q' of int8"),
        ({"w": torch.arange(4, dtype=torch.uint8), "absmax": torch.ones(1)}, "'w' of uint8"),
        ({"l.qweight": torch.arange(4, dtype=torch.int32), "l.scales": torch.ones(2)}, r"'l\.qweight' of int32"),
        ({"l.weight": torch.ones(4).to(torch.float8_e4m3fn), "l.weight_scale": torch.ones(1)}, "of float8_e4m3fn"),
    ],
)
def test_quantised_weights_are_refused(start: dict[str, Tensor], name: str) -> None:
    end = {key: (tensor.float() + 1).to(tensor.dtype) for key, tensor in start.items()}
    with pytest.raises(ls.EndpointMismatch, match=rf"(?s){name}, quantised.*scales"):
        ls.Line(start, end)
    codes, scales = start  # equal codes with other scales are on a line
    assert set(ls.Line(start, {codes: start[codes], scales: end[scales]}).velocity(0.5)) == {scales}


@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning", "ignore:.*quantiz:UserWarning")
def test_tensors_of_other_kinds_are_refused_by_name() -> None:
    class Own(Tensor):
        pass

    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for tensor, words in (
        (quantised, "qint8"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2).as_subclass(Own), "Own"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)'w', a tensor of another kind.*{words}.*dequantize"):
            ls.checkpoint({"w": tensor})


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(ValueError, match="'weight', which is not initialised yet"):
        ls.checkpoint(nn.LazyLinear(3))
    line = ls.Line(nn.Linear(2, 3), nn.Linear(2, 3))
    with pytest.raises(ValueError, match="'weight' of LazyLinear, which is not initialised yet"):
        ls.profile(nn.LazyLinear(3), line, [(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))])


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning", "ignore::UserWarning")
def test_a_quantised_module_is_refused() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 1)), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TypeError, match=r"(?s)under '0\._packed_params.*quantised"):
        ls.checkpoint(model)


def test_integer_parameters_are_refused_and_integer_buffers_jump_and_are_named() -> None:
    class Flagged(nn.Module):
        def __init__(self, value: int, parameter: bool) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((1,), float(value)))
            self.register_buffer("initialized", torch.tensor(value, dtype=torch.uint8))
            self.register_buffer("log_scale", torch.tensor(0.0))
            if parameter:
                self.codes = nn.Parameter(torch.tensor([value]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x * self.initialized

    with pytest.raises(ls.EndpointMismatch, match=r"(?s)'codes' of int64, an integer parameter"):
        ls.Line(Flagged(0, True), Flagged(1, True))
    start, end = Flagged(0, False), Flagged(1, False)
    found = ls.profile(end, ls.Line(start, end), [(torch.ones(2, 1), torch.ones(2, 1))], loss="squared_error", alphas=3)
    assert found.how["jumps"] == ["initialized"]
    assert found.summary.endswith("Not interpolated but from the nearer end, with a jump at α = 0.5: 'initialized'.")
    norm = nn.BatchNorm1d(1)
    moved = {n: t + 1 for n, t in norm.state_dict().items()}
    counted = ls.profile(
        norm,
        ls.Line(norm, moved),
        [(torch.ones(2, 1), torch.ones(2, 1))],
        batch_norm=ls.EndStatistics(),
        alphas=2,
        loss="squared_error",
    )
    assert counted.how["jumps"] == ["num_batches_tracked"] and "nearer end" not in counted.summary


def normed(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "orthogonal":
            return nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)))
        return nn.Sequential((spectral_norm if kind == "old" else parametrizations.spectral_norm)(nn.Linear(3, 4)))


@pytest.mark.parametrize(("kind", "name"), [("old", "0.weight_u"), ("new", "weight.0._u"), ("orthogonal", "0.base")])
def test_unit_vectors_of_parametrisations_are_refused(kind: str, name: str) -> None:
    with pytest.raises(ls.EndpointMismatch, match=rf"(?s){name}.*remove_parametrizations"):
        ls.Line(normed(kind, 0), normed(kind, 1))


def test_what_a_weight_is_made_from_is_interpolated_and_said() -> None:
    start, end = (parametrizations.weight_norm(nn.Linear(3, 2)) for _ in range(2))
    line = ls.Line(start, end)
    assert line.describe().endswith("in what 'weight' is made from")
    names = [f"parametrizations.weight.original{number}" for number in (0, 1)]
    for name in names:
        middle = (start.state_dict()[name] + end.state_dict()[name]) / 2
        torch.testing.assert_close(line.at(0.5)[name], middle, rtol=1e-6, atol=1e-7)
    embedding = nn.ModuleDict({"u_u": nn.Linear(1, 1), "user_u": nn.Linear(1, 1)})  # such names alone mean nothing
    assert ls.Line(embedding, {n: t + 1 for n, t in embedding.state_dict().items()}).distance() > 0
