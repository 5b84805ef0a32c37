"""`lerpscape data`: what it lists, what it finds wrong, and what it downloads (from a server of the test's own)."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_files import IDX, cifar_batch, idx, write_idx_set

from lerpscape.cli.main import main
from lerpscape.lab.data import catalogue, load
from lerpscape.lab.data.catalogue import ENTRIES, Download, Entry, Layout

RNG = np.random.default_rng(1)
IMAGES = {part: RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 20), ("test", 10))}
LABELS = {part: np.arange(len(each)) % 10 for part, each in IMAGES.items()}


def small_mnist(**changed: Any) -> Entry:
    """What the catalogue would say if `IMAGES` and `LABELS` were MNIST."""
    contents = {}
    for part, (image_file, label_file) in IDX.items():
        contents |= {image_file: idx(IMAGES[part]), label_file: idx(LABELS[part])}
    pixels = IMAGES["train"] / 255
    entry = replace(
        ENTRIES["mnist"],
        layouts=(Layout("MNIST/raw", {name: f"sha256:{sha256(each)}" for name, each in contents.items()}),),
        train=20,
        test=10,
        per_class=(2,) * 10,
        mean=(round(float(pixels.mean()), 4),),
        std=(round(float(pixels.std()), 4),),
    )
    return replace(entry, **changed)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_idx_set(tmp_path / "MNIST/raw", IMAGES, LABELS, zipped=False)
    monkeypatch.setitem(ENTRIES, "mnist", small_mnist())
    monkeypatch.setenv("LERPSCAPE_DATA", str(tmp_path))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    if code:
        with pytest.raises(SystemExit) as stopped:
            main(["data", *words])
        assert stopped.value.code == code
    else:
        main(["data", *words])
    found = capsys.readouterr()
    return found.err if code == 2 else found.out


# list


def test_list_says_what_is_where_and_how_to_get_the_rest(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "cifar-10-batches-py").mkdir()
    (copy / "cifar-10-batches-py" / "test_batch").write_bytes(b"")
    found = {each["name"]: each for each in json.loads(printed(capsys, "list", "--json"))}
    states = {name: each["state"] for name, each in found.items()}
    assert states["mnist"] == "there" and found["mnist"]["where"] == str(copy / "MNIST/raw")
    assert states["cifar10"] == "incomplete" and found["cifar10"]["missing"] == [f"data_batch_{i}" for i in range(1, 6)]
    assert {states[name] for name in ("fashion_mnist", "cifar100", "sotu", "wikitext2")} == {"missing"}
    assert states["digits"] == states["markov_chain"] == "built in"
    text = printed(capsys, "list")
    assert f"in {copy / 'MNIST/raw'}\n" in text
    assert "`lerpscape data get wikitext2`" in text
    assert "no data folder" not in text


def test_list_without_a_folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LERPSCAPE_DATA", raising=False)
    text = printed(capsys, "list", "mnist", "digits")
    assert "not in a data folder: train-images-idx3-ubyte" in text
    assert "comes with scikit-learn" in text
    assert "cifar" not in text
    assert text.endswith("no data folder: give --data-dir, or set LERPSCAPE_DATA\n")
    assert "got: 'minst'" in printed(capsys, "list", "minst", code=2)
    assert "got: none of them" in printed(capsys, "check", "mnist", code=2)
    assert "not a folder" in printed(capsys, "list", "--data-dir", "nowhere", code=2)


# check


def test_check_of_a_right_copy(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "check")
    assert text.startswith("mnist: all as expected\n")
    assert text.count("  ok  ") == 9
    assert "training images of each class: 10 × 2" in text
    findings = json.loads(printed(capsys, "check", "mnist", "--json"))
    assert [each["good"] for each in findings] == [True] * 9
    assert findings[-2]["what"] == "mean of training pixels"


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"train": 21}, "training images"),
        ({"test": 9}, "test images"),
        ({"per_class": (2, 2, 2, 2, 2, 2, 2, 2, 1, 3)}, "training images of each class"),
        ({"mean": (0.5555,)}, "mean of training pixels"),
        ({"std": (0.5555,)}, "standard deviation"),
    ],
)
def test_check_finds_each_difference(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], what: str
) -> None:
    monkeypatch.setitem(ENTRIES, "mnist", small_mnist(**entry))
    findings = json.loads(printed(capsys, "check", "--json", code=1))
    assert [each["what"] for each in findings if not each["good"]] == [what]
    assert "mnist: 1 of 9 differ" in printed(capsys, "check", code=1)


def test_check_finds_changed_and_unreadable_files(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy / "MNIST/raw" / IDX["train"][1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([(whole[-1] + 1) % 10]))
    text = printed(capsys, "check", code=1)
    assert f"WRONG  checksum of {IDX['train'][1]}: sha256:" in text
    assert f"expected: sha256:{sha256(whole)}" in text
    assert "WRONG  training images of each class: " in text
    file.write_bytes(whole[:-1])
    assert "cut off" in printed(capsys, "check", code=1)
    file.unlink()
    Path(f"{file}.gz").write_bytes(gzip.compress(whole)[:-4])
    assert "WRONG  checksum" in printed(capsys, "check", code=1)
    Path(f"{file}.gz").write_bytes(gzip.compress(whole))
    assert "all as expected" in printed(capsys, "check")


def test_check_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to check" in printed(capsys, "check", "--data-dir", str(tmp_path))
    assert "lerpscape data get cifar10" in printed(capsys, "check", "cifar10", "--data-dir", str(tmp_path), code=2)
    assert "got: 'digits'" in printed(capsys, "check", "digits", "--data-dir", str(tmp_path), code=2)


# get


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which its files are."""
    folder = tmp_path_factory.mktemp("published")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield folder, f"http://127.0.0.1:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()


