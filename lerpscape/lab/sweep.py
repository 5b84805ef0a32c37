"""Sweeps: many runs in one file, given by a base, grids over it, random draws and single runs.

A sweep file in TOML::

    name = "small"
    seeds = [0, 1]
    counts_below = 0.1                     # a run counts if its final training loss is at most this
    [base]
    data.name = "fashion_mnist"
    optimizer = {name = "sgd", momentum = 0.9}
    [[grid]]                               # every combination of the lists; several grids are concatenated
    optimizer.lr = [0.1, 0.03]
    model.widths = [[128], [128, 128]]
    cases.norm = [{}, {model.batch_norm = true, optimizer.lr = 1.0}]   # merged into the configuration
    [random]                               # random draws, each key from its own random stream
    draws = 300
    optimizer.lr = {log_uniform = [1e-4, 1.0]}
    seed = {integers = [0, 1000000]}       # by default each draw is trained with every one of `seeds`
    [[runs]]                               # one run each; one with a seed of its own is trained with that seed alone
    optimizer.lr = 3.0
    [[measure]]                            # any number; without any, the profile of both parts of the data
    what = "profile"                       # a name in measurements.py, with the options of its function
    on = ["train", "held-out"]
    [[compare]]                            # between the networks of a group, when all of them are trained
    what = "pairwise"                      # a name in comparisons.py
    [[tables]]                             # see tables/table.py
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from lerpscape.base.errors import ConfigError, explain, missing_file
from lerpscape.base.names import unknown_name
from lerpscape.lab.config import RunConfig, deep_merge
from lerpscape.lab.measure_config import DEFAULT_MEASURES, CompareConfig, MeasureConfig, Task

KEYS = {"name", "about", "seeds", "counts_below", "base", "grid", "random", "runs", "measure", "compare", "tables"}
DRAWS = {"log_uniform", "uniform", "integers", "choice"}


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep file, in its order; the seeds of one configuration stand next to each other.

    `measures` are the measurements of each run, `comparisons` those between runs. A run counts in tables if its final
    training loss is at most `counts_below`; None: every measured run. `tables` are the layouts in the file. `repeated`
    counts the duplicates that were removed. `varied` are the dotted names of the fields in which the runs differ.
    """

    name: str
    about: str
    runs: tuple[RunConfig, ...]
    measures: tuple[MeasureConfig, ...] = DEFAULT_MEASURES
    comparisons: tuple[CompareConfig, ...] = ()
    counts_below: float | None = None
    tables: tuple[Mapping[str, Any], ...] = ()
    repeated: int = 0
    varied: tuple[str, ...] = field(default=())

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Read a sweep file.

        Raises `ConfigError` for an entry that no run can use, `FileNotFoundError` for a missing file.
        """
        try:
            content = Path(path).read_text()
        except FileNotFoundError as error:
            raise missing_file("a sweep file (TOML)", path) from error
        try:
            table = tomllib.loads(content)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                explain(expected=f"{path} to be TOML.", got=f"{error}.", hint="Correct the line that the error names.")
            ) from error
        return cls.from_dict(table, name=Path(path).stem)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], name: str = "sweep") -> Sweep:
        """Read a sweep from the parsed tables of a file.

        >>> sweep = Sweep.from_dict({"seeds": [0, 1], "grid": [{"optimizer": {"lr": [0.1, 0.3, 0.1]}}]})
        >>> len(sweep.runs), sweep.repeated, sweep.varied
        (4, 2, ('optimizer.lr', 'seed'))
        """
        for key in table:
            if key not in KEYS:
                raise ConfigError(unknown_name("a key of a sweep file", key, sorted(KEYS)))
        seeds = table.get("seeds", [0])
        if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
            raise ConfigError(
                explain(expected="seeds as a list of whole numbers.", got=f"{seeds!r}.", hint="Write seeds = [0, 1, 2]")
            )
        counts_below = table.get("counts_below")
        if not isinstance(counts_below, (int, float, NoneType)) or counts_below != counts_below:
            raise ConfigError(
                explain(expected="counts_below as a number.", got=f"{counts_below!r}.", hint="Leave it out for all.")
            )
        base = table.get("base", {})
        if "seed" in base:
            raise ConfigError(
                explain(
                    expected="the seeds of all runs in `seeds`.",
                    got=f"seed = {base['seed']!r} in [base].",
                    hint="Write seeds = [0, 1, 2] at the top, or seed in [[runs]], [[grid]] or [random].",
                )
            )
        unique: dict[str, RunConfig] = {}
        requested = 0
        for overlay in _overlays(table):
            config = RunConfig.from_dict(deep_merge(base, overlay))
            for seed in [config.seed] if "seed" in overlay else seeds:
                requested += 1
                run = config.with_seed(seed)
                unique.setdefault(run.name, run)
        runs = tuple(unique.values())
        measures: tuple[MeasureConfig, ...] = DEFAULT_MEASURES
        comparisons: tuple[CompareConfig, ...] = ()
        if "measure" in table or "compare" in table:
            # Imported here, as it imports torch: a file without these tables is listed without.
            from lerpscape.lab.measure_tables import read_comparisons, read_measures

            if "measure" in table:
                measures = read_measures(table["measure"], runs)
            comparisons = read_comparisons(table.get("compare", []), runs, [measure.name for measure in measures])
        return cls(
            name=table.get("name", name),
            about=table.get("about", ""),
            runs=runs,
            measures=measures,
            comparisons=comparisons,
            counts_below=counts_below,
            tables=tuple(table.get("tables", [])),
            repeated=requested - len(runs),
            varied=varied_fields(runs),
        )

    def first(self, count: int) -> Sweep:
        """The sweep reduced to its first `count` runs."""
        return replace(self, runs=self.runs[:count], repeated=0, varied=varied_fields(self.runs[:count]))

    def tasks(self, run: RunConfig) -> tuple[Task, ...]:
        """Every measurement of one run; two with the same key are made once."""
        return tuple(task for measure in self.measures for task in measure.tasks(run))


def varied_fields(runs: tuple[RunConfig, ...]) -> tuple[str, ...]:
    """The dotted names of the fields in which the runs differ, in the order of the fields."""
    flat = [run.flat() for run in runs]
    names = dict.fromkeys(name for run in flat for name in run)
    return tuple(name for name in names if any(run.get(name) != flat[0].get(name) for run in flat))


def _overlays(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One table for each configuration of the sweep, to be merged into the base."""
    grids = table.get("grid", [])
    grids = [grids] if isinstance(grids, Mapping) else grids
    for grid in grids:
        axes = list(_leaves(grid))
        for name, values in axes:
            if not isinstance(values, list) or not values:
                raise ConfigError(
                    explain(
                        expected=f"a list of values for {name} in a grid.",
                        got=f"{values!r}.",
                        hint=f"Write {name} = [ … ]",
                    )
                )
        for combination in itertools.product(*(values for _, values in axes)):
            overlay: dict[str, Any] = {}
            for (name, _), value in zip(axes, combination, strict=True):
                overlay = deep_merge(overlay, value if name.startswith("cases.") else _nested(name, value))
            yield overlay
    yield from _draws(table.get("random", {}))
    yield from table.get("runs", [])
    if not grids and not table.get("random") and not table.get("runs"):
        yield {}


