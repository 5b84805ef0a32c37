"""`lerpscape demo`: the one command that opens the laboratory so far."""

from __future__ import annotations

from pathlib import Path

from lerpscape.cli.arguments import Switch
from lerpscape.cli.profile import print_table


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
        print_table(found)
        for each in found:
            print(f"  {each.label}: {each.verdict(TOLERANCE)}")
        print(f"  train, every α: {demo.certificates[name].summary}")
        print(f"  measure again: {demo.measure_again(name)}")
    print(f"\nreport: {demo.report.resolve()}")
