"""The demo: two networks from one initialisation; on the line, the loss of one falls and that of the other rises.

They differ in a norm target R (Lucas et al. 2021): training adds c · Σ (‖p‖ − R)² over all tensors p, biases included,
so that a large R drives the network far from its initialisation. The demo trains several R and seeds, and shows two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from lerpscape.base.progress import Progress, progress_bar
from lerpscape.base.saving import check_writable
from lerpscape.certificates.certify import certify
from lerpscape.certificates.results import Certificate
from lerpscape.lab.config import ModelConfig, OptimizerConfig, RunConfig, TrainingConfig
from lerpscape.lab.data.digits import digits, held_out_data, train_data
from lerpscape.lab.runs import one_thread
from lerpscape.lab.subjects import new_model
from lerpscape.lab.training import train
from lerpscape.networks.losses import find_loss
from lerpscape.paths.line import Line
from lerpscape.plots.profiles import plot_dose
from lerpscape.plots.report import Section, report
from lerpscape.plots.style import style
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile

RADII = (0.0, 10.0, 20.0, 30.0, 40.0)  # 0: no norm target
PUSHED = 30.0
STRENGTH = 0.1
SEEDS = (0, 1, 2)
EPOCHS = 40
LEARNING_RATE = 0.01
MOMENTUM = 0.9
BATCH = 64
TOLERANCE = 1e-3
FILES = "lerpscape-demo"


@dataclass(frozen=True)
class Demo:
    """The demo's results: profiles and certificates by network, max_rise by norm target and seed, and the report."""

    profiles: dict[str, tuple[Profile, Profile]]
    certificates: dict[str, Certificate]
    rises: dict[float, tuple[float, ...]]
    folder: Path
    report: Path

    def measure_again(self, name: str) -> str:
        """The command that measures a network again from its files, with the same numbers."""
        module = "lerpscape.lab"
        return (
            f"lerpscape profile {self.folder}/start.safetensors {self.folder}/{name}.safetensors "
            f"--model {module}.demo:network --data {module}.data.digits:train_data "
            f"--held-out {module}.data.digits:held_out_data"
        )


def recipe(radius: float, seed: int) -> RunConfig:
    """The configuration of one network: SGD with momentum on cross-entropy, with a norm target if `radius` > 0.

    >>> recipe(30.0, 0).training.norm_target, recipe(0.0, 0).training.norm_strength
    (30.0, 0.0)
    """
    strength = STRENGTH if radius > 0 else 0.0
    return RunConfig(
        model=ModelConfig("fully_connected", {"widths": (128, 128)}),
        optimizer=OptimizerConfig(lr=LEARNING_RATE, momentum=MOMENTUM),
        training=TrainingConfig(epochs=EPOCHS, batch_size=BATCH, norm_target=radius, norm_strength=strength),
        seed=seed,
    )


def network(seed: int = 0) -> nn.Module:
    """The demo's network at its initialisation: 64-128-128-10, ReLU.

    >>> sum(p.numel() for p in network().parameters())
    26122
    """
    return new_model(recipe(0.0, seed), digits())


def run_demo(folder: str | Path = FILES, progress: Progress = None) -> Demo:
    """Train, measure and certify; write checkpoints, profiles, certificates and the report into `folder`."""
    folder = Path(folder)
    check_writable(folder / "report.html")
    examples, loss = digits().train, find_loss("cross_entropy")
    rises: dict[float, tuple[float, ...]] = {}
    profiles: dict[str, tuple[Profile, Profile]] = {}
    certificates: dict[str, Certificate] = {}
    total = len(RADII) * len(SEEDS) * EPOCHS
    with progress_bar(progress, total, "training 15 networks", unit="epoch") as count:
        for radius in RADII:
            max_rises = []
            for seed in SEEDS:
                start, end = network(seed), network(seed)
                with one_thread():
                    train(end, examples, loss, recipe(radius, seed), after_epoch=lambda _: count(1))
                max_rises.append(
                    profile(network(), Line(start, end), train_data(), derivative=False, progress=False).max_rise
                )
                name = {0.0: "plain", PUSHED: "pushed"}.get(radius)
                if seed == SEEDS[0] and name:
                    save_file(start.state_dict(), folder / "start.safetensors")
                    save_file(end.state_dict(), folder / f"{name}.safetensors")
            rises[radius] = tuple(max_rises)
    for name in ("plain", "pushed"):
        line = Line(folder / "start.safetensors", folder / f"{name}.safetensors")
        profiles[name] = (
            profile(network(), line, train_data(), progress=progress, label="train"),
            profile(network(), line, held_out_data(), progress=progress, label="held-out"),
        )
        for measured in profiles[name]:
            measured.save(folder / f"{name}-{measured.label}.json")
        certificates[name] = certify(network(), line, train_data(), tolerance=TOLERANCE, progress=progress)
        certificates[name].save(folder / f"{name}-certificate.json")
    page = report(
        _sections(profiles, certificates, rises),
        folder / "report.html",
        title="lerpscape demo: digits",
        tolerance=TOLERANCE,
    )
    return Demo(profiles, certificates, rises, folder, page)


def _sections(
    profiles: dict[str, tuple[Profile, Profile]],
    certificates: dict[str, Certificate],
    rises: dict[float, tuple[float, ...]],
) -> list[Section]:
    with style():
        figure = Figure(figsize=(5.8, 2.9), layout="constrained")
        plot_dose(
            list(rises), [rises[radius] for radius in rises], "norm target R   (0: none)", "nats", figure.subplots()
        )
    counts = ", ".join(
        f"R = {r:g}: {sum(rise > TOLERANCE for rise in values)} of {len(values)}" for r, values in rises.items()
    )
    training = (
        f"a 64-128-128-10 ReLU network, SGD (learning rate {LEARNING_RATE}, momentum {MOMENTUM}, batch {BATCH}, "
        f"{EPOCHS} epochs) on 1,437 of scikit-learn's 1,797 digits"
    )
    return [
        Section(
            "A network with the usual training",
            f"The line from the initialisation to the trained network: {training}, seed {SEEDS[0]}.",
            (*profiles["plain"], certificates["plain"]),
        ),
        Section(
            "The same initialisation, with a norm target",
            f"The same initialisation, data order and recipe, with {STRENGTH:g} · Σ (‖p‖ − {PUSHED:g})² over all "
            "tensors added to the loss while training. The curve shows the plain loss, without that term.",
            (*profiles["pushed"], certificates["pushed"]),
        ),
        Section(
            "What the norm target does",
            f"The norm target R, for {len(SEEDS)} seeds each, nothing else changed. Networks that rise by more than "
            f"{TOLERANCE:g} nats on the training data: {counts}.",
            figure=figure,
            caption="Each dot is one network; the line joins the medians.",
        ),
    ]
