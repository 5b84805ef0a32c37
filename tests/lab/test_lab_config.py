"""Configurations and sweep files: keys that never change by accident, and error messages."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lerpscape.base.errors import ConfigError
from lerpscape.lab.config import DataConfig, OptimizerConfig, RunConfig, TrainingConfig, deep_merge
from lerpscape.lab.sweep import Sweep


def test_keys_are_frozen() -> None:
    """A changed key orphans every store: only a changed SCHEMA may do that."""
    assert RunConfig().key == "c2a8105acd21"
    assert RunConfig(optimizer=OptimizerConfig(lr=0.3, momentum=0.9)).key == "2967914d7ddb"


def test_the_seed_is_not_part_of_the_key() -> None:
    plain, longer = RunConfig(), RunConfig(training=TrainingConfig(epochs=11))
    assert longer.key != plain.key
    assert plain.with_seed(3).key == plain.key and plain.with_seed(3).name == f"{plain.key}/3"


def test_explicit_defaults_and_whole_floats_do_not_change_the_key() -> None:
    assert RunConfig.from_dict({"optimizer": {"lr": 0.1, "momentum": 0}}).key == RunConfig().key
    assert RunConfig.from_dict({"optimizer": {"lr": 1}}).key == RunConfig.from_dict({"optimizer": {"lr": 1.0}}).key
    widths = [RunConfig.from_dict({"model": {"widths": each}}).key for each in ([64, 64], [64.0, 64], [64])]
    assert widths[0] == widths[1] != widths[2]


lrs = st.floats(1e-6, 10)
tables = st.fixed_dictionaries(
    {},
    optional={
        "optimizer": st.fixed_dictionaries({"lr": lrs}, optional={"name": st.sampled_from(["sgd", "adam"])}),
        "training": st.fixed_dictionaries({"epochs": st.integers(5, 9)}, optional={"snapshots": st.just([1, 2])}),
        "model": st.dictionaries(
            st.sampled_from(["widths_", "deep", "x"]), st.integers() | st.sampled_from(["", "a b", "é"]) | st.booleans()
        ),
        "seed": st.integers(0, 9),
    },
)


@settings(deadline=None)  # the time of an example depends on the load of the machine
@given(tables)
def test_to_dict_and_from_dict_are_inverse(table: dict[str, Any]) -> None:
    config = RunConfig.from_dict(table)
    again = RunConfig.from_dict(config.to_dict())
    assert again == config and again.key == config.key


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"optimiser": {"lr": 1}}, r"got: 'optimiser'\.\ntry: Did you mean 'optimizer'\?"),
        ({"optimizer": {"lrr": 1}}, r"got: 'optimizer\.lrr'\.\ntry: Did you mean 'optimizer\.lr'\?"),
        ({"optimizer": {"lr": "fast"}}, r"expected: a number for optimizer\.lr\.\ngot: 'fast' \(str\)\."),
        ({"optimizer": {"name": "sdg"}}, r"expected: one of 'sgd', 'adam', .* for optimizer\.name"),
        ({"optimizer": {"nesterov": 1}}, r"expected: true or false for optimizer\.nesterov\.\ngot: 1 \(int\)"),
        ({"optimizer": {"nesterov": True}}, r"expected: a momentum above 0 with nesterov\."),
        ({"optimizer": {"lr": 0}}, r"expected: a learning rate above 0\.\ngot: optimizer\.lr = 0"),
        ({"optimizer": {"betas": [0.9]}}, r"expected: a list of 2 numbers for optimizer\.betas"),
        ({"optimizer": 0.1}, r"expected: a table for optimizer\.\ngot: 0\.1"),
        ({"training": {"epochs": True}}, r"expected: a whole number for training\.epochs\.\ngot: True"),
        ({"training": {"epochs": 2, "snapshots": [3]}}, r"expected: epochs from 1 to 2\.\ngot: training\.snapshots"),
        ({"data": {"train_sizes": 3}}, r"got: 'data\.train_sizes'\.\ntry: Did you mean 'data\.train_size'\?"),
        ({"data": {"label_noise": 1.5}}, r"expected: a share between 0 and 1\."),
        ({"seed": -1}, r"expected: a whole number from 0"),
        ({"measure": {"alphas": 1}}, r"expected: measurements in \[\[measure\]\] tables.*\ngot: measure = \{"),
    ],
)
def test_refusals(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(table)


def test_every_field_has_a_type_that_is_checked() -> None:
    """A wrong type for any field is refused: no field is forgotten."""
    sections = {each.name: type(getattr(RunConfig(), each.name)) for each in dataclasses.fields(RunConfig)}
    for section, cls in sections.items():
        if dataclasses.is_dataclass(cls):
            for each in dataclasses.fields(cls):
                if each.name != "options":
                    with pytest.raises(ConfigError, match=rf"{section}\.{each.name}"):
                        RunConfig.from_dict({section: {each.name: {"a": "table"}}})


def test_grids_and_single_runs_are_concatenated() -> None:
    sweep = Sweep.from_dict(
        {
            "seeds": [0, 1],
            "base": {"optimizer": {"momentum": 0.9}, "model": {"widths": [8]}},
            "grid": [
                {"optimizer": {"lr": [0.1, 0.3]}, "model": {"widths": [[8], [8, 8]]}},
                {
                    "cases": {
                        "optimizer": [
                            {"optimizer": {"name": "adam", "momentum": 0.0}},
                            {"optimizer": {"name": "rmsprop"}},
                        ]
                    }
                },
            ],
            "runs": [{"optimizer": {"lr": 3.0}}, {"optimizer": {"lr": 0.3}}],
        }
    )
    assert len(sweep.runs) == 2 * (4 + 2 + 1) and sweep.repeated == 2
    assert sweep.varied == ("model.widths", "optimizer.name", "optimizer.lr", "optimizer.momentum", "seed")
    adam = next(run for run in sweep.runs if run.optimizer.name == "adam")
    assert adam.optimizer.momentum == 0.0 and adam.model.options == {"widths": [8]}
    assert [run.seed for run in sweep.runs[:4]] == [0, 1, 0, 1]


def test_draws_have_their_distributions_and_their_own_random_streams() -> None:
    lr = {"optimizer": {"lr": {"log_uniform": [1e-4, 1.0]}}}
    few = Sweep.from_dict({"random": {"draws": 300, "stream": 1, **lr}})
    more = Sweep.from_dict({"random": {"draws": 300, "stream": 1, **lr, "training": {"epochs": {"integers": [1, 3]}}}})
    other = Sweep.from_dict({"random": {"draws": 300, "stream": 2, **lr}})
    drawn = [run.optimizer.lr for run in few.runs]
    assert [run.optimizer.lr for run in more.runs] == drawn
    assert [run.optimizer.lr for run in other.runs] != drawn
    shares = {"optimizer": {"lr": {"uniform": [0, 1]}}, "data": {"label_noise": {"uniform": [0, 1]}}}
    pairs = [
        (run.optimizer.lr, run.data.label_noise) for run in Sweep.from_dict({"random": {"draws": 9, **shares}}).runs
    ]
    assert all(lr != noise for lr, noise in pairs)  # the same law, not the same draws
    logs = np.log10(drawn)
    # Uniform on [−4, 0]: mean −2, standard error 4/√12/√300 = 0.067; four of them.
    assert -4 <= logs.min() < logs.max() <= 0 and abs(logs.mean() + 2) < 0.27
    assert {run.training.epochs for run in more.runs} == {1, 2, 3}


def test_a_run_may_have_a_seed_of_its_own() -> None:
    """Otherwise every draw would start from one initialisation, and runs that differ in the seed would be one."""
    runs = [{"seed": 3}, {"seed": 4}, {"optimizer": {"lr": 1.0}}]
    assert [run.seed for run in Sweep.from_dict({"seeds": [0, 1], "runs": runs}).runs] == [3, 4, 0, 1]
    drawn = Sweep.from_dict({"random": {"draws": 40, "seed": {"integers": [0, 10**6]}}}).runs
    assert len({run.seed for run in drawn}) == 40 == len(drawn) and len({run.key for run in drawn}) == 1
    assert [run.seed for run in Sweep.from_dict({"grid": {"seed": [5, 6]}}).runs] == [5, 6]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"base": {"seed": 1}}, r"the seeds of all runs in `seeds`\.\ngot: seed = 1 in \[base\]"),
        (
            {"random": {"draws": 2, "seed": 1}},
            r"seed as a distribution of the runs' seeds.*\n.*\n.*stream = 1 draws other",
        ),
        ({"grids": []}, r"a key of a sweep file: .*got: 'grids'\.\ntry: Did you mean 'grid'\?"),
        ({"grid": {"optimizer": {"lr": 0.1}}}, r"expected: a list of values for optimizer\.lr in a grid"),
        ({"grid": {"optimizer": {"lr": []}}}, r"expected: a list of values for optimizer\.lr in a grid"),
        ({"seeds": 3}, r"expected: seeds as a list of whole numbers"),
        ({"random": {"draws": 0, "optimizer": {"lr": {"uniform": [0, 1]}}}}, r"expected: draws = a count"),
        ({"random": {"draws": 1, "optimizer": {"lr": {"normal": [0, 1]}}}}, r"a distribution for optimizer\.lr"),
        ({"random": {"draws": 1, "optimizer": {"lr": {"uniform": [1]}}}}, r"two ends of a range for optimizer\.lr"),
    ],
)
def test_sweep_refusals(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        Sweep.from_dict(table)


def test_files_that_are_missing_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the path of a sweep file"):
        Sweep.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [1,")
    with pytest.raises(ConfigError, match=r"bad\.toml to be TOML"):
        Sweep.load(tmp_path / "bad.toml")


def test_deep_merge_changes_neither_table() -> None:
    base: dict[str, Any] = {"a": {"x": 1}}
    assert deep_merge(base, {"a": {"y": 2}, "b": 3}) == {"a": {"x": 1, "y": 2}, "b": 3}
    assert base == {"a": {"x": 1}}


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"model": {"scale": INF}}, r"finite numbers.* for model\.scale\.\ngot: inf\."),
        ({"model": {"widths": [[1, NAN]]}}, r"for model\.widths\.\ngot: nan"),
        ({"data": {"deep": {"er": -INF}}}, r"for data\.deep\.\ngot: -inf"),
        ({"training": {"clip": INF}}, r"for training\.clip\.\ngot: inf"),
        ({"training": {"stop_below": NAN}}, r"for training\.stop_below"),
        ({"optimizer": {"lr": INF}}, r"for optimizer\.lr"),
        ({"data": {"since": datetime.date(2020, 1, 1)}}, r"for data\.since\.\ngot: datetime\.date"),
        ({"model": {"table": {1: 2}}}, r"for model\.table\.\ngot: 1\."),
        ({"data": {"options": {"label_noise": 0.2}}}, r"names that are not fields.*\ngot: data\.options\.label_noise"),
        ({"model": {"options": {"name": "mine"}}}, r"got: model\.options\.name"),
        ({"model": {"options": {"options": {}}}}, r"got: model\.options\.options"),
        (
            {"model": {"depth": 1, "options": {"depth": 2}}},
            r"model\.options to be a table of options that do",
        ),
        ({"model": {"options": 3}}, r"model\.options to be a table"),
        ({"start": 3}, r"a table for start"),
        ({"start": {"training": {"epoch": 3}}}, r"Did you mean 'training\.epochs'"),
        ({"start": {"data": {"label_noise": NAN}}}, r"finite numbers|a share between 0 and 1"),
        ({"start": {"model": {"widths": [3]}}}, r"start to train the same network"),
        ({"start": {"seed": 4}}, r"start to train the same network, from its initialisation and with its seed"),
        ({"start": {"start": {"training": {"epochs": 3}}}}, r"start to train the same network"),
        ({"seed": -1}, r"from 0 to 2³¹ − 1"),
        ({"seed": 2**31}, r"from 0 to 2³¹ − 1"),
        ({"seed": 2**63}, r"from 0 to 2³¹ − 1"),
    ],
)
def test_what_has_no_name_of_its_own_is_refused(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sweep.from_dict({"runs": [table]})


def test_different_configurations_have_different_keys() -> None:
    """Every table that is accepted can be read back from what names it, so that no two share a name."""
    draw = np.random.default_rng(0)
    values = [0, 1, 2.5, -1, True, False, "1", "", "label_noise", [1, 2], [[1], 2], {"a": 1}, {"a": {"a": 1}}, {}]
    names = [*(field.name for field in dataclasses.fields(DataConfig)), "a", "b", "seed", "label_noise_"]
    found: dict[str, RunConfig] = {}
    for _ in range(3000):
        table: dict[str, Any] = {}
        for section in ("data", "model"):
            options = {names[draw.integers(len(names))]: values[draw.integers(len(values))] for _ in range(2)}
            table[section] = {"options": options} if draw.random() < 0.5 else options
        try:
            config = RunConfig.from_dict(table)
        except ConfigError:
            continue
        assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        known = found.setdefault(config.key, config)
        assert known == config
    assert len(found) > 150


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"counts_below": NAN}, "counts_below as a number"),
        ({"counts_below": "low"}, "counts_below as a number"),
        ({"random": {"draws": 2, "optimizer": {"lr": {"log_uniform": [0.0, 1.0]}}}}, "ends above 0 for optimizer.lr"),
        ({"random": {"draws": 2, "optimizer": {"lr": {"uniform": [1.0, 0.1]}}}}, "a finite range for optimizer.lr"),
        ({"random": {"draws": 2, "optimizer": {"lr": {"uniform": [0.1, INF]}}}}, "a finite range for optimizer.lr"),
        ({"random": {"draws": 2, "training": {"epochs": {"integers": ["a", 3]}}}}, "a finite range for training.epoch"),
    ],
)
def test_numbers_of_a_sweep_that_are_none(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sweep.from_dict(table)
