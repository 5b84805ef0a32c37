"""Names that the examples in docstrings use without importing them."""

from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _names_of_docstring_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace |= {"torch": torch, "nn": torch.nn, "np": np}
