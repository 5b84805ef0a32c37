"""Theory that runs: four models whose lines are understood, measured with the same instrument as networks."""

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
RATE, NOISE, RUNS = 0.5, 0.3, 4000
STEPS = (5, 50, 500)
ALPHAS = tuple(float(alpha) for alpha in np.linspace(0, 1, 11))
OVERSHOOTS = (1.0, 1.4)
WIDEST = 4


@dataclass(frozen=True)
class Theory:
    """What the four models gave: the results, and the pictures by name."""

    quadratics: tuple[tuple[str, NoisyQuadratic, Simulation], ...]
    linear: tuple[LinearModel, ...]
    two_layer: tuple[TwoLayer, ...]
    widths: tuple[WidthStudy, ...]
    pictures: dict[str, Path]
    seconds: dict[str, float] = field(repr=False)

    def lines(self) -> list[str]:
        """Every number with its error, unit and count, as text."""
        return [
            *self._quadratic_lines(),
            *self._linear_lines(),
            *self._two_layer_lines(),
            *self._width_lines(),
            "seconds: " + ", ".join(f"{name} {taken:.1f}" for name, taken in self.seconds.items()),
        ]

    def _quadratic_lines(self) -> list[str]:
        found = [
            f"1. noisy quadratic: {len(CURVATURES)} curvatures from 1 to 0.01, θ₀ = 1, η {RATE}, σ {NOISE}, "
            f"{self.quadratics[0][2].runs:,} runs; loss in its own unit"
        ]
        for name, model, simulated in self.quadratics:
            away = np.abs(simulated.loss - model.expected_loss(simulated.alphas))[1:] / simulated.stderr[1:]
            end = f"E L(1) {model.expected_loss([1.0])[0]:.4f}, simulated {simulated.loss[-1]:.4f} ± "
            found.append(
                f"   {name}: {end}{simulated.stderr[-1]:.4f}; farthest of {len(away)} α {away.max():.2f} SE; "
                f"vertex {model.vertex:.4f}; {'monotone' if model.is_monotonic else 'rises'}, "
                f"max_rise of E L {model.max_rise:.3g}; {100 * simulated.share_monotonic:.1f} % of runs monotone, "
                f"mean of their max_rise {simulated.rises.mean():.3g}"
            )
        return found

    def _linear_lines(self) -> list[str]:
        found = [f"2. linear model: {self.linear[0].profile.examples} examples, squared error"]
        for each in self.linear:
            away = np.abs(each.profile.loss - each.expected_loss(each.profile.alphas)).max()
            found.append(
                f"   c = {each.overshoot:g}: farthest from the parabola {away:.2g} of {each.profile.loss[0]:.3f}; "
                f"max_rise {each.profile.max_rise:.4f} (on {len(each.profile.alphas)} α; exactly "
                f"{each.expected_rise:.4f}); largest Gauss length {each.gauss.per_example.max():.2g} rad"
            )
        return found

    def _two_layer_lines(self) -> list[str]:
        wanted = ", ".join(f"{value:g}" for value in self.two_layer[0].targets)
        found = [f"3. two linear layers: singular values {wanted}; {self.two_layer[0].profile.examples} examples"]
        for each in self.two_layer:
            away = np.abs(each.profile.loss - each.expected_loss(each.profile.alphas)).max()
            found.append(
                f"   {each.profile.label}: loss {each.profile.loss[0]:.4f} to {each.profile.loss[-1]:.2g}, max_rise "
                f"{each.profile.max_rise:.4f}, Gauss length {each.gauss.mean:.3f} rad (mean; last halving "
                f"{each.gauss.mean_error:.1g}), {'crosses' if each.crosses_origin else 'does not cross'} the origin; "
                f"farthest from the closed form {away:.2g}"
            )
        return found

    def _width_lines(self) -> list[str]:
        found = []
        for study in self.widths:
            last = ", ".join(f"{study.values('end_loss')[row].mean():.3f}" for row in (0, -1))
            found.append(
                f"4. width, {study.activation}: η {study.learning_rate}, {study.steps} steps, widths "
                f"{study.widths[0]} to {study.widths[-1]}, {len(study.seeds)} seeds; mean loss "
                f"{study.values('start_loss').mean():.3f} at the start, {last} at the end of the narrowest and widest"
            )
            for name in MEASURED:
                values = study.values(name)
                means = ", ".join(f"{value:.3g}" for value in values.mean(axis=1))
                found.append(f"   {name}: means {means}")
                laws = (study.fit(name), study.fit(name, widest=WIDEST))
                found += [f"      {law.verdict()}" for law in laws[: 1 if laws[0].reason else 2]]
            error = study.values("gauss_error").mean(axis=1)
            found.append(f"   gauss_length, last halving: {', '.join(f'{value:.1g}' for value in error)} rad")
        return found


def run_theory(
    folder: str | Path,
    *,
    activations: Sequence[str] = ("tanh", "relu"),
    widths: Sequence[int] = WIDTHS,
    seeds: Sequence[int] = SEEDS,
    runs: int = RUNS,
    progress: Progress = None,
) -> Theory:
    """Run the four models and draw each into `folder`: quadratic.png, linear.png, two-layer.png and width.png.

    Raises `OSError` where the folder cannot be written, before anything runs.
    """
    pictures = {name: Path(folder) / f"{name}.png" for name in ("quadratic", "linear", "two-layer", "width")}
    for path in pictures.values():
        check_writable(path)
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def taken(name: str) -> None:
        seconds[name] = time.perf_counter() - began - sum(seconds.values())

    quadratics = tuple(_quadratic(steps, runs) for steps in STEPS)
    save_figure(quadratic_figure(quadratics), str(pictures["quadratic"]))
    taken("quadratic")
    linear = tuple(linear_model(overshoot=overshoot) for overshoot in OVERSHOOTS)
    save_figure(linear_figure(linear), str(pictures["linear"]))
    taken("linear")
    layers = (
        two_layer(first=0.1, second=0.1, label="small, balanced"),
        two_layer(first=1.2, second=-0.9, label="wrong sign of ab"),
        two_layer(first=2.0, second=2.0, label="large, short steps"),
        two_layer(first=2.0, second=2.0, learning_rate=0.4, steps=200, label="large, steps that jump"),
    )
    save_figure(two_layer_figure(layers), str(pictures["two-layer"]))
    taken("two-layer")
    studies = tuple(
        width_study(activation=activation, widths=widths, seeds=seeds, progress=progress) for activation in activations
    )
    save_figure(width_figure(studies), str(pictures["width"]))
    taken("width")
    return Theory(quadratics, linear, layers, studies, pictures, seconds)


def _quadratic(steps: int, runs: int) -> tuple[str, NoisyQuadratic, Simulation]:
    model = NoisyQuadratic(CURVATURES, np.ones(len(CURVATURES)), learning_rate=RATE, noise=NOISE, steps=steps)
    return f"{steps} steps", model, model.simulate(runs, alphas=ALPHAS, seed=0)
