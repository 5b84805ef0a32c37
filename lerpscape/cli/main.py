"""The `lerpscape` command: which words it has, and what a refusal looks like.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tyro.extras import SubcommandApp

from lerpscape import __version__
from lerpscape.base.errors import LerpscapeError
from lerpscape.cli.attribution import attribute_command, examples_command, policies_command
from lerpscape.cli.certify import certify_command
from lerpscape.cli.connect import connect_command
from lerpscape.cli.data import data_command
from lerpscape.cli.demo import demo_command
from lerpscape.cli.features import curvature_command, similarity_command
from lerpscape.cli.gauss import condition_command, gauss_command
from lerpscape.cli.plateaus import plateaus_command, scale_command
from lerpscape.cli.profile import profile_command, report_command
from lerpscape.cli.studies import (
    layerwise_command,
    onset_command,
    pairwise_command,
    plane_command,
    starts_command,
    trajectory_command,
)
from lerpscape.cli.sweep import export_command, sweep_command, table_command
from lerpscape.cli.verdict import verdict_command

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
  lerpscape profile a.pt b.pt --model nets:build --data loaders:train --alphas adaptive --workers 2
  lerpscape profile a.pt b.pt --model nets:build --data loaders:train --only "layer3.*" --rest end
""",
    "starts": """
  lerpscape starts init.pt final.pt --model nets:build --data loaders:train --fresh 5 --noise 5 --plot starts.svg
""",
    "onset": """
  lerpscape onset snapshots/ --model nets:build --data loaders:train --tolerance 1e-3 --plot onset.svg
""",
    "pairwise": """
  lerpscape pairwise init0.pt init1.pt opt0.pt opt1.pt --model nets:build --data loaders:train \\
      --group "init*=init" "opt*=opt" --plot pairs.svg
""",
    "layerwise": """
  lerpscape layerwise init.pt final.pt --model nets:build --data loaders:train --rest end --plot layers.svg
""",
    "plane": """
  lerpscape plane init.pt other.pt final.pt --model nets:build --data loaders:train --trajectory snapshots/ \\
      --plot plane.svg
""",
    "trajectory": """
  lerpscape trajectory snapshots/ --model nets:build --data loaders:train --plot road.svg
""",
    "connect": """
  lerpscape connect a.pt b.pt --model nets:build --data loaders:train --out control.safetensors --plot curve.svg
  lerpscape profile a.pt b.pt --control control.safetensors --model nets:build --data loaders:train
""",
    "gauss": """
  lerpscape gauss init.pt final.pt --model nets:build --data loaders:train --plot turning.svg
  lerpscape gauss a.pt b.pt --model nets:build --data loaders:train --method integral --alphas 50 --tolerance None
""",
    "condition": """
  lerpscape condition init.pt final.pt --model nets:build --data loaders:train
""",
    "verdict": """
  lerpscape verdict init.pt final.pt --model nets:build --data loaders:train --tolerance 0.01
  lerpscape verdict init.pt final.pt --model nets:build --data loaders:train --tolerance 0.05 --confidence 0.999 \\
      --plot looks.svg
""",
    "certify": """
  lerpscape certify init.pt final.pt --model nets:build --data loaders:train
  lerpscape certify init.pt final.pt --model nets:build --data loaders:train --tolerance 1e-3 --plot proof.svg
""",
    "attribute": """
  lerpscape attribute init.pt final.pt --model nets:build --data loaders:train --plot layers.svg
  lerpscape attribute init.pt final.pt --model nets:build --data loaders:train --between 0:1 --by tensor --json
""",
    "examples": """
  lerpscape examples init.pt final.pt --model nets:build --data loaders:train --plot classes.svg
""",
    "policies": """
  lerpscape policies init.pt final.pt --model nets:build --data loaders:train --plot policies.svg
""",
    "plateaus": """
  lerpscape plateaus init.pt final.pt --model nets:build --data loaders:train --plot plateaus.svg
""",
    "scale": """
  lerpscape scale init.pt final.pt --model nets:build --data loaders:train --plot scale.svg
""",
    "curvature": """
  lerpscape curvature init.pt final.pt --model nets:build --data loaders:train --alphas 11 --plot curvature.svg
""",
    "similarity": """
  lerpscape similarity init.pt final.pt --model nets:build --data loaders:train --plot features.svg
  lerpscape similarity a.pt b.pt --model nets:build --data loaders:train --layers 'layer*.conv2' fc --json
""",
    "report": """
  lerpscape report lerpscape-demo/plain-train.json lerpscape-demo/plain-held-out.json --out both.html
""",
    "sweep": """
  lerpscape sweep list lucas2021/fc-small
  lerpscape sweep run lucas2021/fc-small --store results --workers 2
  lerpscape sweep run lucas2021/fc --store /shared/results --workers ray://head:10001
  lerpscape sweep status lucas2021/fc-small --store results
""",
    "table": """
  lerpscape table lucas2021/fc-small --store results
  lerpscape table lucas2021/fc-small --store results --format latex --out table.tex --plot table.svg
""",
    "export": """
  lerpscape export --store results --out records.parquet
""",
    "data": """
  lerpscape data list --data-dir ~/data
  lerpscape data check mnist fashion_mnist
  lerpscape data get cifar10 --data-dir ~/data
""",
    "demo": """
  lerpscape demo --folder first-run
""",
}
COMMANDS: dict[str, Callable[..., None]] = {
    "profile": profile_command,
    "gauss": gauss_command,
    "condition": condition_command,
    "verdict": verdict_command,
    "certify": certify_command,
    "attribute": attribute_command,
    "examples": examples_command,
    "policies": policies_command,
    "plateaus": plateaus_command,
    "scale": scale_command,
    "curvature": curvature_command,
    "similarity": similarity_command,
    "starts": starts_command,
    "onset": onset_command,
    "pairwise": pairwise_command,
    "layerwise": layerwise_command,
    "plane": plane_command,
    "trajectory": trajectory_command,
    "connect": connect_command,
    "report": report_command,
    "sweep": sweep_command,
    "table": table_command,
    "export": export_command,
    "data": data_command,
    "demo": demo_command,
}


def main(args: list[str] | None = None) -> None:
    """Run the command line; a refused request prints `error: …` and exits with 2."""
    try:
        _run(sys.argv[1:] if args is None else args)
    except (LerpscapeError, ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):  # the reader (`| head`) has gone; Python must not notice at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if not (isinstance(error, LerpscapeError) or str(error).startswith("expected:")):
            raise  # not a refusal of ours: where it happened matters
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was (profile: with --out)", file=sys.stderr)
        sys.exit(130)


def _run(args: list[str]) -> None:
    if args == ["--version"]:
        print(__version__)
        return
    app = SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    args = args or ["--help"]
    try:
        app.cli(prog="lerpscape", description=DESCRIPTION, args=args)
    except SystemExit as stop:
        if not stop.code and {"-h", "--help"} & set(args):
            word = "" if args[0].startswith("-") else args[0]
            print(f"\nexamples:{EXAMPLES.get(word, '')}", end="")
        raise
