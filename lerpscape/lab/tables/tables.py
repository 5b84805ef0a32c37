"""Records → a table: shares, means and heat maps over two groups of fields, with everything that did not count.

A layout is a table of a sweep file::

    [[tables]]
    kind = "share"                        # share of non-monotone runs, with its Wilson interval
    rows = ["optimizer.name", "model.batch_norm"]
    columns = ["optimizer.lr"]
    tolerance = 1e-3                      # in the unit of the loss
    # kind = "mean_rise": mean min Δ over the runs that are not monotone;  "reading": mean of `reading` over all
    # part = "held-out";  where = {"data.name" = "mnist"};  counts_below = 0.5, instead of the sweep's
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.base.saving import to_json
from lerpscape.lab.tables.records import Record, count_states
from lerpscape.readings.intervals import wilson_interval

Kind: TypeAlias = Literal["share", "mean_rise", "reading"]
Key: TypeAlias = tuple[Any, ...]
MIN_DELTA = "min Δ"  # the paper's name for max_rise


@dataclass(frozen=True)
class Layout:
    """What a table shows: a cell for each combination of the values of `rows` and of `columns` (dotted fields).

    `where` keeps only the runs with these values. `tolerance` has the unit of the loss. `counts_below` is the rule by
    which runs count here, instead of the sweep's.
    """

    kind: Kind = "share"
    rows: tuple[str, ...] = ("optimizer.name",)
    columns: tuple[str, ...] = ("optimizer.lr",)
    reading: str = "max_rise"
    tolerance: float = 0.0
    part: Literal["train", "held-out"] = "train"
    where: Mapping[str, Any] | None = None
    counts_below: float | None = None
    title: str = ""

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Layout:
        """The layout of a sweep file's table.

        Raises `ConfigError` for unknown keys and kinds.
        """
        known = {each.name for each in fields(cls)}
        for key in table:
            if key not in known:
                raise ConfigError(unknown_name("a key of a table", key, sorted(known)))
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        layout = cls(**values)
        if layout.kind not in ("share", "mean_rise", "reading"):
            raise ConfigError(
                explain(
                    expected='kind = "share", "mean_rise" or "reading".',
                    got=f"{layout.kind!r}.",
                    hint="Choose one of them.",
                )
            )
        return layout


@dataclass(frozen=True)
class Cell:
    """One number with what it stands on: value, interval (95 %, or ± one standard error for means), and n runs."""

    value: float
    lower: float
    upper: float
    n: int
    hits: int | None = None


@dataclass(frozen=True)
class Table:
    """Cells by row and column, and notes: the rule by which runs count, and how many did not."""

    layout: Layout
    title: str
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Cell]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Title, notes and cells as plain numbers, lists and strings; NaN becomes a string."""
        cells = [
            {**dict(zip(self.layout.rows, row, strict=True)), **dict(zip(self.layout.columns, column, strict=True))}
            | to_json(cell)
            for (row, column), cell in self.cells.items()
        ]
        return {"title": self.title, "kind": self.layout.kind, "notes": list(self.notes), "cells": cells}

    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The values of the cells, shape (rows, columns), nan where there is no run."""
        cells = [[self.cells.get((row, column)) for column in self.columns] for row in self.rows]
        found = [[math.nan if cell is None else cell.value for cell in line] for line in cells]
        return np.array(found, dtype=np.float64).reshape(len(self.rows), len(self.columns))


def counts(record: Record, below: float | None, part: str) -> bool:
    """Whether a run enters tables: measured, every point finite, and trained to the asked loss."""
    profile = record.profiles.get(part)
    if record.state != "done" or profile is None or profile.invalid or record.final_loss is None:
        return False
    return math.isfinite(record.final_loss) and (below is None or record.final_loss <= below)


def table(records: Sequence[Record], layout: Layout, counts_below: float | None = None) -> Table:
    """Put records together into one table.

    Every record is in a cell or in the notes: excluded by the rule, no verdict, diverged, failed, not finished.

    Raises `ConfigError` for rows or columns that are no field of any run.
    """
    counts_below = counts_below if layout.counts_below is None else layout.counts_below
    chosen = [record for record in records if _matches(record, layout.where or {})]
    for name in (*layout.rows, *layout.columns, *(layout.where or {})):
        _require_field(name, records)
    counted = [record for record in chosen if counts(record, counts_below, layout.part)]
    groups: dict[tuple[Key, Key], list[Record]] = {}
    for record in counted:
        groups.setdefault((_key(record, layout.rows), _key(record, layout.columns)), []).append(record)
    cells = {place: cell for place, group in groups.items() if (cell := _cell(group, layout)) is not None}
    return Table(
        layout=layout,
        title=layout.title or _title(layout),
        rows=_sorted({_key(record, layout.rows) for record in chosen}),
        columns=_sorted({_key(record, layout.columns) for record in chosen}),
        cells=cells,
        notes=_notes(chosen, counted, layout, counts_below),
    )


def _title(layout: Layout) -> str:
    what = {
        "share": "Runs that are not monotone",
        "mean_rise": f"Mean {MIN_DELTA} over the runs that are not monotone",
        "reading": f"Mean {MIN_DELTA if layout.reading == 'max_rise' else layout.reading}",
    }[layout.kind]
    return f"{what} ({layout.part})"


def _cell(group: list[Record], layout: Layout) -> Cell | None:
    rises = [record.profiles[layout.part].max_rise for record in group]
    hits = sum(rise > layout.tolerance for rise in rises)
    if layout.kind == "share":
        return Cell(hits / len(group), *wilson_interval(hits, len(group)), n=len(group), hits=hits)
    if layout.kind == "mean_rise":
        values = [rise for rise in rises if rise > layout.tolerance]
    else:
        rows = [record.row(layout.part) for record in group]
        if not any(layout.reading in row for row in rows):
            raise ConfigError(unknown_name("a reading of the runs", layout.reading, sorted(rows[0])))
        values = [row[layout.reading] for row in rows if row.get(layout.reading) is not None]
    if not values:
        return None
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Cell(mean, mean - error, mean + error, n=len(values))


def _notes(chosen: list[Record], counted: list[Record], layout: Layout, below: float | None) -> tuple[str, ...]:
    states = count_states(chosen)
    measured = [record for record in chosen if record.state == "done"]
    without = sum(layout.part not in record.profiles for record in measured)
    invalid = sum(bool(record.profiles[layout.part].invalid) for record in measured if layout.part in record.profiles)
    rule = "every measured run counts" if below is None else f"a run counts if its final training loss is ≤ {below:g}"
    units = {record.profiles[layout.part].unit for record in counted}
    unit = f" {units.pop()}" if len(units) == 1 else ""
    excluded = len(measured) - len(counted) - invalid - without
    unfinished = sum(states[state] for state in ("pending", "started", "trained"))
    out = [
        f"{excluded} excluded by the rule",
        f"{invalid} without a verdict (loss not finite on the line)",
        f"{without} without this part",
        f"{states['diverged']} diverged",
        f"{states['failed']} failed",
        f"{unfinished} not finished",
    ]
    counts_line = f"{len(counted)} of {len(chosen)} runs; {rule}. " + ", ".join(out) + "."
    about = {
        "share": f"Not monotone: {MIN_DELTA} > {layout.tolerance:g}{unit}. Brackets: 95 % Wilson interval.",
        "mean_rise": f"Over runs with {MIN_DELTA} > {layout.tolerance:g}{unit}; ± one standard error.",
        "reading": "± one standard error.",
    }[layout.kind]
    return counts_line, about


def field_word(name: str) -> str:
    """The word that stands for a field in a table.

    >>> field_word("optimizer.lr"), field_word("optimizer.name")
    ('lr', 'optimizer')
    """
    section, _, last = name.rpartition(".")
    return section if last == "name" else last


def _require_field(name: str, records: Sequence[Record]) -> None:
    known = {field for record in records for field in record.config.flat()}
    if name not in known:
        raise ConfigError(unknown_name("a field of the runs", name, sorted(known)))


def _key(record: Record, names: tuple[str, ...]) -> Key:
    flat = record.config.flat()
    values = (flat.get(name) for name in names)
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _matches(record: Record, where: Mapping[str, Any]) -> bool:
    flat = record.config.flat()
    return all(flat.get(name) == value for name, value in where.items())


def _sorted(keys: set[Key]) -> tuple[Key, ...]:
    """Numbers by size, everything else by its text; what is not set comes first."""

    def order(key: Key) -> list[Any]:
        flat = itertools.chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in key)
        return [
            (0, 0.0, "") if value is None
            else (1, float(value), "") if isinstance(value, (int, float))
            else (2, 0.0, str(value))
            for value in flat
        ]  # fmt: skip

    return tuple(sorted(keys, key=order))