def publish(folder: Path, address: str, name: str, content: bytes) -> Download:
    (folder / name).write_bytes(content)
    return Download(f"{address}{name}", f"sha256:{sha256(content)}")


def test_get_downloads_checks_and_is_then_read(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pooch", reason="pooch, of lerpscape[lab], is not installed")
    names = [name for part in ("train", "test") for name in IDX[part]]
    contents = [idx(each[part]) for part in ("train", "test") for each in (IMAGES, LABELS)]
    downloads = tuple(
        publish(*server, f"{name}.gz", gzip.compress(content)) for name, content in zip(names, contents, strict=True)
    )
    monkeypatch.setitem(ENTRIES, "mnist", small_mnist(downloads=downloads))
    target = tmp_path / "new" / "data"
    assert printed(capsys, "get", "mnist", "--data-dir", str(target)) == f"mnist: downloaded to {target}/MNIST/raw\n"
    assert sorted(file.name for file in (target / "MNIST/raw").iterdir()) == sorted(f"{name}.gz" for name in names)
    assert np.array_equal(load("mnist", target).train.inputs[:, 0].numpy(), IMAGES["train"])
    for file in server[0].iterdir():
        file.unlink()  # nothing is fetched twice
    assert json.loads(printed(capsys, "get", "mnist", "--data-dir", str(target), "--json")) == [
        {"name": "mnist", "where": f"{target}/MNIST/raw", "downloaded": False}
    ]
    damaged = target / "MNIST/raw" / names[0]
    damaged.write_bytes(contents[0][:-1])
    text = printed(capsys, "get", "mnist", "--data-dir", str(target), code=2)
    assert f"{damaged} to be the official file" in text and "Move it away." in text
    assert damaged.read_bytes() == contents[0][:-1]  # what is the user's is not overwritten


def test_get_unpacks_archives(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pooch", reason="pooch, of lerpscape[lab], is not installed")
    images = RNG.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    batches = {part: cifar_batch(images, {"fine_labels": [1, 2, 99]}) for part in ("train", "test")}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for part, content in batches.items():
            member = tarfile.TarInfo(f"cifar-100-python/{part}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    layout = Layout("cifar-100-python", {part: f"sha256:{sha256(each)}" for part, each in batches.items()})
    download = publish(*server, "cifar-100-python.tar.gz", packed.getvalue())
    monkeypatch.setitem(ENTRIES, "cifar100", replace(ENTRIES["cifar100"], layouts=(layout,), downloads=(download,)))
    printed(capsys, "get", "cifar100", "--data-dir", str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["cifar-100-python"]  # nothing left of the download
    assert np.array_equal(load("cifar100", tmp_path).test.inputs.numpy(), images)

    texts = {f"wiki.{part}.tokens": b" a b c \n" * 20 for part in ("train", "valid", "test")}
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive_of_texts:
        for name, content in texts.items():
            archive_of_texts.writestr(f"wikitext-2/{name}", content)
    layout = Layout("wikitext-2", {name: f"sha256:{sha256(each)}" for name, each in texts.items()})
    download = publish(*server, "wikitext-2-v1.zip", zipped.getvalue())
    monkeypatch.setitem(ENTRIES, "wikitext2", replace(ENTRIES["wikitext2"], layouts=(layout,), downloads=(download,)))
    printed(capsys, "get", "wikitext2", "--data-dir", str(tmp_path))
    assert load("wikitext2", tmp_path).outputs == 5


@pytest.mark.filterwarnings("ignore:unclosed <socket")  # pooch leaves the connection of a 404 to the garbage collector
def test_a_download_that_is_not_the_published_file_is_refused(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pooch", reason="pooch, of lerpscape[lab], is not installed")
    download = publish(*server, "train-images-idx3-ubyte.gz", b"another file")
    wrong = replace(download, checksum=f"sha256:{'0' * 64}")
    monkeypatch.setitem(ENTRIES, "mnist", small_mnist(downloads=(wrong,)))
    text = printed(capsys, "get", "mnist", "--data-dir", str(tmp_path), code=2)
    assert f"to have the checksum {wrong.checksum}" in text
    assert list((tmp_path / "MNIST/raw").iterdir()) == []
    gone = replace(download, url=f"{server[1]}nothing.gz")
    monkeypatch.setitem(ENTRIES, "mnist", small_mnist(downloads=(gone,)))
    text = printed(capsys, "get", "mnist", "--data-dir", str(tmp_path), code=2)
    assert f"{gone.url} to answer" in text and "404" in text
    closed = replace(download, url="http://127.0.0.1:9/nothing.gz")
    monkeypatch.setitem(ENTRIES, "mnist", small_mnist(downloads=(closed,)))
    assert "to answer" in printed(capsys, "get", "mnist", "--data-dir", str(tmp_path), code=2)
    gc.collect()


def test_get_says_what_cannot_be_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ("--data-dir", str(tmp_path))
    assert "Put the files into the folder sotu" in printed(capsys, "get", "sotu", *folder, code=2)
    assert "a data set to download: one of mnist, " in printed(capsys, "get", "minst", *folder, code=2)
    assert "got: none." in printed(capsys, "get", *folder, code=2)


def test_without_pooch_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    assert 'pip install "lerpscape[lab]"' in printed(capsys, "get", "mnist", "--data-dir", str(tmp_path), code=2)


# the catalogue itself


def test_the_catalogue_is_consistent() -> None:
    for name, entry in ENTRIES.items():
        for layout in entry.layouts:
            for file, checksum in layout.files.items():
                algorithm, _, digits = checksum.partition(":")
                assert len(digits) == {"md5": 32, "sha1": 40, "sha256": 64}[algorithm], (name, file)
        for download in entry.downloads:
            assert download.url.startswith(("https://", "http://fashion-mnist."))
        if entry.per_class:
            assert sum(entry.per_class) == entry.train
            assert len(entry.per_class) == entry.outputs
    assert set(catalogue.ENTRIES) < set(__import__("lerpscape.lab.data").lab.data.DATA_SETS)
