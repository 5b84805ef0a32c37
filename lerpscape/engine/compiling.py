"""Loops that numba compiles, where it is installed (`lerpscape[fast]`), and the threads that they run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import torch

Loop = TypeVar("Loop", bound=Callable[..., Any])
Result = TypeVar("Result")

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


def parts(count: int) -> list[tuple[int, int]]:
    """So many things in as many parts as torch has threads: where each begins and ends.

    >>> sum(stop - first for first, stop in parts(10))
    10
    """
    threads = max(min(torch.get_num_threads(), count), 1)
    return [(count * each // threads, count * (each + 1) // threads) for each in range(threads)]


def in_threads(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """What the calls give, each made in a thread of its own; compiled loops do not wait for each other.

    >>> in_threads([lambda: 1, lambda: 2])
    [1, 2]
    """
    if len(calls) == 1:
        return [calls[0]()]
    return [each.result() for each in [_pool(len(calls)).submit(call) for call in calls]]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
