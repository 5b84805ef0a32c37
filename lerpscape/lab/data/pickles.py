"""CIFAR's official pickles, unpickled with three names of numpy and no other.

A pickle is a program that can call any function of any module. Only bytes that have the official checksum come here;
the list of names is the second lock.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from lerpscape.base.errors import explain

ALLOWED: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],  # numpy 2 keeps it in another module
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists, dicts and numpy's arrays; raises `ValueError` for any other name.

    Strings of Python 2 come as str.

    >>> ArrayUnpickler(io.BytesIO(pickle.dumps({"labels": [3, 1]}, protocol=2)), "batch").load()
    {'labels': [3, 1]}
    >>> ArrayUnpickler(io.BytesIO(pickle.dumps(len, protocol=2)), "batch").load()
    Traceback (most recent call last):
    ValueError: expected: batch to be a pickle of numbers, strings, lists, dicts and numpy arrays.
    got: the name __builtin__.len, which was not called.
    try: Do not trust this file; get the official one.
    """

    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file, encoding="latin-1")
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if f"{module}.{name}" not in ALLOWED:
            raise ValueError(
                explain(
                    expected=f"{self.name} to be a pickle of numbers, strings, lists, dicts and numpy arrays.",
                    got=f"the name {module}.{name}, which was not called.",
                    hint="Do not trust this file; get the official one.",
                )
            )
        return ALLOWED[f"{module}.{name}"]
