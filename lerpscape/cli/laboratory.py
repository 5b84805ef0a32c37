"""`lerpscape sweep`, `table` and `export`: many runs, their tables, and all records in one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lerpscape.cli.arguments import (
    Json,
    OptionalFile,
    OptionalFolder,
    OptionalInt,
    Progress,
    print_written,
    require_writable,
    workers_of,
)

if TYPE_CHECKING:
    from lerpscape.lab.sweep import Sweep

Action = Annotated[Literal["list", "run", "status", "retry"], tyro.conf.Positional]
SweepName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SWEEP")]
StoreFolder = Annotated[str, tyro.conf.arg(metavar="FOLDER")]
WorkersOfSweep = Annotated[str, tyro.conf.arg(metavar="N|ray|ray://…|slurm")]


def sweep_command(
    action: Action,
    sweep: SweepName,
    /,
    store: StoreFolder = "results",
    workers: WorkersOfSweep = "1",
    gpus: float = 0.0,
    data_dir: OptionalFolder = None,
    first: OptionalInt = None,
    progress: Progress = None,
    json_: Json = False,
) -> None:
    """Train and measure the networks of a sweep file.

    Runs that are in the store already are not repeated. Exits with 1 if a run failed.

    Args:
        action: list the runs; run those that the store lacks; status counts them; retry lets failed ones run again.
        sweep: A TOML file, or a published study's sweep such as lucas2021/fc-small.
        store: Folder of the results, on a local or shared file system.
        workers: Processes on this machine; ray starts Ray, or uses RAY_ADDRESS; ray://host:port; slurm.
        gpus: With Ray: share of a GPU for each run.
        data_dir: Folder of the data sets; by default LERPSCAPE_DATA.
        first: Run only the first N runs.
        progress: Progress bar.
        json_: Print JSON.

    Examples:
        lerpscape sweep list lucas2021/fc-small
        lerpscape sweep run lucas2021/fc-small --store results --workers 2
        lerpscape sweep run lucas2021/fc --store /shared/results --workers ray://head:10001
        lerpscape sweep status lucas2021/fc-small --store results
    """
    from lerpscape.lab.run_sweep import retry_failed, run_sweep, sweep_status
    from lerpscape.lab.store import Store
    from lerpscape.lab.sweep import Sweep
    from lerpscape.papers.sweep_files import sweep_file

    runs = Sweep.load(sweep_file(sweep))
    if runs.tables:  # refused before anything is trained
        from lerpscape.lab.tables.table import check_tables

        check_tables(runs)
    if first is not None:
        runs = runs.first(first)
    if action == "list":
        _list(runs, as_json=json_)
        return
    results = Store(store) if action == "run" else Store.existing(store)
    if action == "retry":
        count = retry_failed(runs, results)
        print(f"{count} failures will be tried again by `lerpscape sweep run {sweep} --store {store}`")
        return
    if action == "run":
        status = run_sweep(
            runs,
            results,
            data_folder=None if data_dir is None else str(data_dir),
            workers=workers_of(workers),
            gpus=gpus,
            progress=progress,
        )
    else:
        status = sweep_status(runs, results)
    if json_:
        failures = [{"run": name, "error": error} for name, error in (*status.failures, *status.damaged)]
        print(json.dumps({"sweep": status.sweep, "runs": status.runs, **status.states, "failures": failures}))
    else:
        print(status)
    if action == "run" and status.states.get("failed"):
        sys.exit(1)


def _list(sweep: Sweep, *, as_json: bool) -> None:
    rows = [
        {"run": run.name, **{name: run.flat().get(name) for name in sweep.varied}, "measures": len(sweep.tasks(run))}
        for run in sweep.runs
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        cells = [f"{name}={value}" for name, value in row.items() if name in sweep.varied]
        print("  ".join([str(row["run"]), *cells]))
    for measure in sweep.measures:
        count = sum(bool(measure.tasks(run)) for run in sweep.runs)
        print(f"measure {measure.name} on {', '.join(measure.on)}: {count} runs")
    for compare in sweep.comparisons:
        groups = compare.groups(sweep.runs)
        print(f"compare {compare.name} on {compare.on}: {sum(map(len, groups))} runs in {len(groups)} groups")
    print(f"{sweep.name}: {len(rows)} runs" + (f" ({sweep.repeated} asked for twice)" if sweep.repeated else ""))


def table_command(
    sweep: SweepName,
    /,
    store: StoreFolder = "results",
    format: Literal["text", "markdown", "latex", "csv"] = "text",
    out: OptionalFile = None,
    plot: OptionalFile = None,
    json_: Json = False,
) -> None:
    """Print the tables of a sweep file from the results in a store.

    Args:
        sweep: A TOML file with [[tables]], or a published study's sweep such as lucas2021/fc-small.
        store: Folder of the results.
        format: Format of the tables.
        out: Write the tables to a file instead of printing them.
        plot: Draw a heat map of each table, NAME-1.svg, NAME-2.svg, …, and all curves, NAME-curves.svg (or pdf, png).
        json_: Print JSON.

    Examples:
        lerpscape table lucas2021/fc-small --store results
        lerpscape table lucas2021/fc-small --store results --format latex --out table.tex --plot table.svg
    """
    from lerpscape.base.saving import write_file
    from lerpscape.lab.store import Store
    from lerpscape.lab.sweep import Sweep
    from lerpscape.lab.tables.formats import FORMATS
    from lerpscape.lab.tables.records import comparison_records, sweep_records
    from lerpscape.lab.tables.table import check_tables, tabulate
    from lerpscape.papers.sweep_files import sweep_file

    require_writable(out, plot)
    runs = Sweep.load(sweep_file(sweep))
    layouts, results = check_tables(runs), Store.existing(store)
    rows = [*sweep_records(runs, results), *comparison_records(runs, results)]
    tables = [tabulate(rows, layout, runs.counts_below) for layout in layouts]
    if json_:
        print(json.dumps([filled.to_dict() for filled in tables], allow_nan=False))
    else:
        text = "\n\n\n".join(FORMATS[format](filled) for filled in tables)
        if out:
            write_file(out, f"{text}\n".encode())
        else:
            print(text)
    written = [out]
    if plot:
        from lerpscape.lab.tables.plots import curves, heat_map
        from lerpscape.plots.style import save_figure

        for number, filled in enumerate(tables, 1):
            written.append(plot.with_stem(f"{plot.stem}-{number}"))
            save_figure(heat_map(filled), str(written[-1]))
        written.append(plot.with_stem(f"{plot.stem}-curves"))
        save_figure(curves(rows, layouts[0], runs.counts_below), str(written[-1]))
    if not json_:
        print_written(*written)


def export_command(
    store: StoreFolder = "results", out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("records.parquet")
) -> None:
    """Write all results of a store to one Parquet file.

    One row for each run and part of its data, curves as list columns; polars, pandas and DuckDB read it.

    Args:
        store: Folder of the results.
        out: The file to write.

    Examples:
        lerpscape export --store results --out records.parquet
    """
    from lerpscape.lab.store import Store
    from lerpscape.lab.tables.records import export, store_records

    require_writable(out)
    results = Store.existing(store)
    records = store_records(results)
    for name in results.unreadable():
        print(f"left out runs/{name}: its config.json is damaged")
    for record in records:
        if record.state == "damaged":
            print(f"no numbers of runs/{record.config.name}: {record.error}")
    print(f"{export(records, out)} rows\nwrote {out}")
