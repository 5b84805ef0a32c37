"""Tables of records: shares or means by two groups of fields, with a note on every run that was left out.

A sweep file gives the layout of a table::

    [[tables]]
    kind = "share"                        # share of runs that are not monotone, with its Wilson interval
    rows = ["optimizer.name", "model.batch_norm"]
    columns = ["optimizer.lr"]
    tolerance = 1e-3                      # in the unit of the loss
    # kind = "mean_rise": mean min Δ of the runs that are not monotone;  "reading": mean of `reading` of all runs
    # part = "held-out";  where = {"data.name" = "mnist"};  counts_below = 0.5, instead of the sweep's
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.base.saving import to_json
from lerpscape.lab.tables.records import Record
from lerpscape.readings.intervals import wilson_interval

Kind: TypeAlias = Literal["share", "mean_rise", "reading"]
Key: TypeAlias = tuple[Any, ...]
MIN_DELTA = "min Δ"  # the paper's name for max_rise


@dataclass(frozen=True)
class Layout:
    """What a table shows: one cell for each combination of the values of `rows` and of `columns` (dotted fields).

    `where` selects the runs with these values. `tolerance`, in the unit of the loss, is the largest rise that still
    counts as monotone. `counts_below` replaces the sweep's.
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
        """Read a layout from a `[[tables]]` entry of a sweep file.

        Raises `ConfigError` for unknown keys and kinds.
        """
        known = {field.name for field in fields(cls)}
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
        if not isinstance(layout.tolerance, (int, float)) or math.isnan(layout.tolerance):
            raise ConfigError(
                explain(expected="tolerance as a number.", got=f"{layout.tolerance!r}.", hint="tolerance = 1e-3")
            )
        return layout


@dataclass(frozen=True)
class Cell:
    """The value of a cell, its interval (95 % for shares, ± one standard error for means) and its number of runs.

    `hits` is the number of runs that are not monotone, for shares only.
    """

    value: float
    lower: float
    upper: float
    n: int
    hits: int | None = None


@dataclass(frozen=True)
class Table:
    """Cells by row and column, and notes: which runs are counted, and how many are not, by reason."""

    layout: Layout
    title: str
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Cell]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Title, notes and cells as plain numbers, lists and strings; NaN as a string."""
        cells = [
            {**dict(zip(self.layout.rows, row, strict=True)), **dict(zip(self.layout.columns, column, strict=True))}
            | to_json(cell)
            for (row, column), cell in self.cells.items()
        ]
        return {"title": self.title, "kind": self.layout.kind, "notes": list(self.notes), "cells": cells}

    def values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The values of the cells, shape (rows, columns); NaN for an empty cell."""
        cells = [[self.cells.get((row, column)) for column in self.columns] for row in self.rows]
        values = [[math.nan if cell is None else cell.value for cell in line] for line in cells]
        return np.array(values, dtype=np.float64).reshape(len(self.rows), len(self.columns))


def is_counted(record: Record, counts_below: float | None, part: str) -> bool:
    """Whether a run enters tables: it is measured, its curve is finite, its final training loss ≤ `counts_below`."""
    profile = record.profiles.get(part)
    if record.state != "done" or profile is None or profile.invalid or record.final_loss is None:
        return False
    return math.isfinite(record.final_loss) and (counts_below is None or record.final_loss <= counts_below)


def tabulate(records: Sequence[Record], layout: Layout, counts_below: float | None = None) -> Table:
    """Build a table from records; every record is counted in a cell or, with the reason, in the notes.

    Raises `ConfigError` for rows or columns that no run has as a field.
    """
    counts_below = counts_below if layout.counts_below is None else layout.counts_below
    chosen = [record for record in records if _matches(record, layout.where or {})]
    for name in (*layout.rows, *layout.columns, *(layout.where or {})):
        _require_field(name, records)
    counted = [record for record in chosen if is_counted(record, counts_below, layout.part)]
    groups: dict[tuple[Key, Key], list[Record]] = {}
    for record in counted:
        groups.setdefault((_key(record, layout.rows), _key(record, layout.columns)), []).append(record)
    cells = {key: cell for key, group in groups.items() if (cell := _cell(group, layout)) is not None}
    return Table(
        layout=layout,
        title=layout.title or _title(layout),
        rows=_sorted({_key(record, layout.rows) for record in chosen}),
        columns=_sorted({_key(record, layout.columns) for record in chosen}),
        cells=cells,
        notes=_notes(chosen, counted, layout, counts_below),
    )


def _title(layout: Layout) -> str:
    return {
        "share": "Runs that are not monotone",
        "mean_rise": f"Mean {MIN_DELTA} over the runs that are not monotone",
        "reading": f"Mean {MIN_DELTA if layout.reading == 'max_rise' else layout.reading}",
    }[layout.kind] + f" ({layout.part})"


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


def _notes(chosen: list[Record], counted: list[Record], layout: Layout, counts_below: float | None) -> tuple[str, ...]:
    states = Counter(record.state for record in chosen)
    measured = [record for record in chosen if record.state == "done"]
    without = sum(layout.part not in record.profiles for record in measured)
    invalid = sum(bool(record.profiles[layout.part].invalid) for record in measured if layout.part in record.profiles)
    rule = "every measured run counts"
    if counts_below is not None:
        rule = f"a run counts if its final training loss is ≤ {counts_below:g}"
    units = {record.profiles[layout.part].unit for record in counted}
    unit = f" {units.pop()}" if len(units) == 1 else ""
    excluded = len(measured) - len(counted) - invalid - without
    unfinished = sum(states[state] for state in ("pending", "started", "trained"))
    left_out = [
        f"{excluded} excluded by the rule",
        f"{invalid} without a verdict (loss not finite on the line)",
        f"{without} without this part",
        f"{states['diverged']} diverged",
        f"{states['failed']} failed",
        f"{unfinished} not finished",
        f"{states['damaged']} damaged",
    ]
    counts_line = f"{len(counted)} of {len(chosen)} runs; {rule}. " + ", ".join(left_out) + "."
    legend = {
        "share": f"Not monotone: {MIN_DELTA} > {layout.tolerance:g}{unit}. Brackets: 95 % Wilson interval.",
        "mean_rise": f"Over runs with {MIN_DELTA} > {layout.tolerance:g}{unit}; ± one standard error.",
        "reading": "± one standard error.",
    }[layout.kind]
    damaged = [f"{record.config.name} ({record.error})" for record in chosen if record.state == "damaged"]
    return counts_line, legend, *([f"Damaged: {'; '.join(damaged)}."] if damaged else [])


def field_label(name: str) -> str:
    """The label of a field in a table.

    >>> field_label("optimizer.lr"), field_label("optimizer.name")
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
    """Keys in order: None first, then numbers by size, then everything else by its text."""

    def order(key: Key) -> list[Any]:
        flat = itertools.chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in key)
        return [
            (0, 0.0, "") if value is None
            else (1, float(value), "") if isinstance(value, (int, float))
            else (2, 0.0, str(value))
            for value in flat
        ]  # fmt: skip

    return tuple(sorted(keys, key=order))
