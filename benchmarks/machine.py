"""The machine that a benchmark ran on."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The processor's name and how many cores the process may use, as Linux tells them; else the architecture.

    >>> bool(machine())
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {cores} cores"
