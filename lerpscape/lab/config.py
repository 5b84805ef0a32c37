"""The configuration of one run: data, model, optimiser and training; read from TOML, named by its hash.

This module does not import torch, so listing a sweep of thousands of runs is fast.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias, TypeVar, get_type_hints

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name
from lerpscape.lab.options import typed

SCHEMA = 2  # part of every key; raise it when a field changes its meaning, so that all runs get new names
Options: TypeAlias = Mapping[str, Any]
Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """The data set: its name, the number of training examples, and label noise and augmentation during training.

    The `train_size` examples are drawn with the run's seed or, the same for every run, with `subset_seed`.
    `label_noise` is the share of training labels drawn uniformly at random, `label_noise_from` the first epoch (from
    0) that trains on them. `crop` and `flip` augment training images. Other keys are options of the data set.
    """

    name: str = "digits"
    train_size: int | None = None
    subset_seed: int | None = None
    normalize: bool = False
    reconstruct: bool = False
    label_noise: float = 0.0
    label_noise_from: int = 0
    crop: int = 0
    flip: bool = False
    options: Options = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True)
class ModelConfig:
    """The network: a name of `lerpscape.lab.models`, or `package.module:factory`; other keys are its options."""

    name: str = "fully_connected"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser; `lookahead_steps` > 0 wraps it in Lookahead (Zhang et al. 2019).

    `weight_decay` times the parameters is added to the gradient or, if `decoupled`, subtracted from the parameters.
    """

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decoupled: bool = False
    lookahead_steps: int = 0
    lookahead_share: float = 0.5


@dataclass(frozen=True)
class TrainingConfig:
    """Duration, learning-rate schedule, penalties and snapshots.

    The learning rate rises linearly for `warm_up` epochs, then stays constant, is multiplied by `factor` at each epoch
    of `milestones` ("step") or decays to 0 along half a cosine ("cosine"). `clip` bounds the norm of the whole
    gradient. The penalties `l1` · Σ|p| and `norm_strength` · Σ (‖p‖ − `norm_target`)², over all tensors p, are added to
    the training loss. Training stops once the mean loss of an epoch is at most `stop_below`. `snapshots` are the epochs
    after which the parameters are saved.
    """

    epochs: int = 10
    batch_size: int = 128
    schedule: Literal["constant", "step", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warm_up: int = 0
    clip: float | None = None
    l1: float = 0.0
    norm_target: float = 0.0
    norm_strength: float = 0.0
    stop_below: float | None = None
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """One network to train; `seed` numbers the replicates and is not part of the key.

    With `start`, settings that replace some of its own, the network is first trained with those, as a run of its own,
    and starts from where that ends: on other data (pre-training, fine-tuning), or on random labels.

    `key` is the first 12 hexadecimal digits of the SHA-256 of the canonical JSON of the fields that differ from their
    defaults.

    >>> config = RunConfig(optimizer=OptimizerConfig(lr=0.3), seed=7)
    >>> config.key == RunConfig(optimizer=OptimizerConfig(lr=0.3)).key, config.key == RunConfig().key
    (True, False)
    >>> RunConfig.from_dict(config.to_dict()) == config
    True
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    start: Options = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def key(self) -> str:
        """Hash of everything that determines the training, except the seed."""
        return key_of({name: part for name, part in self.to_dict().items() if name != "seed"})

    @property
    def name(self) -> str:
        """Key and seed, which are also the run's folder in a store."""
        return f"{self.key}/{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON types; options stand beside the fields.

        Those with a name that beside the fields would be taken for a misprint of one are under "options".
        """
        return _differences(self)

    def flat(self) -> dict[str, Any]:
        """Every field, defaults included, by dotted names such as `optimizer.lr`; `start` as JSON, "" without one."""
        values: dict[str, Any] = {}
        for part in fields(self):
            section = getattr(self, part.name)
            if not is_dataclass(section):
                words = "" if section == {} else json.dumps(section, sort_keys=True, default=str)
                values[part.name] = words if part.name == "start" else section
                continue
            for entry in fields(section):
                value = getattr(section, entry.name)
                if entry.name == "options":
                    values |= {f"{part.name}.{name}": option for name, option in value.items()}
                else:
                    values[f"{part.name}.{entry.name}"] = value
        return values

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> RunConfig:
        """Read a configuration from nested tables.

        Raises `ConfigError` for an unknown key, suggesting the nearest known one, and for a value of the wrong type.
        """
        return _read(cls, table, "")

    def before(self) -> RunConfig | None:
        """The run that this one starts from; None for one that starts from its initialisation.

        >>> fine_tuned = RunConfig(start={"data": {"label_noise": 1.0}, "training": {"epochs": 3}})
        >>> first = fine_tuned.before()
        >>> first.data.label_noise, first.training.epochs, first.start, fine_tuned.data.label_noise
        (1.0, 3, {}, 0.0)
        """
        if not self.start:
            return None
        own = {name: part for name, part in self.to_dict().items() if name != "start"}
        return RunConfig.from_dict(deep_merge(own, self.start))

    def with_seed(self, seed: int) -> RunConfig:
        """The same configuration with another seed."""
        return replace(self, seed=seed)


def deep_merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested tables; the overlay's values replace the base's.

    >>> deep_merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    """
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def _differences(section: Any) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    differences: dict[str, Any] = {}
    default = type(section)()
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value):
            value = _differences(value)
            if value:
                differences[entry.name] = value
        elif entry.name == "options":
            known = {entry.name for entry in fields(section)}
            options = {name: plain_json(option) for name, option in value.items()}
            beside = {name: option for name, option in options.items() if not _resembles(name, known)}
            alike = {name: option for name, option in options.items() if name not in beside}
            differences |= beside | ({"options": alike} if alike else {})
        elif value != getattr(default, entry.name):
            differences[entry.name] = plain_json(value)
    return differences


