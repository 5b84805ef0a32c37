"""Training a control point: it goes where a closed form says, leaves its inputs alone, and says when it failed."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, cnn, random, seeded
from torch import Tensor, nn

import lerpscape as ls

MLP, CNN, TIED = CASES[0], CASES[3], CASES[6]


class Place(nn.Module):
    """A network that is a place in the plane: its output is its weight, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(len(x), 2)


def ridge(outputs: Tensor, targets: Tensor) -> Tensor:
    """A valley along a parabola: (y − (1 − x²))²."""
    return (outputs[:, 1] - 1 + outputs[:, 0] ** 2) ** 2


def test_the_control_point_finds_a_valley_that_is_a_parabola() -> None:
    """From (−1, 0) to (1, 0) along y = 1 − x²: the quadratic Bezier with control (0, 2) is that curve exactly."""
    ends = [{"weight": torch.tensor([side, 0.0], dtype=torch.float64)} for side in (-1.0, 1.0)]
    data = [(torch.zeros(1, 1).double(), torch.zeros(1))] * 10
    curve = ls.studies.connect(Place(), *ends, data, ridge, epochs=150, learning_rate=0.5, progress=False)
    torch.testing.assert_close(curve.control.tensors["weight"], torch.tensor([0.0, 2.0]).double(), rtol=0, atol=1e-3)
    straight = ls.profile(Place(), ls.Line(*ends), data, loss=ridge, alphas=21)
    found = ls.profile(Place(), curve, data, loss=ridge, alphas=21)
    assert straight.barrier("mean") == pytest.approx(1)
    assert found.barrier("mean") < 1e-5


@pytest.mark.parametrize("case", [MLP, CNN, TIED], ids=lambda case: case.name)
def test_a_curve_is_lower_than_the_line_and_nothing_else_changes(case: object) -> None:
    start, end = case.ends()  # type: ignore[attr-defined]
    other = seeded(case.build, 5).double()  # type: ignore[attr-defined]
    kept = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    policy = ls.BatchStatistics() if case is CNN else None
    state = torch.get_rng_state()
    curve = ls.studies.connect(other, start, end, case.data(), epochs=15, learning_rate=0.1, batch_norm=policy)  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in kept.items())
    assert not any(tensor.requires_grad for tensor in curve.control.tensors.values())
    means = [
        ls.profile(start, path, case.data(), alphas=11, batch_norm=policy, derivative=False).loss.mean()  # type: ignore[attr-defined]
        for path in (curve, ls.Line(start, end))
    ]
    assert means[0] < means[1]
    again = ls.studies.connect(other, start, end, case.data(), epochs=15, learning_rate=0.1, batch_norm=policy)  # type: ignore[attr-defined]
    assert curve.digest() == again.digest()


def test_tied_weights_stay_tied_in_the_control_point() -> None:
    control = ls.studies.connect(*[TIED.ends()[0]], *TIED.ends(), TIED.data(), epochs=1).control
    assert control.tensors["embed.weight"].data_ptr() == control.tensors["read.weight"].data_ptr()


def test_a_run_that_diverged_is_an_error() -> None:
    start, end = MLP.ends()
    with pytest.raises(ls.Diverged, match=r"(?s)falls in training.*on the straight line.*learning_rate=10"):
        ls.studies.connect(start, start, end, MLP.data(), epochs=3, learning_rate=100)
    with pytest.raises(ls.Diverged, match="not finite"):
        ls.studies.connect(
            start, start, end, [(x, x[:, :3]) for x, _ in MLP.data()], "squared_error", learning_rate=1e9
        )


def test_refusals() -> None:
    start, end = seeded(cnn, 0).double(), seeded(cnn, 1).double()
    with pytest.raises(ValueError, match="BatchStatistics"):
        ls.studies.connect(start, start, end, CNN.data())
    with pytest.raises(ValueError, match="to train through"):
        ls.studies.connect(start, start, end, CNN.data(), batch_norm=ls.Recalibrate(CNN.data()))
    with pytest.raises(ValueError, match="at least one epoch"):
        ls.studies.connect(start, start, end, CNN.data(), epochs=0)
    with pytest.raises(ls.EndpointMismatch, match="only in"):
        ls.studies.connect(start, start, nn.Linear(1, 1), [(random(2, 1, seed=0), torch.zeros(2))])
