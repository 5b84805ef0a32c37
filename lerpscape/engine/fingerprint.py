"""What tells one measurement from another: what enters it, and what the model and the loss do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.engine.comparison import DERIVATIVE_FACTOR, KERNEL_UNITS
from lerpscape.engine.contents import Contents
from lerpscape.engine.derivative_check import few_examples, losses_at
from lerpscape.engine.execution import Objective
from lerpscape.engine.planner import PROBE_ALPHA
from lerpscape.networks.batches import Batch
from lerpscape.networks.reading import Reader

# Version of the partial files. A file of another version is taken for another measurement's.
PARTIAL_FORMAT = 4
# A second α, at which what a model or a loss keeps from call to call has changed.
OTHER_ALPHA = 0.61


@dataclass(frozen=True)
class Fingerprint:
    """Digests of all that enters a measurement, by name, and the losses and slopes of a few examples at α = 0.37.

    >>> one, same, other = (Fingerprint({"loss": "a"}, np.array([loss]), 1e-12) for loss in (1.0, 1 + 1e-14, 1.1))
    >>> one.differences(same), one.differences(other), Fingerprint.from_json(one.to_json()).differences(one)
    ([], ['losses at α = 0.37 (off by 0.1)'], [])
    """

    parts: dict[str, str]
    behaviour: Floats
    tolerance: float

    def differences(self, other: Fingerprint) -> list[str]:
        """What differs between two measurements; values of examples differ by more than rounding."""
        names = [name for name in self.parts | other.parts if self.parts.get(name) != other.parts.get(name)]
        if self.behaviour.shape != other.behaviour.shape:
            return [*names, "how many examples are probed"]
        with np.errstate(invalid="ignore"):
            off = np.abs(self.behaviour - other.behaviour)
        # A model that is not finite at an example differs there by NaN, which is compared as a value.
        same = (self.behaviour == other.behaviour) | (np.isnan(self.behaviour) & np.isnan(other.behaviour))
        off = np.where(same, 0.0, off)
        size = 1e-3 + np.linalg.norm(np.nan_to_num(self.behaviour))
        if not np.linalg.norm(off) <= self.tolerance * size:
            names.append(f"losses at α = {PROBE_ALPHA} (off by {off.max():.2g})")
        return names

    def to_json(self) -> str:
        """The fingerprint as text; see `from_json`."""
        return json.dumps({"parts": self.parts, "behaviour": self.behaviour.tolist(), "tolerance": self.tolerance})

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The fingerprint that `to_json` wrote."""
        saved = json.loads(text)
        return cls(saved["parts"], np.array(saved["behaviour"], dtype=np.float64), saved["tolerance"])


def fingerprint(objective: Objective, reader: Reader, alphas: Floats, workers: int | str) -> Fingerprint:
    """The fingerprint of a measurement at these α.

    Parts of the model and the loss that change from call to call (counters, kept activations) are left out.

    Raises `ValueError` for data that hold something whose content cannot be told.
    """
    on_path, statistics = objective.on_path, objective.statistics
    behaviour = _behaviour(objective, reader.first)
    before, _, after = _code(objective), _behaviour(objective, reader.first, OTHER_ALPHA), _code(objective)
    path = Contents()
    path.add("path", on_path.given)
    facts = {
        "path": on_path.given.digest(),
        "alphas": alphas.tolist(),
        "data": chunk_digest(reader.first),
        "batch_norm": statistics.describe(),
        "data of batch_norm": chunk_digest(statistics.batches()) if statistics.estimates() else None,
        "derivative": objective.derivative,
        "dtype": f"{on_path.compute_dtype()} {on_path.dtype}",
        "device": str(on_path.device),
        "workers": workers,
        "settings of torch": [str(torch.get_default_dtype()), torch.get_float32_matmul_precision()],
        "version of the file": PARTIAL_FORMAT,
    }
    parts = Contents()
    for name, fact in facts.items():
        parts.add(name, fact)
    kept = {name: digest for name, digest in after.items() if before.get(name) == digest}
    # On another machine or number of threads the examples are rounded otherwise (2-norm); with derivatives a ReLU's
    # input that is zero within rounding may fall on either side.
    factor = DERIVATIVE_FACTOR if objective.derivative else 1
    unit = torch.finfo(on_path.compute_dtype()).eps
    return Fingerprint(parts.parts | path.parts | kept, behaviour, factor * KERNEL_UNITS * unit)


def chunk_digest(batches: Iterable[Batch]) -> str:
    """12 hex digits over everything in these batches.

    Raises `ValueError` for something whose content cannot be told.
    """
    digests = []
    for batch in batches:
        contents = Contents()
        contents.add("batch", (batch.inputs, batch.targets))
        if contents.opaque:
            raise ValueError(
                explain(
                    expected="data whose content can be told from other data's, for partial=.",
                    got=f"{contents.opaque[0]}.",
                    hint="Leave partial= out, or give batches of tensors, arrays, numbers, texts and plain objects.",
                )
            )
        digests.append(contents.digest())
    every = Contents()
    every.add("batches", digests)
    return every.digest()


def _code(objective: Objective) -> dict[str, str]:
    """What the model and the loss are made of, but for what comes from the path."""
    model, loss = Contents(tensors=False), Contents()
    model.add("model", objective.on_path.model)
    loss.add("loss", objective.loss)
    loss.add("metrics", objective.metrics)
    return model.parts | loss.parts


def _behaviour(objective: Objective, batches: list[Batch], alpha: float = PROBE_ALPHA) -> Floats:
    """Losses, and slopes where they are asked for, of a few examples."""
    objective = replace(objective, metrics=())
    try:
        losses, slopes = losses_at(objective, few_examples(batches))(alpha, objective.derivative is not None)
    except Exception:  # the caller's forward or loss, on a batch that was cut
        losses, slopes = losses_at(objective, batches[0])(alpha, objective.derivative is not None)
    values = [each.double().cpu().numpy() for each in (losses, slopes) if each is not None]
    return np.concatenate(values)
