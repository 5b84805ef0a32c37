"""What Gauss length refuses, and what it says then."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lerpscape as ls


class Opaque(torch.autograd.Function):
    """Has a backward and no forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Net(nn.Module):
    """A linear layer, and something done to its output."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.then = then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.linear(x))


def measured(then: Any, targets: Tensor | None = None, **choices: Any) -> ls.GaussLength:
    start = {"linear.weight": torch.zeros(3, 2), "linear.bias": torch.zeros(3)}
    end = {"linear.weight": torch.eye(3, 2), "linear.bias": torch.ones(3)}
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    data = [(x, torch.zeros(2) if targets is None else targets)]
    return ls.gauss_length(Net(then), ls.Line(start, end), data, **choices)


def test_a_model_without_forward_mode_names_the_operation_and_offers_the_polygon() -> None:
    for method in ("turning", "integral"):
        with pytest.raises(ValueError, match=r"in forward mode(.|\n)*without one(.|\n)*polygon"):
            measured(Opaque.apply, method=method)
    found = measured(Opaque.apply, method="polygon")
    assert found.method == "polygon"
    assert found.mean < 1e-12


@pytest.mark.parametrize("method", ["turning", "integral"])
def test_outputs_cut_off_from_the_parameters(method: Any) -> None:
    with pytest.raises(ValueError, match="carry no derivative"):
        measured(lambda z: z.detach() * 2, method=method)
    assert measured(lambda z: z.detach() * 2, method="polygon").mean < 1e-12


def test_outputs_that_are_no_tensor_of_numbers() -> None:
    with pytest.raises(TypeError, match=r"a tensor of torch.int64, which has no path"):
        measured(lambda z: z.argmax(1))
    with pytest.raises(TypeError, match="tuple, which has no path"):
        measured(lambda z: (z, z))
    with pytest.raises(ValueError, match=r"the 2 examples of the batch in their first dimension(.|\n)*\(3, 2\)"):
        measured(lambda z: z.T)
    with pytest.raises(ValueError, match="in their first dimension"):
        measured(lambda z: z.sum())


@pytest.mark.parametrize("method", ["turning", "integral", "polygon"])
def test_nan_says_which_example_at_which_alpha(method: Any) -> None:
    def broken(z: Tensor) -> Tensor:
        return torch.cat([z[:1], z[1:] / (z[1:, :1] < 2)])

    with pytest.raises(ls.NonFiniteOutput, match=r"1 of the 2 examples(.|\n)*at α = 0\.\d+(.|\n)*number 1 of the data"):
        measured(broken, method=method)


def test_choices_that_make_no_sense() -> None:
    for choices, message in (
        ({"method": "length"}, "method= one of turning, integral, polygon"),
        ({"precision": 0.0}, "precision > 0"),
        ({"budget": 20}, "a budget of at least the 33 alphas"),
        ({"alphas": 2}, "at least three alphas"),
        ({"alphas": [0.0, 0.5, 0.2]}, "increasing values"),
    ):
        with pytest.raises(ValueError, match=message):
            measured(lambda z: z, **choices)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="that counts"):
        measured(lambda z: z[:, None], targets=torch.full((2, 1), -100))


def test_data_that_cannot_be_read_twice() -> None:
    with pytest.raises(TypeError, match="used up after one pass"):
        ls.gauss_length(
            nn.Linear(1, 1),
            ls.Line(
                {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)},
                {"weight": torch.ones(1, 1), "bias": torch.zeros(1)},
            ),
            iter([]),
        )


def test_the_integral_needs_a_straight_path() -> None:
    class Bent:
        def __init__(self, line: ls.Line) -> None:
            self.start, self.end, self._line = line.start, line.end, line

        def at(self, alpha: float) -> dict[str, Tensor]:
            return self._line.at(alpha**2)

        def velocity(self, alpha: float) -> dict[str, Tensor]:
            return {name: 2 * alpha * tensor for name, tensor in self._line.velocity(alpha).items()}

        def to(self, device: torch.device, dtype: torch.dtype | None) -> "Bent":
            return Bent(self._line.to(device, dtype))

        def describe(self) -> str:
            return "bent path"

        def digest(self) -> str:
            return f"bent {self._line.digest()}"

    model = nn.Linear(2, 3).double()
    line = ls.Line(model, nn.Linear(2, 3).double())
    data = [(torch.ones(2, 2).double(), torch.zeros(2))]
    with pytest.raises(ValueError, match=r"straight line(.|\n)*bent path"):
        ls.gauss_length(model, Bent(line), data, method="integral")
    found = ls.gauss_length(model, Bent(line), data)
    assert found.mean < 1e-12
    assert found.degenerate.tolist() == [1, 1]  # it starts from rest
    assert np.isfinite(found.per_example).all()
