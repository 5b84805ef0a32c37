"""Public names of a package, loaded when first used: they stand once, in its own imports for type checkers."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the `if TYPE_CHECKING:` block of its file.

    The block is read, never run. `from package.module import name` makes `name` public; `from package import folder`
    makes a sub-package an attribute, which `__all__` leaves out: a star import brings names alone.

    >>> load, listed, names = attach("lerpscape", import_module("lerpscape").__file__)
    >>> load("max_rise")([0.0, 2.0, 1.0]), "max_rise" in names, "studies" in listed()
    (2.0, True, True)
    """
    with open(file, "rb") as source:  # pathlib takes longer to import than this to run
        tree = ast.parse(source.read())
    blocks = [each for each in tree.body if isinstance(each, ast.If)]
    lines = [line for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for line in block.body]
    homes = {each.name: line.module for line in lines if isinstance(line, ast.ImportFrom) for each in line.names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        value = import_module(f"{package}.{name}") if home == package else getattr(import_module(str(home)), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, listed, sorted(name for name, home in homes.items() if home != package)
