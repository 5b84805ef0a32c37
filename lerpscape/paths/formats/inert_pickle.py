"""Reading pickles without running anything from them: every name becomes an inert record, or is refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any


class Record:
    """What stands for an object of a pickle: what it was called with, and its state. It does nothing."""

    args: tuple[Any, ...] = ()
    state: Any = None  # an object that pickle makes without calling its class

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Keep the state instead of acting on it."""
        self.state = state


def unpickled(data: bytes, find: Callable[[str, str], Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """The content of a pickle in which `find(module, name)` alone decides what each global name stands for.

    Raises `pickle.UnpicklingError` where `find` does.

    >>> import fractions
    >>> record = unpickled(pickle.dumps(fractions.Fraction(1, 2)), lambda module, name: Record)
    >>> record.args
    (1, 2)
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return find(module, name)

        def persistent_load(self, key: Any) -> Any:
            if persistent is None:
                raise pickle.UnpicklingError("a reference to another file")
            return persistent(key)

    return Unpickler(io.BytesIO(data)).load()
