"""Output paths to look at, and how far they stray from their chords."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from torch import Tensor, nn

import lerpscape as ls

DOUBLE = torch.float64


class Arc(nn.Module):
    """A half circle in a plane of four dimensions, with the example's radius."""

    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, radius: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=DOUBLE)
        return radius * torch.stack([zero, (math.pi * self.t).cos(), zero, (math.pi * self.t).sin()])


LINE = ls.Line({"t": torch.tensor(0.0, dtype=DOUBLE)}, {"t": torch.tensor(1.0, dtype=DOUBLE)})


def data() -> list[tuple[Tensor, Tensor]]:
    radii = torch.tensor([[1.0], [2.0], [3.0]], dtype=DOUBLE)
    return [(radii[:2], torch.tensor([4, 7])), (radii[2:], torch.tensor([4]))]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_principal_directions_show_a_plane_path_whole(dimensions: int) -> None:
    found = ls.geometry.output_paths(Arc(), LINE, data(), examples=[2, 0], dimensions=dimensions, alphas=11)  # type: ignore[arg-type]
    assert found.labels == ("4", "4")
    assert found.examples == (2, 0)
    assert found.outputs.shape == (11, 2, 4)
    assert found.projected.shape == (11, 2, dimensions)
    assert_allclose(found.explained.sum(), 1)
    lengths = np.linalg.norm(np.diff(found.projected, axis=0), axis=-1)
    assert_allclose(lengths, np.tile([3.0, 1.0], (10, 1)) * 2 * math.sin(math.pi / 20), rtol=1e-9)
    assert found.projected_velocity is not None
    assert_allclose(np.linalg.norm(found.projected_velocity, axis=-1), np.tile([3.0, 1.0], (11, 1)) * math.pi)
    assert_allclose(found.basis @ found.basis.T, np.eye(dimensions), atol=1e-12)


def test_random_directions_are_orthonormal_and_follow_the_seed() -> None:
    one, again, other = (
        ls.geometry.output_paths(Arc(), LINE, data(), examples=2, projection="random", seed=s, alphas=5)
        for s in (0, 0, 1)
    )
    assert_allclose(one.basis @ one.basis.T, np.eye(2), atol=1e-12)
    assert (one.projected == again.projected).all()
    assert not np.allclose(one.projected, other.projected)
    assert 0 < one.explained.sum() < 1
    assert_allclose(one.onto(other).projected, other.projected)


def test_without_velocity_no_derivative_is_needed() -> None:
    found = ls.geometry.output_paths(Arc(), LINE, data(), examples=3, velocity=False, alphas=5)
    assert found.velocity is None
    assert found.projected_velocity is None
    assert found.labels == ("4", "7", "4")


def test_examples_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="examples below 3"):
        ls.geometry.output_paths(Arc(), LINE, data(), examples=4)
    for choices in ({"examples": 0}, {"examples": [-1]}, {"dimensions": 4}, {"projection": "umap"}):
        with pytest.raises(ValueError, match="at least one example, projection"):
            ls.geometry.output_paths(Arc(), LINE, data(), **choices)  # type: ignore[arg-type]


def test_paths_of_two_networks_side_by_side() -> None:
    from lerpscape.plots.style import as_svg

    for dimensions in (2, 3):
        found = [
            ls.geometry.output_paths(Arc(), LINE, data(), examples=3, dimensions=dimensions, alphas=9, label=name)  # type: ignore[arg-type]
            for name in ("one", "two")
        ]
        figure = found[0].figure(beside=found[1:])
        assert isinstance(figure, Figure)
        assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == ["4", "7", "α = 0", "α = 1"]
        assert as_svg(figure).startswith("<svg")
    assert isinstance(found[0].figure(), Figure)


def test_gauss_length_is_drawn_with_half_pi() -> None:
    found = ls.gauss_length(Arc(), LINE, data())
    ax = found.plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["turning", "π/2"]
    assert "rad on average" in found._repr_html_()


def test_linearity_of_a_half_circle() -> None:
    found = ls.geometry.linearity(Arc(), LINE, data(), alphas=201)
    # Orthogonal to the chord: r sin πα, of which the mean square is r²/2.
    assert_allclose(found.per_example, np.array([1, 4, 9]) / 2, rtol=1e-12)
    assert_allclose(found.relative, 1 / 8, rtol=1e-12)
    assert_allclose(found.value, 14 / 6)
    assert found.error < 1e-12


def test_linearity_converges_within_its_error_and_counts_loops_whole() -> None:
    class Loop(Arc):
        def forward(self, radius: Tensor) -> Tensor:
            turn = 2 * math.pi * self.t
            return radius * torch.stack([turn.cos() - 1, turn.sin()])

    found = ls.geometry.linearity(Loop(), LINE, data(), alphas=101)
    assert_allclose(found.per_example, 2 * np.array([1, 4, 9]), rtol=1e-9)  # ‖z − z(0)‖² = 2r²(1 − cos)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double() for _ in range(2)]
        x = torch.randn(9, 3, dtype=DOUBLE)
    line = ls.Line(*nets)
    coarse, fine = (ls.geometry.linearity(nets[0], line, [(x, x)], alphas=n) for n in (41, 641))
    assert abs(coarse.value - fine.value) <= coarse.error
    assert (
        ls.geometry.linearity(nn.Linear(3, 2), ls.Line(nn.Linear(3, 2), nn.Linear(3, 2)), [(x.float(), x)]).value
        < 1e-10
    )
    with pytest.raises(ValueError, match="between which the chord runs"):
        ls.geometry.linearity(nets[0], line, [(x, x)], alphas=[0.0, 0.5])
