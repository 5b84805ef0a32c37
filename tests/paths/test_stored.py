"""Large files are left where they are: the same numbers as from memory, one tensor read at a time."""

from __future__ import annotations

import copy
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks.deferred import Deferred
from lerpscape.paths.formats import stored


def tensors(seed: int) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn)

    embed = random(5, 4)
    return {
        "embed": embed,
        "head": embed,
        "turned": random(3, 2).t(),
        "half": random(6).bfloat16(),
        "scalar": random(),
        "empty": random(0, 3),
        "phase": torch.complex(random(4), random(4)),
        "still": torch.arange(3.0),
        "steps": torch.tensor(seed),
    }


def saved(folder: Path, form: str, seed: int) -> Path:
    """Tensors in a file or folder; in the formats that know no ties, the second name of a tied one is missing."""
    state = tensors(seed)
    plain = {name: tensor.contiguous() for name, tensor in state.items() if name != "head"}
    file = folder / f"{seed}.{form}"
    if form == "safetensors":
        save_file(plain, file)
    elif form == "shards":
        file.mkdir()
        for number in (0, 1):
            part = dict(list(plain.items())[number::2])
            save_file(part, file / f"model-0000{number + 1}-of-00002.safetensors")
    else:
        torch.save({"epoch": 3, "state_dict": state, "again": [{"metric": torch.ones(1)}]}, file)
    return file


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "IN_MEMORY", 0)


