"""`lerpscape verdict`: does the loss rise by more than so much? From as few examples as it takes."""

from __future__ import annotations

from lerpscape.cli.arguments import Workers, workers_of
from lerpscape.cli.options import PRINTED, AlongAsked, HowMeasured, Measured, WhereTo

FIFTY = Measured(alphas="50")


def verdict_command(
    along: AlongAsked,
    tolerance: float,
    confidence: float = 0.99,
    bounds: tuple[float, float] | None = None,
    first: int = 1024,
    budget: int | None = None,
    seed: int = 0,
    workers: Workers = "1",
    measured: HowMeasured = FIFTY,
    output: WhereTo = PRINTED,
) -> None:
    """Decide whether the loss rises by more than a tolerance along the line, from as few examples as it takes.

    Args:
        along: Which path.
        tolerance: Rise that is forgiven, in the unit of the loss.
        confidence: How sure the verdict is to be, over the random order of the examples.
        bounds: Least and most that the loss of one example can be, where there are such: the confidence then holds for
            any number of examples.
        first: Examples at the first interim analysis; each further one has twice as many.
        budget: Most examples to measure; all by default.
        seed: Of the random order.
        workers: Processes that divide the work, each on one core; or ray (started here, or the cluster of RAY_ADDRESS).
        measured: How.
        output: Where to.
    """
    from lerpscape.profiles.sequential import sequential_verdict

    output.check()
    model, path, data = along.opened()
    found = sequential_verdict(
        model,
        path,
        data,
        tolerance=tolerance,
        confidence=confidence,
        bounds=bounds,
        first=first,
        budget=budget,
        seed=seed,
        workers=workers_of(workers),
        **measured.choices(data),
    )
    output.show(found)
