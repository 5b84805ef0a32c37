"""Tables of records: shares or means by two groups of fields, with a note on every run that was left out.

A sweep file gives the layout of a table::

    [[tables]]
    kind = "share"                        # share of runs whose `reading` is above the tolerance, with its interval
    rows = ["optimizer.name", "model.batch_norm"]
    columns = ["optimizer.lr"]
    reading = "profile.max_rise"          # NAME.READING of a [[measure]] or [[compare]]
    tolerance = 1e-3                      # in the unit of the reading
    # kind = "mean_rise": mean of the readings above the tolerance;  "reading": mean of all readings
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
from scipy.stats import t as student

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.base.saving import to_json
from lerpscape.lab.comparisons import COMPARISONS
from lerpscape.lab.measurements import MEASUREMENTS
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.tables.records import Record
from lerpscape.readings.intervals import wilson_interval

Kind: TypeAlias = Literal["share", "mean_rise", "reading"]
Key: TypeAlias = tuple[Any, ...]
MIN_DELTA = "min Δ"  # the paper's name for max_rise
LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Layout:
    """What a table shows: one cell for each combination of the values of `rows` and of `columns` (dotted fields).

    `reading` is that of a measurement, as `NAME.READING`, on one part of the data. `where` selects the runs with these
    values. `tolerance`, in the unit of the reading, is the largest that still counts as monotone. `counts_below`
    replaces the sweep's.
    """

    kind: Kind = "share"
    rows: tuple[str, ...] = ("optimizer.name",)
    columns: tuple[str, ...] = ("optimizer.lr",)
    reading: str = "profile.max_rise"
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
    """The value of a cell, its 95 % interval and its number of runs; n counts pairs or groups where they are compared.

    `hits` is the number of runs above the tolerance, for shares only. Means have Student's interval, NaN for n = 1.
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


def check_tables(sweep: Sweep) -> list[Layout]:
    """The layouts of a sweep's tables.

    Raises `ConfigError` for what `Layout.from_dict` refuses, for a field that no run has, and for a reading that no
    measurement of the sweep has on that part of the data.
    """
    layouts = [Layout.from_dict(table) for table in sweep.tables] or [Layout()]
    fields = {name for run in sweep.runs for name in run.flat()}
    parts = {one.name: one.on for one in sweep.measures} | {one.name: (one.on,) for one in sweep.comparisons}
    known = [f"{one.name}.{name}" for one in sweep.measures for name in MEASUREMENTS[one.what].readings]
    known += [f"{one.name}.{name}" for one in sweep.comparisons for name in COMPARISONS[one.what].readings]
    for layout in layouts if sweep.tables else ():
        for name in (*layout.rows, *layout.columns, *(layout.where or {})):
            if name not in fields:
                raise ConfigError(unknown_name("a field of the runs", name, sorted(fields)))
        if layout.reading not in known:
            raise ConfigError(unknown_name("a reading of this sweep's measurements", layout.reading, known))
        measured = layout.reading.partition(".")[0]
        if layout.part not in parts[measured]:
            raise ConfigError(
                explain(
                    expected=f"a part of the data that {measured} is measured on: {', '.join(parts[measured])}.",
                    got=f"{layout.part!r}.",
                    hint=f'Add on = ["train", "held-out"] to the table that measures {measured}.',
                )
            )
    return layouts


def is_counted(record: Record, counts_below: float | None, layout: Layout) -> bool:
    """Whether a run enters a table: its reading is there and defined, and its training loss is ≤ `counts_below`."""
    value = record.reading(layout.reading, layout.part)
    return value is not None and not math.isnan(value) and within_rule(record, counts_below)


def within_rule(record: Record, counts_below: float | None) -> bool:
    """Whether a network's final training loss is finite and at most `counts_below`; comparisons have no loss."""
    if record.members:
        return True
    loss = record.final_loss
    return loss is not None and math.isfinite(loss) and (counts_below is None or loss <= counts_below)


