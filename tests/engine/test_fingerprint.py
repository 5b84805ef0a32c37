"""A partial file is refused by a measurement that differs in anything, and taken up by the same one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, batches, classes, cnn, ends, random, seeded
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.contents import Contents
from lerpscape.networks.losses import Loss

X, Y = random(40, 4, seed=1), classes(40, seed=2)
DATA = batches(X, Y, 10)
FACTOR = 1.0


class Stop(Exception):
    pass


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu, constant: float = 1.0) -> None:
        super().__init__()
        self.first, self.last, self.activation = nn.Linear(4, 8), nn.Linear(8, 3), activation
        self.register_buffer("constant", torch.tensor(constant), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.activation(self.first(inputs))) * self.constant


class Remembering(Net):
    """Counts its calls and keeps what it saw, with a lock that has no content."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.lock = 0, threading.Lock()
        self.seen: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
            self.hidden = super().forward(inputs)
            self.seen.append(float(self.hidden.detach().double().sum()))
            return self.hidden


class Smoothed:
    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.smoothing)


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(outputs, targets, reduction="none")


def smoothed(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)


def closure(smoothing: float) -> Any:
    return lambda z, y: smoothed(z, y, smoothing)


def default(smoothing: float) -> Any:
    return lambda z, y, s=smoothing: smoothed(z, y, s)


def weighted(*weights: float) -> Loss:
    weight = torch.tensor(weights).double()
    return Loss("weighted", lambda z, y: F.cross_entropy(z, y, weight, reduction="none"))


def judged(threshold: float) -> Loss:
    return Loss("judged", smoothed, correct=lambda z, y: (z.softmax(-1).amax(-1) > threshold).double())


def written(source: str) -> Any:
    """A loss as in a script that was edited between two runs."""
    names: dict[str, Any] = {"torch": torch, "F": F, "__name__": "script"}
    exec(source, names)
    return names["loss"]


SCRIPT = """
def helper(values):
    return {body}

def loss(z, y):
    return helper(F.cross_entropy(z, y, reduction="none"))
"""

LOSSES: dict[str, tuple[Any, Any, str]] = {
    "default": (default(0.0), default(0.5), "loss.values.defaults"),
    "closure": (closure(0.0), closure(0.5), "loss.values.smoothing"),
    "closure that shows on no probe": (
        lambda z, y, limit=1e6: F.cross_entropy(z, y, reduction="none").clamp(max=limit),
        lambda z, y, limit=1e7: F.cross_entropy(z, y, reduction="none").clamp(max=limit),
        "loss.values.defaults",
    ),
    "constant": (lambda z, y: smoothed(z, y) * 2, lambda z, y: smoothed(z, y) * 3, "loss.values.code"),
    "partial": (
        functools.partial(smoothed, smoothing=0.1),
        functools.partial(smoothed, smoothing=0.2),
        "loss.values.keywords",
    ),
    "object": (Smoothed(0.1), Smoothed(0.2), "loss.values.smoothing"),
    "slots": (Slotted(1.0), Slotted(2.0), "loss.values.scale"),
    "method": (Smoothed(0.1).__call__, Smoothed(0.2).__call__, "loss.values.self.smoothing"),
    "weights": (weighted(1, 1, 1), weighted(1, 1, 2), "loss.values.weight"),
    "accuracy": (judged(0.4), judged(0.5), "loss.correct.threshold"),
    "module": (
        nn.CrossEntropyLoss(torch.tensor([1.0, 1, 1]).double(), reduction="none"),
        nn.CrossEntropyLoss(torch.tensor([1.0, 2, 1]).double(), reduction="none"),
        "loss.values.weight",
    ),
    "a helper that was edited": (
        written(SCRIPT.format(body="2 * values")),
        written(SCRIPT.format(body="values.square()")),
        "loss.values.helper.code",
    ),
}


def kept(
    file: Path, *, model: nn.Module | None = None, data: Any = DATA, stop: bool = True, path: Any = None, **options: Any
) -> ls.Profile:
    """A profile with a partial file, stopped half way."""
    start, end = seeded(Net, 0).double(), seeded(Net, 1).double()

    def progress(done: int, total: int) -> None:
        if stop and done >= 10:
            raise Stop

    path = ls.Line(start, end) if path is None else path
    return ls.profile(model or start, path, data, partial=file, progress=progress, **{"alphas": 5} | options)


