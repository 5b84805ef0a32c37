"""What a sweep measures on its networks and between them: the `[[measure]]` and `[[compare]]` tables of a file.

This module does not import torch; `measurements.py` checks the options against the functions that measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.lab.config import SCHEMA, RunConfig, key_of, plain_json
from lerpscape.lab.options import Size

Part: TypeAlias = Literal["train", "held-out"]
PolicyName: TypeAlias = Literal["recalibrate", "pooled", "interpolate", "batch", "end"]
PARTS: tuple[Part, ...] = get_args(Part)
CONFIGURATION: Literal["configuration"] = "configuration"


@dataclass(frozen=True)
class Examples:
    """The examples that are measured, and what batch norm normalises with.

    At most `examples` of each part of the data, drawn with `examples_seed` (None: all), `batch_size` at a time; they
    are those that the network was trained on, with its labels. `batch_norm` is the policy for networks that have batch
    norm; `recalibrate` and `pooled` estimate the statistics from `statistics` training examples (None: all).
    """

    examples: Size | None = None
    examples_seed: int = 0
    batch_size: Size = 2000
    batch_norm: PolicyName | None = None
    statistics: Size | None = None

    def differences(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON types."""
        given = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        return {name: plain_json(value) for name, value in given if value != getattr(type(self)(), name)}


@dataclass(frozen=True)
class MeasureConfig:
    """One `[[measure]]` table: the measurement `what` of every run that `where` selects, on these parts of the data.

    `name` is what tables of results call it, by default `what`. `where` maps dotted fields of the runs to a value or a
    list of values. `options` are arguments of the function that measures.
    """

    what: str
    name: str
    on: tuple[Part, ...] = ("train",)
    where: Mapping[str, Any] = field(default_factory=dict)
    examples: Examples = Examples()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.what, self.name, self.on))

    def tasks(self, config: RunConfig) -> list[Task]:
        """What this asks for of one run: a task for each part of the data, or none."""
        return [Task(self, part) for part in self.on] if selects(self.where, config) else []


@dataclass(frozen=True)
class Task:
    """One measurement on one part of the data; `key` names the numbers, and so depends on neither `name` nor `where`.

    >>> profile, proof = (MeasureConfig(what, what) for what in ("profile", "certify"))
    >>> Task(profile, "train").key == Task(MeasureConfig("profile", "mine"), "train").key
    True
    >>> len({task.key for task in (Task(profile, "train"), Task(profile, "held-out"), Task(proof, "train"))})
    3
    """

    measure: MeasureConfig
    part: Part

    @cached_property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of `to_dict`."""
        return key_of({"measure": self.to_dict()})

    @property
    def folder(self) -> str:
        """The folder of this measurement, relative to that of the run."""
        return f"measured/{self.key}"

    @property
    def label(self) -> str:
        """The measurement and its part of the data, for messages."""
        return f"{self.measure.name} on {self.part}"

    def to_dict(self) -> dict[str, Any]:
        """Everything that determines the numbers and differs from its default, as JSON types."""
        return measured_as(self.measure.what, self.measure.examples, self.measure.options) | {"part": self.part}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], name: str = "") -> Task:
        """The task that `to_dict` described, with a name; its `where` is not known.

        Raises `KeyError` and `TypeError` for another table.
        """
        measure = MeasureConfig(
            table["what"], name or table["what"], (table["part"],), {}, Examples(**table["examples"]), table["options"]
        )
        return cls(measure, table["part"])


@dataclass(frozen=True)
class CompareConfig:
    """One `[[compare]]` table: a measurement between the networks of each group of runs.

    `group` is "configuration", for runs that differ in the seed alone, or the dotted fields in which the runs of a
    group agree. A comparison of two networks is made of every pair of a group.
    """

    what: str
    name: str
    group: Literal["configuration"] | tuple[str, ...] = CONFIGURATION
    on: Part = "train"
    where: Mapping[str, Any] = field(default_factory=dict)
    examples: Examples = Examples()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.what, self.name, self.on))

    @cached_property
    def key(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of `to_dict`."""
        return key_of({"compare": self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Everything but the networks that determines the numbers and differs from its default, as JSON types."""
        return measured_as(self.what, self.examples, self.options) | {"part": self.on}

    def groups(self, runs: Sequence[RunConfig]) -> list[tuple[RunConfig, ...]]:
        """The runs that `where` selects, in groups of at least two."""
        groups: dict[Any, list[RunConfig]] = {}
        for run in runs:
            if selects(self.where, run):
                flat = run.flat()
                agree = run.key if self.group == CONFIGURATION else repr([flat.get(name) for name in self.group])
                groups.setdefault(agree, []).append(run)
        return [tuple(group) for group in groups.values() if len(group) > 1]


def measured_as(what: str, examples: Examples, options: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement, its examples and its options as JSON types."""
    return {"what": what, "examples": examples.differences(), "options": plain_json(options), "schema": SCHEMA}


DEFAULT_MEASURES = (MeasureConfig("profile", "profile", on=PARTS),)  # of a sweep file without [[measure]]


def selects(where: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether a run has one of the values of each field.

    >>> selects({"optimizer.lr": [0.1, 0.3], "model.name": "fully_connected"}, RunConfig())
    True
    """
    flat = config.flat()
    return all(
        any(_plain(flat[name]) == _plain(value) for value in (wanted if _several(wanted, flat[name]) else [wanted]))
        for name, wanted in where.items()
    )


def check_where(where: Mapping[str, Any], runs: Sequence[RunConfig], place: str) -> None:
    """Refuse a selection by a field that a run does not have, or by a value that no run has.

    Raises `ConfigError`, with the nearest name.
    """
    for name, wanted in where.items():
        flats = [run.flat() for run in runs]
        if not any(name in flat for flat in flats):
            known = sorted({field for flat in flats for field in flat})
            raise ConfigError(unknown_name(f"a field of the runs in where of {place}", name, known))
        without = next((run for run, flat in zip(runs, flats, strict=True) if name not in flat), None)
        if without is not None:
            raise ConfigError(
                explain(
                    expected=f"{name} to be set for every run, as where of {place} selects by it.",
                    got=f"the run {without.name}, which leaves it to its default.",
                    hint=f"Write {name} in [base].",
                )
            )
        for value in wanted if _several(wanted, flats[0][name]) else [wanted]:
            if not any(_plain(flat[name]) == _plain(value) for flat in flats):
                values = sorted({repr(flat[name]) for flat in flats})
                raise ConfigError(
                    explain(
                        expected=f"a value of {name} that a run has, in where of {place}: {', '.join(values[:9])}.",
                        got=f"{value!r}.",
                        hint="Correct it; nothing else would be measured.",
                    )
                )


def _several(wanted: Any, value: Any) -> bool:
    """Whether a list is one of several values, and not itself the value of a field that holds lists."""
    return isinstance(wanted, list) and (not isinstance(value, (list, tuple)) or all(map(_is_list, wanted)))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _plain(value: Any) -> Any:
    """A value to compare: lists and tuples alike, and True other than 1."""
    return (type(value) is bool, plain_json(value))
