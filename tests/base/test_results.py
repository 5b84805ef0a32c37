"""What every result can do, tested for every class of results."""

from __future__ import annotations

import html
import inspect
import json
import pkgutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from xml.etree import ElementTree as ET

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from cases import CASES
from matplotlib.figure import Figure
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.base.results import Result

MODULES = [
    import_module(module.name)
    for module in pkgutil.walk_packages(ls.__path__, "lerpscape.")
    if not module.name.startswith(("lerpscape.lab", "lerpscape.cli", "lerpscape.__main__"))
]
CLASSES = {value for module in MODULES for value in vars(module).values() if inspect.isclass(value)}
KINDS = {kind.__name__: kind for kind in sorted(CLASSES, key=lambda kind: kind.__name__) if issubclass(kind, Result)}
del KINDS["Result"]
MLP, REGRESSION, NORMED = CASES[0], CASES[1], CASES[3]


class Place(nn.Module):
    """A network whose output is its weight, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(len(x), 2)


PLACES = {name: {"weight": torch.tensor(place).double()} for name, place in zip("abc", np.eye(3, 2), strict=True)}
THREE = Place(), *PLACES.values(), [(torch.zeros(3, 1).double(), torch.ones(3, 2).double())]
FIXED = {"end": ls.EndStatistics(), "interpolate": ls.InterpolateStatistics()}
SQUARED: dict[str, Any] = {"loss": "squared_error", "alphas": 5}


def along(function: Callable[..., Any], case: Any = MLP, **choices: Any) -> Any:
    start, end = case.ends()
    return function(start, ls.Line(start, end), case.data(), **choices)


# One or more of each result, by the name of its class.
RESULTS: dict[str, Callable[[], Any]] = {
    "AngleBounds": lambda: along(ls.certificates.certify_angles, intervals=8),
    "BiasStudy": lambda: along(ls.studies.bias_study, alphas=5),
    "Certificate": lambda: along(ls.certify, budget=20),
    "Condition": lambda: along(ls.geometry.sufficient_condition, REGRESSION, budget=65),
    "Contributions": lambda: along(ls.studies.layer_contributions, between=(0, 1), budget=9),
    "Curvature": lambda: along(ls.curvature, alphas=3, iterations=8, probes=9),
    "ExampleCurves": lambda: along(ls.profiles.example_curves, alphas=5),
    "FeatureLinearity": lambda: along(ls.geometry.feature_linearity, alphas=3),
    "FeatureSimilarity": lambda: along(ls.geometry.feature_similarity),
    "GaussLength": lambda: along(ls.gauss_length, budget=65),
    "Landscape": lambda: ls.studies.landscape(*MLP.ends(), MLP.data(), points=3),
    "Landscape with trajectory": lambda: ls.studies.landscape(
        *MLP.ends(), MLP.data(), points=3, trajectory=[*MLP.ends()]
    ),
    "Layerwise": lambda: ls.studies.layerwise(MLP.ends()[0], *MLP.ends(), MLP.data(), rest="start", alphas=5),
    "Linearity": lambda: along(ls.geometry.linearity, alphas=5),
    "LossPlane": lambda: ls.studies.plane(*THREE, trajectory=list(PLACES.values())[::2], points=4, **SQUARED),
    "LossPlane without trajectory": lambda: ls.studies.plane(*THREE, points=4, **SQUARED),
    "Onset": lambda: ls.studies.onset(THREE[0], list(PLACES.values()), THREE[-1], tolerance=0.01, **SQUARED),
    "OutputPaths": lambda: along(ls.geometry.output_paths, examples=2, dimensions=3, alphas=5),
    "Pairwise": lambda: ls.studies.pairwise(THREE[0], PLACES, THREE[-1], **SQUARED),
    "Plateaus": lambda: along(ls.studies.plateau_ends, alphas=5),
    "PolicySweep": lambda: along(
        ls.studies.batch_norm_sweep, NORMED, estimate_from=[], policies=FIXED, alphas=3, budget=9
    ),
    "Profile": lambda: along(ls.profile, alphas=5),
    "Profile with NaN": lambda: along(ls.profile, REGRESSION, alphas=3, loss=lambda z, y: (z - y).sum(1).log()),
    "Readings": lambda: along(ls.profile, alphas=5).readings(),
    "ScaleInvariance": lambda: ls.studies.scale_invariance(MLP.ends()[0], *MLP.ends(), MLP.data(), alphas=4),
    "SequentialVerdict": lambda: along(ls.sequential_verdict, tolerance=0.1, alphas=5),
    "StartComparison": lambda: ls.studies.starts(MLP.ends()[0], *MLP.ends(), MLP.data(), fresh=1, noise=1, alphas=3),
    "SweetSpot": lambda: ls.studies.sweet_spot({"a": along(ls.profiles.example_curves, alphas=5)}, "a", {"a": 0.1}),
    "Trajectory": lambda: ls.studies.trajectory(THREE[0], list(PLACES.values()), THREE[-1], loss="squared_error"),
}  # fmt: skip


# What every `how` says. Readings are numbers read off a profile, which has a `how` of its own.
HOW = {"model", "data_digest", "batch_norm", "device", "dtype", "threads", "versions"}
READ_OFF = {"Readings"}


def same(one: Any, other: Any) -> bool:
    """Whether types, shapes, dtypes and numbers agree at every level; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if is_dataclass(one):
        return all(same(value, getattr(other, name)) for name, value in vars(one).items())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def test_every_kind_of_result_is_tried_here() -> None:
    assert {name.split()[0] for name in RESULTS} == set(KINDS)
    assert len({each.FORMAT for each in KINDS.values()}) == len(KINDS)


