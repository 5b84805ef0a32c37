"""One thread: small networks are not faster on more, and the numbers do not depend on the machine's load."""

import pytest
import torch
from commands import work  # noqa: F401  (a fixture)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
