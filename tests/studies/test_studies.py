"""Studies against closed forms, and against lines measured one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES, cnn, mlp, random, seeded
from torch import Tensor, nn

import lerpscape as ls

MLP, CNN = CASES[0], CASES[3]


class Place(nn.Module):
    """A network that is a place: its output is its weight, whatever the input."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(len(x), len(self.weight))


def at(*place: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor(place, dtype=torch.float64)}


def wave(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss with bumps: 4 (x − 1)² + sin²(2πx), plus the squares of the other coordinates."""
    x = outputs[:, 0]
    return 4 * (x - 1) ** 2 + torch.sin(2 * torch.pi * x) ** 2 + outputs[:, 1:].square().sum(1)


DATA = [(torch.zeros(2, 1).double(), torch.zeros(2)), (torch.zeros(1, 1).double(), torch.zeros(1))]


def wave_at(x: np.ndarray) -> np.ndarray:
    return 4 * (x - 1) ** 2 + np.sin(2 * np.pi * x) ** 2


def test_starts_are_the_lines_measured_one_by_one() -> None:
    start, end = MLP.ends()
    model = seeded(mlp, 0).double()
    found = ls.studies.starts(model, start, end, MLP.data(), fresh=3, noise=2, seed=5, alphas=9)
    assert found.families == ("own init", *["fresh init"] * 3, *["noise"] * 2, "zero")
    starts = [start, *(ls.paths.fresh_init(model, seed) for seed in (5, 6, 7))]
    starts += [*(ls.paths.noise_like(start, seed) for seed in (5, 6)), ls.paths.zeros_like(start)]
    for index, each in enumerate(starts):
        expected = ls.profile(model, ls.Line(each, end), MLP.data(), alphas=9, derivative=False)
        assert np.array_equal(found.losses[index], expected.loss)
        assert found.max_rise[index] == expected.max_rise
    rises = found.max_rise[1:4]
    excess = found.excess("fresh init")
    assert excess == pytest.approx((found.max_rise[0] - rises.mean(), np.std(rises, ddof=1) / 3**0.5, 3), rel=1e-14)
    assert np.isnan(found.excess("zero").error)
    assert "zero (n = 1)" in found.summary
    factory = ls.studies.starts(
        model, start, end, MLP.data(), fresh=1, noise=0, zero=False, factory=mlp, seed=9, alphas=3
    )
    drawn = {name: tensor.double() for name, tensor in seeded(mlp, 9).state_dict().items()}
    same = ls.profile(model, ls.Line(drawn, end), MLP.data(), alphas=3, derivative=False)
    np.testing.assert_allclose(factory.losses[1], same.loss, rtol=1e-12)
    drawn = ls.paths.fresh_init(mlp, 3)
    with pytest.raises(ValueError, match=r"(?s)seed 3, which draws that very start.*seed=1002"):
        ls.studies.starts(mlp(), drawn, mlp(), MLP.data(), seed=2, factory=mlp, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least one control"):
        ls.studies.starts(model, start, end, MLP.data(), fresh=0, noise=0, zero=False)


def test_onset_of_a_wave() -> None:
    """4 (x − 1)² + sin²(2πx) falls from 0.5 on but for a last bump at 0.75; from 0.8 on it only falls."""
    places = [0.0, 0.3, 0.8, 0.6, 0.85, 0.9, 1.0]
    grid = np.linspace(0, 1, 201)
    rises = [ls.max_rise(wave_at(place + grid * (1 - place))) for place in places[:-1]]
    assert [rise > 1e-9 for rise in rises] == [True, True, False, True, False, False]
    found = ls.studies.onset(Place(1), [at(place) for place in places], DATA, tolerance=1e-9, loss=wave, alphas=201)
    np.testing.assert_allclose(found.max_rise, rises, rtol=1e-12, atol=1e-15)
    assert found.monotonic == (False, False, True, False, True, True)
    assert (found.onset, found.end) == ("4", "6")
    assert "From 4 on" in found.summary and "before it, 1 of 4 are" in found.summary
    all_fine = ls.studies.onset(Place(1), [at(0.85), at(0.9)], DATA, tolerance=1e-9, end=at(1.0), loss=wave, alphas=201)
    assert all_fine.onset == "0"
    none = ls.studies.onset(Place(1), [at(0.8), at(0.0), at(1.0)], DATA, tolerance=1e-9, loss=wave, alphas=201)
    assert none.onset is None
    assert none.summary.startswith("No onset")


def test_snapshots_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for step, place in ((2, 0.5), (10, 1.0), (1, 0.0)):
        torch.save(at(place), tmp_path / f"step-{step}.pt")
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    found = ls.studies.onset(Place(1), tmp_path, DATA, tolerance=0, loss=wave, alphas=5)
    assert found.labels == ("step-1", "step-2")
    assert found.end == "step-10"


def test_pairs_are_read_from_both_sides() -> None:
    places = {"init a": (0.0, 0.0), "init b": (0.2, 1.0), "opt": (1.0, 0.0)}
    groups = {"init a": "init", "init b": "init", "opt": "opt"}
    found = ls.studies.pairwise(
        Place(), {name: at(*each) for name, each in places.items()}, DATA, groups=groups, loss=wave, alphas=31
    )
    for i, one in enumerate(places.values()):
        for j, other in enumerate(places.values()):
            if i == j:
                assert found.max_rise[i, j] == found.barrier[i, j] == 0
                continue
            measured = ls.profile(Place(), ls.Line(at(*one), at(*other)), DATA, loss=wave, alphas=31)
            assert found.max_rise[i, j] == pytest.approx(measured.max_rise, rel=1e-12)
            assert found.barrier[i, j] == pytest.approx(measured.barrier("mean"), rel=1e-12)
    blocks = found.blocks()
    assert set(blocks) == {("init", "init"), ("init", "opt"), ("opt", "init")}
    assert blocks["init", "opt"] == pytest.approx((found.max_rise[:2, 2].mean(), found.barrier[:2, 2].mean(), 2))
    assert blocks["opt", "init"].max_rise == pytest.approx(found.max_rise[2, :2].mean())
    assert "init to opt (2 lines)" in found.summary


def test_every_layer_alone_by_hand() -> None:
    case = CNN
    start, end = case.ends()
    policy = ls.InterpolateStatistics()
    for rest, held in (("start", start), ("end", end)):
        found = ls.studies.layerwise(start, start, end, case.data(), rest=rest, alphas=3, batch_norm=policy)  # type: ignore[arg-type]
        assert found.layers == ("0", "1", "5", "9")
        for index, layer in enumerate(found.layers):
            one, other = held.state_dict(), held.state_dict()
            for name in held.state_dict():
                if name.rpartition(".")[0] == layer:
                    one[name], other[name] = start.state_dict()[name], end.state_dict()[name]
            expected = ls.profile(start, ls.Line(one, other), case.data(), alphas=3, batch_norm=policy)
            np.testing.assert_allclose(found.losses[index], expected.loss, rtol=1e-13)
            assert found.distance[index] == pytest.approx(expected.distance, rel=1e-13)
        whole = ls.profile(start, ls.Line(start, end), case.data(), alphas=3, batch_norm=policy)
        np.testing.assert_allclose(found.together, whole.loss, rtol=1e-13)
    part = ls.Line(start, end).only("0", "9")
    found = ls.studies.layerwise(start, part.start, part.end, case.data(), rest="end", alphas=3, batch_norm=policy)
    assert (found.layers, found.unmoved) == (("0", "9"), ("1", "5"))


def test_a_plane_is_the_closed_form() -> None:
    """Corners that are no right angle, in three dimensions; losses 4 (x − 1)² + sin²(2πx) + y² + z²."""
    start, other, end = np.array([0.2, 0.1, 0.3]), np.array([0.4, 1.3, 0.0]), np.array([1.0, 0.2, 0.5])
    training = [start, np.array([0.5, 0.5, 0.9]), end]
    found = ls.studies.plane(
        Place(3),
        at(*start),
        at(*other),
        at(*end),
        DATA,
        trajectory=[at(*each) for each in training],
        loss=wave,
        points=6,
        margin=0.1,
        alphas=7,
    )
    across = (end - start) / np.linalg.norm(end - start)
    up = (other - start) - (other - start) @ across * across
    up /= np.linalg.norm(up)
    for row, y in enumerate(found.y):
        for column, x in enumerate(found.x):
            place = start + x * across + y * up
            expected = wave_at(place[0]) + place[1] ** 2 + place[2] ** 2
            assert found.losses[row, column] == pytest.approx(expected, rel=1e-10)
    for index, place in enumerate(training):
        shadow = np.array([(place - start) @ across, (place - start) @ up])
        np.testing.assert_allclose(found.trajectory[index], shadow, atol=1e-12)
        height = np.linalg.norm(place - start - shadow[0] * across - shadow[1] * up)
        assert found.heights[index] == pytest.approx(height, abs=1e-12)
        assert found.along[index] == pytest.approx(wave_at(place[0]) + place[1] ** 2 + place[2] ** 2, rel=1e-12)
    steps = [np.linalg.norm(training[1] - training[0]), np.linalg.norm(training[2] - training[1])]
    np.testing.assert_allclose(found.travelled, [0, steps[0] / sum(steps), 1], rtol=1e-13)
    for index, corner in enumerate((start, other)):
        expected = ls.profile(Place(3), ls.Line(at(*corner), at(*end)), DATA, loss=wave, alphas=7)
        np.testing.assert_allclose(found.lines[index], expected.loss, rtol=1e-13)
    # The grid reaches a tenth of the larger extent beyond corners and trajectory.
    covered = np.concatenate([found.corners, found.trajectory])
    more = 0.1 * np.ptp(covered, axis=0).max()
    assert (found.x[0], found.y[-1]) == pytest.approx((covered[:, 0].min() - more, covered[:, 1].max() + more))


def test_a_trajectory_is_the_closed_form() -> None:
    places = [(0.0, 0.0), (0.3, 0.4), (0.5, 0.4), (1.0, 0.0)]
    found = ls.studies.trajectory(Place(), [at(*place) for place in places], DATA, loss=wave)
    np.testing.assert_allclose(found.projection, [0, 0.3, 0.5, 1], atol=1e-15)
    np.testing.assert_allclose(found.residual, [0, 0.4, 0.4, 0], atol=1e-15)
    length = 0.5 + 0.2 + (0.25 + 0.16) ** 0.5
    np.testing.assert_allclose(found.travelled, np.array([0, 0.5, 0.7, length]) / length, rtol=1e-14)
    assert (found.length, found.path_length) == pytest.approx((1.0, length))
    np.testing.assert_allclose(found.losses, [wave_at(np.array(x)) + y**2 for x, y in places], rtol=1e-12)
    np.testing.assert_allclose(found.line, wave_at(np.array([0, 0.3, 0.5, 1])), rtol=1e-12)
    assert "at 1" in found.summary


def test_batch_norm_is_chosen_for_studies_too() -> None:
    start, end = CNN.ends()
    other = seeded(cnn, 4).double()
    for study in (
        lambda **more: ls.studies.layerwise(start, start, end, CNN.data(), rest="end", alphas=3, **more),
        lambda **more: ls.studies.plane(start, start, other, end, CNN.data(), points=3, alphas=3, **more),
        lambda **more: ls.studies.trajectory(start, [start, other, end], CNN.data(), **more),
        lambda **more: ls.studies.pairwise(start, [start, other, end], CNN.data(), alphas=3, **more),
    ):
        with pytest.raises(ValueError, match="Recalibrate"):
            study()
        assert study(batch_norm=ls.Recalibrate(CNN.data())).how["batch_norm"]


def test_a_loss_that_is_not_finite_is_marked_and_never_monotonic() -> None:
    def cliff(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(outputs[:, 0].abs() < 0.01, torch.nan, -outputs[:, 0])

    found = ls.studies.onset(Place(1), [at(-1.0), at(0.5), at(1.0)], DATA, tolerance=0, loss=cliff, alphas=5)
    assert np.isnan(found.max_rise[0])
    assert found.monotonic == (False, True)
    pairs = ls.studies.pairwise(Place(1), [at(-1.0), at(0.5), at(1.0)], DATA, loss=cliff, alphas=5)
    assert np.isnan(pairs.max_rise[0, 2]) and not np.isnan(pairs.max_rise[1, 2])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ls.studies.plane(Place(), at(0, 0), at(0.5, 0.5), at(1, 1), DATA, loss=wave),
            ValueError,
            "collinear to within rounding",
        ),
        (lambda: ls.studies.plane(Place(), at(0, 0), at(0, 1), at(1, 1), DATA, points=1), ValueError, "points ≥ 2"),
        (
            lambda: ls.studies.pairwise(Place(), {"a": at(0, 0), "b": at(1, 0), "odd": at(1, 0, 0)}, DATA),
            ls.EndpointMismatch,
            r"checkpoint 'odd' to fit 'a': ",
        ),
        (
            lambda: ls.studies.pairwise(Place(), {"a": at(0, 0), "b": at(1, 0)}, DATA, groups={"a": "init"}),
            ValueError,
            "none for 'b'",
        ),
        (
            lambda: ls.studies.pairwise(Place(), [at(0, 0), at(1, 0)], DATA, alphas=[0, 0.3, 1]),
            ValueError,
            "symmetric about 1/2",
        ),
        (
            lambda: ls.studies.pairwise(cnn(), [cnn(), cnn()], CNN.data(), batch_norm=ls.EndStatistics()),
            ValueError,
            "the same in both directions",
        ),
        (lambda: ls.studies.onset(Place(), [at(0, 0)], DATA, tolerance=0), ValueError, "at least 2 checkpoints"),
        (lambda: ls.studies.onset(Place(), [at(0, 0), at(0, 0)], DATA, tolerance=0), ValueError, "other than the end"),
        (lambda: ls.studies.onset(Place(), "nowhere", DATA, tolerance=0), ValueError, "a folder of checkpoints"),
        (lambda: ls.studies.trajectory(Place(), [at(0, 0), at(1, 0), at(0, 0)], DATA), ValueError, "that differ"),
        (
            lambda: ls.studies.trajectory(Place(), [at(0, 0), at(1, 0)], DATA, alphas=3),
            TypeError,
            "an argument of trajectory",
        ),
        (
            lambda: ls.paths.PointList(
                (ls.paths.zeros_like(Place()), ls.paths.zeros_like(Place())), 2, dict, "x"
            ).velocity(0.5),
            TypeError,
            "single points",
        ),  # type: ignore[arg-type]
    ],
)
def test_bad_input_says_what_to_do(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\ntry: " in str(caught.value)


def test_numbers_of_random_points_agree_with_numpy() -> None:
    """A last look with no structure at all: projections of random snapshots."""
    points = [random(30, seed=seed) for seed in range(5)]
    found = ls.studies.trajectory(Place(30), [{"weight": each} for each in points], DATA, loss=wave)
    flat = np.stack([each.numpy() for each in points])
    direction = flat[-1] - flat[0]
    share = (flat - flat[0]) @ direction / (direction @ direction)
    away = np.linalg.norm(flat - flat[0] - share[:, None] * direction, axis=1)
    np.testing.assert_allclose(found.projection, share, atol=1e-13)
    np.testing.assert_allclose(found.residual, away, atol=1e-12)
