"""`lerpscape curvature` and `lerpscape similarity`: how the loss bends, and what layers compute, along a line."""

from __future__ import annotations

from lerpscape.cli.options import PRINTED, AlongAsked, HowMeasured, Measured, WhereTo

ELEVEN = Measured(alphas="11")


def curvature_command(
    along: AlongAsked,
    iterations: int = 30,
    probes: int = 30,
    seed: int = 0,
    measured: HowMeasured = ELEVEN,
    output: WhereTo = PRINTED,
) -> None:
    """Largest and smallest Hessian eigenvalue, trace, and the curvature along the line.

    Needs hessian-eigenthings: pip install "lerpscape[curvature]".

    Args:
        along: Which path.
        iterations: Lanczos steps for the eigenvalues.
        probes: Products with the Hessian for the trace.
        seed: Of the random vectors.
        measured: How.
        output: Where to.
    """
    from lerpscape.geometry.hessian import curvature

    output.check()
    model, path, data = along.opened()
    choices = measured.choices(data)
    found = curvature(model, path, data, iterations=iterations, probes=probes, seed=seed, **choices)
    output.write(found, {"verdict": found.summary} | found.to_dict(), [found.summary])


def similarity_command(
    along: AlongAsked,
    layers: tuple[str, ...] = (),
    measured: HowMeasured = ELEVEN,
    output: WhereTo = PRINTED,
) -> None:
    """Linear CKA between the layers of two networks, and how linear features are on the line between them.

    Args:
        along: Which path.
        layers: Patterns of module names; by default every module without children.
        measured: How; the loss has no say here.
        output: Where to; --out keeps the CKA.
    """
    from lerpscape.geometry.similarity import feature_linearity, feature_similarity

    output.check()
    model, path, data = along.opened()
    choices = measured.choices(data) | {"layers": layers or None}
    del choices["loss"]
    linearity = feature_linearity(model, path, data, **choices)
    del choices["alphas"], choices["progress"]
    similarity = feature_similarity(model, path, data, **choices)
    lines = ["layer: CKA between the ends; least cosine to the mixture of both ends' features"]
    for index, name in enumerate(linearity.layers):
        lines.append(f"{name}: {similarity.same_layer[name]:.4g}; {min(linearity.cosine[:, index]):+.4g}")
    shown = {"cka": similarity.to_dict(), "linearity": linearity.to_dict()}
    output.write(similarity, shown, lines, linearity=linearity)
