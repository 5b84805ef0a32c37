"""The result of taking every published reading of one curve: the readings, their verdicts, and where these differ."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from lerpscape.base.errors import explain
from lerpscape.base.results import Result
from lerpscape.base.saving import data_frame, to_json

if TYPE_CHECKING:
    import pandas

# What a reading is used to decide. "unobstructed": the loss has no barrier; "convex": the curve bends upwards.
Question: TypeAlias = Literal["unobstructed", "convex"]


@dataclass(frozen=True)
class Reading:
    """One published reading of a curve: its `value` on the whole grid, and `half`, that on every second grid point.

    Both are None if the reading is undefined for the curve or its grid. `unit` is the unit of the loss, %, α or empty.
    `source` is the paper that uses the reading, `question` what it decides with it (None: nothing), and `verdict` and
    `half_verdict` are the answers on the whole grid and on half of it.
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
        """`half` − `value`: how much the reading changes on half the grid; None if one of them is undefined."""
        return None if self.value is None or self.half is None else self.half - self.value


@dataclass(frozen=True)
class Disagreement:
    """A question that some readings of a curve answer with yes, and others with no."""

    question: str
    yes: tuple[str, ...]
    no: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.question}? yes by {', '.join(self.yes)}; no by {', '.join(self.no)}"


@dataclass(frozen=True, eq=False)
class Readings(Result):
    """Every published reading of one curve, by name: `readings["max_rise"].value`.

    `points` and `half_points` are the sizes of the grid and of half of it. `tolerance`, in the unit of the loss, is the
    largest rise or barrier that the verdicts still count as none.
    """

    FORMAT = "lerpscape readings 1"

    rows: tuple[Reading, ...]
    points: int
    half_points: int
    tolerance: float

    def __getitem__(self, name: str) -> Reading:
        by_name = {row.name: row for row in self.rows}
        if name not in by_name:
            names = ", ".join(by_name)
            raise KeyError(
                explain(expected="the name of a reading of this curve.", got=f"{name!r}.", hint=f"Known: {names}.")
            )
        return by_name[name]

    def __iter__(self) -> Iterator[Reading]:
        return iter(self.rows)

    def values(self) -> dict[str, float | None]:
        """The values by name; None where a reading is undefined for this curve or grid."""
        return {row.name: row.value for row in self.rows}

    @property
    def disagreements(self) -> tuple[Disagreement, ...]:
        """The questions to which published readings give different answers for this curve on this grid."""
        disagreements = []
        for question in get_args(Question):
            rows = [row for row in self.rows if row.question == question]
            yes, no = (tuple(row.name for row in rows if row.verdict is answer) for answer in (True, False))
            if yes and no:
                disagreements.append(Disagreement(question, yes, no))
        return tuple(disagreements)

    @property
    def decided_by_the_grid(self) -> tuple[str, ...]:
        """Names of the readings whose verdict changes on half the grid."""
        decided = [row for row in self.rows if row.verdict is not None and row.half_verdict is not None]
        return tuple(row.name for row in decided if row.verdict is not row.half_verdict)

    def sentences(self) -> list[str]:
        """Which definitions disagree, and which verdicts depend on the grid, in words."""
        sentences = [f"{disagreement}." for disagreement in self.disagreements]
        if self.decided_by_the_grid:
            names = ", ".join(self.decided_by_the_grid)
            sentences.append(f"Another verdict on {self.half_points} of the {self.points} points: {names}.")
        return sentences or ["All definitions agree, on the whole grid and on half of it."]

    @property
    def summary(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings, ready for JSON."""
        return super().to_dict() | {
            "disagreements": to_json(self.disagreements),
            "decided_by_the_grid": [*self.decided_by_the_grid],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row per reading. Needs pandas (`pip install "lerpscape[pandas]"`)."""
        return data_frame([vars(row) | {"sensitivity": row.sensitivity} for row in self.rows])

    def _repr_html_(self) -> str:
        rows = ""
        for row in self.rows:
            value = "undefined" if row.value is None else f"{row.value:.4g} {row.unit}"
            verdict = {None: "", True: "yes", False: "no"}[row.verdict]
            cells = (row.name, value, verdict, row.source, row.formula)
            rows += f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        return f"{super()._repr_html_()}<table>{rows}</table>"
