"""Loops that numba compiles, where it is installed (`lerpscape[fast]`)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar, cast

Loop = TypeVar("Loop", bound=Callable[..., Any])

# What loading it costs: multiplications that take half a second. So many must be saved.
WORTH_LOADING = 2e10


def installed() -> bool:
    """Whether the compiler is there."""
    return find_spec("numba") is not None


def compiled(loop: Loop) -> Loop:
    """The loop, compiled for the types it is first called with, and kept on disk.

    NaN and infinities pass through as they do in torch; a product and a sum are rounded once.
    """
    from numba import njit

    return cast(Loop, njit(error_model="numpy", fastmath={"contract"}, nogil=True, cache=True)(loop))


def inlined(loop: Loop) -> Loop:
    """A part of compiled loops, put into each of them."""
    from numba import njit

    return cast(Loop, njit(error_model="numpy", fastmath={"contract"}, forceinline=True)(loop))
