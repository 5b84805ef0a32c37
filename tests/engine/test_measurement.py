"""Keyword arguments that measurements share: one list of them, and an error for any that has no effect."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lerpscape as ls
from lerpscape.engine.measurement import MeasurementOptions, alpha_grid, check_options, opened

MODEL = nn.Linear(2, 1)
LINE = ls.Line({name: 0 * tensor for name, tensor in MODEL.state_dict().items()}, MODEL)
DATA = [(torch.ones(3, 2), torch.ones(3, 1)), (torch.zeros(1, 2), torch.zeros(1, 1))]


def measure(*, budget: int = 1, **options: Any) -> None:
    """A function that measures, for messages."""


def test_a_measurement_says_what_it_was_made_with() -> None:
    with opened(measure, MODEL, LINE, DATA, {"dtype": torch.float64, "label": "train"}) as measurement:
        how = measurement.how(budget=3)
    expected = {"model": "Linear", "device": "cpu", "dtype": "float64", "batch_norm": None, "budget": 3, "threads": 1}
    assert expected.items() <= how.items()
    assert how["path_digest"] == LINE.digest() and how["seconds"] >= 0 and "torch" in how["versions"]
    assert measurement.label == "train"
    profile = ls.profile(MODEL, LINE, DATA, loss="squared_error", alphas=2)
    assert how["data_digest"] == profile.how["data_digest"]
    with opened(measure, MODEL, LINE, DATA[:1], {}) as other:
        assert other.how()["data_digest"] != how["data_digest"]
        assert other.how(data_digest="known")["data_digest"] == "known"


def test_the_progress_bar_names_the_label_and_tells_a_function() -> None:
    calls: list[tuple[int, int]] = []
    options: MeasurementOptions = {"progress": lambda done, total: calls.append((done, total)), "label": "a"}
    with opened(measure, MODEL, LINE, DATA, options) as measurement, measurement.progress_bar(2, "work") as report:
        report(2)
    assert calls == [(2, 2)]


@pytest.mark.parametrize(
    ("name", "nearest"), [("divice", "device"), ("budgets", "budget"), ("label", None), ("zzz", None)]
)
def test_an_argument_without_effect_is_an_error(name: str, nearest: str | None) -> None:
    with pytest.raises(TypeError) as caught, opened(measure, MODEL, LINE, DATA, {name: 1}, without=["label"]):  # type: ignore[misc]
        pass
    hint = f"Did you mean {nearest!r}?" if nearest else "Use one of these."
    assert str(caught.value) == (
        "expected: an argument of measure: one of budget, batch_norm, device, dtype, progress, self_check.\n"
        f"got: {name!r}.\ntry: {hint}"
    )
    check_options(measure, {"device": "cpu"})


PACKAGES = (ls, ls.profiles, ls.certificates, ls.geometry, ls.studies)
PUBLIC = {name: getattr(package, name) for package in PACKAGES for name in package.__all__}
MEASURING = [
    each for each in PUBLIC.values() if inspect.isfunction(each) and "options" in inspect.signature(each).parameters
]
ENDS = LINE.start, LINE.end
ARGUMENTS: dict[str, Any] = {"model": MODEL, "path": LINE, "line": LINE, "data": DATA, "start": ENDS[0], "end": ENDS[1]}
ARGUMENTS |= {
    "other": MODEL,
    "center": ENDS[0],
    "checkpoints": ENDS,
    "estimate_from": DATA,
    "rest": "end",
    "tolerance": 0.0,
}


@pytest.mark.parametrize("function", MEASURING, ids=lambda function: function.__name__)
def test_every_function_that_measures_refuses_a_misspelt_argument(function: Callable[..., Any]) -> None:
    wanted = [each.name for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    given = {name: ARGUMENTS[name] for name in wanted if name != "options"}
    with pytest.raises(TypeError, match=f"an argument of {function.__name__}.*\ngot: 'divice'.\ntry: "):
        function(**given, divice="cpu")


def test_only_modules_are_opened_and_nothing_in_them_changes() -> None:
    with (
        pytest.raises(TypeError, match="expected: a torch module"),
        opened(measure, nn.Linear, LINE, DATA, {}),  # type: ignore[arg-type]
    ):
        pass
    model = nn.Linear(2, 1).train()
    before = random.getstate(), torch.get_rng_state()
    with opened(measure, model, LINE, DATA, {}):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(1), random.random()
    assert model.training and torch.is_grad_enabled()
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("wrong", [1, -3, [0.5], [0.0, 0.0], [1.0, 0.0], [0.0, np.nan], "adaptive", [[0.0, 1.0]]])
def test_a_grid_increases(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected: alphas as a count"):
        alpha_grid(wrong)
