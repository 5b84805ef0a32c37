from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from cases import Tied, cnn, seeded
from safetensors.torch import save_file, save_model
from torch import nn

import lerpscape as ls
from lerpscape.paths.checkpoints import digest


def test_a_module_is_copied_not_shared() -> None:
    model = seeded(cnn, 0)
    kept = ls.checkpoint(model)
    before = {name: tensor.clone() for name, tensor in kept.tensors.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.tensors.items())
    assert not any(tensor.requires_grad for tensor in kept.tensors.values())


def test_parameters_are_told_from_buffers_with_and_without_a_module() -> None:
    model = seeded(cnn, 0)
    expected = tuple(name for name, _ in model.named_parameters())
    assert ls.checkpoint(model).parameters == expected
    assert ls.checkpoint(model.state_dict()).parameters == expected


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    model = seeded(Tied, 0)
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    for source in (model, model.state_dict(), tmp_path / "tied.pt"):
        kept = ls.checkpoint(source)
        assert kept.parameters == ("embed.weight", "mix.weight", "mix.bias")
        assert kept.tensors["embed.weight"].data_ptr() == kept.tensors["read.weight"].data_ptr()


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_training_dictionaries_and_wrappers_are_opened(tmp_path: Path, key: str) -> None:
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in nn.Linear(2, 1).state_dict().items()}
    torch.save({key: wrapped, "epoch": 3}, tmp_path / "run.ckpt")
    assert set(ls.checkpoint(tmp_path / "run.ckpt").tensors) == {"weight", "bias"}


def test_safetensors_single_sharded_and_in_a_folder(tmp_path: Path) -> None:
    model = seeded(cnn, 0)
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    names = sorted(state)
    folder = tmp_path / "sharded"
    folder.mkdir()
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for source in (tmp_path / "model.safetensors", str(tmp_path), folder):
        assert digest(ls.checkpoint(source).tensors) == digest(ls.checkpoint(model).tensors)


def write_index(folder: Path, weight_map: object) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_a_tensor_comes_from_the_shard_that_the_index_names(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1), "left over": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"v": torch.ones(1), "w": torch.zeros(1)}, tmp_path / "b.safetensors")  # w: left from an earlier save
    tensors = ls.checkpoint(write_index(tmp_path, {"w": "a.safetensors", "v": "b.safetensors"})).tensors
    assert {name: float(tensor) for name, tensor in tensors.items()} == {"w": 1.0, "v": 1.0}


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"w": ".."}, r"files beside it\.\ngot: '\.\.'"),
        ({"w": "../outside.safetensors"}, "files beside it"),
        ({"w": "/etc/passwd"}, "files beside it"),
        ({"w": "model.safetensors.index.json"}, "files beside it"),
        ({"w": 3}, "files beside it"),
        ({"w": "a.safetensors", "u": "a.safetensors"}, r"hold 'u', as model.*\n.*1 are missing"),
        (["a.safetensors"], "weight_map from names"),
        (None, "weight_map from names"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(weight_map: object, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    for file in (folder / "a.safetensors", tmp_path / "outside.safetensors"):
        save_file({"w": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=words):
        ls.checkpoint(write_index(folder, weight_map))


def test_safetensors_of_tied_weights_fits_the_module(tmp_path: Path) -> None:
    start, end = seeded(Tied, 0), seeded(Tied, 1)
    save_model(end, str(tmp_path / "end.safetensors"))  # keeps one name of the two
    line = ls.Line(start, tmp_path / "end.safetensors")
    at = line.at(1.0)
    assert torch.equal(at["read.weight"], end.read.weight) and torch.equal(at["embed.weight"], end.read.weight)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Evil()}, "evil.pt")
    with pytest.raises(ValueError, match=r"(?s)evil\.pt to hold tensors only.*can run code.*state_dict"):
        ls.checkpoint("evil.pt")
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "to be a safetensors file"),
        ("cut.pt", b"PK\x03\x04 cut short", "written by torch.save"),
        ("empty.pt", b"", "written by torch.save"),
        ("text.pt", b"hello\n", "written by torch.save"),  # read as a pickle: a KeyError
        ("index.pt", b"rFLW7", "written by torch.save"),  # an IndexError
        ("struct.pt", b"rrr", "written by torch.save"),  # a struct.error
        ("bytes.pt", b"X\x01\x00\x00\x00\xff.", "written by torch.save"),  # a UnicodeDecodeError
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ls.checkpoint(tmp_path / name)


def test_things_without_tensors_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match="to hold a state dict"):
        ls.checkpoint(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="int under 'a'"):
        ls.checkpoint(tmp_path / "numbers.pt")
    with pytest.raises(TypeError, match=r'saved\["state_dict"\]'):
        ls.checkpoint({"epoch": 3})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="int"):
        ls.checkpoint(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ls.checkpoint(tmp_path / "nowhere.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"(?s)weights in .*empty.*got: none\."):
        ls.checkpoint(tmp_path / "empty")


def test_digest_sees_values_names_shapes_and_dtypes() -> None:
    base = {"a": torch.arange(4.0)}
    others = [{"b": base["a"]}, {"a": base["a"].view(2, 2)}, {"a": base["a"].double()}, {"a": base["a"] + 1e-6}]
    assert len({digest(tensors) for tensors in [base, *others]}) == 5
    assert digest({"a": torch.arange(8.0)[::2]}) == digest({"a": torch.arange(8.0)[::2].clone()})
    assert digest({"a": torch.zeros(2, dtype=torch.bfloat16), "e": torch.empty(0)})