def refused(file: Path, first: dict[str, Any], second: dict[str, Any], what: str) -> None:
    """The file of the first call is refused by the second, which is told `what` differs, and taken up by the first."""
    with pytest.raises(Stop):
        kept(file, **first)
    before = file.read_bytes()
    with pytest.raises(ls.PartialMismatch, match=rf"(?s)partial result of this measurement.*another:.*{what}.*delete"):
        kept(file, stop=False, **second)
    assert file.read_bytes() == before
    whole = kept(file.with_name("other"), stop=False, **first)
    resumed = kept(file, stop=False, **first)
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    np.testing.assert_array_equal(resumed.derivative, whole.derivative)


@pytest.mark.parametrize("name", LOSSES)
def test_another_loss_is_told(name: str, tmp_path: Path) -> None:
    first, second, what = LOSSES[name]
    refused(tmp_path / "kept", {"loss": first}, {"loss": second}, what)


def patched() -> nn.Module:
    model = Net()
    model.forward = lambda inputs: model.last(torch.tanh(model.first(inputs)))  # type: ignore[method-assign]
    return model


def hooked(most: float) -> nn.Module:
    model = Net()
    model.first.register_forward_hook(lambda module, inputs, output: output.clamp(max=most))
    return model


class Edited(Net):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(inputs)).clamp(max=1e6))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str]] = {
    "activation": (Net, lambda: Net(torch.tanh), "model.activation"),
    "activation as a module": (lambda: Net(nn.LeakyReLU(0.1)), lambda: Net(nn.LeakyReLU(0.2)), "negative_slope"),
    "held constant": (Net, lambda: Net(constant=2.0), "model.constant"),
    "patched forward": (Net, patched, "model.forward"),
    "hook": (lambda: hooked(6.0), lambda: hooked(7.0), "hooks"),
    "class": (Net, Edited, "model.__class__"),
}


@pytest.mark.parametrize("name", MODELS)
def test_another_model_of_the_same_tensors_is_told(name: str, tmp_path: Path) -> None:
    first, second, what = MODELS[name]
    refused(tmp_path / "kept", {"model": first().double()}, {"model": second().double()}, what)


def later(position: int) -> list[Any]:
    """The data with one number changed in the last batch."""
    changed = deepcopy(DATA)
    changed[position][0][0, 0] += 1
    return changed


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ({"derivative": False}, "derivative"),
        ({"workers": 2}, "workers"),
        ({"alphas": [0, 0.25, 0.5, 0.75, 1 - 1e-9]}, "alphas"),
        ({"data": later(0)}, "data"),
        ({"data": later(3)}, "data"),
        ({"data": DATA[:3]}, "data"),
    ],
)
def test_another_request_is_told(second: dict[str, Any], what: str, tmp_path: Path) -> None:
    refused(tmp_path / "kept", {}, second, what)


