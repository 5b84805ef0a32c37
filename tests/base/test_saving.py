"""Files are written whole or not at all: a full disk leaves what was there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import lerpscape as ls
from lerpscape.base.saving import replacing, write_file
from lerpscape.plots.style import save_figure


def profile() -> ls.Profile:
    model = nn.Linear(2, 3)
    line = ls.Line(model, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    return ls.profile(model, line, [(torch.ones(4, 2), torch.arange(4) % 3)], alphas=3, progress=False)


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: write_file(path, b"new"),
    "result": lambda path: profile().save(path),
    "report": lambda path: ls.report([profile()], path),
    "figure": lambda path: save_figure(Figure(), str(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.svg"
    path.write_text("old")

    def full(draft: str | Path, *_: object, **__: object) -> None:
        with Path(draft).open("wb") as file:
            file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        patch.setattr(Figure, "savefig", lambda figure, draft, **_: full(draft) if isinstance(draft, Path) else None)
        patch.setattr("lerpscape.plots.report.as_svg", lambda figure: "")
        with pytest.raises(
            OSError, match=r"(?s)kept\.svg to be written.*No space left.*what is finished stays"
        ) as caught:
            WRITERS[name](path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    target.write_text("old")
    link.symlink_to(target)
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    write_file("/dev/null", b"new")
    assert Path("/dev/null").is_char_device()


def test_a_folder_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"expected: .* to be written"):
        write_file(tmp_path, b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_without_a_suffix_is_a_png(tmp_path: Path) -> None:
    save_figure(Figure(), str(tmp_path / "figure"))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
