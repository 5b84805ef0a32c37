"""Public names of a package, imported when first used. Each package lists them once, in its `TYPE_CHECKING` block.

The block writes `from module import name as name`, which type checkers take as exporting the name again.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the `if TYPE_CHECKING:` block of its file.

    The block is parsed, never run. `from package.module import name as name` makes `name` public. `from package import
    folder as folder` makes a sub-package an attribute, but leaves it out of `__all__`, so that a star import does not
    bring it.

    >>> load, directory, names = attach("lerpscape", import_module("lerpscape").__file__)
    >>> load("max_rise")([0.0, 2.0, 1.0]), "max_rise" in names, "studies" in directory()
    (2.0, True, True)
    """
    with open(file, "rb") as source:  # importing pathlib would take longer than this function
        tree = ast.parse(source.read())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    modules = {alias.name: line.module for line in imports for alias in line.names}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = modules[name]
        value = import_module(f"{package}.{name}") if module == package else getattr(import_module(str(module)), name)
        setattr(sys.modules[package], name, value)
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return load, directory, sorted(name for name, module in modules.items() if module != package)
