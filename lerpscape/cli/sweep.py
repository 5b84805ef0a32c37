"""`lerpscape sweep`, `lerpscape table` and `lerpscape export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lerpscape.cli.arguments import Json, OptionalFile, Switch, print_written, require_writable, workers_of

if TYPE_CHECKING:
    from lerpscape.lab.sweep import Sweep

Action = Annotated[Literal["list", "run", "status", "retry"], tyro.conf.Positional]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SWEEP.toml")]
Place = Annotated[str, tyro.conf.arg(metavar="FOLDER")]
WorkersWord = Annotated[str, tyro.conf.arg(metavar="N|ray|ray://…|slurm")]


def sweep_command(
    action: Action,
    file: File,
    /,
    store: Place = "results",
    workers: WorkersWord = "1",
    gpus: float = 0.0,
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    first: int | None = None,
    progress: Switch = None,
    json_: Json = False,
) -> None:
    """List, run or look at the runs of a sweep file; finished runs are never done again.

    Args:
        action: list shows the runs; run trains and measures what the store lacks; status counts; retry forgets
            failures, so that the next run tries them again.
        file: The sweep, in TOML.
        store: Where runs are kept: a folder on a local or shared file system.
        workers: Processes on this machine, ray (started here, or the cluster of RAY_ADDRESS), ray://host:port, slurm.
        gpus: Share of a GPU for each run, on Ray.
        data_dir: Where the data sets are; by default the folder that LERPSCAPE_DATA names.
        first: Only so many of the sweep's runs.
        progress: Progress bar: by default on a terminal, after two seconds.
        json_: Print the numbers as JSON.
    """
    from lerpscape.lab.run_sweep import retry_failed, run_sweep, sweep_status
    from lerpscape.lab.store import Store
    from lerpscape.lab.sweep import Sweep

    sweep = Sweep.load(file)
    if first is not None:
        sweep = sweep.first(first)
    if action == "list":
        _list(sweep, as_json=json_)
        return
    kept = Store(store)
    if action == "retry":
        forgotten = retry_failed(sweep, kept)
        print(f"{forgotten} failed runs will be tried again by `lerpscape sweep run {file} --store {store}`")
        return
    if action == "run":
        status = run_sweep(
            sweep,
            kept,
            data_folder=None if data_dir is None else str(data_dir),
            workers=workers_of(workers),
            gpus=gpus,
            progress=progress,
        )
    else:
        status = sweep_status(sweep, kept)
    if json_:
        failures = [{"run": name, "error": error} for name, error in status.failures]
        print(json.dumps({"sweep": status.sweep, "runs": status.runs, **status.states, "failures": failures}))
    else:
        print(status)
    if action == "run" and status.states.get("failed"):
        sys.exit(1)


def _list(sweep: Sweep, *, as_json: bool) -> None:
    rows = [
        {"run": run.name, "measure": run.measure_key, **{name: run.flat().get(name) for name in sweep.varied}}
        for run in sweep.runs
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        words = [f"{name}={value}" if name in sweep.varied else str(value) for name, value in row.items()]
        print("  ".join(words))
    print(f"{sweep.name}: {len(rows)} runs" + (f" ({sweep.repeated} asked for twice)" if sweep.repeated else ""))


def table_command(
    file: File,
    /,
    store: Place = "results",
    format: Literal["text", "markdown", "latex", "csv"] = "text",
    out: OptionalFile = None,
    plot: OptionalFile = None,
    json_: Json = False,
) -> None:
    """Print the tables that a sweep file asks for, from what a store holds.

    Args:
        file: The sweep, in TOML; its [[tables]] say what is shown.
        store: Where its runs are kept.
        format: How a table is written.
        out: File for the tables, instead of printing them.
        plot: File for the pictures (svg, pdf, png): a heat map of each table, name-1.svg, name-2.svg, …, and all
            curves by the rows of the first, name-curves.svg.
        json_: Print the cells as JSON.
    """
    from lerpscape.lab.store import Store
    from lerpscape.lab.sweep import Sweep
    from lerpscape.lab.tables.formats import FORMATS
    from lerpscape.lab.tables.records import sweep_records
    from lerpscape.lab.tables.table import Layout, tabulate

    require_writable(out, plot)
    sweep = Sweep.load(file)
    layouts = [Layout.from_dict(each) for each in sweep.tables] or [Layout()]
    found = sweep_records(sweep, Store(store))
    tables = [tabulate(found, layout, sweep.counts_below) for layout in layouts]
    if json_:
        print(json.dumps([each.to_dict() for each in tables], allow_nan=False))
    else:
        text = "\n\n\n".join(FORMATS[format](each) for each in tables)
        if out:
            out.write_text(f"{text}\n")
        else:
            print(text)
    written = [out]
    if plot:
        from lerpscape.lab.tables.plots import curves, heat_map
        from lerpscape.plots.style import save_figure

        for number, each in enumerate(tables, 1):
            written.append(plot.with_stem(f"{plot.stem}-{number}"))
            save_figure(heat_map(each), str(written[-1]))
        written.append(plot.with_stem(f"{plot.stem}-curves"))
        save_figure(curves(found, layouts[0], sweep.counts_below), str(written[-1]))
    if not json_:
        print_written(*written)


def export_command(store: Place = "results", out: Path = Path("records.parquet")) -> None:
    """Write everything in a store to one Parquet file: a row for each run and part, curves as list columns.

    Args:
        store: Where runs are kept.
        out: The file to write; polars, pandas and DuckDB read it.
    """
    from lerpscape.lab.store import Store
    from lerpscape.lab.tables.records import export, store_records

    require_writable(out)
    rows = export(store_records(Store(store)), out)
    print(f"{rows} rows\nwrote {out}")
