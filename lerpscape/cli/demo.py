"""`lerpscape demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from lerpscape.cli.arguments import Progress
from lerpscape.cli.reports import print_profiles


def demo_command(
    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("lerpscape-demo"), progress: Progress = None
) -> None:
    """Train networks on digits, measure two lines and write a report.

    Takes about half a minute. Needs scikit-learn: pip install "lerpscape[demo]".

    Args:
        folder: Where checkpoints, profiles and the report are written.
        progress: Progress bars.

    Examples:
        lerpscape demo
        lerpscape demo --folder first-run
    """
    from lerpscape.lab.demo import TOLERANCE, run_demo

    print("Training 15 small networks on scikit-learn's digits, from 3 initialisations …", flush=True)
    demo = run_demo(folder, progress)
    for name, profiles in demo.profiles.items():
        print(f"\n{name}:")
        print_profiles(profiles)
        for profile in profiles:
            print(f"  {profile.label}: {profile.verdict(TOLERANCE)}")
        print(f"  train, every α: {demo.certificates[name].summary}")
        print(f"  measure again: {demo.measure_again(name)}")
    print(f"\nreport: {demo.report.resolve()}")
