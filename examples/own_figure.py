"""A figure of your own layout from saved profiles: here the one at the top of the README, from what the demo wrote.

lerpscape demo && python examples/own_figure.py lerpscape-demo docs/images/demo.png
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

import lerpscape as ls
from lerpscape.plots.profiles import plot_derivative
from lerpscape.plots.style import save_figure, style

folder, out = Path(sys.argv[1]), sys.argv[2]
titles = {"plain": "trained as usual", "pushed": "pushed far from its start"}
with style():
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=[2.2, 1], sharex=True)
    for column, (name, title) in enumerate(titles.items()):
        profiles = [ls.Profile.load(folder / f"{name}-{part}.json") for part in ("train", "held-out")]
        top, bottom = axes[:, column]
        profiles[0].plot(top, beside=profiles[1:]).set(xlabel="")
        plot_derivative(profiles, bottom).set(xlabel="α   (0: initialisation, 1: trained)")
        top.legend()
        rises = profiles[0].max_rise
        top.set_title(f"{title}: max_rise {rises:.3g} nats", color="black")
save_figure(figure, out)
