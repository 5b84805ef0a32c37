"""Families of models × what is measured: the numbers of a plain loop, or the refusal that the table expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from families import FAMILIES
from families.checks import check
from families.family import CELLS, Family, table
from families.libraries import FAMILIES as LIBRARIES


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.needs], ids=str)
def test_family(family: Family, cell: str, tmp_path: Path) -> None:
    check(family, cell, tmp_path)


def test_the_page_has_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "models.md"
    assert table([*FAMILIES, *LIBRARIES]) in page.read_text()
