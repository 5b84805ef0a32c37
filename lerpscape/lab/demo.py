"""The first run: two networks from one initialisation, one whose loss falls all along the line and one that rises.

The knob is a norm target (Lucas et al. 2021): training adds c · Σ (‖p‖ − R)² over all tensors, biases too, so a large
R drives the network far from where it started. The run turns the knob over several R and seeds before it shows two.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import Tensor, nn

from lerpscape.certificates import Certificate
from lerpscape.certification import certify
from lerpscape.lab.data.digits import digits, held_out_data, train_data
from lerpscape.measure import profile
from lerpscape.partial import check_writable
from lerpscape.paths import Line
from lerpscape.plots import plot_dose, style
from lerpscape.profiles import Profile
from lerpscape.progress import Progress, progress_bar
from lerpscape.reports import Section, report

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
    """What the demo leaves: profiles and proofs by network, max_rise over knob and seed, and the report."""

    profiles: dict[str, tuple[Profile, Profile]]
    certificates: dict[str, Certificate]
    rises: dict[float, tuple[float, ...]]
    folder: Path
    report: Path

    def measure_again(self, name: str) -> str:
        """The command that measures a network's files again and gets the same numbers."""
        module = "lerpscape.lab"
        return (
            f"lerpscape profile {self.folder}/start.safetensors {self.folder}/{name}.safetensors "
            f"--model {module}.demo:network --data {module}.data.digits:train_data "
            f"--held-out {module}.data.digits:held_out_data"
        )


def network() -> nn.Module:
    """The demo's network: 64-128-128-10, ReLU.

    >>> sum(p.numel() for p in network().parameters())
    26122
    """
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def initial(seed: int) -> nn.Module:
    """A fresh network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network()


def train(
    model: nn.Module, images: Tensor, labels: Tensor, *, radius: float, seed: int, report: Callable[[int], None]
) -> None:
    """Train in place by SGD with momentum on cross-entropy, pushing every tensor's norm towards `radius` where > 0.

    On one thread: so small a network gains nothing from more, and loses much where the other cores are busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(model, images, labels, radius, torch.Generator().manual_seed(seed), report)
    finally:
        torch.set_num_threads(threads)


def _train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            if radius > 0:
                loss = loss + STRENGTH * sum((p.norm() - radius) ** 2 for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        report(1)


def run_demo(folder: str | Path = FILES, progress: Progress = None) -> Demo:
    """Train, measure, prove, and write checkpoints, profiles, certificates and the report into `folder`."""
    folder = Path(folder)
    check_writable(folder / "report.html")
    images, labels = digits().train.batch(slice(None))
    rises: dict[float, tuple[float, ...]] = {}
    profiles: dict[str, tuple[Profile, Profile]] = {}
    certificates: dict[str, Certificate] = {}
    total = len(RADII) * len(SEEDS) * EPOCHS
    with progress_bar(progress, total, "training 15 networks", unit="epoch") as count:
        for radius in RADII:
            found = []
            for seed in SEEDS:
                start = initial(seed)
                end = deepcopy(start)
                train(end, images.flatten(1), labels, radius=radius, seed=seed, report=count)
                found.append(
                    profile(network(), Line(start, end), train_data(), derivative=False, progress=False).max_rise
                )
                name = {0.0: "plain", PUSHED: "pushed"}.get(radius)
                if seed == SEEDS[0] and name:
                    save_file(start.state_dict(), folder / "start.safetensors")
                    save_file(end.state_dict(), folder / f"{name}.safetensors")
            rises[radius] = tuple(found)
    for name in ("plain", "pushed"):
        line = Line(folder / "start.safetensors", folder / f"{name}.safetensors")
        profiles[name] = (
            profile(network(), line, train_data(), progress=progress, label="train"),
            profile(network(), line, held_out_data(), progress=progress, label="held-out"),
        )
        for each in profiles[name]:
            each.save(folder / f"{name}-{each.label}.json")
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
        f"R = {r:g}: {sum(rise > TOLERANCE for rise in found)} of {len(found)}" for r, found in rises.items()
    )
    recipe = (
        f"a 64-128-128-10 ReLU network, SGD (learning rate {LEARNING_RATE}, momentum {MOMENTUM}, batch {BATCH}, "
        f"{EPOCHS} epochs) on 1,437 of scikit-learn's 1,797 digits"
    )
    return [
        Section(
            "A network as people train it",
            f"The line from the initialisation to the trained network: {recipe}, seed {SEEDS[0]}.",
            (*profiles["plain"], certificates["plain"]),
        ),
        Section(
            "The same start, pushed away",
            f"The same initialisation, data order and recipe, with {STRENGTH:g} · Σ (‖p‖ − {PUSHED:g})² over all "
            "tensors added to the loss while training. The curve shows the plain loss, without that term.",
            (*profiles["pushed"], certificates["pushed"]),
        ),
        Section(
            "Which knob does it",
            f"The norm target R, for {len(SEEDS)} seeds each, nothing else changed. Networks that rise by more than "
            f"{TOLERANCE:g} nats on the training data: {counts}.",
            figure=figure,
            caption="Each dot is one network; the line joins the medians.",
        ),
    ]
