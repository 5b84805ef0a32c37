"""`lerpscape curvature` and `lerpscape similarity`: how the loss bends, and what layers compute, along a line."""

from __future__ import annotations

from lerpscape.commands.arguments import End, Name, Start, called
from lerpscape.commands.measured import PRINTED, HowMeasured, Measured, WhereTo
from lerpscape.commands.roads import STRAIGHT, OnRoad

ELEVEN = Measured(alphas="11")


def curvature_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    iterations: int = 30,
    probes: int = 30,
    seed: int = 0,
    measured: HowMeasured = ELEVEN,
    output: WhereTo = PRINTED,
) -> None:
    """Largest and smallest Hessian eigenvalue, trace, and the curvature along the line.

    Needs hessian-eigenthings: pip install "lerpscape[curvature]".

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        iterations: Lanczos steps for the eigenvalues.
        probes: Products with the Hessian for the trace.
        seed: Of the random vectors.
        measured: How.
        output: Where to.
    """
    from lerpscape.hessians import curvature
    from lerpscape.plots_features import curvature_figure

    output.check()
    built, batches = called(model), called(data)
    found = curvature(
        built,
        road.path(start, end, built),
        batches,
        iterations=iterations,
        probes=probes,
        seed=seed,
        **measured.choices(batches),
    )
    verdict = found.verdict()
    output.write({"verdict": verdict} | found.to_dict(), found.save, lambda: curvature_figure(found), [verdict])


def similarity_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    road: OnRoad = STRAIGHT,
    layers: tuple[str, ...] = (),
    measured: HowMeasured = ELEVEN,
    output: WhereTo = PRINTED,
) -> None:
    """Linear CKA between the layers of two networks, and how linear features are on the line between them.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        road: Which path.
        layers: Patterns of module names; by default every module without children.
        measured: How; the loss has no say here.
        output: Where to; --out keeps the CKA.
    """
    from lerpscape.plots_features import similarity_figure
    from lerpscape.similarity import feature_linearity, feature_similarity

    output.check()
    built, batches = called(model), called(data)
    path = road.path(start, end, built)
    choices = measured.choices(batches) | {"layers": layers or None}
    placed = {name: choices[name] for name in ("layers", "batch_norm", "device", "dtype")}
    similarity = feature_similarity(built, path, batches, **placed)
    linearity = feature_linearity(
        built, path, batches, alphas=choices["alphas"], progress=choices["progress"], **placed
    )
    lines = ["layer: CKA between the ends; least cosine to the mixture of both ends' features"]
    for index, name in enumerate(linearity.layers):
        lines.append(f"{name}: {similarity.same_layer[name]:.4g}; {min(linearity.cosine[:, index]):+.4g}")
    saved = {"cka": similarity.to_dict(), "linearity": linearity.to_dict()}
    output.write(saved, similarity.save, lambda: similarity_figure(similarity, linearity), lines)
