"""Models of transformers, peft and torch_geometric × what is measured, against the loop of `families`."""

from __future__ import annotations

from pathlib import Path

import pytest
from families.checks import check
from families.family import CELLS, Family
from families.libraries import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_library_family(family: Family, cell: str, tmp_path: Path) -> None:
    pytest.importorskip(family.needs, reason=f"needs {family.needs}")
    check(family, cell, tmp_path)
