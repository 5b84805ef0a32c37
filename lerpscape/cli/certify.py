"""`lerpscape certify`: a proof over every α."""

from __future__ import annotations

from typing import Literal

from lerpscape.cli.arguments import Switch
from lerpscape.cli.options import NO_PAGE, AlongAsked, OnPage


def certify_command(
    along: AlongAsked,
    loss: Literal["cross_entropy", "squared_error", "mean_squared_error", "binary_cross_entropy"] = "cross_entropy",
    tolerance: float = 0.0,
    budget: int = 500,
    workers: int = 1,
    batch_norm: Literal["interpolate", "end"] | None = None,
    progress: Switch = None,
    output: OnPage = NO_PAGE,
) -> None:
    """Prove how much the loss can rise along the line, over every α and not only on a grid.

    Args:
        along: Which path.
        loss: What the certificate is of.
        tolerance: Rise that the verdict forgives, in the unit of the loss.
        budget: Most intervals to enclose.
        workers: Threads that share the examples.
        batch_norm: What batch norm normalises with; asked for where the model has batch norm.
        progress: Progress bar: by default on a terminal, after two seconds.
        output: Where to.
    """
    from lerpscape.certificates.certify import certify
    from lerpscape.networks.batch_norm import named_policy

    output.check()
    model, path, data = along.opened()
    found = certify(
        model,
        path,  # what is bent is refused
        data,
        loss=loss,
        tolerance=tolerance,
        budget=budget,
        workers=workers,
        batch_norm=named_policy(batch_norm, []),
        progress=progress,
    )
    if output.report:
        from lerpscape.plots.report import report

        report([found], output.report, title="A proof", tolerance=tolerance)
    output.write(found, found.to_dict(), [found.summary])
