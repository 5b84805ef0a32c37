"""Tables: their numbers against the raw profiles, and every run in a cell or in the notes."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, t

from lerpscape.base.errors import ConfigError
from lerpscape.cli.main import main
from lerpscape.lab.run_sweep import run_sweep, sweep_status
from lerpscape.lab.store import Store
from lerpscape.lab.sweep import Sweep
from lerpscape.lab.tables.formats import FORMATS
from lerpscape.lab.tables.plots import curves, heat_map
from lerpscape.lab.tables.records import Record, export, store_records, sweep_records
from lerpscape.lab.tables.table import Cell, Layout, Table, tabulate
from lerpscape.readings.intervals import wilson_interval

TEXT = """
name = "tiny & <odd>_name"
seeds = [0, 1]
counts_below = 1.9
[base]
data = {name = "digits", train_size = 80}
training = {epochs = 6, batch_size = 10}
model.widths = [8]
[grid]
model.batch_norm = [false, true]
optimizer.lr = [2.0, 0.05, 1e30]
[[runs]]
optimizer = {name = "adam", lr = 0.01}
[[measure]]
what = "profile"
on = ["train", "held-out"]
alphas = 6
batch_norm = "interpolate"
derivative = false
[[measure]]
what = "gauss_length"
examples = 5
batch_norm = "interpolate"
[[tables]]
rows = ["optimizer.name", "model.batch_norm"]
columns = ["optimizer.lr"]
tolerance = 0.01
[[tables]]
kind = "mean_rise"
rows = ["model.batch_norm"]
columns = ["optimizer.lr"]
part = "held-out"
[[tables]]
kind = "reading"
reading = "gauss_length.mean"
rows = ["optimizer.name"]
columns = ["seed"]
counts_below = 1000.0
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep file and its store, with one run that failed, one that is missing and those that diverged."""
    folder = tmp_path_factory.mktemp("tables")
    file = folder / "sweep.toml"
    file.write_text(TEXT)
    sweep, store = Sweep.load(file), Store(folder / "store")
    run_sweep(sweep, store)
    store.run(sweep.runs[1]).write_json("failed.json", {"error": "expected: luck.", "traceback": ""})
    shutil.rmtree(folder / "store" / "runs" / sweep.runs[0].name)
    return file, folder / "store"


def raw(store: Path, part: str) -> list[tuple[dict[str, Any], list[float], float]]:
    """Configuration, losses, and final training loss of every measured run, straight from the files."""
    found = []
    for trained in sorted(store.glob("runs/*/*/trained.json")):
        run, losses = trained.parent, {}
        for file in run.glob("measured/*/config.json"):
            asked = json.loads(file.read_text())
            if asked["what"] == "profile":
                profile = json.loads((file.parent / "result.json").read_text())
                losses[asked["part"]] = [float(value) for value in profile["loss"]]
        if losses and not (run / "failed.json").exists():
            found.append((json.loads((run / "config.json").read_text()), losses[part], losses["train"][-1]))
    return found


def rise(losses: list[float]) -> float:
    return max(b - a for i, a in enumerate(losses) for b in losses[i:])


def test_share_equals_a_computation_from_the_raw_files(swept: tuple[Path, Path]) -> None:
    file, store = swept
    sweep = Sweep.load(file)
    found = tabulate(sweep_records(sweep, Store(store)), Layout.from_dict(sweep.tables[0]), sweep.counts_below)
    groups = defaultdict(list)
    for config, losses, final in raw(store, "train"):
        if final <= 1.9 and np.isfinite(losses).all():
            optimizer = config.get("optimizer", {})
            place = (
                (optimizer.get("name", "sgd"), config["model"].get("batch_norm")),
                (optimizer.get("lr", 0.1),),
            )
            groups[place].append(rise(losses) > 0.01)
    assert {place: (cell.hits, cell.n) for place, cell in found.cells.items()} == {
        place: (sum(hits), len(hits)) for place, hits in groups.items()
    }
    assert sum(cell.n for cell in found.cells.values()) > 3
    for cell in found.cells.values():
        ours = binomtest(cell.hits or 0, cell.n).proportion_ci(method="wilson")
        assert (cell.lower, cell.upper) == pytest.approx((ours.low, ours.high), abs=1e-12)


def test_the_tolerance_decides_what_rises(swept: tuple[Path, Path]) -> None:
    file, store = swept
    found = sweep_records(Sweep.load(file), Store(store))
    rises = [rise(losses) for _, losses, _ in raw(store, "train") if np.isfinite(losses).all()]
    between = sorted(rises)[-2] / 2 + sorted(rises)[-1] / 2
    for tolerance, hits in ((0.0, sum(each > 0 for each in rises)), (between, 1), (1e3, 0)):
        cells = tabulate(found, Layout(tolerance=tolerance)).cells.values()
        assert sum(cell.hits or 0 for cell in cells) == hits


def test_mean_rise_equals_a_computation_from_the_raw_files(swept: tuple[Path, Path]) -> None:
    file, store = swept
    sweep = Sweep.load(file)
    found = tabulate(sweep_records(sweep, Store(store)), Layout.from_dict(sweep.tables[1]), sweep.counts_below)
    groups = defaultdict(list)
    for config, losses, final in raw(store, "held-out"):
        if final <= 1.9 and np.isfinite(losses).all() and rise(losses) > 0:
            place = ((config["model"].get("batch_norm"),), (config.get("optimizer", {}).get("lr", 0.1),))
            groups[place].append(rise(losses))
    assert groups and {place: cell.n for place, cell in found.cells.items()} == {
        place: len(values) for place, values in groups.items()
    }
    for place, values in groups.items():
        assert found.cells[place].value == pytest.approx(np.mean(values))
        if len(values) > 1:
            reach = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
            assert found.cells[place].upper - found.cells[place].value == pytest.approx(reach)


def test_every_run_is_in_a_cell_or_in_the_notes(swept: tuple[Path, Path]) -> None:
    file, store = swept
    sweep = Sweep.load(file)
    for layout in map(Layout.from_dict, sweep.tables):
        found = tabulate(sweep_records(sweep, Store(store)), layout, sweep.counts_below)
        note = found.notes[0]
        numbers = [int(word) for word in note.replace(",", "").replace(".", " ").split() if word.isdigit()]
        counted, total = numbers[:2]
        left_out = [int(part.split()[0]) for part in note.split(". ")[-1].split(", ")]
        assert total == len(sweep.runs) == counted + sum(left_out)
    assert " diverged, 1 failed, 1 not finished" in note


@pytest.mark.parametrize("name", FORMATS)
def test_formats_hold_the_same_numbers(swept: tuple[Path, Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, store = swept
    main(["table", str(file), "--store", str(store), "--format", name])
    text = capsys.readouterr().out
    sweep = Sweep.load(file)
    found = tabulate(sweep_records(sweep, Store(store)), Layout.from_dict(sweep.tables[0]), sweep.counts_below)
    for cell in found.cells.values():
        assert (f"{cell.hits}/{cell.n}" in text) or (name == "csv" and f"{cell.value},{cell.lower}" in text)
    states = sweep_status(sweep, Store(store)).states
    assert f"{states['diverged']} diverged, 1 failed, 1 not finished" in text and states["diverged"] > 1
    if name == "csv":
        first = FORMATS["csv"](found).splitlines()
        rows = list(csv.DictReader(line for line in first if not line.startswith("#")))
        assert sum(int(row["n"]) for row in rows) == sum(cell.n for cell in found.cells.values())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(swept: tuple[Path, Path], tmp_path: Path) -> None:
    file, store = swept
    main(["table", str(file), "--store", str(store), "--format", "latex", "--out", str(tmp_path / "table.tex")])
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    (tmp_path / "page.tex").write_text(page)
    subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_latex_escapes_what_it_shows(swept: tuple[Path, Path]) -> None:
    file, store = swept
    layout = Layout(rows=("optimizer.name", "model.batch_norm"), title="50 % of a_b & {c} ≤ $d^e\\")
    text = FORMATS["latex"](tabulate(sweep_records(Sweep.load(file), Store(store)), layout))
    assert r"50 \% of a\_b \& \{c\} $\leq$ \$d\textasciicircum{}e\textbackslash{}" in text
    assert r"batch\_norm" in text and text.count(r"\begin") == text.count(r"\end") == 3
    assert text.isascii() or set(text) - set(map(chr, range(128))) <= {"é"}


def test_json_and_pictures(swept: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, store = swept
    main(["table", str(file), "--store", str(store), "--json", "--plot", str(tmp_path / "p.svg")])
    tables = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in tables] == ["share", "mean_rise", "reading"]
    assert {"value", "lower", "upper", "n", "optimizer.lr"} <= set(tables[0]["cells"][0])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["p-1.svg", "p-2.svg", "p-3.svg", "p-curves.svg"]


def test_pictures_show_every_cell_and_every_curve(swept: tuple[Path, Path]) -> None:
    file, store = swept
    sweep = Sweep.load(file)
    found = sweep_records(sweep, Store(store))
    shares = tabulate(found, Layout.from_dict(sweep.tables[0]), sweep.counts_below)
    texts = {each.get_text() for each in heat_map(shares).axes[0].texts}
    assert texts == {f"{cell.hits}/{cell.n}" for cell in shares.cells.values()}
    figure = curves(found, Layout.from_dict(sweep.tables[0]), sweep.counts_below)
    assert sum(len(ax.lines) for ax in figure.axes) == sum(cell.n for cell in shares.cells.values())
    none = tabulate(found, Layout.from_dict(sweep.tables[0]), counts_below=-1.0)
    assert heat_map(none).axes and not none.cells and "0 of 7 runs" not in none.notes[0]


def test_export_is_read_by_three_libraries(swept: tuple[Path, Path], tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    pandas = pytest.importorskip("pandas")
    _, store = swept
    rows = export(store_records(Store(store)), tmp_path / "r.parquet")
    frame = polars.read_parquet(tmp_path / "r.parquet")
    done = frame.filter(polars.col("profile.loss").is_not_null())
    assert len(frame) == rows and len(done) == 2 * len(raw(store, "train"))
    by_hand = sorted(rise(losses) for _, losses, _ in raw(store, "train") if np.isfinite(losses).all())
    ours = sorted(done.filter(polars.col("part") == "train")["profile.max_rise"].drop_nulls().to_list())
    assert 0 < len(ours) < len(raw(store, "train"))  # one curve has no verdict: it is there, without a reading
    assert ours == pytest.approx(by_hand, abs=1e-15)
    query = f"select count(*), sum(len(\"profile.loss\")) from '{tmp_path / 'r.parquet'}'"
    [(count, points)] = duckdb.sql(query).fetchall()
    assert count == rows and points == 6 * len(done)
    assert len(pandas.read_parquet(tmp_path / "r.parquet")) == rows
    main(["export", "--store", str(store), "--out", str(tmp_path / "again.parquet")])
    assert polars.read_parquet(tmp_path / "again.parquet").equals(frame)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"row": ["seed"]}, r"Did you mean 'rows'\?"),
        ({"kind": "shares"}, r'kind = "share", "mean_rise" or "reading"'),
        ({"rows": ["optimiser.lr"]}, r"Did you mean 'optimizer\.lr'\?"),
        ({"kind": "reading", "reading": "profile.max_rises"}, r"Did you mean 'profile\.max_rise'\?"),
    ],
)
def test_refusals(swept: tuple[Path, Path], layout: dict[str, Any], message: str) -> None:
    file, store = swept
    with pytest.raises(ConfigError, match=message):
        tabulate(sweep_records(Sweep.load(file), Store(store)), Layout.from_dict(layout))


def test_wilson_at_the_edges() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == 1
    with pytest.raises(ValueError, match="0 ≤ successes ≤ trials"):
        wilson_interval(3, 2)


def test_a_record_without_a_run_is_pending(tmp_path: Path) -> None:
    [record] = sweep_records(Sweep.from_dict({}), Store(tmp_path))
    assert isinstance(record, Record) and record.state == "pending" and record.final_loss is None
    assert record.row("train")["state"] == "pending"


def test_cells_are_neither_formulas_nor_markup() -> None:
    layout = Layout(rows=("model.name",), columns=("optimizer.lr",), title="a|b\n<i>")
    words = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=1", "fine", "a|b\n<script>"]
    rows = tuple((word,) for word in words)
    cells = {(row, (-0.5,)): Cell(-0.25, -0.5, -0.1, 3) for row in rows}
    table = Table(layout, layout.title, rows, ((-0.5,),), cells, ("note\n=1",))
    text = FORMATS["csv"](table)
    _, *read, note = csv.reader(io.StringIO(text))
    assert [row[0] for row in read[:3]] == ["'=1+1", "'+1", "'-1"]
    assert all(row[0][0] not in "=+-@\t\r\n" for row in read) and note == ["# note =1"]
    assert all(row[1:] == ["-0.5", "-0.25", "-0.5", "-0.1", "3"] for row in read)  # numbers stay numbers
    marked = FORMATS["markdown"](table)
    assert "<" not in marked and len(marked.splitlines()) == 2 + 2 + len(words) + 2
