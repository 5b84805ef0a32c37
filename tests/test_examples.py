"""Every script in examples/ runs as a user would run it, and writes the files that it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lerpscape as ls

EXAMPLES = Path(__file__).parent.parent / "examples"
STUDIES = ("paths", "starts", "onset", "pairwise", "layerwise", "plane", "trajectory", "connect")
READINGS = ("layers", "examples", "policies", "features", "plateaus", "scale", "curvature")
# What each is given, and what it writes. {folder}: an empty folder.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "compare_checkpoints.py": ("{folder}", ("init.pt", "final.pt", "line.png", "report.html")),
    "figure1.py": ("{folder}/figure1.png --small", ("figure1.png",)),
    "fine_tuned_pair.py": ("{folder}/pair.png", ("pair.png",)),
    "gallery.py": ("{folder} --small", tuple(f"gallery-{name}.png" for name in STUDIES)),
    "gauss_digits.py": ("--small", ()),
    "is_it_monotonic.py": ("", ()),
    "many_readings.py": ("", ()),
    "own_figure.py": ("{folder} {folder}/own.png", ("own.png",)),
    "readings_gallery.py": ("{folder} --small", tuple(f"{name}.png" for name in READINGS)),
    "theory.py": ("{folder} --small", ()),
}


def test_every_example_is_run() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    arguments, written = RUNS[name]
    if name == "own_figure.py":
        profiles_of_a_demo(tmp_path)
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments.format(folder=tmp_path).split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / file).stat().st_size > 0 for file in written)
    assert done.stdout or written, "an example prints or draws"


def profiles_of_a_demo(folder: Path) -> None:
    """Files as `lerpscape demo` names them."""
    torch.manual_seed(0)
    start, end = nn.Linear(3, 2), nn.Linear(3, 2)
    data = [(torch.randn(8, 3), torch.randint(0, 2, (8,)))]
    profile = ls.profile(start, ls.Line(start, end), data, alphas=5)
    for network in ("plain", "pushed"):
        for part in ("train", "held-out"):
            profile.save(folder / f"{network}-{part}.json")
