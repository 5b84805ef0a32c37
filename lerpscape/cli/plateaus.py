"""`lerpscape plateaus` and `lerpscape scale`: why nothing happens for so long, from the command line."""

from __future__ import annotations

from lerpscape.cli.arguments import alphas_of
from lerpscape.cli.options import PRINTED, USUAL, EndsAsked, HowMeasured, Measured, WhereTo

HUNDRED = Measured(alphas="101")


def plateaus_command(
    ends: EndsAsked,
    eps: float = 0.05,
    degree: int | None = None,
    last_layer: str | None = None,
    measured: HowMeasured = HUNDRED,
    output: WhereTo = PRINTED,
) -> None:
    """Where plateaus end, predicted by the last layer's biases and observed, and what biases do to them.

    Args:
        ends: Which ends.
        eps: Share of the drop within which a curve counts as flat.
        degree: Number of layers with weights; by default found by tracing.
        last_layer: The module with a bias for each class, a number among targets; by default the last such one.
        measured: How.
        output: Where to; --out keeps the plateau ends of the examples.
    """
    from lerpscape.paths.line import Line
    from lerpscape.studies.biases import bias_study
    from lerpscape.studies.plateaus import plateau_ends

    output.check()
    (model, data), line = ends.called(), Line(ends.start, ends.end)
    asked = {"alphas": alphas_of(measured.alphas), "degree": degree, "last_layer": last_layer}
    found = plateau_ends(model, line, data, **asked, **measured.placed.choices(data))
    biases = bias_study(model, line, data, eps=eps, **measured.choices(data)) if degree is None else None
    lines = [
        f"class {row['class']:.0f}: n = {row['examples']:.0f}, bias {row['bias']:+.3g}, signal over the best other "
        f"{row['signal_margin']:+.3g}, plateau to {row['predicted']:.3g} predicted, {row['observed']:.3g} observed"
        for row in found.by_class()
    ]
    lines.append(found.summary)
    shown = {"verdict": found.summary} | found.to_dict()
    if biases:
        shown |= {"biases": {"eps": eps} | {each.name: each.profile.to_dict() for each in biases}}
        lines += [
            f"{row['variant']}: error plateau {row['error_plateau']:.3g}, loss plateau {row['loss_plateau']:.3g}"
            for row in biases.table()
        ]
        lines.append(biases.summary)
    output.write(found, shown, lines, biases=biases)


def scale_command(
    ends: EndsAsked,
    seed: int = 0,
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """The lines to one end from its own start, from noise and from zero: does the end outvote its start?

    Args:
        ends: The trained network and its own start.
        seed: Of the noise.
        measured: How; --alphas counts points on (0, 1].
        output: Where to.
    """
    from lerpscape.studies.scaling import scale_invariance

    output.check()
    model, data = ends.called()
    found = scale_invariance(model, ends.start, ends.end, data, seed=seed, **measured.choices(data))
    lines = ["start: error (%) and agreement with the end (%) at the first, middle and last α"]
    for each in found:
        at = (0, len(found.alphas) // 2, -1)
        cells = "; ".join(f"{100 * each.error[i]:.4g}, {100 * each.agreement[i]:.4g}" for i in at)
        lines.append(f"{each.name}: {cells}")
    output.write(found, {"verdict": found.summary} | found.to_dict(), [*lines, found.summary])
