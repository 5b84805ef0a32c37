"""Print the test files that belong to what changed, nearest first; a chosen core where nothing did. For `make quick`.

Changed is what differs from the branch `main` (on `main` itself, from origin's), files that git does not know included.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = ("tests/readings", "tests/paths", "tests/profiles/test_profile.py", "tests/base", "tests/test_imports.py")


def git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed() -> list[str]:
    branch = "origin/main" if git("branch", "--show-current") == ["main"] else "main"
    since = git("merge-base", "HEAD", branch) or ["HEAD"]
    return git("diff", "--name-only", *since) + git("ls-files", "--others", "--exclude-standard")


def importers(module: str) -> Iterator[str]:
    """Test files that name a module."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if f"from {module} import" in file.read_text(encoding="utf-8"):
            yield file.relative_to(ROOT).as_posix()


def tests_of(files: list[str]) -> list[str]:
    """Test files themselves, then what imports a changed module, then the tests and doctests of its folder."""
    near: list[str] = []
    far: list[str] = []
    for file in files:
        parts = Path(file).parts
        if parts[0] == "tests" and file.endswith(".py"):
            near += [file] if parts[-1].startswith("test_") else importers(Path(file).stem)
        elif parts[0] == "lerpscape" and file.endswith(".py"):
            near += [*importers(".".join(Path(file).with_suffix("").parts)), file]
            far += [f"tests/{parts[1]}", "tests/test_imports.py"]
        elif file.endswith(".md"):
            far.append("tests/test_docs.py")
        elif parts[0] == "examples":
            far.append("tests/test_examples.py")
    return [file for file in dict.fromkeys([*near, *inside(far)]) if (ROOT / file).exists()]


def inside(names: list[str]) -> Iterator[str]:
    """Each folder's test files: pytest would collect a file with its folder, wherever the file itself is named."""
    for name in names:
        folder = ROOT / name
        yield from (file.relative_to(ROOT).as_posix() for file in sorted(folder.rglob("test_*.py")))
        if not folder.is_dir():
            yield name


if __name__ == "__main__":
    print(*(tests_of(changed()) or CORE))
