"""A Ray cluster: the caller's, one that an address names, or one started here for as long as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lerpscape.base.saving import optional


def is_address(workers: object) -> bool:
    """Whether workers are on Ray: `"ray"` (started here, or the cluster of `RAY_ADDRESS`) or `"ray://host:port"`.

    >>> is_address("ray"), is_address("ray://head:10001"), is_address(2)
    (True, True, False)
    """
    return workers == "ray" or (isinstance(workers, str) and workers.startswith("ray://"))


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """The module `ray`, connected; what was not connected before is left again.

    Raises `ImportError` where Ray is not installed.
    """
    ray = optional("ray", "ray")
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # else Ray puts a print of its own into the caller's builtins
    ours = not ray.is_initialized()
    if ours:
        named = None if address == "ray" else address
        ray.init(address=named, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
