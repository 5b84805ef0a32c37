"""Readings of one curve side by side: who uses each, what it says, and whether the grid decides it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame, plain

if TYPE_CHECKING:
    import pandas

# "unobstructed": nothing stands in the way from start to end; "convex": the curve bends upwards.
Question: TypeAlias = Literal["unobstructed", "convex"]


@dataclass(frozen=True)
class Reading:
    """One number read off a curve, on the whole grid and on every second point of it.

    `unit` is the loss's unit, %, α or nothing. `value` and `half` are None where the reading is undefined for the
    curve or its grid. `question` is what its users decide by it, `verdict` and `half_verdict` their answers.
    """

    name: str
    value: float | None
    half: float | None
    unit: str
    source: str
    formula: str
    question: Question | None
    verdict: bool | None
    half_verdict: bool | None

    @property
    def sensitivity(self) -> float | None:
        """What halving the grid changes: `half` − `value`; None where one of them is undefined."""
        return None if self.value is None or self.half is None else self.half - self.value


@dataclass(frozen=True)
class Disagreement:
    """One question to which readings of the same curve give both answers."""

    question: str
    yes: tuple[str, ...]
    no: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.question}? yes by {', '.join(self.yes)}; no by {', '.join(self.no)}"


@dataclass(frozen=True, eq=False)
class Readings(Result):
    """Every reading of one curve, by name: `readings["max_rise"].value`. `tolerance` has the unit of the loss."""

    FORMAT = "lerpscape readings 1"

    rows: tuple[Reading, ...]
    points: int
    half_points: int
    tolerance: float

    def __getitem__(self, name: str) -> Reading:
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            known = ", ".join(row.name for row in self.rows)
            raise KeyError(
                explain(expected="the name of a reading of this curve.", got=f"{name!r}.", hint=f"Known: {known}.")
            )
        return found

    def __iter__(self) -> Iterator[Reading]:
        return iter(self.rows)

    def values(self) -> dict[str, float | None]:
        """The numbers by name; None where one is undefined for this curve or grid."""
        return {row.name: row.value for row in self.rows}

    @property
    def disagreements(self) -> tuple[Disagreement, ...]:
        """The questions on which definitions part: the same curve, on the same grid."""
        found = []
        for question in ("unobstructed", "convex"):
            asked = [row for row in self.rows if row.question == question and row.verdict is not None]
            yes, no = (tuple(row.name for row in asked if row.verdict is answer) for answer in (True, False))
            if yes and no:
                found.append(Disagreement(question, yes, no))
        return tuple(found)

    @property
    def decided_by_the_grid(self) -> tuple[str, ...]:
        """Readings whose verdict is another one on half the grid."""
        known = [row for row in self.rows if row.verdict is not None and row.half_verdict is not None]
        return tuple(row.name for row in known if row.verdict is not row.half_verdict)

    def sentences(self) -> list[str]:
        """Where definitions disagree and which verdicts hang on the grid, in words."""
        found = [f"{each}." for each in self.disagreements]
        if self.decided_by_the_grid:
            names = ", ".join(self.decided_by_the_grid)
            found.append(f"Another verdict on {self.half_points} of the {self.points} points: {names}.")
        return found or ["All definitions agree, on the whole grid and on half of it."]

    @property
    def summary(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON."""
        return super().to_dict() | {
            "disagreements": plain(self.disagreements),
            "decided_by_the_grid": [*self.decided_by_the_grid],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row per reading. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        return data_frame([vars(row) | {"sensitivity": row.sensitivity} for row in self.rows])

    def _repr_html_(self) -> str:
        rows = ""
        for each in self.rows:
            value = "undefined" if each.value is None else f"{each.value:.4g} {each.unit}"
            verdict = {None: "", True: "yes", False: "no"}[each.verdict]
            cells = (each.name, value, verdict, each.source, each.formula)
            rows += f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        return f"{super()._repr_html_()}<table>{rows}</table>"
