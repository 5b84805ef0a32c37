"""`lerpscape curvature` and `lerpscape similarity`: how the loss bends, and what layers compute, along a line."""

from __future__ import annotations

import json

from lerpscape.commands.arguments import (
    BatchNorm,
    Device,
    Dtype,
    End,
    Json,
    Name,
    OptionalFile,
    Start,
    Switch,
    alphas_of,
    called,
    dtype_of,
    named,
    policy_of,
    print_written,
    require_writable,
)


def curvature_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    loss: str = "cross_entropy",
    alphas: str = "11",
    iterations: int = 30,
    probes: int = 30,
    seed: int = 0,
    batch_norm: BatchNorm = None,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    out: OptionalFile = None,
    plot: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Largest and smallest Hessian eigenvalue, trace, and the curvature along the line.

    Needs hessian-eigenthings: pip install "lerpscape[curvature]".

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        loss: cross_entropy, squared_error, mean_squared_error, binary_cross_entropy, or package.module:name.
        alphas: Number of points on [0, 1], or first:last:count.
        iterations: Lanczos steps for the eigenvalues.
        probes: Products with the Hessian for the trace.
        seed: Of the random vectors.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        out: File for the result (JSON).
        plot: File for the picture (svg, pdf, png).
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.hessians import curvature
    from lerpscape.paths import Line

    require_writable(out, plot)
    measured = called(data)
    found = curvature(
        called(model),
        Line(start, end),
        measured,
        loss=named(loss) if ":" in loss else loss,
        alphas=alphas_of(alphas),
        iterations=iterations,
        probes=probes,
        seed=seed,
        batch_norm=policy_of(batch_norm, measured),
        device=device,
        dtype=dtype_of(dtype),
        progress=progress,
    )
    if out:
        found.save(out)
    if plot:
        from lerpscape.plots import save_figure
        from lerpscape.plots_features import curvature_figure

        save_figure(curvature_figure(found), str(plot))
    if json_:
        print(json.dumps({"verdict": found.verdict(), **found.to_dict()}, allow_nan=False))
        return
    print(found.verdict())
    print_written(out, plot)


def similarity_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    layers: tuple[str, ...] = (),
    alphas: str = "11",
    batch_norm: BatchNorm = None,
    device: Device = None,
    dtype: Dtype = None,
    json_: Json = False,
    plot: OptionalFile = None,
    progress: Switch = None,
) -> None:
    """Linear CKA between the layers of two networks, and how linear features are on the line between them.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        layers: Patterns of module names; by default every module without children.
        alphas: Number of points on [0, 1], or first:last:count.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        device: cpu, cuda, …
        dtype: Floating-point type to compute in; by default that of the checkpoints.
        json_: Print the numbers as JSON.
        plot: File for the picture (svg, pdf, png).
        progress: Progress bar: by default on a terminal, after two seconds.
    """
    from lerpscape.paths import Line
    from lerpscape.similarity import feature_linearity, feature_similarity

    require_writable(plot)
    built, line, measured = called(model), Line(start, end), called(data)
    policy = policy_of(batch_norm, measured)
    placed = {"layers": layers or None, "batch_norm": policy, "device": device, "dtype": dtype_of(dtype)}
    similarity = feature_similarity(built, line, measured, **placed)
    linearity = feature_linearity(built, line, measured, alphas=alphas_of(alphas), progress=progress, **placed)
    if plot:
        from lerpscape.plots import save_figure
        from lerpscape.plots_features import similarity_figure

        save_figure(similarity_figure(similarity, linearity), str(plot))
    if json_:
        print(json.dumps({"cka": similarity.to_dict(), "linearity": linearity.to_dict()}, allow_nan=False))
        return
    print("layer: CKA between the ends; least cosine to the mixture of both ends' features")
    for index, name in enumerate(linearity.layers):
        print(f"{name}: {similarity.same_layer[name]:.4g}; {min(linearity.cosine[:, index]):+.4g}")
    print_written(plot)
