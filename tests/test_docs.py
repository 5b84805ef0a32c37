"""The README and the docs do what they say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import lerpscape as ls
from lerpscape.base.results import Result
from lerpscape.cli.main import COMMANDS

ROOT = Path(ls.__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_readme_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks of the README, one after the other, as a reader would paste them."""
    matplotlib.use("agg")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readme.py").write_text("import matplotlib\nmatplotlib.use('agg')\n" + "\n".join(blocks))
    done = subprocess.run([sys.executable, "readme.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"line.png", "profile.json", "report.html"} <= {file.name for file in tmp_path.iterdir()}
    assert "tolerance 0.001 nats" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_commands_named_in_the_docs_exist() -> None:
    known = set(COMMANDS)
    for page in PAGES:
        assert set(re.findall(r"(?:\$ |`)lerpscape (\w+)", page.read_text())) <= known, page


def test_every_room_is_in_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for file in (ROOT / "lerpscape").rglob("*.py"):
        name = file.relative_to(ROOT / "lerpscape").with_suffix("").as_posix()
        if not name.endswith(("__init__", "__main__")):
            assert f"`{name}`" in design, name


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {ls.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_docstrings_are_whole() -> None:
    """One example and one sentence at least, for every public function and class with something to show."""
    parts = {"Block", "Checkpoint", "ClassCurve", "Disagreement", "Excess", "HiddenRise", "Level", "ParamPath"}
    parts |= {"BiasVariant", "PolicyResult", "Reading", "Rise", "RiseInterval", "ScaleCurve", "PointList"}
    for name in set(ls.__all__) - parts:
        value = getattr(ls, name)
        if isinstance(value, type) and issubclass(value, (Exception, Result)):
            continue  # results, shown in the example of the function that gives them
        assert ">>> " in value.__doc__, name


def test_files_stay_small() -> None:
    for file in (ROOT / "lerpscape").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 350, file


def test_examples_parse() -> None:
    for file in (ROOT / "examples").glob("*.py"):
        ast.parse(file.read_text())
