"""Reading the `[[measure]]` and `[[compare]]` tables of a sweep file; every mistake is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.lab.comparisons import COMPARISONS
from lerpscape.lab.config import RunConfig, without_json
from lerpscape.lab.measure_config import CONFIGURATION, CompareConfig, Examples, MeasureConfig, Part, check_where
from lerpscape.lab.measurements import MEASUREMENTS
from lerpscape.lab.options import typed

Read = TypeVar("Read", MeasureConfig, CompareConfig)
NONE = "none"  # what TOML, which has no null, writes for None


def read_measures(tables: Any, runs: Sequence[RunConfig]) -> tuple[MeasureConfig, ...]:
    """The `[[measure]]` tables of a sweep with these runs.

    Raises `ConfigError` for an unknown measurement, key, option, field or value, with the nearest known one; for a
    value of the wrong type, a missing option, and two tables with one name.
    """
    return _unique([_measure(table, runs) for table in _tables(tables, "measure")], "measure")


def read_comparisons(tables: Any, runs: Sequence[RunConfig], taken: Sequence[str] = ()) -> tuple[CompareConfig, ...]:
    """The `[[compare]]` tables of a sweep with these runs; `taken` are the names of its measurements.

    Raises what `read_measures` raises, and `ConfigError` where no group has two runs.
    """
    return _unique([_compare(table, runs) for table in _tables(tables, "compare")], "compare", taken)


def _measure(table: Mapping[str, Any], runs: Sequence[RunConfig]) -> MeasureConfig:
    what = _what(table, "measure", MEASUREMENTS)
    own, examples, options = _sorted_out(table, "measure", what, ("name", "on", "where"), MEASUREMENTS[what].options)
    on = own.get("on", "train")
    parts = typed([on] if isinstance(on, str) else on, tuple[Part, ...], f"on of [[measure]] {what}")
    if not parts or len(set(parts)) < len(parts):
        raise ConfigError(
            explain(
                expected=f"parts of the data for on of [[measure]] {what}.",
                got=f"{on!r}.",
                hint='on = ["train", "held-out"]',
            )
        )
    where = _where(own, runs, f"[[measure]] {what}")
    return MeasureConfig(what, own.get("name", what), parts, where, examples, options)


def _compare(table: Mapping[str, Any], runs: Sequence[RunConfig]) -> CompareConfig:
    what = _what(table, "compare", COMPARISONS)
    place = f"[[compare]] {what}"
    own, examples, options = _sorted_out(
        table, "compare", what, ("name", "on", "where", "group"), COMPARISONS[what].options
    )
    group = typed(own.get("group", CONFIGURATION), Literal["configuration"] | tuple[str, ...], f"group of {place}")
    fields = {name for run in runs for name in run.flat()}
    for name in () if group == CONFIGURATION else group:
        if name not in fields:
            raise ConfigError(unknown_name(f"a field of the runs in group of {place}", name, sorted(fields)))
    where = _where(own, runs, place)
    part = typed(own.get("on", "train"), Part, f"on of {place}")
    compare = CompareConfig(what, own.get("name", what), group, part, where, examples, options)
    if not compare.groups(runs):
        raise ConfigError(
            explain(
                expected=f"groups of at least two runs for {place}.",
                got="none.",
                hint='Give several seeds, or the fields in which a group agrees: group = ["data.name"]',
            )
        )
    return compare


def _tables(tables: Any, word: str) -> list[Mapping[str, Any]]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(
            explain(expected=f"[[{word}]] tables.", got=f"{word} = {tables!r}.", hint=f'[[{word}]] what = "…"')
        )
    return tables


def _what(table: Mapping[str, Any], word: str, known: Mapping[str, Any]) -> str:
    what = table.get("what")
    if what not in known:
        raise ConfigError(unknown_name(f"what of [[{word}]]", what, known))
    return str(what)


def _sorted_out(
    table: Mapping[str, Any], word: str, what: str, own: Sequence[str], options: Mapping[str, Parameter]
) -> tuple[dict[str, Any], Examples, dict[str, Any]]:
    """The keys of a table: its own, the examples, and the options of the function, which differ from their defaults."""
    place = f"[[{word}]] {what}"
    hints = get_type_hints(Examples, include_extras=True)
    drawn: dict[str, Any] = {}
    mine: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for name, value in table.items():
        if name in own:
            mine[name] = value
        elif name in hints:
            drawn[name] = typed(value, hints[name], f"{name} of {place}")
        elif name in options:
            if wrong := without_json(value):
                raise ConfigError(
                    explain(
                        expected=f"a finite value for {name} of {place}.", got=f"{wrong}.", hint="Leave it out for all."
                    )
                )
            given[name] = _option(value, options[name], f"{name} of {place}")
        elif name != "what":
            raise ConfigError(unknown_name(f"a key of {place}", name, sorted({"what", *own, *hints, *options})))
    for name, one in options.items():
        if one.default is one.empty and name not in given:
            raise ConfigError(
                explain(expected=f"{name} for {place}.", got="nothing.", hint="It has no default: give a value.")
            )
    name = mine.get("name", what)
    if not isinstance(name, str) or not name or "." in name:
        raise ConfigError(
            explain(expected=f"a name without dots for {place}.", got=f"{name!r}.", hint='name = "turning"')
        )
    return mine, Examples(**drawn), {name: value for name, value in given.items() if value != options[name].default}


def _option(value: Any, parameter: Parameter, place: str) -> Any:
    hint = parameter.annotation
    if value == NONE and NoneType in get_args(hint):
        return None
    if isinstance(value, str) and value != "adaptive" and parameter.name == "alphas":
        raise ConfigError(
            explain(
                expected=f'a number of points, a list of α, or "adaptive" where it can be, for {place}.',
                got=f"{value!r}.",
                hint="alphas = 50",
            )
        )
    return typed(value, hint, place)


def _where(own: Mapping[str, Any], runs: Sequence[RunConfig], place: str) -> Mapping[str, Any]:
    where = own.get("where", {})
    if not isinstance(where, Mapping) or any(isinstance(value, Mapping) for value in where.values()):
        raise ConfigError(
            explain(
                expected=f"a table of dotted fields in quotes and their values for where of {place}.",
                got=f"{where!r}.",
                hint='where = { "model.batch_norm" = false }',
            )
        )
    check_where(where, runs, place)
    return where


def _unique(measured: list[Read], word: str, taken: Sequence[str] = ()) -> tuple[Read, ...]:
    names = [*taken, *(one.name for one in measured)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            explain(
                expected=f"a name of its own for every [[{word}]] table.",
                got=f"two that are called {twice!r}.",
                hint=f'Add name = "{twice}_2" to one of them.',
            )
        )
    return tuple(measured)
