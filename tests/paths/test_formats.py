"""Every format of checkpoint files that people have: the tensors as they were saved, or a refusal that says why."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from cases import cnn, seeded
from safetensors.torch import save_file
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.paths.formats.inert_pickle import Record, unpickled


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


STATE = {name: tensor.detach() for name, tensor in seeded(mlp, 0).state_dict().items()}
NAMES = list(STATE)
FIRST, REST = ({name: STATE[name] for name in part} for part in (NAMES[:1], NAMES[1:]))
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


def sharded(folder: Path, stem: str, ending: str, index: bool = True) -> None:
    save = save_file if ending == ".safetensors" else torch.save
    files = [f"{stem}-0000{number}-of-00002{ending}" for number in (1, 2)]
    for file, part in zip(files, (FIRST, REST), strict=True):
        save(part, folder / file)
    if index:
        weight_map = {name: file for file, part in zip(files, (FIRST, REST), strict=True) for name in part}
        (folder / f"{stem}{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def trainer(folder: Path) -> None:
    save_file(STATE, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"x": torch.ones(3)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 500}))


def deepspeed(folder: Path) -> None:
    (folder / "global_step10").mkdir()
    (folder / "latest").write_text("global_step10")
    inside = {"module": STATE, "optimizer": None, "buffer_names": [], "ds_config": {"zero": 2}}
    torch.save(inside, folder / "global_step10" / "mp_rank_00_model_states.pt")
    torch.save({"x": torch.ones(3)}, folder / "global_step10" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")


def lightning(folder: Path) -> None:
    hyper = {"space": argparse.Namespace(lr=0.1), "loss": nn.MSELoss(), "score": np.float64(0.3)}
    torch.save(
        {
            "epoch": 3,
            "state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()},
            "optimizer_states": [torch.optim.Adam(seeded(mlp, 0).parameters()).state_dict()],
            "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.1), "path": "x"}},
            "metrics": {"accuracy": torch.tensor(0.5)},
            "generators": {"cpu": torch.get_rng_state()},
            "hyper_parameters": hyper,
        },
        folder / "last.ckpt",
    )


def distributed(folder: Path) -> None:
    optimizer = {"state": {"0.weight": {"exp_avg": torch.ones(3)}}, "lr": 0.1}
    dcp.save({"model": STATE, "optimizer": optimizer, "epoch": 3}, checkpoint_id=folder, no_dist=True)


def numpy_file(folder: Path) -> None:
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in STATE.items()})


FOLDERS: dict[str, Callable[[Path], Any]] = {
    "diffusers": lambda folder: save_file(STATE, folder / "diffusion_pytorch_model.safetensors"),
    "transformers .bin": lambda folder: torch.save(STATE, folder / "pytorch_model.bin"),
    "shards": lambda folder: sharded(folder, "model", ".safetensors"),
    "shards .bin": lambda folder: sharded(folder, "pytorch_model", ".bin"),
    "shards of a variant": lambda folder: sharded(folder, "model.fp16", ".safetensors", index=False),
    "shards without an index": lambda folder: sharded(folder, "pytorch_model", ".bin", index=False),
    "Trainer": trainer,
    "DeepSpeed": deepspeed,
    "Lightning": lightning,
    "torch.distributed.checkpoint": distributed,
    "npz": numpy_file,
    "ImageNet example": lambda folder: torch.save({"state_dict": STATE, "best": 0.1}, folder / "model_best.pth.tar"),
    "TorchScript": lambda folder: torch.jit.save(torch.jit.script(seeded(mlp, 0)), folder / "model.pt"),
    "traced": lambda folder: torch.jit.save(torch.jit.trace(seeded(mlp, 0), torch.ones(2, 3)), folder / "m.pt"),
}


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is:DeprecationWarning", "ignore::UserWarning:torch.distributed")
def test_a_folder_gives_the_tensors_that_were_saved(kind: str, tmp_path: Path) -> None:
    FOLDERS[kind](tmp_path)
    line = ls.Line(OTHER, tmp_path)
    assert {name: tensor.tolist() for name, tensor in line.at(1.0).items()} == {
        name: tensor.tolist() for name, tensor in STATE.items()
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is:DeprecationWarning")
def test_torchscript_gives_buffers_and_runs_no_code(tmp_path: Path) -> None:
    model = seeded(cnn, 0).eval()
    model.register_buffer("flag", torch.tensor(True))
    torch.jit.save(torch.jit.script(model), tmp_path / "model.pt")
    found = ls.checkpoint(tmp_path / "model.pt").tensors
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def ema(key: str) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": STATE, key: {f"module.{name}": tensor for name, tensor in OTHER.items()}}


@pytest.mark.parametrize(
    ("saved", "keys"),
    [
        (ema("state_dict_ema"), ("state_dict", "state_dict_ema")),
        ({"model": STATE, "ema": OTHER, "opt": {"state": {0: {"exp_avg": torch.ones(2)}}}}, ("model", "ema")),
        ({"state_dict": STATE, "callbacks": {"EMA": {"weights": OTHER}}}, ("state_dict", "callbacks.EMA.weights")),
        ({"generator": STATE, "discriminator": {"w": torch.ones(3)}}, ("generator", "discriminator")),
        ({"nested": {"net": STATE}, "swa": {"net": OTHER}}, ("nested.net", "swa.net")),
        ({"state_dict": STATE, "opt_ema": OTHER, "optimizer_state_dict": {"m": OTHER}}, ("state_dict", "opt_ema")),
    ],
)
def test_several_state_dicts_are_listed_and_a_key_chooses(saved: Any, keys: tuple[str, str], tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=rf"(?s)'{keys[0]}', 4 tensors; '{keys[1]}', \d tensors.*--key {keys[0]}"):
        ls.checkpoint(tmp_path / "run.pt")
    one, other = (ls.checkpoint(tmp_path / "run.pt", key=key) for key in keys)
    assert torch.equal(one.tensors[NAMES[0]], STATE[NAMES[0]])
    assert other.source.startswith(f"{tmp_path / 'run.pt'}[{keys[1]}]")
    assert NAMES[0] not in other.tensors or torch.equal(other.tensors[NAMES[0]], OTHER[NAMES[0]])


def test_the_same_state_dict_under_two_keys_is_one(tmp_path: Path) -> None:
    torch.save({"model": STATE, "state_dict": STATE}, tmp_path / "run.pt")
    assert ls.checkpoint(tmp_path / "run.pt").tensors.keys() == STATE.keys()


def test_keys_and_prefixes_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save({"net": STATE}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="under no key"):
        ls.checkpoint(tmp_path / "a.safetensors", key="ema")
    with pytest.raises(ValueError, match=r"(?s)under 'ema'.*got: 'net', 4 tensors"):
        ls.checkpoint(tmp_path / "b.pt", key="ema")
    with pytest.raises(ValueError, match=r"(?s)names that start with 'model.*got: 0, 2, "):
        ls.checkpoint(tmp_path / "b.pt", prefix="model")
    with pytest.raises(ValueError, match=r"(?s)a file, for key=.*saved\['ema'\]"):
        ls.checkpoint(STATE, key="ema")


@pytest.mark.parametrize(
    "names",
    [
        ("diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"),
        ("model.fp16.safetensors", "model.safetensors"),
        ("epoch1.safetensors", "epoch2.safetensors"),
        ("consolidated.safetensors", "model.safetensors.index.json"),
        ("model.safetensors", "pytorch_model.bin"),
    ],
)
def test_several_weights_in_a_folder_are_listed(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        if name.endswith(".json"):
            sharded(tmp_path, "model", ".safetensors")
        elif name.endswith(".bin"):
            torch.save(OTHER, tmp_path / name)
        else:
            save_file(OTHER, tmp_path / name)
    with pytest.raises(ValueError, match="the weights of one network") as caught:
        ls.checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saved_is_read_under_any_name(zipped: bool, tmp_path: Path) -> None:
    for name in ("weights.pkl", "weights"):
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert ls.checkpoint(tmp_path / name).tensors.keys() == STATE.keys()


def test_incomplete_and_doubled_shards_are_refused(tmp_path: Path) -> None:
    sharded(tmp_path, "model", ".safetensors", index=False)
    save_file(STATE, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"(?s)each tensor in one of the 2 shards.*model-00002-of-00002"):
        ls.checkpoint(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"(?s)all 2 shards.*without number 1"):
        ls.checkpoint(tmp_path)


def test_folders_of_folders_and_pieces_of_zero_3_are_refused(tmp_path: Path) -> None:
    for step in (500, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        trainer(tmp_path / f"checkpoint-{step}")
    with pytest.raises(FileNotFoundError, match="folders that hold some: checkpoint-1000, checkpoint-500"):
        ls.checkpoint(tmp_path)
    (tmp_path / "ranks").mkdir()
    torch.save({"module": STATE}, tmp_path / "ranks" / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(ValueError, match=r"(?s)ZeRO-3.*zero_to_fp32\.py"):
        ls.checkpoint(tmp_path / "ranks")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.gguf", b"GGUF" + bytes(20), "GGUF"),
        ("weights.bin", b"GGUF" + bytes(20), "GGUF"),  # by its first bytes
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        ("model.keras", b"PK", "Keras"),
        ("flax_model.msgpack", b"\x82\xa6kernel", "(?s)Flax.*from_flax"),
        ("model.onnx", b"\x08\x07", "(?s)ONNX.*torch checkpoint"),
        ("last.pkl", b"\x80\x04", "pickle, which can run code"),
    ],
)
def test_other_frameworks_are_refused_by_name(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(ValueError, match=words):
            ls.checkpoint(source)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


class Harmless:
    """An object whose class a file names."""


@pytest.mark.parametrize(
    ("saved", "words", "zipped"),
    [
        ({"weights": Evil()}, r"posix\.system", True),
        ({"state_dict": STATE, "trainer": Evil()}, r"posix\.system", True),
        ({"state_dict": STATE, "trainer": Evil()}, r"posix\.system", False),
        (Harmless(), r"a test_formats\.Harmless", True),
        ({"weight": np.ones(3)}, r"a numpy\S*_reconstruct under 'weight'", True),
        ({"state_dict": {**STATE, "x": Harmless()}}, r"a test_formats\.Harmless under 'x'", True),
    ],
)
def test_a_refusal_quotes_the_name_and_nothing_runs(
    saved: Any, words: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(saved, "run.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=words) as caught:
        ls.checkpoint("run.pt")
    assert "\x1b" not in str(caught.value) and "likely succeed" not in str(caught.value)
    assert not Path("hacked").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed")
def test_metadata_of_distributed_checkpoints_cannot_run_code_or_lead_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    distributed(tmp_path / "good")
    metadata = pickle.loads((tmp_path / "good" / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = "../good/__0_0.distcp"
    (tmp_path / "leads").mkdir()
    (tmp_path / "leads" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="not a file beside it"):
        ls.checkpoint(tmp_path / "leads")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"posix\.system"):
        ls.checkpoint(tmp_path / "evil")
    assert not Path("hacked").exists()
    with pytest.raises(ValueError, match=r"(?s)the folder of a distributed checkpoint.*one file of it"):
        ls.checkpoint(tmp_path / "good" / "__0_0.distcp")
    (tmp_path / "good" / "__0_0.distcp").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="metadata of the files beside it"):
        ls.checkpoint(tmp_path / "good")


def test_inert_records_do_nothing() -> None:
    called: list[str] = []

    class Loud:
        def __reduce__(self) -> Any:
            return called.append, ("called",)

    data = io.BytesIO()
    pickle.Pickler(data).dump({"x": argparse.Namespace(a=1)})
    record = unpickled(data.getvalue(), lambda module, name: Record)["x"]
    assert isinstance(record, Record) and record.state == {"a": 1} and called == []


def at(source: Any, **options: Any) -> dict[str, Tensor]:
    return dict(ls.checkpoint(source, **options).tensors)


def test_extra_state_is_left_out_and_other_objects_of_a_module_are_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"amax": 1}

        def set_extra_state(self, state: Any) -> None:
            return None

    model = nn.Sequential(Extra(2, 1))
    torch.save(model.state_dict(), tmp_path / "extra.pt")
    assert set(at(model)) == set(at(tmp_path / "extra.pt")) == {"0.weight", "0.bias"}
