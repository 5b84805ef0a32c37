"""One point of a line written to disk is, read back, the line at that α."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import lerpscape as ls

CONFIG = {"config.json": '{"model_type": "own"}', "tokenizer.json": "{}", "merges.txt": "a b\n"}
NOT_COPIED = {"README.md": "of the end", "trainer_state.json": "{}"}


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "model.embed.weight": drawn(5, 3).to(dtype),
        "model.layer.weight": drawn(3, 3).to(dtype),
        "model.layer.bias": drawn(3).double(),
        "model.scale": drawn().to(dtype),
        "model.waves": torch.complex(drawn(4), drawn(4)),
        "model.empty": drawn(0, 3).to(dtype),
        "model.mask": torch.tensor([[0.0, -torch.inf]]),
        "model.steps": torch.tensor(seed),
    }


def sharded(folder: Path, state: dict[str, Tensor], ending: str = "safetensors", index: bool = True) -> Path:
    folder.mkdir()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    shard_of = {}
    for number, names in enumerate([list(state)[:3], list(state)[3:]], start=1):
        name = f"{stem}-0000{number}-of-00002.{ending}"
        part = {each: state[each] for each in names}
        if ending == "safetensors":
            save_file(part, folder / name, metadata={"format": "pt", "shard": str(number)})
        else:
            torch.save(part, folder / name)
        shard_of |= dict.fromkeys(names, name)
    if index:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return folder


def beside(folder: Path) -> None:
    for name, text in (CONFIG | NOT_COPIED).items():
        (folder / name).write_text(text)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.3])
def test_a_folder_is_written_as_the_end_is(ending: str, index: bool, alpha: float, tmp_path: Path) -> None:
    start = sharded(tmp_path / "base", tensors(1))
    end = sharded(tmp_path / "tuned", tensors(2), ending, index)
    beside(end)
    out = ls.write_point(start, end, alpha, tmp_path / "out")
    expected = ls.Line(start, end).at(alpha)
    found = ls.checkpoint(out).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].equal(tensor), name
    weights = {file.name for file in end.iterdir() if "model-0" in file.name or "index" in file.name}
    assert {file.name for file in out.iterdir()} == weights | set(CONFIG)
    for file in weights:
        if file.endswith(".safetensors"):
            with safe_open(end / file, "pt") as given, safe_open(out / file, "pt") as written:
                assert written.metadata() == given.metadata() and list(written.keys()) == list(given.keys())
        elif "index" in file:
            assert (out / file).read_text() == (end / file).read_text()
    assert not list(tmp_path.glob(".*"))  # no draft


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_interpolated_in_float32_and_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    start, end = (sharded(tmp_path / name, tensors(seed, dtype)) for name, seed in (("a", 1), ("b", 2)))
    out = ls.write_point(start, end, 0.3, tmp_path / "out")
    found, line = ls.checkpoint(out).tensors, ls.Line(start, end).at(0.3)
    name = "model.layer.weight"
    one, other = tensors(1, dtype)[name].float(), tensors(2, dtype)[name].float()
    assert found[name].equal((one + 0.3 * (other - one)).to(dtype)) or found[name].equal(
        torch.lerp(one, other, 0.3).to(dtype)
    )
    assert found[name].dtype == dtype and found[name].equal(line[name])
    wide = sharded(tmp_path / "wide", tensors(1))
    mixed = ls.checkpoint(ls.write_point(wide, end, 0.3, tmp_path / "mixed")).tensors
    assert mixed[name].dtype == dtype  # that of the end
    assert mixed[name].equal(ls.Line(wide, end).at(0.3)[name].to(dtype))


def test_single_files_tied_names_and_other_prefixes(tmp_path: Path) -> None:
    shared = {seed: torch.randn(4, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)}
    for seed, file in ((1, "a.pt"), (2, "b.pt")):
        torch.save({"embed": shared[seed], "head": shared[seed]}, tmp_path / file)
    out = ls.write_point(tmp_path / "a.pt", tmp_path / "b.pt", 0.5, tmp_path / "c.pt")
    found = torch.load(out, weights_only=True)
    assert found["embed"].data_ptr() == found["head"].data_ptr()
    assert found["head"].equal(torch.lerp(shared[1], shared[2], 0.5))
    as_safetensors = ls.write_point(tmp_path / "a.pt", tmp_path / "b.pt", 0.5, tmp_path / "c.safetensors")
    assert load_file(as_safetensors)["head"].equal(found["head"])
    save_file({f"module.{name}": tensor.clone() for name, tensor in found.items()}, tmp_path / "wrapped.safetensors")
    again = ls.write_point(tmp_path / "a.pt", tmp_path / "wrapped.safetensors", 0.25, tmp_path / "d.safetensors")
    assert load_file(again)["module.embed"].equal(torch.lerp(shared[1], found["embed"], 0.25))
    nested = tmp_path / "run.pt"
    torch.save({"epoch": 3, "model": {"embed": shared[2], "head": shared[2]}}, nested)
    with pytest.raises(ValueError, match="tensors under 'model'"):
        ls.write_point(tmp_path / "a.pt", nested, 0.5, tmp_path / "e.pt")
    from_nested = ls.write_point(tmp_path / "a.pt", nested, 0.5, tmp_path / "e.safetensors")
    assert load_file(from_nested)["embed"].equal(found["embed"])


def test_an_index_names_the_shards_to_write_like(tmp_path: Path) -> None:
    start, end = (sharded(tmp_path / name, tensors(seed)) for name, seed in (("a", 1), ("b", 2)))
    beside(end)
    for file in list(end.glob("model*")):
        (end / file.name.replace("model", "model.fp16", 1)).write_text(file.name)
    out = ls.write_point(start, end / "model.safetensors.index.json", 0.5, tmp_path / "out")
    assert {file.name for file in out.iterdir()} == {file.name for file in start.iterdir()} | set(CONFIG)


def test_refusals_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = (sharded(tmp_path / name, tensors(seed)) for name, seed in (("a", 1), ("b", 2)))
    out = tmp_path / "out"

    def refused(kind: Any, match: str, *choices: Any) -> None:
        before = {file.name for file in tmp_path.iterdir()}
        with pytest.raises(kind, match=match):
            ls.write_point(*choices)
        assert {file.name for file in tmp_path.iterdir()} == before

    refused(FileExistsError, "a new place to write to", start, end, 0.5, end)
    refused(FileNotFoundError, "none", start, tmp_path / "none", 0.5, out)
    refused(ValueError, "a finite α", start, end, float("nan"), out)
    other = sharded(tmp_path / "c", tensors(3) | {"model.scale": torch.zeros(2)})
    refused(ls.EndpointMismatch, "the same shape for each name", start, other, 0.5, out)
    np.savez(tmp_path / "d.npz", **{name: each.numpy() for name, each in tensors(3).items()})
    refused(ValueError, "whose format is written again", start, tmp_path / "d.npz", 0.5, tmp_path / "e.npz")
    large = sharded(tmp_path / "large", tensors(1) | {"model.scale": torch.tensor(6e4)})
    half = sharded(tmp_path / "half", tensors(2, torch.float16) | {"model.scale": torch.tensor(0.0).half()})
    refused(ValueError, "numbers that float16 can hold", large, half, -1.0, out)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lerpscape.paths.writing.os.fsync", full)
    refused(OSError, "No space left on device", start, end, 0.5, out)
