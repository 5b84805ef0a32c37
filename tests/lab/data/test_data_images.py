"""Readers of image files, on small files in the official formats: valid, damaged and malicious."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official_files import (
    IDX,
    cifar_batch,
    idx,
    make_official,
    write_cifar10,
    write_cifar10_sheets,
    write_idx_set,
    write_sheet,
)

from lerpscape.base.errors import ConfigError
from lerpscape.lab.data import _copies, cifar, load
from lerpscape.lab.data.cifar import ArrayUnpickler, parse_batch, parse_sheet
from lerpscape.lab.data.mnist import parse_idx

RNG = np.random.default_rng(0)


def images_of(shape: tuple[int, ...], train: int = 15, test: int = 4) -> dict[str, np.ndarray]:
    return {part: RNG.integers(0, 256, (n, *shape), dtype=np.uint8) for part, n in (("train", train), ("test", test))}


def labels_of(images: dict[str, np.ndarray], classes: int = 10) -> dict[str, list[int]]:
    return {part: RNG.integers(0, classes, len(each)).tolist() for part, each in images.items()}


def message(found: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(found.value)
    assert [line.partition(":")[0] for line in text.splitlines()] == ["expected", "got", "try"], text
    return text


# idx: MNIST and Fashion-MNIST


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")])
def test_idx_sets_come_back_pixel_for_pixel(tmp_path: Path, name: str, folder: str, zipped: bool) -> None:
    images = images_of((28, 28))
    labels = labels_of(images)
    write_idx_set(tmp_path / folder, images, {part: np.array(each) for part, each in labels.items()}, zipped)
    found = load(name, tmp_path, verify=False)
    assert (found.task, found.inputs, found.outputs) == ("classification", (1, 28, 28), 10)
    for part, split in (("train", found.train), ("test", found.test)):
        assert split.inputs.dtype == torch.uint8
        assert np.array_equal(split.inputs[:, 0].numpy(), images[part])
        inputs, targets = split.batch(slice(None))
        assert torch.equal(inputs[:, 0], torch.from_numpy(images[part]).float() / 255)
        assert targets.tolist() == labels[part]


def test_a_copy_with_other_bytes_than_the_official_is_refused(tmp_path: Path) -> None:
    images = images_of((28, 28))
    labels = {part: np.array(each) for part, each in labels_of(images).items()}
    write_idx_set(tmp_path / "MNIST/raw", images, labels, zipped=False)
    with pytest.raises(ValueError, match="sha256:ba891046e6505d7a") as found:
        load("mnist", tmp_path)
    text = message(found)
    assert "MNIST/raw/train-images-idx3-ubyte to be the official file" in text
    assert "lerpscape data get mnist" in text
    assert "verify=False" in text


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="lerpscape data get mnist") as found:
        load("mnist", tmp_path)
    assert f"no {', '.join(IDX['train'])}, {', '.join(IDX['test'])} in {tmp_path}/MNIST/raw" in message(found)
    images = images_of((28, 28))
    labels = {part: np.array(each) for part, each in labels_of(images).items()}
    write_idx_set(tmp_path / "MNIST/raw", images, labels, zipped=True)
    (tmp_path / "MNIST/raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="got: no t10k-labels-idx1-ubyte in") as found:
        load("mnist", tmp_path)
    message(found)
    monkeypatch.delenv("LERPSCAPE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="LERPSCAPE_DATA") as found:
        load("mnist")
    message(found)
    with pytest.raises(FileNotFoundError, match="which is not a folder") as found:
        load("mnist", tmp_path / "nowhere")
    message(found)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"\x00\x00\x08", "00 00 08"),
        (idx(np.zeros((2, 3, 3)))[:-1], "17 values: the file is cut off"),
        (idx(np.zeros((2, 3, 3))) + b"\0", "19 values: the file is too long"),
        (b"\x00\x00\x0d" + idx(np.zeros((2, 3, 3)))[3:], "00 00 0d 03"),  # floats
        (idx(np.zeros((2, 3))), "00 00 08 02"),
        (b"\x00\x00\x08\x03\x00\x00", "6 bytes in all"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "0 values: the file is cut off"),  # claims 8·10²⁸ values
        (gzip.compress(idx(np.zeros((2, 3, 3))), mtime=0), "1f 8b"),  # a .gz without its name
    ],
)
def test_damaged_idx_files(content: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match="images") as found:
        parse_idx(content, 3, "images")
    assert expected in message(found)


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_idx_array_or_a_clear_error(noise: bytes, headed: bool) -> None:
    content = b"\x00\x00\x08\x02" + noise if headed else noise
    try:
        found = parse_idx(content, 2, "f")
    except ValueError as error:
        assert str(error).startswith("expected: ")
    else:
        assert idx(found.numpy()) == content


def test_damaged_idx_sets(tmp_path: Path) -> None:
    images = images_of((28, 28))
    labels = {part: np.array(each) for part, each in labels_of(images).items()}
    folder = tmp_path / "MNIST/raw"

    def refusal(**changed: bytes) -> str:
        write_idx_set(folder, images, labels, zipped=False)
        for file, content in changed.items():
            (folder / f"{file.replace('_', '-')}-ubyte").write_bytes(content)
        with pytest.raises(ValueError, match="expected") as found:
            load("mnist", tmp_path, verify=False)
        return message(found)

    assert "14 labels for 15 images" in refusal(train_labels_idx1=idx(labels["train"][:-1]))
    wrong = labels["train"].copy()
    wrong[[3, 7]] = 10, 255
    assert "10 at index 3, and 1 more" in refusal(train_labels_idx1=idx(wrong))
    assert "(1, 28, 28) and (1, 14, 28)" in refusal(t10k_images_idx3=idx(images["test"][:, ::2]))
    assert "0 labels for 0 images" in refusal(
        t10k_images_idx3=idx(images["test"][:0]), t10k_labels_idx1=idx(labels["test"][:0])
    )


def test_a_damaged_gzip_file(tmp_path: Path) -> None:
    images = images_of((28, 28))
    labels = {part: np.array(each) for part, each in labels_of(images).items()}
    write_idx_set(tmp_path / "MNIST/raw", images, labels, zipped=True)
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for damaged in (whole[:100], b"no gzip", whole[:300] + bytes(64) + whole[364:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="to be a whole gzip file") as found:
            load("mnist", tmp_path, verify=False)
        message(found)


def test_a_gzip_file_that_unpacks_to_anything_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of((28, 28))
    labels = {part: np.array(each) for part, each in labels_of(images).items()}
    write_idx_set(tmp_path / "MNIST/raw", images, labels, zipped=True)
    size = len(idx(images["train"]))
    monkeypatch.setattr(_copies, "MAX_BYTES", size)
    assert len(load("mnist", tmp_path, verify=False).train) == 15
    monkeypatch.setattr(_copies, "MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"to unpack to at most {size - 1} bytes") as found:
        load("mnist", tmp_path, verify=False)
    message(found)


# CIFAR: official pickles and PNG sheets


def test_cifar10_comes_back_pixel_for_pixel_from_pickles_and_sheets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of((3, 32, 32))
    labels = labels_of(images)
    write_cifar10(tmp_path / "pickles/cifar-10-batches-py", images, labels)
    write_cifar10_sheets(tmp_path / "sheets/cifar10-png", images, labels)
    make_official(monkeypatch, "cifar10", tmp_path / "pickles/cifar-10-batches-py")
    for folder in ("pickles", "sheets"):
        found = load("cifar10", tmp_path / folder, verify=False)
        assert (found.inputs, found.outputs) == ((3, 32, 32), 10)
        for part, split in (("train", found.train), ("test", found.test)):
            assert np.array_equal(split.inputs.numpy(), images[part])
            assert split.inputs.is_contiguous()
            assert split.targets is not None
            assert split.targets.tolist() == labels[part]


def test_the_written_batch_is_a_python_2_pickle_as_pickle_reads_it() -> None:
    """The small files are in the official format: the standard reader, which trusts them, gets the same."""
    images = images_of((3, 32, 32))["train"]
    found = pickle.loads(cifar_batch(images, {"labels": [1, 300, 70000]}), encoding="latin1")
    assert np.array_equal(found["data"], images.reshape(15, 3072))
    assert found["labels"] == [1, 300, 70000]
    assert found["filenames"] == ["image_0.png", "image_1.png", "image_2.png"]


def test_cifar100_reads_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of((3, 32, 32))
    labels = labels_of(images, 100)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for part in ("train", "test"):
        coarse = [label // 5 for label in labels[part]]
        batch = cifar_batch(images[part], {"coarse_labels": coarse, "fine_labels": labels[part]})
        (folder / part).write_bytes(batch)
    make_official(monkeypatch, "cifar100", folder)
    found = load("cifar100", tmp_path)
    assert found.outputs == 100
    assert found.train.targets is not None
    assert found.train.targets.tolist() == labels["train"]
    assert np.array_equal(found.test.inputs.numpy(), images["test"])


class Attack:
    """What runs a command when a pickle of it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def attacks(file: Path) -> dict[str, bytes]:
    line = f"touch {file}".encode()
    text = b"U" + bytes([len(line)]) + line
    array = cifar_batch(np.zeros((1, 3, 32, 32), np.uint8), {"labels": [0]})
    return {
        **{f"protocol {number}": pickle.dumps(Attack(file), protocol=number) for number in range(6)},
        **{f"inside {number}": pickle.dumps({"data": Attack(file), "labels": [1]}, number) for number in range(6)},
        "INST": b"(" + b"S'" + line + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + text + b"o.",
        "NEWOBJ": b"\x80\x02cposix\nsystem\n" + text + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R.",
        "eval": b"c__builtin__\neval\n" + text + b"\x85R.",
        "eval of Python 3": b"cbuiltins\neval\n" + text + b"\x85R.",
        "another name of numpy": b"cnumpy\nload\n" + text + b"\x85R.",
        "a dotted name": b"cnumpy\nndarray.__class__\n.",
        "an array as function": array.replace(b"_reconstruct", b"_reconstruct_"),
        "numpy 2's module": array.replace(b"numpy.core", b"numpy._core"),
    }