def _resembles(name: str, known: Collection[str]) -> bool:
    """Whether a key is so like that of a field that, beside the fields, it is taken for a misprint."""
    return bool(difflib.get_close_matches(name, known, n=1, cutoff=0.8))


def plain_json(value: Any) -> Any:
    """The value as JSON types; tuples become lists and 1.0 becomes 1, so that equal configurations have equal keys."""
    if isinstance(value, (tuple, list)):
        return [plain_json(part) for part in value]
    if isinstance(value, Mapping):
        return {name: plain_json(part) for name, part in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def key_of(table: Mapping[str, Any]) -> str:
    """The name of what a table of JSON types describes: the first 12 hexadecimal digits of its SHA-256."""
    canonical = json.dumps({"schema": SCHEMA, **table}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


# Cached: `get_type_hints` is slow, and a sweep reads thousands of configurations.
_hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)


def _read(cls: type[Section], table: Any, where: str) -> Section:
    if not isinstance(table, Mapping):
        raise ConfigError(
            explain(expected=f"a table for {where}.", got=f"{table!r}.", hint=f'Write [{where}] name = "…"')
        )
    hints = _hints(cls)
    known = {entry.name for entry in fields(cls)}  # type: ignore[arg-type]
    open_ended = "options" in known
    values: dict[str, Any] = {}
    options = table.get("options", {}) if open_ended else {}
    if not isinstance(options, Mapping) or any(name in table for name in options if name not in known):
        raise ConfigError(
            explain(
                expected=f"{where}.options to be a table of options that do not stand beside it too.",
                got=f"{options!r}.",
                hint=f'Write each option once, as {where}.NAME = "…"',
            )
        )
    options = dict(options)
    for name, value in table.items():
        place = f"{where}.{name}" if where else name
        if name == "options" and open_ended:
            continue
        if name not in known:
            # An unknown key of data or model is an option, unless it resembles a field.
            if open_ended and not _resembles(name, known):
                options[name] = value
                continue
            prefix = f"{where}." if where else ""
            if place == "measure":
                raise ConfigError(
                    explain(
                        expected="measurements in [[measure]] tables of the sweep file, for all of its runs.",
                        got=f"measure = {value!r} among the settings of a run.",
                        hint='[[measure]] what = "profile" on = ["train", "held-out"] batch_norm = "recalibrate"',
                    )
                )
            raise ConfigError(unknown_name("a key", place, sorted(f"{prefix}{key}" for key in known - {"options"})))
        values[name] = (
            _read(hints[name], value, place) if is_dataclass(hints[name]) else typed(value, hints[name], place)
        )
    if open_ended:
        values["options"] = options
    return cls(**values)


def _check_values(config: RunConfig) -> None:
    """Refuse what has no canonical JSON, or the same as another value, since runs are named by it."""
    for part in fields(config):
        section = getattr(config, part.name)
        known = {entry.name for entry in fields(section)} if is_dataclass(section) else set()
        for name in known & {*getattr(section, "options", ())}:
            # Options stand beside the fields, so that such an option would pass for the field in the run's name.
            raise ConfigError(
                explain(
                    expected=f"options of {part.name} with names that are not fields of it.",
                    got=f"{part.name}.options.{name}.",
                    hint=f"Write {part.name}.{name} for the field, or rename the option.",
                )
            )
    options = {f"{part} options": getattr(config, part).options for part in ("data", "model")}
    for name, value in {**config.flat(), **options}.items():
        wrong = without_json(value)
        if wrong:
            raise ConfigError(
                explain(
                    expected=f"finite numbers, words, true or false, lists and tables of these for {name}.",
                    got=f"{wrong}.",
                    hint="Correct the value, or leave it out for the default.",
                )
            )


def without_json(value: Any) -> str:
    """The first part of a value that JSON cannot hold, in words; "" if there is none."""
    if isinstance(value, Mapping):
        keys = (repr(key) for key in value if type(key) is not str)
        return next(keys, "") or next(filter(None, map(without_json, value.values())), "")
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(without_json, value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    plain = value is None or isinstance(value, (bool, int, float, str))
    return "" if plain else f"{value!r} ({type(value).__name__})"


def _check(config: RunConfig) -> None:
    """Refuse values that no run can use, before anything is trained."""
    rules = (
        ("optimizer.lr", config.optimizer.lr > 0, "a learning rate above 0"),
        ("training.epochs", config.training.epochs >= 1, "at least one epoch"),
        ("training.batch_size", config.training.batch_size >= 1, "at least one example per batch"),
        ("data.label_noise", 0 <= config.data.label_noise <= 1, "a share between 0 and 1"),
        ("training.snapshots", all(0 < epoch <= config.training.epochs for epoch in config.training.snapshots),
         f"epochs from 1 to {config.training.epochs}"),
        ("optimizer.nesterov", not config.optimizer.nesterov or config.optimizer.momentum > 0,
         "a momentum above 0 with nesterov"),
        ("seed", 0 <= config.seed < 2**31, "a whole number from 0 to 2³¹ − 1"),
    )  # fmt: skip
    first = config.before()  # refuses what that run could not use
    _check_values(config)
    if first is not None and (first.model != config.model or first.start or "seed" in config.start):
        raise ConfigError(
            explain(
                expected="start to train the same network, from its initialisation and with its seed.",
                got=f"start = {dict(config.start)!r}.",
                hint='start = { data = { name = "fashion_mnist" }, training = { epochs = 5 } }',
            )
        )
    flat = config.flat()
    for name, holds, wanted in rules:
        if not holds:
            raise ConfigError(
                explain(expected=f"{wanted}.", got=f"{name} = {flat[name]!r}.", hint="Correct the value.")
            )
