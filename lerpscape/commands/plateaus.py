"""`lerpscape plateaus` and `lerpscape scale`: why nothing happens for so long, from the command line."""

from __future__ import annotations

from lerpscape.commands.arguments import End, Name, Start, alphas_of, called
from lerpscape.commands.measured import PRINTED, HowMeasured, Measured, WhereTo

HUNDRED = Measured(alphas="101")
USUAL = Measured(alphas="25")


def plateaus_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    eps: float = 0.05,
    degree: int | None = None,
    last_layer: str | None = None,
    measured: HowMeasured = HUNDRED,
    output: WhereTo = PRINTED,
) -> None:
    """Where plateaus end, predicted by the last layer's biases and observed, and what biases do to them.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, class numbers).
        eps: Share of the drop within which a curve counts as flat.
        degree: Number of layers with weights; by default found by tracing.
        last_layer: The module with a bias for each class; by default the last such one.
        measured: How.
        output: Where to; --out keeps the plateau ends of the examples.
    """
    from lerpscape.bias_paths import bias_study
    from lerpscape.paths import Line
    from lerpscape.plateaus import plateau_ends
    from lerpscape.plots_plateaus import plateaus_figure

    output.check()
    built, batches, line = called(model), called(data), Line(start, end)
    choices = measured.choices(batches)
    placed = {name: choices[name] for name in ("batch_norm", "device", "dtype", "progress")}
    grid = alphas_of(measured.alphas)
    found = plateau_ends(built, line, batches, alphas=grid, degree=degree, last_layer=last_layer, **placed)
    biases = bias_study(built, line, batches, eps=eps, **choices) if degree is None else None
    lines = [
        f"class {row['class']:.0f}: n = {row['examples']:.0f}, bias {row['bias']:+.3g}, signal over the best other "
        f"{row['signal_margin']:+.3g}, plateau to {row['predicted']:.3g} predicted, {row['observed']:.3g} observed"
        for row in found.by_class()
    ]
    lines += [found.verdict()]
    shown = {"verdict": found.verdict()} | found.to_dict()
    if biases:
        shown |= {"biases": biases.to_dict()}
        lines += [
            f"{row['variant']}: error plateau {row['error_plateau']:.3g}, loss plateau {row['loss_plateau']:.3g}"
            for row in biases.table()
        ]
        lines += [biases.verdict()]
    output.write(shown, found.save, lambda: plateaus_figure(found, biases), lines)


def scale_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    seed: int = 0,
    measured: HowMeasured = USUAL,
    output: WhereTo = PRINTED,
) -> None:
    """The lines to one end from its own start, from noise and from zero: does the end outvote its start?

    Args:
        start: The end's own start.
        end: The trained network, θ_T.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        seed: Of the noise.
        measured: How; --alphas counts points on (0, 1].
        output: Where to.
    """
    from lerpscape.plots_plateaus import scaling_figure
    from lerpscape.scaling import scale_invariance

    output.check()
    built, batches = called(model), called(data)
    found = scale_invariance(built, start, end, batches, seed=seed, **measured.choices(batches))
    lines = ["start: error (%) and agreement with the end (%) at the first, middle and last α"]
    for each in found:
        at = (0, len(found.alphas) // 2, -1)
        cells = "; ".join(f"{100 * each.error[i]:.4g}, {100 * each.agreement[i]:.4g}" for i in at)
        lines.append(f"{each.name}: {cells}")
    lines.append(found.verdict())
    output.write({"verdict": found.verdict()} | found.to_dict(), found.save, lambda: scaling_figure(found), lines)
