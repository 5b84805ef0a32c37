"""What the checks of every call cost: this tree against an earlier one, on every network of bench_models.py.

usage: python benchmarks/bench_checks.py --before FOLDER [WORDS …] [--rounds 5]

FOLDER is a checkout of the commit before the checks (`git worktree add FOLDER b9ffed5`). Each round measures
`profile` of 50 α, one thread, with each tree in turn, in a process of its own: the least processor time of up to five
measurements after a first one of 6 α, as other processes only ever add to it. Ratios of the same round. With words,
only the networks whose name has one of them; other results are kept. Written to benchmarks/results/checks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HERE = Path(__file__).parent.parent
NO_FORWARD_MODE = ("lstm", "torch's own attention")  # their derivative was refused, or took minutes, before
LONG = 10.0  # seconds after which a measurement is not repeated


def measured(name: str, derivative: bool) -> dict[str, Any]:
    """Processor seconds of one profile of 50 α by the tree that this process imports."""
    import torch
    from bench_models import contest

    import lerpscape as ls

    torch.set_num_threads(1)
    torch.manual_seed(0)
    start, end, data, loss, _ = contest(name)
    options: dict[str, Any] = {"loss": loss, "derivative": derivative, "progress": False}
    if "batch norm" in name:
        options["batch_norm"] = ls.InterpolateStatistics()
    line = ls.Line(start, end)
    ls.profile(start, line, data, alphas=6, **options)
    seconds: list[float] = []
    while len(seconds) < 5 and sum(seconds) < LONG:
        begun = time.process_time()
        profile = ls.profile(start, line, data, alphas=50, **options)
        seconds.append(time.process_time() - begun)
    return {"seconds": min(seconds), "plan": profile.how["plan"]}


def by_tree(tree: Path, name: str, derivative: bool) -> dict[str, Any]:
    """`measured` in a process of its own, which imports the package and the networks from `tree`."""
    environment = dict(os.environ, PYTHONPATH=f"{tree}:{tree / 'benchmarks'}", OMP_NUM_THREADS="1")
    command = [sys.executable, __file__, "--measure", name, *(["--derivative"] if derivative else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compared(before: Path, name: str, derivative: bool, rounds: int) -> dict[str, Any]:
    """Medians of both trees, and of the ratios of the rounds, with their range."""
    pairs = [(by_tree(before, name, derivative), by_tree(HERE, name, derivative)) for _ in range(rounds)]
    ratios = sorted(new["seconds"] / old["seconds"] for old, new in pairs)
    return {
        "seconds before": round(statistics.median(old["seconds"] for old, _ in pairs), 3),
        "seconds": round(statistics.median(new["seconds"] for _, new in pairs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "rounds": rounds,
        "plan": pairs[0][1]["plan"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--derivative", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure, given.derivative)))
        return
    if given.before is None:
        parser.error("--before FOLDER, a checkout of the tree to compare with")

    from bench_models import NETWORKS, OTHERS
    from machine import machine

    file = RESULTS / "checks.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results["what"] = f"{machine()}; profile of 50 α, one thread, processor time, this tree / the one before the checks"
    for name in [*NETWORKS, *OTHERS]:
        if given.words and not any(word in name for word in given.words):
            continue
        for derivative in (False,) if name in NO_FORWARD_MODE else (False, True):
            key = name + (", derivative" if derivative else "")
            results[key] = compared(given.before, name, derivative, given.rounds)
            print(f"{key}: {results[key]}", flush=True)
            file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