def _draws(random: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Independent random draws; every key has its own random stream, so adding a key does not change the others."""
    if not random:
        return
    draws, stream = random.get("draws"), random.get("stream", 0)
    if type(stream) is not int or ("seed" in random and not isinstance(random["seed"], Mapping)):
        raise ConfigError(
            explain(
                expected="stream as a whole number, and seed as a distribution of the runs' seeds, in [random].",
                got=f"stream = {stream!r}, seed = {random.get('seed')!r}.",
                hint="stream = 1 draws other settings; seed = {integers = [0, 1000000]} draws other initialisations.",
            )
        )
    if type(draws) is not int or draws < 1:
        raise ConfigError(explain(expected="draws = a count in [random].", got=f"{draws!r}.", hint="Write draws = 300"))
    columns: dict[str, list[Any]] = {}
    for name, spec in _leaves({key: value for key, value in random.items() if key not in ("draws", "stream")}):
        path, _, kind = name.rpartition(".")
        if kind not in DRAWS or not isinstance(spec, list):
            raise ConfigError(
                explain(
                    expected=f"a distribution for {path or name}: {', '.join(sorted(DRAWS))}.",
                    got=f"{kind} = {spec!r}.",
                    hint="Write optimizer.lr = {log_uniform = [1e-4, 1.0]}",
                )
            )
        own = int.from_bytes(hashlib.sha256(f"{stream}/{path}".encode()).digest()[:8], "big")
        columns[path] = _sample(path, kind, spec, draws, np.random.default_rng(own))
    for number in range(draws):
        overlay: dict[str, Any] = {}
        for path, values in columns.items():
            overlay = deep_merge(overlay, _nested(path, values[number]))
        yield overlay


def _sample(path: str, kind: str, spec: list[Any], draws: int, generator: np.random.Generator) -> list[Any]:
    if kind == "choice":
        return [spec[index] for index in generator.integers(len(spec), size=draws)]
    if len(spec) != 2:
        raise ConfigError(
            explain(
                expected=f"the two ends of a range for {path}.",
                got=f"{kind} = {spec!r}.",
                hint=f"Write {kind} = [low, high]",
            )
        )
    low, high = spec
    if not all(type(end) in (int, float) and math.isfinite(end) for end in spec) or low > high:
        raise ConfigError(
            explain(expected=f"a finite range for {path}.", got=f"{kind} = {spec!r}.", hint=f"{kind} = [low, high]")
        )
    if kind == "log_uniform" and low <= 0:
        raise ConfigError(
            explain(expected=f"ends above 0 for {path}.", got=f"{kind} = {spec!r}.", hint="log_uniform = [1e-4, 1.0]")
        )
    if kind == "integers":
        return [int(value) for value in generator.integers(low, high, size=draws, endpoint=True)]
    if kind == "uniform":
        return [float(value) for value in generator.uniform(low, high, size=draws)]
    return [float(value) for value in np.exp(generator.uniform(np.log(low), np.log(high), size=draws))]


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a table, with its dotted name."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _nested(name: str, value: Any) -> dict[str, Any]:
    """{'a': {'b': value}} for 'a.b'."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]
