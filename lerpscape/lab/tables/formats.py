"""Text formats of a table: plain text, Markdown, LaTeX (booktabs) and CSV; every one shows n and the notes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

from lerpscape.lab.tables.table import Cell, Table, field_label

EMPTY = "—"
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_text(table: Table) -> str:
    """Aligned columns for a terminal."""
    lines = _grid(table)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, "", rows[0], rule, *rows[1:], "", *table.notes])


def as_markdown(table: Table) -> str:
    """A GitHub table."""
    lines = [[_markdown(cell) for cell in line] for line in _grid(table)]
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|" + "|".join(" --- " for _ in lines[0]) + "|"
    notes = [f"{_markdown(note)}  " for note in table.notes]
    return "\n".join([f"**{_markdown(table.title)}**", "", head, rule, *body, "", *notes]).rstrip()


def as_latex(table: Table) -> str:
    """A LaTeX table environment that uses booktabs; compiles with pdfLaTeX."""
    lines = [[_latex(cell) for cell in line] for line in _grid(table)]
    left = len(table.layout.rows)
    head, *body = [" & ".join(line) + r" \\" for line in lines]
    notes = r" \\ ".join(_latex(note) for note in table.notes)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}}}",
            rf"\begin{{tabular}}{{{'l' * left}{'r' * len(table.columns)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\smallskip\begin{{minipage}}{{\linewidth}}\footnotesize {notes}\end{{minipage}}",
            r"\end{table}",
        ]
    )


def as_csv(table: Table) -> str:
    """One line for each cell: row and column fields, value, interval, n; the notes follow as comments."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    layout = table.layout
    writer.writerow([*map(_csv, (*layout.rows, *layout.columns)), "value", "lower", "upper", "n"])
    for row in table.rows:
        for column in table.columns:
            cell = table.cells.get((row, column))
            numbers = ["", "", "", 0] if cell is None else [cell.value, cell.lower, cell.upper, cell.n]
            writer.writerow([*map(_csv, (*row, *column)), *numbers])
    out.writelines(f"# {' '.join(note.split())}\n" for note in table.notes)
    return out.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}


def _grid(table: Table) -> list[list[str]]:
    names = ", ".join(field_label(name) for name in table.layout.columns)
    heads = [", ".join(map(value_label, column)) for column in table.columns]
    first = [f"{names} = {heads[0]}", *heads[1:]] if heads else []
    lines = [[*(field_label(name) for name in table.layout.rows), *first]]
    for row in table.rows:
        cells = [_cell_text(table.cells.get((row, column)), table) for column in table.columns]
        lines.append([*map(value_label, row), *cells])
    return lines


def _cell_text(cell: Cell | None, table: Table) -> str:
    if cell is None:
        return EMPTY
    if table.layout.kind == "share":
        return f"{cell.hits}/{cell.n} [{100 * cell.lower:.0f}, {100 * cell.upper:.0f}] %"
    if cell.n > 1 and cell.upper == cell.lower:
        return f"{cell.value:.3g} in all (n={cell.n})"  # no spread, of which ± 0 would be a wrong estimate
    error = "" if math.isnan(cell.upper) else f" ± {cell.upper - cell.value:.2g}"
    return f"{cell.value:.3g}{error} (n={cell.n})"


def value_label(value: Any) -> str:
    """The label of a field's value: equal widths as 1024×3, None as a dash.

    >>> value_label((64, 64)), value_label((64, 8)), value_label((4,)), value_label(True), value_label(None)
    ('64×2', '64-8', '4', 'yes', '—')
    """
    if isinstance(value, tuple) and value:
        repeated = len(value) > 1 and len({*value}) == 1
        return f"{value[0]}×{len(value)}" if repeated else "-".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return EMPTY if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _csv(value: Any) -> str:
    """The label of a value as a CSV cell that no spreadsheet takes for a formula; numbers stay numbers.

    >>> _csv("=1+1"), _csv(-0.5), _csv((-1, 2))
    ("'=1+1", '-0.5', "'-1-2")
    """
    label = value_label(value)
    formula = not isinstance(value, (int, float)) and label.startswith(FORMULA_BEGINS)
    return ("'" if formula else "") + label.replace("\r", " ")  # csv leaves a carriage return bare


def _markdown(text: str) -> str:
    """Text that neither ends its cell nor is HTML."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("&", "&amp;").replace("<", "&lt;")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "Δ": r"$\Delta$", "≤": r"$\leq$", ">": r"$>$",
    "<": r"$<$", "±": r"$\pm$", "×": r"$\times$", "—": "---", "²": r"$^2$", "α": r"$\alpha$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
