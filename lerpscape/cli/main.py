"""The `lerpscape` command: its words, their --help, and what an error looks like.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import TypeAlias

import tyro

from lerpscape import __version__
from lerpscape.base.errors import ConfigError, LerpscapeError, explain
from lerpscape.base.names import unknown_name
from lerpscape.cli.data import data_command
from lerpscape.cli.decisions import gate_command, write_command
from lerpscape.cli.demo import demo_command
from lerpscape.cli.doctor import doctor_command
from lerpscape.cli.geometry import condition_command, curvature_command, similarity_command
from lerpscape.cli.laboratory import export_command, sweep_command, table_command
from lerpscape.cli.many_lines import (
    connect_command,
    landscape_command,
    layerwise_command,
    onset_command,
    pairwise_command,
    plane_command,
    starts_command,
    trajectory_command,
)
from lerpscape.cli.measurements import certify_command, gauss_command, profile_command
from lerpscape.cli.one_line import (
    attribute_command,
    batch_norm_command,
    examples_command,
    plateaus_command,
    scale_command,
    verdict_command,
)
from lerpscape.cli.reports import report_command

Command: TypeAlias = Callable[..., None]

STUDIES: dict[str, Command] = {
    "starts": starts_command,
    "onset": onset_command,
    "pairwise": pairwise_command,
    "layerwise": layerwise_command,
    "plane": plane_command,
    "landscape": landscape_command,
    "trajectory": trajectory_command,
    "connect": connect_command,
    "verdict": verdict_command,
    "examples": examples_command,
    "attribute": attribute_command,
    "batch-norm": batch_norm_command,
    "plateaus": plateaus_command,
    "scale": scale_command,
    "curvature": curvature_command,
    "similarity": similarity_command,
    "condition": condition_command,
}


def study_command() -> None:
    """Answer one further question about one path or several.

    `lerpscape study` lists the questions.
    """


COMMANDS: dict[str, Command] = {
    "demo": demo_command,
    "profile": profile_command,
    "certify": certify_command,
    "gauss": gauss_command,
    "gate": gate_command,
    "write": write_command,
    "study": study_command,
    "report": report_command,
    "sweep": sweep_command,
    "table": table_command,
    "export": export_command,
    "data": data_command,
    "doctor": doctor_command,
}


# Above and below the list of words in --help.
DESCRIPTIONS = {
    "lerpscape": "What does the loss do on the straight line between two checkpoints?",
    "lerpscape study": "Each study answers one question about one path or several.",
}
EXAMPLES = {
    "lerpscape": """
  lerpscape demo
  lerpscape profile init.pt final.pt --model nets:build --data loaders:train --report report.html
  lerpscape study onset snapshots/ --model nets:build --data loaders:train --tolerance 1e-3
""",
    "lerpscape study": """
  lerpscape study starts init.pt final.pt --model nets:build --data loaders:train --plot starts.svg
  lerpscape study verdict init.pt final.pt --model nets:build --data loaders:train --tolerance 0.01
""",
}

BATCH_NORM_ADVICE = " On the command line: --batch-norm recalibrate, pooled, interpolate, batch or end."


def main(args: list[str] | None = None) -> None:
    """Run the command line; a refused request prints `error: …` and exits with 2."""
    try:
        run(sys.argv[1:] if args is None else args)
    except (LerpscapeError, ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):  # the reader (`| head`) has gone; Python must not notice at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if not (isinstance(error, LerpscapeError) or str(error).startswith("expected:")):
            raise  # not a refusal of ours: where it happened matters
        advice = BATCH_NORM_ADVICE if "expected: batch_norm=" in str(error) else ""
        print(f"error: {error}{advice}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command continues a sweep, and a profile with --out", file=sys.stderr)
        sys.exit(130)


def run(args: list[str]) -> None:
    """Find the command of these words, parse the rest and call it; errors are raised."""
    if args == ["--version"]:
        print(__version__)
        return
    program, commands = "lerpscape", COMMANDS
    if args[:1] == ["study"]:
        program, commands, args = "lerpscape study", STUDIES, args[1:]
    if not args or args[0] in ("-h", "--help"):
        _print_words(program, commands)
        return
    word, *rest = args
    if word not in commands:
        raise ConfigError(_unknown_word(word, program, commands))
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    try:
        tyro.cli(commands[word], prog=f"{program} {word}", args=rest, config=config)
    except SystemExit as stop:
        if not stop.code and {"-h", "--help"} & set(rest):
            print(f"\nexamples:\n{textwrap.indent(examples(commands[word]), '  ')}")
        raise


def examples(command: Command) -> str:
    """The example lines of a command's docstring."""
    return textwrap.dedent(str(inspect.getdoc(command)).partition("\nExamples:\n")[2])


def _print_words(program: str, commands: Mapping[str, Command]) -> None:
    """The --help of the program or of its studies: every word with the first line of its docstring."""
    print(f"usage: {program} WORD …\n\n{DESCRIPTIONS[program]}\n")
    width = min(shutil.get_terminal_size().columns, 120)
    for word, command in commands.items():
        summary = str(inspect.getdoc(command)).partition("\n")[0]
        print(textwrap.fill(f"  {word:<11} {summary}", width, subsequent_indent=" " * 14))
    print(
        f"\n`{program} WORD --help` shows the options and examples of a word.\n\nexamples:{EXAMPLES[program]}", end=""
    )


def _unknown_word(word: str, program: str, commands: Mapping[str, Command]) -> str:
    if word in STUDIES or word in COMMANDS:
        place = f"lerpscape {'study ' if word in STUDIES else ''}{word}"
        return explain(expected=f"{place}.", got=f"{program} {word}.", hint=place)
    return unknown_name(f"{program} WORD, with", word, commands)