def tabulate(records: Sequence[Record], layout: Layout, counts_below: float | None = None) -> Table:
    """Build a table from records; every record is counted in a cell or, with the reason, in the notes.

    Raises `ConfigError` for rows or columns that no run has as a field, and for a reading that no run was asked for.
    """
    counts_below = counts_below if layout.counts_below is None else layout.counts_below
    measured = layout.reading.partition(".")[0]
    asked = {(name, what, bool(record.members)) for record in records for name, what in record.kinds.items()}
    known = [
        f"{name}.{one}"
        for name, what, between in asked
        for one in (COMPARISONS[what] if between else MEASUREMENTS[what]).readings
    ]
    if layout.reading not in known:
        raise ConfigError(unknown_name("a reading of these measurements", layout.reading, sorted(known)))
    compared = any(record.members and measured in record.kinds for record in records)
    # A reading between runs has a record for each comparison, one of runs a record for each run.
    eligible = [record for record in records if bool(record.members) == compared]
    eligible = [record for record in eligible if not compared or measured in record.kinds]
    chosen = [record for record in eligible if _matches(record, layout.where or {})]
    for name in (*layout.rows, *layout.columns, *(layout.where or {})):
        _require_field(name, records)
    counted = [record for record in chosen if is_counted(record, counts_below, layout)]
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
    name = MIN_DELTA if layout.reading == Layout.reading else layout.reading
    return {
        "share": "Runs that are not monotone" if name == MIN_DELTA else f"Runs with {name} > {layout.tolerance:g}",
        "mean_rise": f"Mean {name} over the runs that are not monotone",
        "reading": f"Mean {name}",
    }[layout.kind] + f" ({layout.part})"


def _cell(group: list[Record], layout: Layout) -> Cell | None:
    values = [value for record in group if (value := record.reading(layout.reading, layout.part)) is not None]
    above = [value for value in values if value > layout.tolerance]
    if layout.kind == "share":
        return Cell(len(above) / len(group), *wilson_interval(len(above), len(group)), n=len(group), hits=len(above))
    values = above if layout.kind == "mean_rise" else values
    if not values:
        return None
    mean, error = float(np.mean(values)), math.nan
    if len(values) > 1:
        error = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Cell(mean, mean - error, mean + error, n=len(values))


def _notes(chosen: list[Record], counted: list[Record], layout: Layout, counts_below: float | None) -> tuple[str, ...]:
    reasons = Counter(_left_out(record, counts_below, layout) for record in chosen)
    compared = bool(chosen and chosen[0].members)
    noun = "comparisons" if compared else "runs"
    rule = f"every measured {noun[:-1]} counts"
    if counts_below is not None and not compared:
        rule = f"a run counts if its final training loss is ≤ {counts_below:g}"
    left_out = ", ".join(f"{reasons[reason]} {reason}" for reason in REASONS)
    counts_line = f"{len(counted)} of {len(chosen)} {noun}; {rule}. {left_out}."
    units = {profile.unit for record in counted if (profile := record.profile(layout.part)) is not None}
    unit = f" {units.pop()}" if len(units) == 1 and layout.reading == Layout.reading else ""
    name = MIN_DELTA if layout.reading == Layout.reading else layout.reading
    legend = {
        "share": f"{name} > {layout.tolerance:g}{unit}. Brackets: 95 % Wilson interval. n counts {noun}.",
        "mean_rise": f"Over {noun} with {name} > {layout.tolerance:g}{unit}; ± 95 % (Student). n counts {noun}.",
        "reading": f"± 95 % (Student). n counts {noun}.",
    }[layout.kind]
    wrong = [f"{record.config.name} ({record.error})" for record in chosen if record.state == "damaged"]
    return counts_line, legend, *([f"Damaged: {'; '.join(wrong)}."] if wrong else [])


REASONS = (
    "excluded by the rule",
    "without a verdict (losses or outputs not finite)",
    "not measured",
    "diverged",
    "failed",
    "not finished",
    "damaged",
)


def _left_out(record: Record, counts_below: float | None, layout: Layout) -> str:
    """Why a record is in no cell; "" if it is in one."""
    value = record.reading(layout.reading, layout.part)
    if value is not None:
        undefined = math.isnan(value) or (record.final_loss is not None and not math.isfinite(record.final_loss))
        return "" if is_counted(record, counts_below, layout) else REASONS[1] if undefined else REASONS[0]
    if record.state in ("diverged", "failed", "damaged"):
        return record.state
    # "trained" while measurements are missing; a finished run without this one was not asked for it.
    return "not measured" if record.state == "done" else "not finished"


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
