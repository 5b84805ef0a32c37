"""`lerpscape connect`: a curve of low loss between two checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lerpscape.cli.arguments import Device, Json, OptionalFile, Switch, loss_of, print_written, require_writable
from lerpscape.cli.options import EndsAsked
from lerpscape.cli.profile import print_table


def connect_command(
    ends: EndsAsked,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    loss: str = "cross_entropy",
    epochs: int = 20,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    seed: int = 0,
    batch_norm: Literal["batch", "interpolate", "end"] | None = None,
    device: Device = None,
    progress: Switch = None,
    json_: Json = False,
    plot: OptionalFile = None,
) -> None:
    """Train the control point of a Bezier curve of low loss between two checkpoints.

    Args:
        ends: Which ends.
        out: File for the control point (.safetensors); `lerpscape profile --control` measures the curve.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        epochs: Passes over the data.
        learning_rate: Of SGD, at the beginning.
        momentum: Of SGD.
        seed: Of the order of batches and of each batch's α.
        batch_norm: What batch norm normalises with in training.
        device: cpu, cuda, …
        progress: Progress bar: by default on a terminal, after two seconds.
        json_: Print the profiles of curve and line as JSON.
        plot: File for the picture of both (svg, pdf, png).
    """
    from safetensors.torch import save_file

    from lerpscape.networks.batch_norm import named_policy
    from lerpscape.paths.line import Line
    from lerpscape.paths.matching import first_tied_names
    from lerpscape.profiles.profile import profile
    from lerpscape.studies.connections import connect

    require_writable(out, plot)
    (model, data), chosen = ends.called(), loss_of(loss)
    policy = named_policy(batch_norm, data)
    curve = connect(
        model,
        ends.start,
        ends.end,
        data,
        chosen,
        epochs=epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        seed=seed,
        batch_norm=policy,
        device=device,
        progress=progress,
    )
    first = first_tied_names(curve.control)
    save_file({name: tensor for name, tensor in curve.control.tensors.items() if first[name] == name}, out)
    profiles = [
        profile(model, path, data, loss=chosen, batch_norm=policy, device=device, label=label, progress=progress)
        for label, path in (("curve", curve), ("line", Line(curve.start, curve.end)))
    ]
    if plot:
        from lerpscape.plots.style import save_figure

        save_figure(profiles[0].figure(beside=profiles[1:]), str(plot))
    if json_:
        print(json.dumps([each.to_dict() for each in profiles], allow_nan=False))
        return
    print_table(profiles)
    print_written(out, plot)
