"""Who may import whom, and what must not be imported at start-up."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lerpscape as ls

ROOT = Path(ls.__file__).parent
INSTRUMENT = [*sorted(ROOT.glob("*.py")), *sorted(ROOT.glob("studies/*.py"))]
EVERYTHING = sorted(ROOT.rglob("*.py"))


@cache
def imported(file: Path, *, for_types: bool = True) -> set[str]:
    """Every module that a file names in an import, anywhere in it; or all but those for type checkers alone."""
    names: set[str] = set()
    tree = ast.parse(file.read_text())
    if not for_types:
        tree.body = [
            each for each in tree.body if not (isinstance(each, ast.If) and "TYPE_CHECKING" in ast.dump(each.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def importers(module: str, files: list[Path]) -> set[str]:
    return {
        file.name for file in files if any(name == module or name.startswith(f"{module}.") for name in imported(file))
    }


def test_the_instrument_never_imports_the_laboratory() -> None:
    assert importers("lerpscape.lab", INSTRUMENT) == set()
    outside = [file for file in EVERYTHING if "lab" not in file.relative_to(ROOT).parts]
    assert {file.parent.name for file in outside if importers("lerpscape.lab", [file])} == {"commands"}
    assert importers("lerpscape.lab", outside) == {"demo.py", "data.py", "sweep.py"}  # the doors from half to half


def test_only_pictures_import_matplotlib() -> None:
    running = {file.name: imported(file, for_types=False) for file in EVERYTHING}
    found = {file for file, names in running.items() if any(name.partition(".")[0] == "matplotlib" for name in names)}
    assert {file for file in found if "plots" not in file} == {"demo.py"}


def test_only_workers_names_ray_and_submitit() -> None:
    assert importers("ray", EVERYTHING) | importers("submitit", EVERYTHING) <= {"workers.py"}


def test_readings_need_numpy_alone() -> None:
    allowed = {"__future__", "collections.abc", "dataclasses", "html", "math", "statistics", "typing"}
    allowed |= {"numpy", "numpy.typing"}
    ours = {f"lerpscape.{room}" for room in ("errors", "monotonicity", "hidden", "crosswalk", "results", "saving")}
    for file in ("monotonicity.py", "hidden.py", "statistics.py", "crosswalk.py", "definitions.py"):
        found = {name for name in imported(ROOT / file) if not any(name.startswith(f"{a}.") for a in allowed | ours)}
        assert found - {"lerpscape", "pandas"} <= allowed | ours, file  # the package itself; pandas for types


def test_no_eval_or_exec_and_one_restricted_unpickler() -> None:
    for file in EVERYTHING:
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, file
        assert "pickle.load" not in file.read_text(), file
        assert ("pickle.Unpickler" in file.read_text()) == (file.name == "pickles.py"), file
        assert "weights_only=False" not in file.read_text(), file


HEAVY = ("torch", "matplotlib", "numpy", "sklearn", "scipy", "pandas", "rich", "jinja2")


@pytest.mark.parametrize(
    "statement",
    [
        "import lerpscape; dir(lerpscape); lerpscape.EndpointMismatch",
        "from lerpscape.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli import main\ntry: main(['profile', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli import main\ntry: main(['gauss', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli import main\ntry: main(['plane', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli import main\ntry: main(['data', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli import main\nmain(['--version'])",
        "from lerpscape.cli import main\ntry: main(['sweep', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    code = f"import sys\n{statement}\nprint('LOADED', sorted(set({HEAVY}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "LOADED []"


def test_looking_at_a_sweep_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("seeds = [0, 1]\n")
    for action in ("list", "status"):
        code = (
            "import sys; from lerpscape.cli import main\n"
            f"main(['sweep', {action!r}, {str(tmp_path / 's.toml')!r}, '--store', {str(tmp_path / 'store')!r}])\n"
            "assert not {'torch', 'matplotlib'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_readings_do_not_import_torch() -> None:
    code = "import sys, lerpscape as ls\nls.max_rise([1, 2])\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_documented_and_listed() -> None:
    for name in ls.__all__:
        value = getattr(ls, name)
        assert value.__doc__ or name == "ParamPath", name
        assert name in dir(ls)
    with pytest.raises(AttributeError, match="no_such_name"):
        ls.no_such_name  # noqa: B018


def test_sub_packages_are_attributes_but_no_star_import_brings_them() -> None:
    code = "import sys, lerpscape as ls; ls.studies; assert 'torch' not in sys.modules; print(ls.studies.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "lerpscape.studies\n"
    assert "studies" in dir(ls) and "studies" not in ls.__all__


def test_a_sub_package_gives_its_names() -> None:
    for name in ls.studies.__all__:
        assert getattr(ls.studies, name) is getattr(ls, name)
    with pytest.raises(AttributeError, match=r"module 'lerpscape.studies' has no attribute 'no_such_name'"):
        ls.studies.no_such_name  # noqa: B018


def test_public_functions_do_not_share_a_name_with_a_room() -> None:
    assert not set(ls.__all__) & {file.stem for file in INSTRUMENT}
