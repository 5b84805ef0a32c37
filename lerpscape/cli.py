"""The `lerpscape` command: parse, one public call, print. Nothing heavy is imported before a command runs.

This is the one room that opens the doors of both halves, instrument and laboratory.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.extras import SubcommandApp

from lerpscape import __version__
from lerpscape.arguments import alphas_of, called, named, policy_of
from lerpscape.errors import LerpscapeError

if TYPE_CHECKING:
    from lerpscape.profiles import Profile

app = SubcommandApp()

DESCRIPTION = "What does the loss do on the straight line between two checkpoints?"
# Shown below --help, of the program and of each command.
EXAMPLES = {
    "": """
  lerpscape demo
  lerpscape profile init.pt final.pt --model nets:build --data loaders:train --report report.html
  lerpscape report plain.json pushed.json --out report.html
""",
    "profile": """
  lerpscape profile init.pt final.pt --model nets:build --data loaders:train --plot line.svg
  lerpscape profile a.safetensors b.safetensors --model nets:build --data loaders:train \\
      --held-out loaders:test --batch-norm recalibrate --report report.html
  lerpscape profile a.pt b.pt --model nets:build --data loaders:train --alphas -0.25:1.25:61 --json
""",
    "certify": """
  lerpscape certify init.pt final.pt --model nets:build --data loaders:train
  lerpscape certify init.pt final.pt --model nets:build --data loaders:train --tolerance 1e-3 --plot proof.svg
""",
    "report": """
  lerpscape report lerpscape-demo/plain-train.json lerpscape-demo/plain-held-out.json --out both.html
""",
    "demo": """
  lerpscape demo --folder first-run
