"""Run all four theoretical models: measure each like any network, print the numbers and draw the figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lerpscape.base.progress import Progress
from lerpscape.base.saving import check_writable
from lerpscape.papers.lucas2021.theory.linear_networks import LinearModel, TwoLayer, linear_model, two_layer
from lerpscape.papers.lucas2021.theory.noisy_quadratic import NoisyQuadratic, Simulation
from lerpscape.papers.lucas2021.theory.plots import linear_figure, quadratic_figure, two_layer_figure, width_figure
from lerpscape.papers.lucas2021.theory.width import MEASURED, SEEDS, WIDTHS, WidthStudy, width_study
from lerpscape.plots.style import save_figure

CURVATURES = tuple(float(h) for h in np.geomspace(1, 0.01, 20))
LEARNING_RATE, NOISE, RUNS = 0.5, 0.3, 4000
STEPS = (5, 50, 500)
ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 11))
OVERSHOOTS = (1.0, 1.4)
WIDEST = 4  # widths in the second power-law fit


@dataclass(frozen=True)
class Theory:
    """The results of the four models, and the figure files by name."""

    quadratics: tuple[tuple[str, NoisyQuadratic, Simulation], ...]
    linear: tuple[LinearModel, ...]
    two_layer: tuple[TwoLayer, ...]
    widths: tuple[WidthStudy, ...]
    pictures: dict[str, Path]
    seconds: dict[str, float] = field(repr=False)

    def lines(self) -> list[str]:
        """All numbers, with errors, units and counts, as lines of text."""
        return [
            *self._quadratic_lines(),
            *self._linear_lines(),
            *self._two_layer_lines(),
            *self._width_lines(),
            "seconds: " + ", ".join(f"{name} {duration:.1f}" for name, duration in self.seconds.items()),
        ]

    def _quadratic_lines(self) -> list[str]:
        lines = [
            f"1. noisy quadratic: {len(CURVATURES)} curvatures from 1 to 0.01, θ₀ = 1, η {LEARNING_RATE}, σ {NOISE}, "
            f"{self.quadratics[0][2].runs:,} runs; loss in its own unit"
        ]
        for name, model, simulated in self.quadratics:
            errors = np.abs(simulated.loss - model.expected_loss(simulated.alphas))[1:] / simulated.stderr[1:]
            end = f"E L(1) {model.expected_loss([1.0])[0]:.4f}, simulated {simulated.loss[-1]:.4f} ± "
            lines.append(
                f"   {name}: {end}{simulated.stderr[-1]:.4f}; largest deviation at {len(errors)} α "
                f"{errors.max():.2f} SE; "
                f"vertex {model.vertex:.4f}; {'monotone' if model.is_monotonic else 'rises'}, "
                f"max_rise of E L {model.max_rise:.3g}; {100 * simulated.share_monotonic:.1f} % of runs monotone, "
                f"mean of their max_rise {simulated.rises.mean():.3g}"
            )
        return lines

    def _linear_lines(self) -> list[str]:
        lines = [f"2. linear model: {self.linear[0].profile.examples} examples, squared error"]
        for model in self.linear:
            error = np.abs(model.profile.loss - model.expected_loss(model.profile.alphas)).max()
            lines.append(
                f"   c = {model.overshoot:g}: largest deviation from the parabola {error:.2g} of "
                f"{model.profile.loss[0]:.3f}; "
                f"max_rise {model.profile.max_rise:.4f} (on {len(model.profile.alphas)} α; exactly "
                f"{model.expected_rise:.4f}); largest Gauss length {model.gauss.per_example.max():.2g} rad"
            )
        return lines

    def _two_layer_lines(self) -> list[str]:
        targets = ", ".join(f"{value:g}" for value in self.two_layer[0].targets)
        lines = [f"3. two linear layers: singular values {targets}; {self.two_layer[0].profile.examples} examples"]
        for model in self.two_layer:
            error = np.abs(model.profile.loss - model.expected_loss(model.profile.alphas)).max()
            lines.append(
                f"   {model.profile.label}: loss {model.profile.loss[0]:.4f} to {model.profile.loss[-1]:.2g}, max_rise "
                f"{model.profile.max_rise:.4f}, Gauss length {model.gauss.mean:.3f} rad (mean; last halving "
                f"{model.gauss.mean_error:.1g}), {'crosses' if model.crosses_origin else 'does not cross'} the origin; "
                f"largest deviation from the closed form {error:.2g}"
            )
        return lines

    def _width_lines(self) -> list[str]:
        lines = []
        for study in self.widths:
            end_losses = ", ".join(f"{study.values('end_loss')[row].mean():.3f}" for row in (0, -1))
            lines.append(
                f"4. width, {study.activation}: η {study.learning_rate}, {study.steps} steps, widths "
                f"{study.widths[0]} to {study.widths[-1]}, {len(study.seeds)} seeds; mean loss "
                f"{study.values('start_loss').mean():.3f} at the start, {end_losses} at the end "
                "of the narrowest and widest"
            )
            for name in MEASURED:
                values = study.values(name)
                means = ", ".join(f"{value:.3g}" for value in values.mean(axis=1))
                lines.append(f"   {name}: means {means}")
                laws = (study.fit(name), study.fit(name, widest=WIDEST))
                lines += [f"      {law.verdict()}" for law in laws[: 1 if laws[0].reason else 2]]
            error = study.values("gauss_error").mean(axis=1)
            lines.append(f"   gauss_length, last halving: {', '.join(f'{value:.1g}' for value in error)} rad")
        return lines


def run_theory(
    folder: str | Path,
    *,
    activations: Sequence[str] = ("tanh", "relu"),
    widths: Sequence[int] = WIDTHS,
    seeds: Sequence[int] = SEEDS,
    runs: int = RUNS,
    progress: Progress = None,
) -> Theory:
    """Run the four models and draw their figures into `folder`: quadratic.png, linear.png, two-layer.png, width.png.

    Raises `OSError`, before any model runs, if the folder cannot be written.
    """
    pictures = {name: Path(folder) / f"{name}.png" for name in ("quadratic", "linear", "two-layer", "width")}
    for path in pictures.values():
        check_writable(path)
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def record_seconds(name: str) -> None:
        seconds[name] = time.perf_counter() - began - sum(seconds.values())

    quadratics = tuple(_quadratic(steps, runs) for steps in STEPS)
    save_figure(quadratic_figure(quadratics), str(pictures["quadratic"]))
    record_seconds("quadratic")
    linear = tuple(linear_model(overshoot=overshoot) for overshoot in OVERSHOOTS)
    save_figure(linear_figure(linear), str(pictures["linear"]))
    record_seconds("linear")
    layers = (
        two_layer(first=0.1, second=0.1, label="small, balanced"),
        two_layer(first=1.2, second=-0.9, label="wrong sign of ab"),
        two_layer(first=2.0, second=2.0, label="large, short steps"),
        two_layer(first=2.0, second=2.0, learning_rate=0.4, steps=200, label="large, steps that jump"),
    )
    save_figure(two_layer_figure(layers), str(pictures["two-layer"]))
    record_seconds("two-layer")
    studies = tuple(
        width_study(activation=activation, widths=widths, seeds=seeds, progress=progress) for activation in activations
    )
    save_figure(width_figure(studies), str(pictures["width"]))
    record_seconds("width")
    return Theory(quadratics, linear, layers, studies, pictures, seconds)


def _quadratic(steps: int, runs: int) -> tuple[str, NoisyQuadratic, Simulation]:
    model = NoisyQuadratic(CURVATURES, np.ones(len(CURVATURES)), learning_rate=LEARNING_RATE, noise=NOISE, steps=steps)
    return f"{steps} steps", model, model.simulate(runs, alphas=ALPHAS, seed=0)
