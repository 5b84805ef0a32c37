"""The profile between the start of a training and the present, while it runs: the parts that all trainers share.

Nothing of the training changes: `profile` leaves the module, its modes, gradients and all random generators as they
were, and the snapshots are copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lerpscape.base.errors import explain
from lerpscape.base.saving import replacing
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data
from lerpscape.networks.undisturbed import preserved_generators
from lerpscape.paths.checkpoints import Checkpoint, checkpoint
from lerpscape.paths.line import Line
from lerpscape.paths.matching import first_tied_names
from lerpscape.profiles.profile import profile

PREFIX = "lerpscape/"


@dataclass
class Watch:
    """What is measured every so many steps of a training, and the start that it is measured from."""

    data: Data
    every: int
    folder: Path
    loss: str | PerExample | Loss
    alphas: Any
    tolerance: float
    options: dict[str, Any]
    start: Checkpoint | None = None
    looked_at: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(
                explain(expected="every= as a number of steps.", got=f"{self.every}.", hint="every=500, say.")
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def begin(self, model: nn.Module) -> None:
        """Keep the start; where the folder has one already, of a training that is resumed, that one."""
        file = self.folder / "start.safetensors"
        if not file.exists():
            save(checkpoint(model), file)
        self.start = checkpoint(file)

    def is_due(self, step: int) -> bool:
        """Whether this step is to be looked at, and was not."""
        return step > 0 and step % self.every == 0 and step not in self.looked_at

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Write the present weights and the profile to the folder; the numbers to log, by name."""
        self.looked_at.add(step)
        if self.start is None:
            self.begin(model)
        assert self.start is not None
        with preserved_generators():  # a loader draws a seed whenever it is read
            present = checkpoint(model)
            save(present, self.folder / f"step{step}.safetensors")
            if all(torch.equal(self.start.tensors.get(name, each), each) for name, each in present.tensors.items()):
                return {f"{PREFIX}max_rise": 0.0, f"{PREFIX}relative_distance": 0.0, f"{PREFIX}monotonic": 1.0}
            found = profile(
                model,
                Line(self.start, Checkpoint(present.tensors, present.parameters, f"step {step}")),
                self.data,
                loss=self.loss,
                alphas=self.alphas,
                **{"derivative": False, "progress": False, "label": f"step {step}"} | self.options,
            )
            found.save(self.folder / f"step{step}.json")
        finite = not found.invalid
        return {
            f"{PREFIX}max_rise": found.max_rise if finite else math.nan,
            f"{PREFIX}relative_distance": found.relative_distance,
            f"{PREFIX}monotonic": float(found.is_monotonic(self.tolerance)) if finite else math.nan,
            f"{PREFIX}loss_at_start": float(found.loss[0]),
            f"{PREFIX}loss_now": float(found.loss[-1]),
        }


def save(given: Checkpoint, file: Path) -> None:
    """Write a checkpoint as safetensors, tied tensors once."""
    from safetensors.torch import save_file

    first = first_tied_names(given)
    tensors = {name: tensor.contiguous() for name, tensor in given.tensors.items() if first[name] == name}
    with replacing(file) as draft:
        save_file(tensors, draft)
