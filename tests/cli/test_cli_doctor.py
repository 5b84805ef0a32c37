"""`lerpscape doctor` says what is installed, where the data are, and whether results can be written."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import lerpscape as ls
from lerpscape.cli import doctor
from lerpscape.cli.main import main


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    main(["doctor", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_versions_processor_and_extras(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "none", ("nothing", ("no-such-package",)))
    found = report(capsys)
    assert (found["lerpscape"], found["torch"]) == (ls.__version__, torch.__version__)
    assert found["threads"] == torch.get_num_threads() and found["devices"][0] == "cpu"
    assert found["cpu_kernels"] == torch.backends.cpu.get_cpu_capability()
    missing = found["extras"][-1]
    assert missing["versions"] == {"no-such-package": None}
    assert missing["install"] == 'pip install "lerpscape[none]"'
    main(["doctor"])
    out = capsys.readouterr().out
    assert "no-such-package – (nothing)" in out and 'missing: pip install "lerpscape[none]"' in out


def test_the_extras_are_those_of_the_package() -> None:
    """Every extra for users, with the packages that it adds to others."""
    project = tomllib.loads((Path(ls.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {
        name: {wanted.split(">")[0] for wanted in packages if not wanted.startswith("lerpscape[")}
        for name, packages in project["optional-dependencies"].items()
        if name not in ("test", "test-integrations", "docs", "bench")
    }
    assert {name: set(packages) for name, (_, packages) in doctor.EXTRAS.items()} == declared


def test_the_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LERPSCAPE_DATA", str(tmp_path))
    data = report(capsys)["data"]
    assert data["folder"] == str(tmp_path) and data["readable"]
    assert (data["sets"]["mnist"], data["sets"]["digits"]) == ("missing", "built in")
    gone = report(capsys, "--data-dir", str(tmp_path / "gone"))["data"]
    assert not gone["readable"] and gone["sets"] == {}
    main(["doctor", "--data-dir", str(tmp_path / "gone")])
    assert f"{tmp_path / 'gone'}, which does not exist\n" in capsys.readouterr().out
    monkeypatch.delenv("LERPSCAPE_DATA")
    main(["doctor"])
    assert "none: give --data-dir, or set LERPSCAPE_DATA" in capsys.readouterr().out


def test_the_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir()
    assert report(capsys, "--store", str(tmp_path / "new" / "results"))["store"]["writable"]
    assert not (tmp_path / "new").exists()
    assert not report(capsys, "--store", str(tmp_path / "file" / "results"))["store"]["writable"]
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").chmod(0o500)
        assert not report(capsys, "--store", str(tmp_path / "closed" / "results"))["store"]["writable"]