@pytest.mark.parametrize("form", ["safetensors", "shards", "pt"])
def test_a_line_in_files_is_the_line_in_memory(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [saved(tmp_path, form, seed) for seed in (1, 2)]
    held = ls.Line(*files)
    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    left = ls.Line(*files)
    assert (held.lies_in_files, left.lies_in_files) == (False, True)
    assert left.digest() == held.digest()
    assert sorted(left.moving) == sorted(held.moving)  # safetensors gives names in no order
    assert "still" not in left.moving
    assert (left.distance(), left.relative_distance()) == (held.distance(), held.relative_distance())
    assert left.layer_distances() == held.layer_distances()
    assert sorted(left.start.parameters) == sorted(held.start.parameters)
    for device_and_dtype in ((torch.device("cpu"), None), (torch.device("cpu"), torch.float64)):
        one, other = held.to(*device_and_dtype), left.to(*device_and_dtype)
        for alpha in (-0.5, 0.0, 0.3, 1.0):
            at, expected = other.at(alpha), one.at(alpha)
            assert at.keys() == expected.keys()
            assert all(type(at[name]) is Tensor and torch.equal(at[name], expected[name]) for name in at)
        velocity, expected = other.velocity(0.3), one.velocity(0.3)
        assert velocity.keys() == expected.keys()
        assert all(torch.equal(velocity[name], expected[name]) for name in velocity)
    # The identity in `.to` must not hide what was noted of the given ends.
    assert left.digest() == held.digest()
    assert ls.Line(files[0], held.end).digest() == held.digest()  # one end in a file, the other in memory


@pytest.mark.usefixtures("everything_is_large")
def test_paths_of_other_kinds_read_files_too(tmp_path: Path) -> None:
    files = [saved(tmp_path, "pt", seed) for seed in (1, 2, 3)]
    held = [{name: tensor.clone() for name, tensor in tensors(seed).items()} for seed in (1, 2, 3)]
    held = [state | {"head": state["embed"]} for state in held]
    for left, expected in (
        (ls.Line(*files[:2]).only("half"), ls.Line(*held[:2]).only("half")),
        (ls.Line(*files[:2]).between(0.2, 0.7), ls.Line(*held[:2]).between(0.2, 0.7)),
        (ls.Line(*files[:2]).schedule({"half": lambda a: a**2}), ls.Line(*held[:2]).schedule({"half": lambda a: a**2})),
        (ls.Polyline(*files), ls.Polyline(*held)),
    ):
        at, wanted = left.at(0.4), expected.at(0.4)
        assert all(torch.equal(at[name], wanted[name]) for name in wanted)
        assert left.digest() == expected.digest()


@pytest.mark.usefixtures("everything_is_large")
def test_each_tensor_is_read_once_with_all_that_a_result_says_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [saved(tmp_path, "safetensors", seed) for seed in (1, 2)]
    read: list[int] = []
    inner = stored.Span.read

    def counted(span: stored.Span) -> Tensor:
        read.append(span.begin)
        return inner(span)

    monkeypatch.setattr(stored.Span, "read", counted)
    line = ls.Line(*files)
    small = len(read)  # until the first that differs, to know that the ends do
    line.at(0.5)
    assert len(read) - small == 2 * (len(tensors(1)) - 1)  # `head` is in no such file
    read.clear()
    line.digest(), line.distance(), line.relative_distance(), line.describe(), line.layer_distances()
    assert not read


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("change", ["rewritten", "shorter", "gone"])
def test_a_file_that_changes_is_refused(change: str, tmp_path: Path) -> None:
    files = [saved(tmp_path, "safetensors", seed) for seed in (1, 2)]
    line = ls.Line(*files)
    if change == "rewritten":
        saved(tmp_path, "safetensors", 2)
        os.utime(files[1], ns=(1, 1))
    elif change == "shorter":
        files[1].write_bytes(files[1].read_bytes()[:-8])
    else:
        files[1].unlink()
    with pytest.raises(FileNotFoundError if change == "gone" else ValueError, match=r"stay as it was|No such file"):
        line.at(0.5)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("kind", ["before torch 1.6", "conjugated", "sparse", "compressed"])
def test_what_cannot_be_left_in_its_file_is_read_at_once(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "one.pt"
    weights: dict[str, Any] = {"w": torch.randn(4, generator=torch.Generator().manual_seed(0))}
    if kind == "conjugated":
        weights["z"] = torch.complex(weights["w"], weights["w"]).conj()
    if kind == "sparse":
        torch.save({"net": weights, "graph": {"adjacency": torch.eye(3).to_sparse()}}, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=kind != "before torch 1.6")
    if kind == "compressed":
        packed = tmp_path / "two.pt"
        with zipfile.ZipFile(file) as before, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as after:
            for record in before.infolist():
                after.writestr(record.filename, before.read(record))
        packed.replace(file)
    found = ls.checkpoint(file, key="net" if kind == "sparse" else None).tensors
    assert all(type(found[name]) is Tensor and torch.equal(found[name], weights[name]) for name in weights)


def test_a_deferred_tensor_is_its_numbers_in_every_operation() -> None:
    numbers = torch.arange(6.0).reshape(2, 3)
    fetched: list[int] = []

    def fetch() -> Tensor:
        fetched.append(1)
        return numbers.clone()

    left = Deferred.of(fetch, "place", (2, 3), torch.float32)
    described = (left.shape, left.dtype, left.device, left.numel(), len(left), left.is_meta, left.nbytes, left.stride())
    assert described == (numbers.shape, torch.float32, torch.device("cpu"), 6, 2, False, 24, (3, 1))
    assert not fetched
    for given, expected in (
        (nn.functional.linear(torch.ones(1, 3), left), numbers.sum(1)[None]),
        (torch.stack([left, left]), torch.stack([numbers, numbers])),
        (left[1], numbers[1]),
        (torch.ones(3).add(left), 1 + numbers),
        (copy.deepcopy(left), numbers),
        (pickle.loads(pickle.dumps(left)), numbers),
        (left.T, numbers.T),
        (torch.from_numpy(left.numpy()), numbers),
    ):
        assert type(given) is Tensor
        assert torch.equal(given, expected)
    with pytest.raises(TypeError, match="which writes to it"):
        left.add_(1)
    with pytest.raises(TypeError, match="which writes to it"):
        torch.add(left, 1, out=left)
    with pytest.raises(TypeError, match="an address in memory"):
        save_file({"w": left}, "never.safetensors")


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_profile_of_files_is_that_of_tensors(device: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Equal bits: both are the module as it is, batch by batch. A module on `meta` has its dtype from the files."""

    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)

    ends = [net(0), net(1)]
    ends[1][1].running_mean.add_(0.5)
    for index, end in enumerate(ends):
        torch.save(end.state_dict(), tmp_path / f"{index}.pt")
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    data = [(x, torch.tensor([0, 1, 1, 0, 1, 0]))]
    model = net(3).to(device)
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    numbers = {name: tensor.clone() for name, tensor in before.items()}
    options: dict[str, Any] = {"alphas": 3, "batch_norm": ls.InterpolateStatistics()}
    found = ls.profile(model, ls.Line(tmp_path / "0.pt", tmp_path / "1.pt"), data, **options)
    expected = ls.profile(net(4), ls.Line(*ends), data, **options)
    assert found.loss.tolist() == expected.loss.tolist()
    assert found.derivative is not None
    assert found.derivative.tolist() == expected.derivative.tolist()
    assert found.distance == expected.distance
    assert found.how["path_digest"] == expected.how["path_digest"]
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(after[name] is before[name] for name in before)
    assert device == "meta" or all(torch.equal(after[name], numbers[name]) for name in numbers)


@pytest.mark.usefixtures("everything_is_large")
def test_buffers_without_numbers_are_refused(tmp_path: Path) -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("angles", torch.ones(2), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x * self.angles)

    for name, fill in (("a", 0.0), ("b", 1.0)):
        torch.save({"layer.weight": torch.full((2, 2), fill), "layer.bias": torch.zeros(2)}, tmp_path / f"{name}.pt")
    line = ls.Line(tmp_path / "a.pt", tmp_path / "b.pt")
    data = [(torch.ones(2, 2), torch.tensor([0, 1]))]
    with pytest.raises(ls.EndpointMismatch, match="'angles' on the device meta"):
        ls.profile(Turning().to("meta"), line, data, alphas=2)
    model = Turning()
    model.layer.to("meta")
    assert ls.profile(model, line, data, alphas=2).loss.shape == (2,)