def test_a_hostile_pickle_is_refused_by_name_and_calls_nothing(tmp_path: Path) -> None:
    file = tmp_path / "attacked"
    pickle.loads(pickle.dumps(Attack(file)))
    assert file.exists()  # the attack works on a reader that trusts its file
    file.unlink()
    for name, content in attacks(file).items():
        with pytest.raises(ValueError, match=r"got: the name \S+, which was not called") as found:
            ArrayUnpickler(io.BytesIO(content), "data_batch_1").load()
        assert "data_batch_1 to be a pickle of numbers" in message(found), name
        assert not file.exists(), name


@pytest.mark.parametrize("content", [b"Pname\n.", b"\x80\x02\x82\x01.", b"\x80\x05\x97."])
def test_persistent_and_registered_objects_and_buffers_are_refused(content: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        ArrayUnpickler(io.BytesIO(content), "data_batch_1").load()


def test_no_pickle_is_read_before_its_checksum_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    images = images_of((3, 32, 32))
    write_cifar10(folder, images, labels_of(images))
    monkeypatch.setattr(cifar, "ArrayUnpickler", None)
    for verify in (True, False):
        with pytest.raises(ValueError, match="data_batch_1 to be the official file, md5:c99cafc") as found:
            load("cifar10", tmp_path, verify=verify)
        assert message(found).endswith("Even verify=False does not read an unknown pickle.")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pickle.dumps([1, 2], 2), "NoneType"),
        (pickle.dumps({"labels": [1]}, 2), "NoneType"),
        (
            cifar_batch(np.zeros((2, 3, 32, 32), np.uint8), {"fine_labels": [1, 2]}),
            "labels to be a list of whole numbers",
        ),
        (cifar_batch(np.zeros((2, 3, 32, 32), np.uint8), {"labels": [1]}), "1 labels for 2 images"),
        (cifar_batch(np.zeros((2, 3, 32, 32), np.uint8), {"labels": [1, 10]}), "10 at index 1"),
        (cifar_batch(np.zeros((2, 3, 16, 32), np.uint8), {"labels": [1, 2]}), "(2, 1536)"),
    ],
)
def test_damaged_batches(content: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match="expected") as found:
        parse_batch(content, "data_batch_1", "labels", 10)
    assert expected in message(found)