def test_every_result_has_a_how() -> None:
    without = {name for name, kind in KINDS.items() if "how" not in {field.name for field in fields(kind)}}
    assert without == READ_OFF


def test_public_functions_of_data_return_results() -> None:
    packages = [ls, *(getattr(ls, name) for name in ("paths", "profiles", "certificates", "geometry", "studies"))]
    public = {name: getattr(package, name) for package in packages for name in package.__all__}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    measuring = {name: value for name, value in functions.items() if "data" in inspect.signature(value).parameters}
    others = {"aligned", "connect"}  # they return a checkpoint and a path
    assert len(measuring) > 20
    assert {name for name, value in measuring.items() if value.__annotations__["return"] not in KINDS} == others
    skills = ("to_dict", "save", "plot", "to_pandas", "_repr_html_")
    skilled = {each for each in CLASSES if is_dataclass(each) and any(hasattr(each, skill) for skill in skills)}
    assert {each for each in skilled if not issubclass(each, Result)} == set()


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back_from_disk_and_shows_itself(name: str, tmp_path: Path) -> None:
    found = RESULTS[name]()
    assert type(found) is KINDS[name.split()[0]]
    if name not in READ_OFF:
        assert set(found.how) >= HOW, HOW - set(found.how)
    comes_back(name, found, tmp_path)
    shows_itself(name, found)


def comes_back(name: str, found: Any, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "found.json"
    found.save(file)
    again = type(found).load(file)
    for field in fields(found):
        value = getattr(found, field.name)
        assert field.name == "how" or same(value, getattr(again, field.name)), field.name
    assert again == found and hash(again) == hash(found) and again.summary == found.summary
    assert json.loads(file.read_text()) == json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert found != RESULTS["Readings" if name != "Readings" else "Profile"]() and found != 1
    kept = json.loads(file.read_text())
    last = [*kept][-1] if name != "Readings" else "points"
    for text, message in {
        "no json": "in JSON",
        "{}": "to be a saved",
        '{"format": "lerpscape other 1"}': r"format 'lerpscape other 1'.\ntry: This version reads 'lerpscape",
        json.dumps({key: value for key, value in kept.items() if key != last}): f"with {last}.\ngot: one with",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            type(found).load(file)
    with pytest.raises(FileNotFoundError, match=r"which does not exist.\ntry"):
        type(found).load(tmp_path / "none.json")
    with pytest.raises(OSError, match="to be written"):
        found.save(file / "below a file")


def shows_itself(name: str, found: Any) -> None:
    open_before = plt.get_fignums()
    view = found._repr_html_()
    assert plt.get_fignums() == open_before  # notebooks show open figures too
    ET.fromstring(f"<div>{view}</div>")  # well-formed
    assert html.escape(found.summary) in view
    drawn = name not in ("AngleBounds", "Condition", "Linearity", "Readings")
    assert ("<svg" in view) == drawn == bool(found.PLOT or found.FIGURE)
    if drawn:
        assert isinstance(found.figure(), Figure)
    if found.PLOT:
        axes = Figure().subplots()
        assert found.plot(axes) is axes and axes.get_xlabel()
    else:
        with pytest.raises(AttributeError, match=f"a {type(found).__name__} has no such picture"):
            found.plot()
    if hasattr(found, "to_pandas"):
        assert len(found.to_pandas())
    assert ("<table" in view) == (name == "Readings")


FLOATS = [0.1, float("nan"), float("inf"), -float("inf"), 1e-320, 2.0]


def sample(kind: Any, step: int) -> Any:
    """A value of a field's type, with everything that JSON finds hard; None in every second one that may be None."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (each for each in parts if each is not NoneType)
        return None if step % 2 else sample(kind, step)
    if origin is np.ndarray:
        whole = {"f": FLOATS, "i": [2**53 + 1, -(2**62)], "b": [True, False]}
        dtype = get_args(parts[1])[0]
        return np.array([whole[np.dtype(dtype).kind]], dtype=dtype)
    if origin is tuple:
        return tuple(sample(each, step) for each in (parts[:1] * step if parts[-1] is Ellipsis else parts))
    if origin is dict and is_dataclass(parts[1]):
        return {f"α {number}": sample(parts[1], step) for number in range(step)}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{each.name: sample(hints[each.name], step) for each in fields(kind)})
    if origin is Literal:
        return parts[0]
    return {str: "α\n", int: 7, bool: True, float: FLOATS[step]}.get(kind, {"a": [1, None, "b"]})


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("kind", KINDS.values())
def test_any_number_survives(kind: type[Result], step: int) -> None:
    """Fields filled by their types: NaN, inf, numbers beyond 2⁵³, None, nothing at all."""
    found = sample(kind, step)
    again = kind.from_dict(json.loads(json.dumps(Result.to_dict(found), allow_nan=False)))
    assert same(again, found)
