"""Names that the examples in docstrings use without importing them, and a limit of time for `make quick`."""

import time
from typing import Any

import numpy as np
import pytest
import torch

starts: list[float] = []  # when this process began each test; collecting does not count


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seconds 35`: leave out the tests that have not begun by then."""
    parser.addoption("--seconds", type=float, help="skip tests that have not begun after so many seconds of testing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what comes too late, and say so."""
    starts.append(time.monotonic())
    seconds = item.config.getoption("--seconds")
    if seconds is not None and starts[-1] - starts[0] > seconds:
        pytest.skip(f"left out by --seconds {seconds:g}; `make test` runs it")


@pytest.fixture(autouse=True)
def _names_of_docstring_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace |= {"torch": torch, "nn": torch.nn, "np": np}