@pytest.mark.parametrize(("second", "what"), [(later(1), "data in chunk 2"), (DATA[:1], "data after chunk 1")])
def test_data_beyond_the_first_chunk_are_told(
    second: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lerpscape.networks.reading.CHUNK_BYTES", 1)  # every batch a chunk
    refused(tmp_path / "kept", {}, {"data": second}, what)


def test_data_to_recalibrate_on_are_told(tmp_path: Path) -> None:
    start, end = ends(cnn)
    images = batches(random(20, 1, 4, 4, seed=1), classes(20, seed=2))
    other = [(x.clone(), y) for x, y in images]
    other[-1][0][0, 0, 0, 0] += 1e-9
    options = {"model": start, "path": ls.Line(start, end), "data": images}
    first, second = ({**options, "batch_norm": ls.Recalibrate(data)} for data in (images, other))
    refused(tmp_path / "kept", first, second, "data of batch_norm")


def test_a_schedule_that_differs_beyond_the_ends_is_told(tmp_path: Path) -> None:
    line = ls.Line(seeded(Net, 0).double(), seeded(Net, 1).double())
    alphas = np.linspace(-0.5, 1.5, 5)
    first, second = (
        {"path": line.schedule({"*.bias": schedule}), "alphas": alphas}
        for schedule in (lambda a: a * 1.0, lambda a: a.clamp(0, 1) * 1.0)
    )
    refused(tmp_path / "kept", first, second, "path")


def test_what_no_digest_shows_is_told_by_the_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_setting(outputs: Tensor, targets: Tensor) -> Tensor:
        import os

        return float(os.environ["SCALE"]) * F.cross_entropy(outputs, targets, reduction="none")

    monkeypatch.setenv("SCALE", "1")
    with pytest.raises(Stop):
        kept(tmp_path / "kept", loss=by_setting)
    monkeypatch.setenv("SCALE", "1.0001")
    with pytest.raises(ls.PartialMismatch, match=r"another: losses at α = 0.37 \(off by 0\.0001"):
        kept(tmp_path / "kept", loss=by_setting)


def test_globals_of_a_loss_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
        return FACTOR * F.cross_entropy(outputs, targets, reduction="none")

    with pytest.raises(Stop):
        kept(tmp_path / "kept", loss=scaled)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(ls.PartialMismatch, match="FACTOR"):
        kept(tmp_path / "kept", loss=scaled)


@pytest.mark.parametrize("derivative", [True, False])
def test_what_a_model_remembers_from_call_to_call_is_no_difference(derivative: bool, tmp_path: Path) -> None:
    model = Remembering().double()
    with pytest.raises(Stop):
        kept(tmp_path / "kept", model=model, derivative=derivative)
    resumed = kept(tmp_path / "kept", model=model, derivative=derivative, stop=False)
    np.testing.assert_array_equal(resumed.loss, kept(tmp_path / "new", derivative=derivative, stop=False).loss)


def test_the_same_made_anew_is_no_difference(tmp_path: Path) -> None:
    for name, make in {"closure": closure, "default": default, "object": Smoothed, "judged": judged}.items():
        with pytest.raises(Stop):
            kept(tmp_path / name, loss=make(0.5))
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            kept(tmp_path / name, loss=make(0.5), model=Net().double(), data=deepcopy(DATA), stop=False)
        finally:
            torch.set_num_threads(threads)


class Graphs:
    """A batch that is an object."""

    def __init__(self, nodes: Tensor, name: str) -> None:
        self.nodes, self.name = nodes, name


class OfGraphs(Net):
    def forward(self, graphs: Graphs) -> Tensor:  # type: ignore[override]
        return super().forward(graphs.nodes)


def test_batches_that_are_objects_are_told_by_their_attributes(tmp_path: Path) -> None:
    first, other = ([((Graphs(x + shift, "a"),), y) for x, y in DATA] for shift in (0.0, 0.1))
    refused(
        tmp_path / "kept",
        {"model": OfGraphs().double(), "data": first},
        {"model": OfGraphs().double(), "data": other},
        "data",
    )


def test_data_whose_content_cannot_be_told_are_refused(tmp_path: Path) -> None:
    data = [((Graphs(x, threading.Lock()),), y) for x, y in DATA]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"(?s)for partial=.*_thread.lock.*Leave partial= out"):
        kept(tmp_path / "kept", model=OfGraphs().double(), data=data)


def contents(value: Any, **options: Any) -> dict[str, str]:
    found = Contents(**options)
    found.add("value", value)
    return found.parts


def test_contents_have_no_addresses_orders_of_sets_or_cycles_without_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    node = Smoothed(0.1)
    node.own = node  # type: ignore[attr-defined]
    for value in (ring, node, {"a", "b", "c"}, np.array([None, "a"]), torch.Generator, nn.LSTM(2, 3), [len, F.relu]):
        assert contents(value) == contents(deepcopy(value))
    assert contents({1: "a", 2: "b"}) != contents({1: "b", 2: "a"})
    assert contents(torch.zeros(2)) != contents(torch.zeros(2).double()) != contents(torch.zeros(1, 2).double())
    assert contents(1) != contents(1.0) != contents(True)
    assert contents(CASES[0].ends()[0], tensors=False) == contents(CASES[0].ends()[1], tensors=False)
