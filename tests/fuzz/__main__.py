"""`python -m fuzz --seconds 600`: cases from a fresh seed; `--case N`: one again, and the smallest."""

from __future__ import annotations

import argparse
import secrets
import sys
import time

import torch

from fuzz.run import Counts, drawn, judged, report, smallest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="the first case; cases are counted up from it")
    parser.add_argument("--case", type=int, help="run this one case")
    parser.add_argument("--small", action="store_true", help="look for the smallest case of each failure")
    parser.add_argument("--debug", action="store_true", help="let errors of the judge through")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.case is not None:
        outcome = judged(drawn(given.case))
        print(outcome.case, outcome.refusal or outcome.withheld or "", sep="\n")
        if outcome.failures:
            print(report(outcome))
            print("smallest:", small := smallest(outcome.case), *judged(small).failures, sep="\n    ")
        return bool(outcome.failures)
    seed = secrets.randbelow(2**30) if given.seed is None else given.seed
    print(f"cases from {seed}")
    counts, until = Counts(), time.monotonic() + given.seconds
    while time.monotonic() < until:
        outcome = judged(drawn(seed + counts.cases))
        counts.add(outcome)
        if outcome.failures:
            print(report(outcome), flush=True)
            if given.small:
                print("    smallest:", smallest(outcome.case), flush=True)
    print(f"\n{counts.cases} cases from {seed}, {len(counts.failed)} failed: {counts.failed}\n\n{counts.table()}")
    return bool(counts.failed)


sys.exit(main())
