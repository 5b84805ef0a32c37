"""Figures of the loss along a path: profiles, certificates and sequential verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lerpscape.plots.style import (
    ALPHA,
    COLOURS,
    INK,
    RISE_COLOUR,
    axes_or_new,
    comparison_style,
    legend_above,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lerpscape.certificates.results import Certificate
    from lerpscape.profiles.results import Profile
    from lerpscape.profiles.sequential_verdicts import SequentialVerdict


def plot_profile(profile: Profile, ax: Axes | None = None, beside: Sequence[Profile] = ()) -> Axes:
    """Draw the loss against α with its rises shaded; dashed: the losses of profiles `beside` it.

    Dotted lines mark NaN and infinite losses, small triangles rises that lie between grid points. Without `ax` the plot
    is drawn in a new pyplot figure.
    """
    with style():
        ax, profiles = axes_or_new(ax), [profile, *beside]
        for index, curve in enumerate(profiles):
            colour, dashes = comparison_style(index)
            label = curve.label or "loss"
            ax.plot(curve.alphas, curve.loss, dashes, color=colour, marker=".", markersize=4, label=label)
            for point in curve.invalid:
                ax.axvline(point.alpha, color=RISE_COLOUR, linestyle=":", linewidth=1)
        _shade_rises(profile, ax)
        if any(curve.invalid for curve in profiles):
            ax.plot([], [], color=RISE_COLOUR, linestyle=":", label="NaN or infinite")
        if profile.alphas.min() < 0 or profile.alphas.max() > 1:
            for end in (0, 1):
                ax.axvline(end, color=INK, linewidth=0.6)
        ax.set(xlabel=ALPHA, ylabel=with_unit("loss", profile.unit))
        legend_above(ax, 3)
    return ax


def plot_accuracy(profiles: Sequence[Profile], ax: Axes) -> Axes | None:
    """Draw accuracies on a second axis at the right of `ax`; returns None if no profile has accuracies."""
    if all(profile.accuracy is None for profile in profiles):
        return None
    with style():
        right = ax.twinx()
        right.spines["right"].set_visible(True)
        for index, profile in enumerate(profiles):
            if profile.accuracy is not None:
                colour, dashes = comparison_style(index)
                right.plot(profile.alphas, 100 * profile.accuracy, dashes, color=colour, alpha=0.4, linewidth=1)
        right.set(ylabel="accuracy, thin lines (%)", ylim=(-2, 102))
    return right


def plot_derivative(profiles: Sequence[Profile], ax: Axes | None = None) -> Axes:
    """Draw dL/dα against α; above the zero line the loss rises."""
    with style():
        ax = axes_or_new(ax)
        for index, profile in enumerate(profiles):
            if profile.derivative is not None:
                colour, dashes = comparison_style(index)
                ax.plot(profile.alphas, profile.derivative, dashes, color=colour, linewidth=1.2)
                above = np.where(profile.derivative > 0, profile.derivative, 0)
                ax.fill_between(profile.alphas, 0, above, color=RISE_COLOUR, alpha=0.2, linewidth=0)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set(xlabel="α", ylabel="dL/dα")
    return ax


def plot_metric(profiles: Sequence[Profile], name: str, ax: Axes | None = None) -> Axes:
    """Draw a metric of this name against α, with a band of one standard error to both sides."""
    with style():
        ax = axes_or_new(ax)
        for index, profile in enumerate(profiles):
            if name in profile.metrics:
                colour, dashes = comparison_style(index)
                values, errors = profile.metrics[name].values, np.nan_to_num(profile.metrics[name].errors)
                ax.plot(profile.alphas, values, dashes, color=colour, linewidth=1.2)
                ax.fill_between(profile.alphas, values - errors, values + errors, color=colour, alpha=0.2, linewidth=0)
                large = values.min() > 0 and values.max() > 50 * values.min()
                ax.set_yscale("log" if large or ax.get_yscale() == "log" else "linear")
        ax.set(xlabel="α", ylabel=name)
    return ax


def profile_figure(profile: Profile, beside: Sequence[Profile] = ()) -> Figure:
    """A figure of profiles along one path: losses and accuracies above, derivatives and other metrics below."""
    profiles = [profile, *beside]
    names = dict.fromkeys(name for curve in profiles for name in curve.metrics if name != "accuracy")
    with style():
        with_derivative = any(curve.derivative is not None for curve in profiles)
        panels = with_derivative + len(names)
        figure = Figure(figsize=(5.8, 3.4 + 1.5 * panels), layout="constrained")
        top, *below = figure.subplots(1 + panels, 1, height_ratios=[2.4, *[1.0] * panels], sharex=True, squeeze=False)[
            :, 0
        ]
        plot_profile(profile, top, beside)
        plot_accuracy(profiles, top)
        for ax, name in zip(below[with_derivative:], names, strict=True):
            plot_metric(profiles, name, ax)
        if with_derivative:
            plot_derivative(profiles, below[0])
        for ax in (top, *below)[:-1]:
            ax.set_xlabel("")
        (top, *below)[-1].set_xlabel(ALPHA)
    return figure


def plot_certificate(certificate: Certificate, ax: Axes | None = None) -> Axes:
    """Draw the proved bounds of the loss against α, and a strip with the direction proved on each interval.

    Blue: the loss is proved not to rise on the interval. Orange-red: it is proved not to fall. Grey: undecided.
    """
    colours = {"falling": COLOURS[0], "flat": COLOURS[0], "rising": RISE_COLOUR, "undecided": "#999999"}
    words = {"falling": "falls, proved", "flat": "falls, proved", "rising": "rises, proved", "undecided": "undecided"}
    with style():
        ax = axes_or_new(ax)
        alphas = np.unique(np.concatenate([certificate.edges, np.linspace(0, 1, 1001)]))
        low, high = certificate.loss_bounds(alphas)
        ax.fill_between(alphas, low, high, color=INK, alpha=0.3, linewidth=0, label="proved bounds of the loss")
        middle = 0.5 * (certificate.loss_low + certificate.loss_high)
        ax.plot(certificate.edges, middle, ".", color=INK, markersize=4)
        in_legend: set[str] = set()
        for left, right, direction in zip(
            certificate.edges[:-1], certificate.edges[1:], certificate.direction, strict=True
        ):
            label = None if words[direction] in in_legend else words[direction]
            in_legend.add(words[direction])
            ax.axvspan(left, right, 0, 0.03, color=colours[direction], linewidth=0, label=label)
        ax.set(xlabel=ALPHA, ylabel=with_unit("loss", certificate.unit), xlim=(0, 1))
        legend_above(ax, 2)
    return ax


def plot_sequential(verdict: SequentialVerdict, ax: Axes | None = None) -> Axes:
    """Draw the bracket of the largest rise at every interim analysis against its sample size, and the tolerance."""
    with style():
        ax = axes_or_new(ax)
        counts = [analysis.examples for analysis in verdict.analyses]
        lower = [analysis.lower for analysis in verdict.analyses]
        upper = [analysis.upper for analysis in verdict.analyses]
        ax.vlines(counts, lower, upper, color=COLOURS[0], linewidth=2, label="largest rise over all examples")
        ax.plot(counts, lower, "_", counts, upper, "_", color=COLOURS[0], markersize=9)
        ax.axhline(verdict.tolerance, color=RISE_COLOUR, linewidth=1.2, label="tolerance")
        ax.axvline(verdict.of, color=INK, linewidth=0.8, linestyle=":", label="all examples")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set(xlabel="examples measured", ylabel=f"largest rise ({verdict.unit or 'loss'})")
        legend_above(ax, 3)
    return ax


def plot_dose(doses: Sequence[float], rises: Sequence[Sequence[float]], knob: str, unit: str, ax: Axes) -> Axes:
    """Draw the largest rise against the value of a parameter (`knob`): a dot for each run, and a line of the medians.

    `rises[i]` are the largest rises of the runs with the value `doses[i]`.
    """
    with style():
        for dose, runs in zip(doses, rises, strict=True):
            ax.plot([dose] * len(runs), runs, "o", color=COLOURS[0], alpha=0.6, markersize=5)
        ax.plot(doses, [float(np.median(runs)) for runs in rises], "-", color=COLOURS[0], linewidth=1)
        ax.set(xlabel=knob, ylabel=f"max_rise ({unit})")
        ax.axhline(0, color=INK, linewidth=0.8)
    return ax


def _shade_rises(profile: Profile, ax: Axes) -> None:
    if profile.invalid:
        return
    for index, rise in enumerate(profile.rises):
        label = "rise" if index == 0 else None
        ax.axvspan(rise.opens, rise.closes, color=RISE_COLOUR, alpha=0.15, linewidth=0, label=label)
    hidden = [(rise.left + rise.right) / 2 for rise in profile.hidden_rises]
    if hidden:
        ax.plot(
            hidden,
            [0.02] * len(hidden),
            "^",
            color=RISE_COLOUR,
            markersize=5,
            transform=ax.get_xaxis_transform(),
            label="rise between grid points",
        )
