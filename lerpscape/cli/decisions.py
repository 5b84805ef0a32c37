"""`lerpscape gate` and `lerpscape write`: what to do with a line that was found good."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from lerpscape.cli.arguments import End, Flag, Json, Loss, Progress, Start, alphas_of, print_written
from lerpscape.cli.options import HERE, EvaluationOptions, PathArguments

# Exit codes of `lerpscape gate`; 2 is also that of a refused request.
EXIT = {"passes": 0, "fails": 1, "undecided": 2}


def gate_command(
    network: Annotated[PathArguments, HERE],
    max_rise: float,
    loss: Loss = None,
    alphas: Annotated[str, tyro.conf.arg(metavar="N|FIRST:LAST:N")] = "25",
    level: float = 0.95,
    whole: Flag = False,
    json: Json = False,
    measurement: EvaluationOptions = EvaluationOptions(),
) -> None:
    """Pass or fail a line by its largest rise, for scripts and continuous integration.

    Prints one line. Exit code 0: the loss rises by at most --max-rise. 1: by more. 2: undecided, or a wrong request.

    Args:
        network: The network, its data and the path.
        max_rise: Largest rise that passes, in the unit of the loss.
        loss: Loss of one example.
        alphas: Number of points on [0, 1], or the first and last α and the number of points.
        level: Probability that the verdict is right, over the draw of the examples.
        whole: DATA are all examples that matter, not a sample: only rounding leaves the verdict open.
        json: Print the verdict as JSON.
        measurement: How the network is evaluated.

    Examples:
        lerpscape gate released/ candidate/ --model nets:build --data loaders:test --max-rise 0.01
        lerpscape gate a.pt b.pt --model nets:build --data loaders:test --max-rise 0.01 --whole --json
    """
    from lerpscape.profiles.gates import gate
    from lerpscape.profiles.profile import profile

    model, path, data = network.load_path()
    keywords = network.keywords(measurement, data) | network.loss(loss) | {"alphas": alphas_of(alphas)}
    found = gate(profile(model, path, data, **keywords), max_rise, level=level, whole=whole)
    if json:
        _print_json(asdict(found))
    else:
        print(f"{found.verdict}: {found.reason}")
    if EXIT[found.verdict]:
        sys.exit(EXIT[found.verdict])


def write_command(
    start: Start,
    end: End,
    /,
    alpha: float,
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")],
    json: Json = False,
    progress: Progress = None,
) -> None:
    """Write one point of the line as a checkpoint, stored as END is.

    Shards, index, dtypes and names are those of END; its configuration and tokenizer files are copied. Tensors are
    written one by one.

    Args:
        start: Checkpoint at α = 0.
        end: Checkpoint at α = 1.
        alpha: The α to write; beyond 0 and 1, the line is extrapolated.
        out: A new folder, or a new file; a file that ends in .safetensors holds all tensors, whatever END is.
        json: Print what was written as JSON.
        progress: Progress bar.

    Examples:
        lerpscape write base/ tuned/ --alpha 0.4 --out patched/
        lerpscape write init.pt final.pt --alpha 0.9 --out nearly.safetensors
    """
    from lerpscape.paths.writing import write_point

    written = write_point(start, end, alpha, out, progress=progress)
    if json:
        _print_json({"start": str(start), "end": str(end), "alpha": alpha, "out": str(written)})
    else:
        print_written(written)


def _print_json(shown: dict[str, object]) -> None:
    from lerpscape.base.saving import to_json

    print(json.dumps(to_json(shown), allow_nan=False))
