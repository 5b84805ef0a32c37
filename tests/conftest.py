"""One thread: small networks are not faster on more, and the numbers do not depend on the machine's load."""

import os

import pytest
import torch
from commands import work  # noqa: F401  (a fixture)


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("LERPSCAPE_TEST_THREADS", "1")))  # more: `make test-kernels`
