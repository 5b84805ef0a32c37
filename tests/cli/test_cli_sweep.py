"""The commands of the laboratory, as users meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused

from lerpscape.cli.main import main
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.tables.table import check_tables
from lerpscape.papers.sweep_files import sweep_file

TINY = """
about = "two tiny runs"
seeds = [0, 1]
[base]
data = {name = "digits", train_size = 60}
model.widths = [6]
training = {epochs = 2, batch_size = 30}
[[measure]]
what = "profile"
alphas = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


def test_from_the_list_to_the_table(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--store", str(tmp_path / "store")]
    main(["sweep", "list", str(file)])
    assert capsys.readouterr().out.splitlines()[-1] == "tiny: 2 runs"
    main(["sweep", "run", str(file), *place, "--first", "1"])
    assert capsys.readouterr().out == "tiny: 1 runs: 1 done\n"
    main(["sweep", "status", str(file), *place, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["done"], found["pending"], found["failures"]) == (2, 1, 1, [])
    main(["sweep", "run", str(file), *place])
    main(["table", str(file), *place])
    out = capsys.readouterr().out
    assert "0/2 [0, 66] %" in out and "2 of 2 runs; every measured run counts." in out
    main(["sweep", "list", str(file), "--json"])
    assert [row["seed"] for row in json.loads(capsys.readouterr().out)] == [0, 1]


def test_failed_runs_make_the_command_fail(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(TINY.replace('data = {name = "digits"', 'data = {crop = 1, name = "gaussian_blobs"'))
    place = ["--store", str(tmp_path / "store")]
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "run", str(file), *place])
    assert stop.value.code == 1
    assert "2 failed" in capsys.readouterr().out
    main(["sweep", "retry", str(file), *place])
    assert capsys.readouterr().out.startswith("2 failures will be tried again by `lerpscape sweep run")
    main(["sweep", "status", str(file), *place])
    assert capsys.readouterr().out == "tiny: 2 runs: 2 pending\n"


@pytest.mark.parametrize("words", ["table FILE", "sweep status FILE", "sweep retry FILE", "export --out OUT"])
def test_reading_refuses_a_store_that_is_not_there(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    line = words.replace("FILE", str(file)).replace("OUT", str(tmp_path / "r.parquet")).split()
    with pytest.raises(SystemExit) as stopped:
        main([*line, "--store", str(tmp_path / "typo")])
    assert stopped.value.code == 2 and "expected: the path of a store" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists() and not (tmp_path / "r.parquet").exists()


def test_a_published_sweep_by_name_unless_there_is_such_a_file(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["sweep", "list", "lucas2021/fc-small"])
    assert capsys.readouterr().out.splitlines()[-1] == "fc-small: 96 runs"
    monkeypatch.chdir(file.parent)
    Path("lucas2021").mkdir()
    Path("lucas2021/fc-small").write_text(TINY)
    main(["sweep", "list", "lucas2021/fc-small"])
    assert capsys.readouterr().out.splitlines()[-1] == "fc-small: 2 runs"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("seeds = [0]\ngrids = 1", "error: expected: a key of a sweep file"),
        ("[base]\noptimizer.lr = 'x'", "error: expected: a number for optimizer.lr"),
        ("[base]\nmodel.name = 'resnett'", "Did you mean 'resnet'?"),
    ],
)
def test_mistakes_exit_with_two_and_advice(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str, message: str
) -> None:
    file.write_text(changed)
    assert message in refused(["sweep", "run", str(file), "--store", str(tmp_path / "store")], capsys)


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("fc", 8 * 14 * 3 * 2 * 2 * 2),
        ("ae", 8 * 7 * 2),
        ("cifar", 7 * 4 * 4 * 2 * 2),
        ("lm", 8 * 2 * 2 * 3),
        ("fc-small", 96),
        ("ae-small", 18),
        ("cifar-small", 8),
        ("lm-small", 8),
    ],
)
def test_the_grids_have_their_runs(name: str, runs: int) -> None:
    sweep = Sweep.load(sweep_file(f"lucas2021/{name}"))
    assert len(sweep.runs) == runs and sweep.repeated == 0 and sweep.name == name and sweep.tables
    [measure] = sweep.measures
    assert measure.options.get("alphas", 50) == (21 if name in ("cifar-small", "lm-small") else 50)
    assert measure.options["derivative"] is False and check_tables(sweep)


def test_the_released_grids_ask_for_what_was_released() -> None:
    by_name = {name: Sweep.load(sweep_file(f"lucas2021/{name}")).runs for name in ("fc", "ae", "cifar", "lm")}
    lrs = {name: sorted({run.optimizer.lr for run in runs}) for name, runs in by_name.items()}
    assert lrs["fc"] == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]
    assert lrs["lm"] == [0.001, 0.01, 0.1, 1, 10, 20, 30, 40]
    assert {run.training.batch_size for run in by_name["fc"]} == {512} == {r.training.batch_size for r in by_name["ae"]}
    assert {run.training.milestones for run in by_name["cifar"]} == {(60, 90, 120)}
    assert {run.training.clip for run in by_name["lm"]} == {0.25}
    momenta = {(run.optimizer.name, run.optimizer.momentum) for run in by_name["fc"]}
    assert momenta == {("sgd", 0.9), ("adam", 0.0)}
    [measure] = Sweep.load(sweep_file("lucas2021/fc")).measures
    assert measure.examples.batch_norm == "recalibrate" and measure.on == ("train", "held-out")
    assert measure.examples.examples is None
