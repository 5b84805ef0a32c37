"""`lerpscape verdict`: does the loss rise by more than so much? From as few examples as it takes."""

from __future__ import annotations

from lerpscape.commands.arguments import End, Name, Start, called
from lerpscape.commands.measured import PRINTED, HowMeasured, Measured, WhereTo
from lerpscape.commands.roads import STRAIGHT, OnRoad

FIFTY = Measured(alphas="50")


def verdict_command(
    start: Start,
    end: End,
    /,
    model: Name,
    data: Name,
    tolerance: float,
    road: OnRoad = STRAIGHT,
    confidence: float = 0.99,
    bounds: tuple[float, float] | None = None,
    first: int = 1024,
    budget: int | None = None,
    seed: int = 0,
    workers: int = 1,
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Decide whether the loss rises by more than a tolerance along the line, from as few examples as it takes.

    Args:
        start: Checkpoint at α = 0: a .safetensors or .pt file, or a folder of shards.
        end: Checkpoint at α = 1.
        model: Your function without arguments that builds the module, found from the current folder.
        data: Your function that gives the data: unshuffled, unaugmented batches of (inputs, targets), or dicts.
        tolerance: Rise that is forgiven, in the unit of the loss.
        road: Which path.
        confidence: How sure the verdict is to be, over the random order of the examples.
        bounds: Least and most that the loss of one example can be, where there are such: the confidence then holds for
            any number of examples.
        first: Examples at the first look; each further look sees twice as many.
        budget: Most examples to measure; all by default.
        seed: Of the random order.
        workers: Processes that divide the work, each on one core.
        measured: How.
        output: Where to.
    """
    from lerpscape.plots_sequential import sequential_figure
    from lerpscape.sequential import sequential_verdict

    output.check()
    built, batches = called(model), called(data)
    found = sequential_verdict(
        built,
        road.path(start, end, built),
        batches,
        tolerance=tolerance,
        confidence=confidence,
        bounds=bounds,
        first=first,
        budget=budget,
        seed=seed,
        workers=workers,
        **measured.choices(batches),
    )
    shown = {"summary": found.summary} | found.to_dict()
    output.write(shown, found.save, lambda: sequential_figure(found), [found.summary])