def test_damaged_sheets(tmp_path: Path) -> None:
    images = images_of((3, 32, 32))["train"]
    file = tmp_path / "sheet.png"
    write_sheet(file, images)
    whole = file.read_bytes()
    assert np.array_equal(parse_sheet(whole, "s").numpy(), images)
    from PIL import Image

    Image.fromarray(images[0, 0]).save(tmp_path / "grey.png")
    Image.fromarray(images[0].transpose(1, 2, 0)).save(tmp_path / "narrow.png")
    Image.fromarray(images[0].transpose(1, 2, 0)).save(tmp_path / "sheet.jpg")
    header = b"IHDR" + struct.pack(">2I", 1024, 2**20) + whole[24:29]  # a million rows, and no more bytes for them
    bomb = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    for content, expected in (
        (bomb, "decompression bomb"),
        (whole[: len(whole) // 2], "sheet.png to be a whole PNG"),
        (b"", "cannot identify"),
        ((tmp_path / "grey.png").read_bytes(), "32 × 32 pixels, L"),
        ((tmp_path / "narrow.png").read_bytes(), "32 × 32 pixels, RGB"),
        ((tmp_path / "sheet.jpg").read_bytes(), "cannot identify"),
    ):
        with pytest.raises(ValueError, match="to be a whole PNG") as found:
            parse_sheet(content, "sheet.png")
        assert expected in message(found)


def test_damaged_label_lists_of_sheets(tmp_path: Path) -> None:
    images = images_of((3, 32, 32))
    folder = tmp_path / "cifar10-png"
    write_cifar10_sheets(folder, images, labels_of(images))
    for content, expected in (
        ("[1, 2", "list of labels in JSON"),
        ("{}", "dict"),
        ("[true, 2.0]", "whole numbers"),
        (json.dumps([1] * 14), "14 labels for 15 images"),
        (json.dumps([1] * 14 + [-1]), "-1 at index 14"),
        ("[" * 100_000, "in JSON"),
        (f"[{'9' * 5000}]", "in JSON"),
        (f"[{'9' * 30}]", "whole numbers"),
    ):
        (folder / "train_lables.json").write_text(content)
        with pytest.raises(ValueError, match="train_lables") as found:
            load("cifar10", tmp_path, verify=False)
        assert expected in message(found)


# names and options


def test_unknown_names_and_options_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"got: 'minst'\.\ntry: Did you mean 'mnist'"):
        load("minst")
    with pytest.raises(ConfigError, match=r"'normalise'\.\ntry: Did you mean 'normalize'"):
        load("digits", normalise=True)
    with pytest.raises(ConfigError, match="Use one of these"):
        load("zzz")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mnist", {"verify": 1}, r"true or false for verify of 'mnist'.*got: 1 \(int\)"),
        ("markov_chain", {"normalize": True}, r"option of 'markov_chain': one of .*got: 'normalize'"),
        ("markov_chain", {"length": True}, "a whole number ≥ 1 for length of 'markov_chain'"),
        ("text", {"path": "x", "split": "file"}, "one of 'files', 'position' for split of 'text'"),
        ("text", {"path": "x"}, "for split of 'text'.*got: nothing"),
        ("gaussian_blobs", {"examples": 0}, "a whole number ≥ 1 for examples"),
        ("digits", {"train_size": 2000}, "from 1 to 1437"),
    ],
)
def test_options_of_another_kind(name: str, options: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){expected}") as found:
        load(name, **options)  # type: ignore[arg-type]
    message(found)


def test_a_whole_number_is_as_good_as_a_float() -> None:
    assert load("markov_chain", normalize=False, reconstruct=False).task == "language"  # nothing is asked for
    assert load("gaussian_blobs", distance=4).facts["bayes_error"] == load("gaussian_blobs").facts["bayes_error"]
