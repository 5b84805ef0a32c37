"""Draws docs/gauss_kink.svg: one kink, seen by both estimators. Run it again after changing the picture."""

from pathlib import Path

import matplotlib
import numpy as np

from lerpscape.plots.style import COLOURS, INK, as_svg, style

matplotlib.use("agg")


def main() -> None:
    """Draw the path with its kink, its velocities as directions, and what each estimator adds up."""
    from matplotlib.figure import Figure

    alphas = np.linspace(0, 1, 11)
    bend = 0.5  # a gentle smooth turn on both sides, rad
    kink = np.pi / 4

    def direction(alpha: np.ndarray) -> np.ndarray:
        return bend * alpha + np.where(alpha > 0.55, kink, 0.0)

    fine = np.linspace(0, 1, 2001)
    steps = np.exp(1j * direction((fine[1:] + fine[:-1]) / 2)) / 2000
    path = np.concatenate([[0], np.cumsum(steps)])
    with style():
        figure = Figure(figsize=(9.2, 3.1), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1.3])
        left.plot(path.real, path.imag, color=COLOURS[0])
        for alpha in alphas:
            at, turn = path[round(2000 * alpha)], np.exp(1j * direction(np.array(alpha)))
            tip = at + 0.09 * turn
            arrow = {"arrowstyle": "-|>", "color": COLOURS[1], "lw": 1.2}
            left.annotate("", (tip.real, tip.imag), (at.real, at.imag), arrowprops=arrow)
        corner = path[1100]
        left.annotate("a ReLU switches", (corner.real, corner.imag), (0.05, 0.33), arrowprops={"arrowstyle": "-"})
        left.set(title="output path z(α), velocities z′(α)", aspect="equal", xticks=[], yticks=[])
        circle = np.linspace(0, 1.5, 200)
        middle.plot(np.cos(circle), np.sin(circle), color=INK, linewidth=0.6)
        angles = direction(fine)
        for part in (fine <= 0.55, fine > 0.55):
            middle.plot(np.cos(angles[part]), np.sin(angles[part]), color=COLOURS[0], linewidth=4)
        on_grid = direction(alphas)
        arcs = np.interp(fine, alphas, on_grid)  # from sample to sample along the circle
        middle.plot(1.07 * np.cos(arcs), 1.07 * np.sin(arcs), color=COLOURS[1])
        middle.plot(1.07 * np.cos(on_grid), 1.07 * np.sin(on_grid), ".", color=COLOURS[1])
        middle.set(title="unit tangents", aspect="equal", xticks=[], yticks=[], xlim=(0, 1.2), ylim=(-0.05, 1.2))
        middle.text(0.05, 0.2, "blue: where the tangent\nis, with a gap at the kink", color=COLOURS[0], fontsize=8)
        middle.text(0.05, 0.08, "orange: arcs from sample to sample", color=COLOURS[1], fontsize=8)
        turned = np.concatenate([[0], np.cumsum(np.diff(on_grid))])
        right.plot(alphas, turned, ".-", color=COLOURS[1], label="turning")
        right.plot(alphas, bend * alphas, ".-", color=COLOURS[0], label="integral")
        right.set(title="added up so far (rad)", xlabel="α")
        right.legend(loc="upper left")
    Path(__file__).with_name("gauss_kink.svg").write_text(as_svg(figure) + "\n")


if __name__ == "__main__":
    main()
