"""Connecting to a Ray cluster: the caller's, the one at an address, or one started for the duration of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lerpscape.base.saving import import_optional


def is_address(workers: object) -> bool:
    """Whether `workers` means Ray: `"ray"` (a local cluster, or that of `RAY_ADDRESS`) or `"ray://host:port"`.

    >>> is_address("ray"), is_address("ray://head:10001"), is_address(2)
    (True, True, False)
    """
    return workers == "ray" or (isinstance(workers, str) and workers.startswith("ray://"))


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster and give the module `ray`; disconnect afterwards unless the caller was already connected.

    Raises `ImportError` if Ray is not installed.
    """
    ray = import_optional("ray", "ray")
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # otherwise Ray replaces the caller's builtin print
    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=None if address == "ray" else address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
