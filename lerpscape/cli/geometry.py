"""The studies of geometry: curvature, similarity, condition."""

from __future__ import annotations

from typing import Annotated

import tyro

from lerpscape.cli.arguments import Alphas, Json, OptionalAlphas, OptionalFile, alphas_of, optional
from lerpscape.cli.options import HERE, DeviceOptions, OutputOptions, PathArguments, ProfileOptions


def curvature_command(
    network: Annotated[PathArguments, HERE],
    iterations: int = 30,
    probes: int = 30,
    seed: int = 0,
    measurement: ProfileOptions = ProfileOptions(alphas="11"),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Measure Hessian eigenvalues, trace and curvature.

    Needs hessian-eigenthings: pip install "lerpscape[curvature]".

    Args:
        network: The network, its data and the path.
        iterations: Lanczos steps for the largest and smallest eigenvalue.
        probes: Products with the Hessian for the trace.
        seed: Seed of the random vectors.
        measurement: How the Hessian is measured.
        output: Where the result goes.

    Examples:
        lerpscape study curvature init.pt final.pt --model nets:build --data loaders:train --alphas 11 --plot bend.svg
    """
    from lerpscape.geometry.hessian import curvature

    output.require_writable()
    model, path, data = network.load_path()
    keywords = network.keywords(measurement, data)
    result = curvature(model, path, data, iterations=iterations, probes=probes, seed=seed, **keywords)
    output.write(result, {"verdict": result.summary} | result.to_dict(), [result.summary])


def similarity_command(
    network: Annotated[PathArguments, HERE],
    layers: Annotated[tuple[str, ...], optional("PATTERN…")] = (),
    alphas: Alphas = "11",
    measurement: DeviceOptions = DeviceOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """Compare the layers of two networks: CKA and linear features.

    Features are linear if a layer's output at α is the mixture of its outputs at both ends.

    Args:
        network: The network, its data and the path.
        layers: Patterns of module names; by default every module without children.
        alphas: Number of points on [0, 1], or the first and last α and the number of points.
        measurement: How the network is evaluated.
        output: Where the result goes; --out has the CKA.

    Examples:
        lerpscape study similarity init.pt final.pt --model nets:build --data loaders:train --plot features.svg
        lerpscape study similarity a.pt b.pt --model nets:build --data loaders:train --layers 'layer*.conv2' fc --json
    """
    from lerpscape.geometry.similarity import feature_linearity, feature_similarity

    output.require_writable()
    model, path, data = network.load_path()
    keywords = network.keywords(measurement, data) | {"layers": layers or None}
    linearity = feature_linearity(model, path, data, alphas=alphas_of(alphas), **keywords)
    similarity = feature_similarity(model, path, data, **keywords)
    lines = ["layer: CKA between the ends; least cosine to the mixture of both ends' features"]
    for index, name in enumerate(linearity.layers):
        lines.append(f"{name}: {similarity.same_layer[name]:.4g}; {min(linearity.cosine[:, index]):+.4g}")
    shown = {"cka": similarity.to_dict(), "linearity": linearity.to_dict()}
    output.write(similarity, shown, lines, linearity=linearity)


def condition_command(
    network: Annotated[PathArguments, HERE],
    loss: Annotated[str, tyro.conf.arg(metavar="{squared_error,mean_squared_error}")] = "squared_error",
    alphas: OptionalAlphas = None,
    precision: float | None = 0.01,
    budget: int = 513,
    measurement: DeviceOptions = DeviceOptions(),
    json_: Json = False,
    out: OptionalFile = None,
) -> None:
    """Test the sufficient condition for a falling squared error.

    Finds the examples whose output turns by less than π/2, and compares it with the squared error of each example.

    Args:
        network: The network, its data and the path.
        loss: Loss of one example, of targets shaped like the outputs.
        alphas: First grid: number of points on [0, 1], or the first and last α and the number of points; by default 33.
        precision: Halve the grid until no length changes by more than this (rad); None keeps the first grid.
        budget: Largest number of α.
        measurement: How the network is evaluated; in float64 by default.
        json_: Print JSON.
        out: Write the result to a JSON file.

    Examples:
        lerpscape study condition init.pt final.pt --model nets:build --data loaders:train --loss mean_squared_error
    """
    from lerpscape.geometry.conditions import sufficient_condition

    output = OutputOptions(json=json_, out=out)
    output.require_writable()
    model, path, data = network.load_path()
    condition = sufficient_condition(
        model,
        path,
        data,
        loss,
        alphas=None if alphas is None else alphas_of(alphas),
        precision=precision,
        budget=budget,
        **network.keywords(measurement, data),
    )
    shown = {"verdict": condition.summary} | condition.to_dict()
    output.write(condition, shown, [condition.table(), condition.summary])
