"""The order in which a folder's checkpoints were written follows from what the names and files say, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lerpscape as ls
from lerpscape.paths.snapshots import snapshots


def write(folder: Path, *names: str) -> None:
    """A file, or for a name that ends in a slash a Trainer's folder; the weights tell the order of these names."""
    for value, name in enumerate(names):
        state = {"weight": torch.full((1, 1), value / (len(names) - 1))}
        (folder / name).parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
            save_file(state, folder / name / "model.safetensors")
            torch.save({"x": torch.ones(2)}, folder / name / "optimizer.pt")
            step = int("".join(filter(str.isdigit, name)) or 100 * value)
            (folder / name / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        elif name.endswith(".safetensors"):
            save_file(state, folder / name)
        else:
            torch.save(state, folder / name)


@pytest.mark.parametrize(
    "names",
    [
        ("epoch2.pt", "epoch10.pt"),
        ("start.safetensors", "epoch-0003.safetensors", "epoch-0010.safetensors", "end.safetensors"),  # a store's run
        ("init.pt", "0.pt", "100.pt", "final.pt"),
        ("checkpoint-500/", "checkpoint-1000/", "checkpoint-12000/"),
        ("b/", "a/"),  # by global_step
        ("epoch=1-step=90.ckpt", "epoch=1-step=100.ckpt", "epoch=11-step=20.ckpt", "last.ckpt"),
    ],
)
def test_a_folder_is_read_in_the_order_of_training(names: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, *names)
    values = [float(each.tensors["weight"]) for each in snapshots(tmp_path).values()]
    assert values == sorted(values) and len(values) == len(names)
    data = [(torch.ones(2, 1), torch.ones(2, 1))]
    model = nn.Linear(1, 1, bias=False)
    found = ls.studies.trajectory(model, tmp_path, data, loss="squared_error")
    assert found.losses[-1] == pytest.approx(0, abs=1e-12)  # the network of the last name fits the data
    assert (
        ls.studies.onset(model, tmp_path, data, loss="squared_error", tolerance=0).end == list(snapshots(tmp_path))[-1]
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("sgd.pt", "adam.pt"), "adam, sgd"),
        (("epoch1.pt", "epoch2.pt", "best.pt"), "best"),
        (("epoch2.pt", "step100.pt"), "epoch2, step100"),
        (("checkpoint-1/", "checkpoint-2/", "model.safetensors"), "model"),
        (("final.pt", "end.pt"), "end, final"),
    ],
)
def test_names_that_do_not_say_the_order_are_refused(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=rf"(?s)say the order of training.*got: {words}\.\n"):
        snapshots(tmp_path)
    assert len(snapshots(tmp_path, ordered=False)) == len(names)


def test_the_parts_of_one_checkpoint_are_no_snapshots(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({f"w{number}": torch.ones(1)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"(?s)one file or folder for each checkpoint.*parts of one checkpoint"):
        snapshots(tmp_path)
