"""Checkpoints whose names differ from the model's by a prefix, or lack a tied name; what only one end has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import classes, random, seeded
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lerpscape as ls

X, Y = random(12, 4, seed=0).float(), classes(12, seed=1)
IDS = classes(6, 5, seed=2, count=7)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens, self.norm = nn.Embedding(7, 6), nn.LayerNorm(6)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.embed_tokens(ids))


class TiedHead(nn.Module):
    """As tied language models are: everything but the head lies in one module, whose name is a wrapper's too."""

    name = "model"

    def __init__(self) -> None:
        super().__init__()
        inner = Inner()
        self.add_module(self.name, inner)
        self.lm_head = nn.Linear(6, 7, bias=False)
        self.lm_head.weight = inner.embed_tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.get_submodule(self.name)(ids))


class TiedHeadInModule(TiedHead):
    name = "module"


def losses(model: nn.Module, line: Any) -> list[float]:
    data = [(IDS, IDS.roll(-1, 1))] if isinstance(model, TiedHead) else [(X, Y)]
    return ls.profile(model, line, data, alphas=3).loss.tolist()


def expected(start: nn.Module, end: nn.Module) -> list[float]:
    """By load_state_dict into a third module, in float64."""
    found, probe = [], type(start)() if isinstance(start, TiedHead) else small()
    for alpha in (0.0, 0.5, 1.0):
        ends = zip(start.state_dict().items(), end.state_dict().values(), strict=True)
        probe.double().load_state_dict({n: torch.lerp(a.double(), b.double(), alpha) for (n, a), b in ends})
        inputs, targets = (IDS, IDS.roll(-1, 1)) if isinstance(start, TiedHead) else (X.double(), Y)
        with torch.no_grad():
            found.append(float(F.cross_entropy(probe(inputs).flatten(0, -2), targets.flatten())))
    return found


@pytest.mark.parametrize("build", [TiedHead, TiedHeadInModule])
@pytest.mark.parametrize("left_out", ["head", "embedding"])
def test_files_without_one_tied_name_fit(build: type[TiedHead], left_out: str, tmp_path: Path) -> None:
    start, end = seeded(build, 0), seeded(build, 1)
    gone = "lm_head.weight" if left_out == "head" else f"{build.name}.embed_tokens.weight"
    for label, model in (("start", start), ("end", end)):
        (tmp_path / label).mkdir()
        save_file({n: t for n, t in model.state_dict().items() if n != gone}, tmp_path / label / "model.safetensors")
    wanted = pytest.approx(expected(start, end), rel=1e-5)  # float32
    for ends in ((tmp_path / "start", tmp_path / "end"), (start, tmp_path / "end"), (tmp_path / "start", end)):
        assert losses(seeded(build, 2), ls.Line(*ends)) == wanted


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "net.", "module._orig_mod.", "a.b."])
@pytest.mark.parametrize("which", ["both", "start", "end", "model"])
def test_a_prefix_of_every_name_is_taken_off_where_the_others_lack_it(prefix: str, which: str, tmp_path: Path) -> None:
    start, end = seeded(small, 0), seeded(small, 1)
    for label, model in (("start", start), ("end", end)):
        before = prefix if which in (label, "both") else ""
        torch.save({before + name: tensor for name, tensor in model.state_dict().items()}, tmp_path / f"{label}.pt")
    line = ls.Line(tmp_path / "start.pt", tmp_path / "end.pt")
    model: nn.Module = seeded(small, 2)
    if which == "model":
        for name in reversed(prefix.rstrip(".").split(".")):
            outer = nn.Module()
            outer.add_module(name, model)
            outer.forward = model.forward  # type: ignore[method-assign]
            model = outer
    assert losses(model, line) == pytest.approx(expected(start, end), rel=1e-5)
    if which in ("start", "end"):
        assert f"without the prefix {prefix!r}" in line.describe()


def test_names_beside_a_prefix_are_not_taken_off_but_named(tmp_path: Path) -> None:
    start, end = seeded(small, 0), seeded(small, 1)
    for label, model in (("start", start), ("end", end)):
        state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        averaged = {f"ema.{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"state_dict": state | averaged}, tmp_path / f"{label}.ckpt")
    files = tmp_path / "start.ckpt", tmp_path / "end.ckpt"
    hint = r"prefix='model\.' or prefix='ema\.'\), or --prefix"
    with pytest.raises(ls.EndpointMismatch, match=hint):
        losses(seeded(small, 2), ls.Line(*files))
    with pytest.raises(ls.EndpointMismatch, match=hint):
        ls.Line(start, files[1])
    line = ls.Line(*(ls.checkpoint(file, prefix="ema.") for file in files))
    assert losses(seeded(small, 2), line) == pytest.approx(expected(start, end), rel=1e-5)
    assert "its ema.*" in line.describe()


def test_an_averaged_model_is_taken_by_its_prefix() -> None:
    start, end = seeded(small, 0), AveragedModel(seeded(small, 1))
    with pytest.raises(ls.EndpointMismatch, match=r"(?s)'n_averaged' only in.*prefix='module\.'"):
        ls.Line(start, end)
    line = ls.Line(start, ls.checkpoint(end, prefix="module"))
    assert losses(seeded(small, 2), line) == pytest.approx(expected(start, end.module), rel=1e-5)


def test_what_only_one_end_has_is_held_when_asked() -> None:
    start, end = seeded(small, 0), seeded(small, 1)
    alone = {"head.weight": torch.ones(2), "seen": torch.tensor(3)}
    with pytest.raises(
        ls.EndpointMismatch, match=r"(?s)'head\.weight' and 'seen' only in|'head\.weight', 'seen' only in"
    ):
        ls.Line(start, {**end.state_dict(), **alone})
    for ends in ((start, {**end.state_dict(), **alone}), ({**start.state_dict(), **alone}, end)):
        line = ls.Line(*ends, only_in_one="hold")
        assert all(
            torch.equal(line.at(alpha)[name], value) for alpha in (0.0, 0.3, 1.0) for name, value in alone.items()
        )
        assert "head.weight" not in line.velocity(0.5) and "with 'head.weight', 'seen' of" in line.describe()
        assert line.distance() == pytest.approx(ls.Line(start, end).distance(), rel=1e-12)
    with pytest.raises(ls.EndpointMismatch, match="only in"):
        ls.Line({"a": torch.ones(1)}, {"b": torch.ones(1)}, only_in_one="hold")
    with pytest.raises(ValueError, match="'holds'"):
        ls.Line(start, end, only_in_one="holds")  # type: ignore[arg-type]


def test_vocabularies_of_two_sizes_are_refused_with_what_to_do() -> None:
    base, tuned = nn.Embedding(32, 4), nn.Embedding(34, 4)
    with pytest.raises(ls.EndpointMismatch, match=r"(?s)\(32, 4\).*\(34, 4\).*more tokens or classes"):
        ls.Line(base, tuned)
