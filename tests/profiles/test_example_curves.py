"""Losses of single examples, and what their average hides."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from cases import CASES, Case, variants
from torch import nn

import lerpscape as ls

matplotlib.use("agg")
VARIANTS = variants()


@pytest.mark.parametrize(("name", "case", "policy"), VARIANTS, ids=[name for name, _, _ in VARIANTS])
def test_the_mean_is_the_profile(name: str, case: Case, policy: object) -> None:
    start, end = case.ends()
    line = ls.Line(start, end)
    found = ls.profiles.example_curves(start, line, case.data(), loss=case.loss, alphas=5, batch_norm=policy)  # type: ignore[arg-type]
    whole = ls.profile(start, line, case.data(), loss=case.loss, alphas=5, batch_norm=policy, derivative=False)  # type: ignore[arg-type]
    assert found.mean == pytest.approx(whole.loss, rel=1e-14)
    assert np.cov(found.losses) == pytest.approx(whole.covariance, rel=1e-9, abs=1e-15)
    assert (found.classes is not None) == (name.startswith(("mlp", "cnn", "keyed")))


def curves(losses: list[list[float]], classes: list[int] | None = None) -> ls.profiles.ExampleCurves:
    """One list per example."""
    values = np.array(losses).T
    return ls.profiles.ExampleCurves(
        alphas=np.linspace(0, 1, len(values)),
        losses=values,
        classes=None if classes is None else np.array(classes),
        unit="nats",
        loss_name="cross_entropy",
        label="",
        how={},
    )


def test_rises_hidden_by_averaging_and_cancelled_between_classes() -> None:
    found = curves([[4.0, 1.0, 0.0], [4.0, 1.0, 0.0], [0.0, 1.0, 2.0]], classes=[0, 0, 7])
    assert ls.max_rise(found.mean) == 0
    assert found.share_rising(0.0) == pytest.approx(1 / 3)
    assert found.hidden_by_averaging(0.0) and not found.hidden_by_averaging(2.0)
    assert found.cancels_between_classes(0.0) == (7,)
    assert not found.made_by_a_minority()
    text = found.verdict(0.0)
    assert "33.3 % of 3 examples rise" in text
    assert "hidden by averaging" in text
    assert "means of classes 7 rise and cancel" in text
    zero, seven = found.by_class(0.0)
    assert (zero.examples, zero.rise, zero.share_rising, zero.part) == (2, 0.0, 0.0, pytest.approx(-8 / 3))
    assert (seven.examples, seven.rise, seven.share_rising, seven.part) == (1, 2.0, 1.0, pytest.approx(2 / 3))


def test_a_rise_made_by_a_minority() -> None:
    found = curves([[1.0, 0.9, 0.0], [1.0, 0.9, 0.0], [1.0, 3.0, 0.0]])
    assert found.largest_rise() == (0.0, 0.5)
    assert found.made_by_a_minority()
    assert "a rise made by a minority" in found.verdict(0.0)
    assert found.ranked()[0] == (2, pytest.approx(2 / 3))
    assert found.contributions().sum() == pytest.approx(ls.max_rise(found.mean))
    assert found.cancels_between_classes(0.0) == ()
    together = curves([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [1.0, 0.5, 0.0]])
    assert not together.made_by_a_minority()
    assert "66.7 % increase." in together.verdict(0.0)


def test_parts_of_classes_and_examples_sum_to_the_rise() -> None:
    generator = np.random.default_rng(0)
    found = curves(generator.normal(size=(20, 9)).tolist(), classes=generator.integers(0, 3, 20).tolist())
    change = ls.max_rise(found.mean)
    assert sum(each.part for each in found.by_class(0.0)) == pytest.approx(change)
    assert found.contributions().sum() == pytest.approx(change)
    own = [ls.max_rise(found.losses[:, i]) for i in range(20)]
    assert found.rise.tolist() == own
    assert found.share_rising(0.5) == np.mean(np.array(own) > 0.5)


def test_nothing_that_rises_and_grids_that_lack_the_point_are_refused() -> None:
    found = curves([[2.0, 1.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match="never rises on 2 points"):
        found.contributions()
    with pytest.raises(ValueError, match="two α of the grid"):
        found.contributions((0.0, 0.3))
    with pytest.raises(ls.NonFiniteLoss, match=r"example 1 at α = 0"):
        _ = curves([[1.0, 0.0], [float("nan"), 0.0]]).rise
    assert found.by_class(0.0) == []


def test_tables_and_pictures() -> None:
    start, end = CASES[0].ends()
    found = ls.profiles.example_curves(start, ls.Line(start, end), CASES[0].data(), alphas=5)
    frame = found.to_pandas()
    assert frame["max_rise"].tolist() == found.rise.tolist()
    assert set(frame["class"]) <= {0, 1, 2}
    labels = [text.get_text() for text in found.plot().get_legend().get_texts()]
    assert {"mean", "class 0", "90 % of examples"} <= set(labels)
    matplotlib.pyplot.close("all")


def test_data_in_several_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = CASES[0].ends()
    line, loader = (
        ls.Line(start, end),
        torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*CASES[0].data(), strict=True))),
            batch_size=4,
        ),
    )
    whole = ls.profiles.example_curves(start, line, CASES[0].data(), alphas=3)
    parts = ls.studies.layer_contributions(start, line, CASES[0].data(), between=(0, 1))
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 300)
    assert ls.profiles.example_curves(start, line, loader, alphas=3).losses == pytest.approx(whole.losses, rel=1e-12)
    again = ls.studies.layer_contributions(start, line, loader, between=(0, 1))
    assert again.parts == pytest.approx(parts.parts, rel=1e-9)
    assert isinstance(start, nn.Module)
