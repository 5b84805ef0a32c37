"""The README and the docs do what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from commands import parsed

import lerpscape as ls
from lerpscape.base.results import Result
from lerpscape.cli.main import COMMANDS, STUDIES
from lerpscape.lab.data import DATA_SETS
from lerpscape.lab.models import MODELS

ROOT = Path(ls.__file__).parent.parent
FOLDERS = ("readings", "paths", "profiles", "certificates", "geometry", "studies", "integrations")
PACKAGES = [ls, *(getattr(ls, folder) for folder in FOLDERS)]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_the_docs_exist(page: Path) -> None:
    known = {*COMMANDS, *(f"study {word}" for word in STUDIES)}
    named = re.findall(r"(?:\$ |`)lerpscape ((?:study )?[\w-]+)", page.read_text())
    assert set(named) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_console_lines_of_the_docs_parse(page: Path) -> None:
    for line in re.findall(r"^\$ lerpscape (.*)", page.read_text().replace("\\\n", " "), flags=re.MULTILINE):
        assert parsed(shlex.split(line.partition(" | ")[0], comments=True)), line


def test_the_design_names_every_floor_on_two_pages() -> None:
    design = (ROOT / "docs" / "design.md").read_text().splitlines()
    assert len(design) <= 110 and max(map(len, design)) <= 120
    floors = {path.name for path in (ROOT / "lerpscape").iterdir() if (path / "__init__.py").exists()}
    assert floors
    for floor in floors:
        assert any(line.startswith("| ") and f"`{floor}`" in line for line in design), floor


def test_every_public_name_is_in_the_reference() -> None:
    """Names of `lerpscape` one by one; those of a folder by a directive that lists its `__all__`."""
    page = (ROOT / "docs" / "reference.md").read_text()
    one_by_one = re.findall(r":: lerpscape\.(\w+)$", page, flags=re.MULTILINE)
    assert sorted(one_by_one) == sorted([*ls.__all__, *FOLDERS, "lab"])
    for folder in (*FOLDERS, "lab", "lab.data"):
        assert f".. public-names:: lerpscape.{folder}\n" in page
    for name in MODELS:
        assert f":: lerpscape.lab.models.{name}\n" in page
    for name in DATA_SETS:
        assert f":: lerpscape.lab.data.{name}\n" in page


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {ls.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_docstrings_are_whole() -> None:
    """One example and one sentence at least, for every public function and class with something to show."""
    parts = {"Block", "Checkpoint", "ClassCurve", "Disagreement", "Excess", "Gate", "HiddenRise", "Level", "ParamPath"}
    parts |= {"BiasVariant", "Change", "PolicyResult", "Reading", "Rise", "RiseInterval", "ScaleCurve", "PointList"}
    parts |= {"HuggingFace", "TextBlocks"}
    public = {name: getattr(package, name) for package in PACKAGES for name in package.__all__ if name not in parts}
    for name, value in public.items():
        if isinstance(value, type) and issubclass(value, (Exception, Result)):
            continue  # results, shown in the example of the function that gives them
        assert ">>> " in value.__doc__, name


def test_files_stay_small() -> None:
    for file in (ROOT / "lerpscape").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 420, file
