"""What every cell of the table compares with the loop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lerpscape as ls
from families.family import ALPHAS, INNER, Family, loop_of
from lerpscape.paths.path import ParamPath


def alike(found: Any, expected: Any, family: Family, words: str = "") -> None:
    """Slopes are those of the loop; its difference quotients leave about 1e-10 of the loss by rounding."""
    np.testing.assert_allclose(found, expected, rtol=family.slopes, atol=family.slopes / 100, err_msg=words)


class Stop(Exception):
    pass


def check(family: Family, cell: str, folder: Path) -> None:
    """One cell: equal to the loop, or the refusal that stands in the table."""
    refusal = family.refusal(cell)
    if refusal is None:
        CHECKS[cell](family, folder)
    elif cell == "derivative" and "all" not in family.refused:
        curve = measured(family, derivative=True)
        assert curve.derivative is None
        assert refusal in curve.derivative_reason
    else:
        with pytest.raises(Exception, match=re.escape(refusal)):
            CHECKS[cell](family, folder)


def model_and_line(family: Family) -> tuple[nn.Module, ParamPath]:
    """The model that is measured, whose own values are not used, and the line."""
    start, end = (family.built(seed) for seed in (0, 1))
    ends = family.ends(start, end) if family.ends else (start.state_dict(), end.state_dict())
    return family.model(family.built(2)), ls.Line(*ends)


def measured(family: Family, only: str | None = None, alphas: Any = ALPHAS, **options: Any) -> ls.Profile:
    model, line = model_and_line(family)
    moved = loop_of(family).moved(only)
    names = [name for name in line.at(0.0) if re.sub(r"^(module|_orig_mod)\.", "", name) in moved]
    path = line if only is None else line.only(*names, rest="end")
    options = {"derivative": False, "loss": family.loss, "progress": False, **family.options, **options}
    return ls.profile(model, path, family.data(), alphas=alphas, **options)


def check_profile(family: Family, folder: Path) -> None:
    model, line = model_and_line(family)
    model.train()
    held = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    modes = [each.training for each in model.modules()]
    curve = ls.profile(
        model, line, family.data(), alphas=ALPHAS, loss=family.loss, derivative=False, progress=False, **family.options
    )
    np.testing.assert_allclose(curve.loss, loop_of(family).losses(), rtol=family.tolerance)
    assert [each.training for each in model.modules()] == modes
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor and torch.equal(tensor, before) for name, (tensor, before) in held.items())


def check_derivative(family: Family, folder: Path) -> None:
    curve = measured(family, derivative=True)
    assert curve.derivative is not None, curve.derivative_reason
    expected = [loop_of(family).slope(float(ALPHAS[i])) for i in INNER]
    alike(curve.derivative[list(INNER)], expected, family)


def check_contributions(family: Family, folder: Path) -> None:
    model, line = model_and_line(family)
    options = {"loss": family.loss, "progress": False, **family.options}
    found = ls.studies.layer_contributions(
        model, line, family.data(), between=(0.25, 0.75), precision=1e9, budget=9, **options
    )
    loop = loop_of(family)
    for i in (0, len(found.alphas) - 1):
        alpha = float(found.alphas[i])
        layers = loop.layers(alpha)
        named = dict(zip((own(name, layers) for name in found.names), found.slopes[i], strict=True))
        for name, slope in layers.items():
            alike(named.get(name, 0.0), slope, family, name)
        alike(found.slopes[i].sum(), loop.slope(alpha), family)


def own(name: str, layers: dict[str, float]) -> str:
    """The loop's name of a part: that of a wrapped model begins with the wrapper's."""
    return next((each for each in layers if name == each or name.endswith(f".{each}")), name)


def check_examples(family: Family, folder: Path) -> None:
    model, line = model_and_line(family)
    curves = ls.profiles.example_curves(
        model, line, family.data(), alphas=ALPHAS[:3], loss=family.loss, progress=False, **family.options
    )
    for i, alpha in enumerate(ALPHAS[:3]):
        values, weights = loop_of(family).parts(loop_of(family).at(float(alpha)))
        counts = weights.numpy() > 0
        if len(counts) == curves.losses.shape[1]:  # else the loop has one loss for a whole batch
            np.testing.assert_allclose(
                curves.losses[i][counts], values.detach().numpy()[counts], rtol=family.tolerance, atol=1e-12
            )
        np.testing.assert_allclose(curves.mean[i], loop_of(family).mean(float(alpha)), rtol=family.tolerance)


def check_only(family: Family, folder: Path) -> None:
    first = moving(family)
    curve = measured(family, only=first)
    np.testing.assert_allclose(curve.loss, loop_of(family).losses(first), rtol=family.tolerance)
    assert curve.loss.std() > 0


def moving(family: Family) -> str:
    """What is moved alone: the first module whose own parameters the loss depends on, or one of the model's own."""
    loop = loop_of(family)
    first = next(name for name, slope in loop.layers(0.5).items() if slope != 0)
    return first if first != "model" else next(name for name, _ in loop.at(0.5).named_parameters() if "." not in name)


def check_resume(family: Family, folder: Path) -> None:
    file = folder / "work.partial"

    def stop(done: int, total: int) -> None:
        if done >= total / 2:
            raise Stop

    with pytest.raises(Stop):
        measured(family, partial=file, progress=stop)
    resumed = measured(family, partial=file)
    np.testing.assert_array_equal(resumed.loss, measured(family).loss)
    np.testing.assert_allclose(resumed.loss, loop_of(family).losses(), rtol=family.tolerance)


CHECKS = {
    "profile": check_profile,
    "derivative": check_derivative,
    "contributions": check_contributions,
    "examples": check_examples,
    "only": check_only,
    "resume": check_resume,
}
