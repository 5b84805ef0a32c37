"""Who may import whom, and what must not be imported at start-up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import lerpscape as ls
from lerpscape.lab.store import Store

ROOT = Path(ls.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# From the lowest floor to the highest; two names on one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("readings",),
    ("networks",),
    ("paths",),
    ("engine",),
    ("profiles", "certificates"),
    ("geometry",),
    ("studies",),
    ("integrations",),
    ("plots",),
    ("lab",),
    ("papers",),
    ("cli",),
)
LEVEL = {folder: level for level, floor in enumerate(FLOORS) for folder in floor}
# Calls whose first argument is the name of a module or package to import.
IMPORTING = ("import_module", "__import__", "import_optional", "find_spec", "importorskip")


def module_name(file: Path) -> str:
    parts = ("lerpscape", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def named_imports(source: str) -> Iterator[tuple[str, ast.AST]]:
    """Every module that a source names in an import, at the top or inside a function, or hands to `import_module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in IMPORTING and isinstance(node.args[0].value, str):
                yield node.args[0].value, node


@cache
def imports(file: Path) -> frozenset[str]:
    return frozenset(name for name, _ in named_imports(file.read_text()))


def upward(importer: str, names: frozenset[str] | set[str]) -> set[str]:
    """The imports among these that do not lead from a higher floor to a lower one."""
    here = importer.split(".")[1] if "." in importer else ""
    if here not in LEVEL:
        return set()  # the package itself and `python -m lerpscape` open every floor
    found = set()
    for name in names:
        folder = name.split(".")[1] if name.startswith("lerpscape.") else ""
        if folder in LEVEL and folder != here and LEVEL[folder] >= LEVEL[here]:
            found.add(name)
    return found


def test_folders_are_the_floors() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(LEVEL)
    files = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_lead_downwards(file: Path) -> None:
    assert upward(module_name(file), imports(file)) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from lerpscape.lab.store import Store",
        "def f():\n    from lerpscape.plots.profiles import plot_profiles",
        "def f():\n    import lerpscape.cli.main",
        "def f():\n    return import_module('lerpscape.studies.onsets')",
        "if TYPE_CHECKING:\n    from lerpscape.certificates.results import Certificate",
        "from lerpscape import studies",
    ],
)
def test_an_upward_import_is_seen_wherever_it_hides(statement: str) -> None:
    assert upward("lerpscape.profiles.profile", {name for name, _ in named_imports(statement)})


def test_no_module_imports_itself_in_a_circle() -> None:
    modules = {module_name(file): file for file in FILES}
    edges = {}
    for name, file in modules.items():
        targets = {target if target in modules else target.rpartition(".")[0] for target in imports(file)}
        edges[name] = {target for target in targets & set(modules) if not modules[target].stem.startswith("__init__")}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for target in edges[name]:
                visit(target, (*way, name))
            done.add(name)

    for name in modules:
        if modules[name].stem != "__init__":
            visit(name, ())


def test_only_three_modules_import_by_a_name_that_is_not_written_there() -> None:
    """Results find their picture by `PLOT`, users' names are looked up, and public names are loaded late."""
    late = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name in ("import_module", "__import__") and not isinstance(node.args[0], ast.Constant):
                late.add(module_name(file))
    assert late <= {f"lerpscape.base.{name}" for name in ("results", "names", "lazy_names", "saving")}


def test_every_picture_that_a_result_names_is_there() -> None:
    pictures = [match for file in FILES for match in re.findall(r'PLOT(?:: [\w\[\]]+)? = "([\w.]+)"', file.read_text())]
    assert pictures
    for picture in pictures:
        module, _, function = picture.rpartition(".")
        tree = ast.parse((ROOT / "plots" / f"{module}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, picture


def importers(package: str) -> set[str]:
    return {module_name(file) for file in FILES if any(name.split(".")[0] == package for name in imports(file))}


def test_who_imports_what_is_heavy() -> None:
    outside = {name for name in importers("matplotlib") if not name.startswith("lerpscape.plots.")}
    assert outside <= {
        "lerpscape.base.results",
        "lerpscape.lab.demo",
        "lerpscape.lab.tables.plots",
        "lerpscape.papers.lucas2021.theory.plots",
    }
    assert importers("ray") <= {"lerpscape.base.ray_cluster", "lerpscape.engine.ray_workers", "lerpscape.lab.workers"}
    assert importers("submitit") == {"lerpscape.lab.workers"}
    assert {name.split(".")[1] for name in importers("tyro")} == {"cli"}
    for floor in ("base", "readings"):
        assert not {name for name in importers("torch") if name.startswith(f"lerpscape.{floor}.")}


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    declared = {re.split(r"[\[<>=! ]", each)[0].lower().replace("_", "-") for each in wanted}
    distributions = packages_distributions()
    for file in FILES:
        for package in {name.split(".")[0] for name in imports(file)} - {"lerpscape", "__future__"}:
            if package in sys.stdlib_module_names:
                continue
            names = {name.lower().replace("_", "-") for name in distributions.get(package, [package])}
            assert names & declared, f"{module_name(file)} imports {package}, which pyproject.toml does not declare"


def test_no_eval_or_exec_and_restricted_unpicklers_alone() -> None:
    for file in FILES:
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, file
        assert "pickle.load" not in file.read_text(), file
        assert ("pickle.Unpickler" in file.read_text()) == (file.name in ("cifar.py", "inert_pickle.py")), file
        assert "weights_only=False" not in file.read_text(), file


HEAVY = ("torch", "matplotlib", "numpy", "sklearn", "scipy", "pandas", "rich", "jinja2")


@pytest.mark.parametrize(
    "statement",
    [
        "import lerpscape; dir(lerpscape); lerpscape.EndpointMismatch",
        "from lerpscape.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli.main import main\ntry: main(['profile', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli.main import main\ntry: main(['gauss', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli.main import main\ntry: main(['study', 'plane', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli.main import main\ntry: main(['data', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli.main import main\nmain(['study'])",
        "from lerpscape.cli.main import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass",
        "from lerpscape.cli.main import main\nmain(['--version'])",
        "from lerpscape.cli.main import main\ntry: main(['sweep', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    code = f"import sys\n{statement}\nprint('LOADED', sorted(set({HEAVY}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "LOADED []"


def test_looking_at_a_sweep_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("seeds = [0, 1]\n")
    Store(tmp_path / "store")
    for action in ("list", "status"):
        code = (
            "import sys; from lerpscape.cli.main import main\n"
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
        assert getattr(ls.studies, name).__doc__
    with pytest.raises(AttributeError, match=r"module 'lerpscape.studies' has no attribute 'no_such_name'"):
        ls.studies.no_such_name  # noqa: B018


PACKAGES = [
    ls,
    *(
        getattr(ls, name)
        for name in ("readings", "paths", "profiles", "certificates", "geometry", "studies", "integrations")
    ),
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_no_public_name_is_that_of_a_module_beside_it(package: ModuleType) -> None:
    """Importing the module would put it in the place of the function."""
    assert package.__file__
    assert not set(package.__all__) & {file.stem for file in Path(package.__file__).parent.iterdir()}


def test_type_checkers_see_public_names_as_exported() -> None:
    for file in ROOT.rglob("__init__.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                aliases = [alias for line in node.body if isinstance(line, ast.ImportFrom) for alias in line.names]
                assert aliases and all(alias.asname == alias.name for alias in aliases), file


@pytest.mark.slow
def test_a_users_file_passes_strict_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    file = tmp_path / "user.py"
    file.write_text("from lerpscape import Line, profile\nfrom lerpscape.studies import onset\n")
    command = [sys.executable, "-m", "mypy", "--strict", str(file)]
    checked = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