""",
}

# How arguments are called in --help.
Start = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="START")]
End = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="END")]
Name = Annotated[str, tyro.conf.arg(metavar="PACKAGE.MODULE:NAME")]
OptionalName = Annotated[str | None, tyro.conf.arg(metavar="PACKAGE.MODULE:NAME")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Switch = Annotated[bool | None, tyro.conf.arg(metavar="{True,False}")]


@app.command(name="profile")
def profile_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    held_out: OptionalName = None,
    loss: str = "cross_entropy",
    alphas: str = "50",
    batch_norm: Literal["recalibrate", "pooled", "interpolate", "batch", "end"] | None = None,
    derivative: bool = True,
    tolerance: float = 0.0,
    device: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None,
    dtype: Literal["float32", "float64", "bfloat16"] | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    report: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Measure the loss along the line between two checkpoints.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        held_out: Further data, measured and drawn beside the first.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        alphas: Number of points on [0, 1], or first:last:count such as -0.25:1.25:61.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm. Recalibrate and
            pooled estimate statistics anew at every α from DATA.
        derivative: Also dL/dα, exact, for about twice the time more.
        tolerance: Rise that the verdict forgives, in the unit of the loss.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        out: File for the profile of DATA (JSON). A stopped measurement goes on when the command is repeated.
        plot: File for the picture (svg, pdf, png).
        report: File for the HTML report.
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.measure import profile
    from lerpscape.partial import check_writable
    from lerpscape.paths import Line

    for file in (out, plot, report):
        if file is not None:
            check_writable(file)
    line = Line(start, end)
    built = called(model)
    choices: dict[str, Any] = {
        "loss": named(loss) if ":" in loss else loss,
        "alphas": alphas_of(alphas),
        "derivative": derivative,
        "device": device,
        "dtype": None if dtype is None else getattr(import_module("torch"), dtype),
        "progress": progress,
    }
    measured = called(data)
    policy = policy_of(batch_norm, measured)
    parts = {"train": measured} | ({"held-out": called(held_out)} if held_out else {})
    unfinished = {label: out.with_name(f"{out.name}.{label}.partial") if out else None for label in parts}
    profiles = [
        profile(built, line, part, batch_norm=policy, label=label, partial=unfinished[label], **choices)
        for label, part in parts.items()
    ]
    if out:
        profiles[0].save(out)
    _show(profiles, tolerance, json_=json_, plot=plot, report=report, saved=out)
    for file in unfinished.values():
        if file:
            file.unlink(missing_ok=True)


@app.command(name="certify")
def certify_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    loss: Literal["cross_entropy", "squared_error", "mean_squared_error", "binary_cross_entropy"] = "cross_entropy",
    tolerance: float = 0.0,
    budget: int = 500,
    batch_norm: Literal["interpolate", "end"] | None = None,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Prove how much the loss can rise along the line, over every α and not only on a grid.

    Args:
        start: Checkpoint at α = 0.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets).
        loss: What the certificate is of.
        tolerance: Rise that the verdict forgives, in the unit of the loss.
        budget: Most intervals to enclose.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        json_: Print the certificate as JSON.
        out: File for the certificate (JSON).
        plot: File for the picture (svg, pdf, png).
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.certification import certify
    from lerpscape.partial import check_writable
    from lerpscape.paths import Line

    for file in (out, plot):
        if file is not None:
            check_writable(file)
    found = certify(
        called(model),
        Line(start, end),
        called(data),
        loss=loss,
        tolerance=tolerance,
        budget=budget,
        batch_norm=policy_of(batch_norm, None),
        progress=progress,
    )
    if out:
        found.save(out)
    if plot:
        from lerpscape.plots import certificate_figure, save_figure

        save_figure(certificate_figure(found), str(plot))
    if json_:
        print(json.dumps(found.to_dict(), allow_nan=False))
        return
    print(found.summary)
    for file in (out, plot):
        if file:
            print(f"wrote {file}")


@app.command(name="report")
def report_command(
    profiles: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    out: Path = Path("report.html"),
    title: str = "Along the line",
    tolerance: float = 0.0,
) -> None:
    """Gather saved profiles into one HTML page.

    Args:
        profiles: Files written by `lerpscape profile --out`.
        out: The page to write.
        title: Its heading.
        tolerance: Rise that the verdicts forgive, in the unit of the loss.
    """
    from lerpscape.profiles import Profile
    from lerpscape.reports import report

    print(report([Profile.load(file) for file in profiles], out, title=title, tolerance=tolerance))


@app.command(name="demo")
def demo_command(folder: Path = Path("lerpscape-demo"), progress: Switch = None) -> None:
    """Train two networks on real digits, measure both lines, and write a report: about half a minute.

    Args:
        folder: Where checkpoints, profiles and the report go.
        progress: Progress bars: by default on a terminal.
    """
    from lerpscape.lab.demo import TOLERANCE, run_demo

    print("Training 15 small networks on scikit-learn's digits, from 3 initialisations …", flush=True)
    demo = run_demo(folder, progress)
    for name, found in demo.profiles.items():
        print(f"\n{name}:")
        _table(found)
        for each in found:
            print(f"  {each.label}: {each.verdict(TOLERANCE)}")
        print(f"  measure again: {demo.measure_again(name)}")
    print(f"\nreport: {demo.report.resolve()}")


def main(args: list[str] | None = None) -> None:
    """Run the command line; a refused request prints `error: …` and exits with 2."""
    args = sys.argv[1:] if args is None else args
    if args == ["--version"]:
        print(__version__)
        return
    args = args or ["--help"]
    try:
        app.cli(prog="lerpscape", description=DESCRIPTION, args=args)
    except SystemExit as stop:
        if not stop.code and {"-h", "--help"} & set(args):
            command = "" if args[0].startswith("-") else args[0]
            print(f"\nexamples:{EXAMPLES.get(command, '')}", end="")
        raise
    except (LerpscapeError, ValueError, TypeError, OSError, ImportError) as error:
        if not (isinstance(error, LerpscapeError) or str(error).startswith("expected:")):
            raise  # not a refusal of ours: where it happened matters
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; with --out, the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


def _show(
    profiles: list[Profile],
    tolerance: float,
    *,
    json_: bool,
    plot: Path | None,
    report: Path | None,
    saved: Path | None,
) -> None:
    from lerpscape.plots import profile_figure, save_figure
    from lerpscape.reports import report as write_report

    if plot:
        save_figure(profile_figure(profiles), str(plot))
    if report:
        write_report(profiles, report, tolerance=tolerance)
    if json_:
        verdicts = [
            {"label": each.label, "verdict": each.verdict(tolerance), "tolerance": tolerance, **each.to_dict()}
            for each in profiles
        ]
        print(json.dumps(verdicts, allow_nan=False))
        return
    _table(profiles)
    for each in profiles:
        print(f"{each.label}: {each.verdict(tolerance)}")
    for file in (saved, plot, report):
        if file:
            print(f"wrote {file}")


def _table(profiles: list[Profile] | tuple[Profile, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lerpscape.reports import number_rows

    table = Table(box=None, pad_edge=False)
    for heading in ("", *(each.label or "value" for each in profiles), "unit"):
        table.add_column(heading)
    for name, values, unit, _ in number_rows(profiles):
        table.add_row(name, *values, unit)
    Console().print(table)
