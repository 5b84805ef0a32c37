"""`[[measure]]` and `[[compare]]` tables: every mistake is refused when the file is read, and keys name the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from lerpscape.base.errors import ConfigError
from lerpscape.lab.comparisons import COMPARISONS
from lerpscape.lab.measure_config import Task
from lerpscape.lab.measurements import ANSWERED, MEASUREMENTS, WITHHELD
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.tables.table import check_tables

RUNS: dict[str, Any] = {
    "seeds": [0, 1],
    "base": {"data": {"name": "gaussian_blobs", "examples": 30}, "model": {"widths": [4, 4]}},
    "grid": {"optimizer": {"lr": [0.1, 0.3]}, "model": {"batch_norm": [False, True]}},
}


def read(measure: Any = (), compare: Any = (), **others: Any) -> Sweep:
    tables = {"measure": list(measure)} if measure else {}
    tables |= {"compare": list(compare)} if compare else {}
    return Sweep.from_dict({**RUNS, **tables, **others})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"what": "profil"}, r"(?s)what of \[\[measure\]\]: one of .*\ntry: Did you mean 'profile'\?"),
        ({"what": "angles"}, r"Did you mean 'certify_angles'\?"),
        ({}, r"what of \[\[measure\]\]: one of "),
        ({"what": "certify", "buget": 9}, r"(?s)a key of \[\[measure\]\] certify.*\ntry: Did you mean 'budget'\?"),
        ({"what": "profile", "sample": 9}, r"a key of \[\[measure\]\] profile"),
        ({"what": "profile", "exampels": 9}, r"Did you mean 'examples'\?"),
        ({"what": "profile", "examples": 0}, r"a whole number ≥ 1 or nothing for examples of \[\[measure\]\] profile"),
        ({"what": "profile", "alphas": "adaptve"}, r'or "adaptive" where it can be, for alphas'),
        ({"what": "profile", "alphas": 0.5}, r"for alphas of \[\[measure\]\] profile\.\ngot: 0\.5 \(float\)"),
        ({"what": "linearity", "alphas": "adaptive"}, r"for alphas of \[\[measure\]\] linearity"),
        ({"what": "gauss_length", "method": "turn"}, r"one of 'turning', 'integral', 'polygon' for method"),
        ({"what": "layer_contributions", "by": "tensr"}, r"one of 'module', 'tensor', .* for by .*\ngot: 'tensr'"),
        ({"what": "certify", "seconds": float("inf")}, r"a finite value for seconds"),
        ({"what": "certify", "tolerance": "none"}, r"a number for tolerance"),
        ({"what": "onset"}, r"tolerance for \[\[measure\]\] onset\.\ngot: nothing"),
        ({"what": "layerwise"}, r"rest for \[\[measure\]\] layerwise"),
        ({"what": "profile", "workers": 2}, r"a key of \[\[measure\]\] profile"),
        ({"what": "profile", "on": ["test"]}, r"one of 'train', 'held-out' for on"),
        ({"what": "profile", "on": []}, r"parts of the data for on"),
        ({"what": "profile", "on": ["train", "train"]}, r"parts of the data for on"),
        ({"what": "profile", "batch_norm": "recalibrated"}, r"one of 'recalibrate', .* for batch_norm"),
        ({"what": "profile", "where": {"model.batch_nrm": True}}, r"Did you mean 'model\.batch_norm'\?"),
        ({"what": "profile", "where": {"optimizer.lr": 0.2}}, r"a value of optimizer\.lr that a run has.*0\.1, 0\.3"),
        ({"what": "profile", "where": {"model": {"batch_norm": True}}}, r"a table of dotted fields in quotes"),
        ({"what": "profile", "name": "a.b"}, r"a name without dots"),
    ],
)
def test_a_mistake_in_a_measurement_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read([table])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"what": "pairwize"}, r"Did you mean 'pairwise'\?"),
        ({"what": "connect", "epoch": 3}, r"Did you mean 'epochs'\?"),
        ({"what": "pairwise", "kind": "height"}, r"one of 'mean', .* for kind"),
        ({"what": "pairwise", "group": ["optimizer.lrr"]}, r"Did you mean 'optimizer\.lr'\?"),
        ({"what": "pairwise", "group": ["seed", "optimizer.lr", "model.batch_norm"]}, r"groups of at least two runs"),
        ({"what": "pairwise", "name": "profile"}, r"a name of its own for every \[\[compare\]\] table"),
    ],
)
def test_a_mistake_in_a_comparison_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(compare=[table])


def test_a_selection_by_a_field_that_a_run_leaves_to_its_default_is_refused() -> None:
    """Such a run would be left out in silence, whatever its default is."""
    runs = [{"model": {"batch_norm": True}}, {}]
    with pytest.raises(
        ConfigError, match=r"model\.batch_norm to be set for every run.*\n.*\ntry: Write model\.batch_n"
    ):
        Sweep.from_dict({"runs": runs, "measure": [{"what": "profile", "where": {"model.batch_norm": True}}]})


def test_a_selection_of_no_run_is_refused() -> None:
    """Each value is that of some run, but no run has both."""
    runs = [{"optimizer": {"lr": 0.1}, "seed": 1}, {"optimizer": {"lr": 0.3}, "seed": 2}]
    where = {"optimizer.lr": 0.1, "seed": 2}
    with pytest.raises(ConfigError, match=r"at least one run that where of \[\[measure\]\] profile selects"):
        Sweep.from_dict({"runs": runs, "measure": [{"what": "profile", "where": where}]})


def test_two_measurements_with_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two that are called 'profile'"):
        read([{"what": "profile"}, {"what": "profile", "alphas": 9}])


def test_where_selects_runs() -> None:
    def counted(where: dict[str, Any]) -> int:
        sweep = read([{"what": "profile", "where": where}])
        return sum(len(sweep.tasks(run)) for run in sweep.runs)

    assert counted({}) == 8
    assert counted({"model.batch_norm": False}) == 4
    assert counted({"optimizer.lr": [0.1, 0.3]}) == 8
    assert counted({"optimizer.lr": 0.1, "seed": [1]}) == 2
    assert counted({"model.widths": [4, 4]}) == 8 == counted({"model.widths": [[4, 4]]})


def test_keys_name_the_numbers_alone() -> None:
    def key(**table: Any) -> str:
        sweep = read([{"what": "profile", **table}])
        return sweep.tasks(sweep.runs[-1])[0].key

    same = [{}, {"alphas": 50}, {"name": "mine"}, {"where": {"model.batch_norm": True}}, {"on": ["train", "held-out"]}]
    assert len({key(**table) for table in same}) == 1
    other = [{"alphas": 49}, {"alphas": [0, 1]}, {"examples": 9}, {"examples_seed": 1}, {"on": ["held-out"]},
             {"batch_norm": "end"}, {"batch_size": 9}, {"statistics": 9}, {"derivative": False}]  # fmt: skip
    assert len({key(**table) for table in [{}, *other]}) == 1 + len(other)
    for table in [*same, *other]:
        for task in read([{"what": "profile", **table}]).tasks(read().runs[-1]):
            assert Task.from_dict(task.to_dict()).key == task.key


def test_none_is_written_as_a_word_where_it_is_a_value() -> None:
    [measure] = read([{"what": "gauss_length", "precision": "none"}]).measures
    assert measure.options == {"precision": None}


@pytest.mark.parametrize("what", MEASUREMENTS)
def test_every_argument_is_answered_withheld_or_an_option(what: str) -> None:
    """A new argument of a function becomes an option by itself; one without a type would take any value."""
    kind = MEASUREMENTS[what]
    assert "model" in kind.parameters and "data" in kind.parameters and kind.readings
    assert not set(kind.options) & {*ANSWERED, *WITHHELD}
    assert all(one.annotation is not Any for one in kind.options.values()), kind.options


@pytest.mark.parametrize("what", COMPARISONS)
def test_every_option_of_a_comparison_has_a_type(what: str) -> None:
    assert all(str(one.annotation) != "typing.Any" for one in COMPARISONS[what].options.values())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"reading": "profile.max_rize"}, r"Did you mean 'profile\.max_rise'\?"),
        ({"reading": "certify.upper"}, r"a reading of this sweep's measurements"),
        ({"reading": "max_rise"}, r"Did you mean 'profile\.max_rise'\?"),
        ({"part": "held-out"}, r"a part of the data that profile is measured on: train\.\ngot: 'held-out'"),
        ({"rows": ["optimizer.nam"]}, r"Did you mean 'optimizer\.name'\?"),
        ({"where": {"optimizer.l": 1}}, r"Did you mean 'optimizer\.lr'\?"),
    ],
)
def test_a_table_of_what_is_not_measured_is_refused(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_tables(read([{"what": "profile"}], tables=[layout]))
