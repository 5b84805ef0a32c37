"""One run, from its configuration to its measurements in a store; whatever is finished is not done again."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from safetensors.torch import load as load_weights
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lerpscape.base.errors import ConfigError, NonFiniteOutput, explain
from lerpscape.geometry.gauss_length import gauss_length
from lerpscape.lab import data as data_sets
from lerpscape.lab import models
from lerpscape.lab.config import DataConfig, RunConfig
from lerpscape.lab.data import DataSet, Split
from lerpscape.lab.resuming import Damaged, pack, unpack, weights
from lerpscape.lab.store import RunFolder, State, Store, trained_part
from lerpscape.lab.training import Progress, train
from lerpscape.networks.batch_norm import named_policy
from lerpscape.networks.losses import Loss, find_loss
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile

LOSS_OF_TASK = {
    "classification": "cross_entropy",
    "reconstruction": "squared_error",
    "language": "cross_entropy",
    "regression": "squared_error",
}
REHEARSED = 8  # examples that the measurement is tried on before anything is trained


@dataclass(frozen=True)
class Item:
    """The work of one run, small enough to travel: a configuration and where data and store are."""

    config: RunConfig
    store: str
    data_folder: str | None = None
    wait: bool = False


def require(items: Sequence[Item]) -> None:
    """Build every different network of some runs, without its weights, before the first is trained.

    Raises `ConfigError` for a model, an option or a data set that does not exist, or batch norm without a policy.
    """
    seen = set()
    for item in items:
        config = item.config
        signature = repr((config.data, config.model, config.measure.batch_norm))
        if signature in seen:
            continue
        seen.add(signature)
        data = load_data(config.data, item.data_folder)
        with torch.device("meta"):
            model = new_model(config, data)
        if config.measure.batch_norm is None and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
            raise ConfigError(
                explain(
                    expected="measure.batch_norm for a model with batch norm: recalibrate, pooled, "
                    "interpolate, batch or end.",
                    got=f"none for the run {config.name} ({config.model.name}).",
                    hint='cases.norm = [{}, {model.batch_norm = true, measure.batch_norm = "interpolate"}]',
                )
            )


def perform(item: Item) -> State | str:
    """Train and measure one run, or whatever of it the store lacks; gives its state, "busy" where another has it.

    What goes wrong inside the run is written into the store as `failed.json`; a full disk or a foreign store is not
    the run's fault and is raised. On one thread: the bits of a result do not depend on how many there are.
    """
    store = Store(item.store)
    with store.lock(item.config, wait=item.wait) as ours:
        if not ours:
            return "busy"
        folder = store.run(item.config)
        if folder.state in ("done", "diverged", "failed") and not _damaged(folder):
            return folder.state
        with one_thread():
            try:
                _train_and_measure(folder, item)
            except OSError:
                raise
            except Exception as error:
                folder.write_json("failed.json", {"error": str(error), "traceback": traceback.format_exc()})
        return folder.state


def _train_and_measure(folder: RunFolder, item: Item) -> None:
    config = item.config
    data = load_data(config.data, item.data_folder)
    loss = find_loss(LOSS_OF_TASK[data.task])
    folder.write_json("config.json", trained_part(config))
    if not folder.intact("trained.json"):
        _rehearse(config, data, loss)
        _train(folder, config, data, loss)
    folder.remove("resume.safetensors")
    if folder.read_json("trained.json")["outcome"] != "diverged" and not folder.intact(f"{folder.measured}/done.json"):
        _measure(folder, config, data, loss)


def _damaged(folder: RunFolder) -> bool:
    """Whether a file that a commit names is not what was committed; such a run is moved aside."""
    commits = [name for name in ("trained.json", f"{folder.measured}/done.json") if folder.exists(name)]
    bad = [name for name in commits if not folder.intact(name)]
    if bad:
        folder.quarantine(f"files named in {bad[0]} are missing or changed")
    return bool(bad)


def new_model(config: RunConfig, data: DataSet) -> nn.Module:
    """The run's network at its initialisation."""
    return models.build(
        config.model.name, inputs=data.inputs, outputs=data.outputs, seed=config.seed, **config.model.options
    )


@lru_cache(maxsize=1)
def load_data(config: DataConfig, folder: str | None) -> DataSet:
    """The run's data set; the last one is kept, because the next run usually learns the same."""
    # Only what is asked for: not every data set can be normalised or reconstructed.
    asked = {"normalize": True} if config.normalize else {}
    asked |= {"reconstruct": True} if config.reconstruct else {}
    return data_sets.load(config.name, folder, train_size=config.train_size, **asked, **config.options)


def _train(folder: RunFolder, config: RunConfig, data: DataSet, loss: Loss) -> None:
    before = _earlier(folder)
    model = new_model(config, data)
    if before is None:
        folder.write("start.safetensors", weights(model.state_dict()))
    began = time.perf_counter()

    def keep(progress: Progress) -> None:
        nonlocal began
        epoch = progress.history[-1].number
        if epoch in config.training.snapshots:
            folder.write(f"epoch-{epoch:04d}.safetensors", weights(progress.parameters))
        spent, began = time.perf_counter() - began, time.perf_counter()
        folder.add_seconds(training=spent)
        if not progress.finished(config.training):
            folder.write("resume.safetensors", pack(progress))

    progress = train(model, data.train, loss, config, before=before, after_epoch=keep)
    epochs = [epoch.number for epoch in progress.history]
    folder.write("end.safetensors", weights(progress.parameters))
    folder.write_json("history.json", progress.history_table())
    snapshots = [f"epoch-{epoch:04d}.safetensors" for epoch in config.training.snapshots if epoch in epochs]
    folder.commit(
        "trained.json",
        ["config.json", "start.safetensors", *snapshots, "end.safetensors", "history.json"],
        outcome="diverged" if progress.diverged else "finished",
        epochs=len(epochs),
    )


def _earlier(folder: RunFolder) -> Progress | None:
    """Where a killed run stood; a damaged file is moved aside and the run starts again."""
    if not folder.exists("resume.safetensors"):
        return None
    try:
        progress = unpack(folder.read("resume.safetensors"))
    except Damaged as error:
        folder.quarantine(f"resume.safetensors is damaged ({error})")
        folder.write_json("config.json", trained_part(folder.config))
        return None
    return progress if folder.exists("start.safetensors") else None


def measured_split(split: Split, config: RunConfig) -> Split:
    """The training examples that are measured: those of the last epoch, labels as they were learnt."""
    noisy = config.data.label_noise and config.training.epochs > config.data.label_noise_from
    return split.corrupted(config.data.label_noise, seed=config.seed) if noisy else split


def _measure(folder: RunFolder, config: RunConfig, data: DataSet, loss: Loss) -> None:
    wanted = config.measure
    start, end = (load_weights(folder.read(f"{name}.safetensors")) for name in ("start", "end"))
    model, line = new_model(config, data), Line(start, end)
    train_batches = First(measured_split(data.train, config).batches(wanted.batch_size), wanted.examples)
    parts: dict[str, Any] = {"train": train_batches}
    if wanted.held_out:
        parts["held-out"] = First(data.test.batches(wanted.batch_size), wanted.examples)
    policy = named_policy(wanted.batch_norm, train_batches)
    files = [f"{folder.measured}/config.json"]
    folder.write_json(files[0], config.to_dict().get("measure", {}))
    for label, batches in parts.items():
        found = profile(
            model,
            line,
            batches,
            loss=loss,
            alphas=wanted.alphas,
            batch_norm=policy,
            derivative=wanted.derivative,
            progress=False,
            label=label,
        )
        files.append(_keep(folder, f"{label}.json", found.to_dict()))
    if wanted.gauss:
        batches = First(data.train.batches(wanted.batch_size), wanted.gauss)
        try:
            turning = gauss_length(model, line, batches, batch_norm=policy, progress=False, label="train").to_dict()
        except NonFiniteOutput as error:  # a network that overflows has a profile with invalid points, and no direction
            turning = {"undefined": str(error), "how": {}}
        files.append(_keep(folder, "gauss.json", turning))
    folder.commit(f"{folder.measured}/done.json", files)


def _keep(folder: RunFolder, name: str, result: dict[str, Any]) -> str:
    """Write a result without its seconds, which are no part of it."""
    how = dict(result["how"])
    seconds = how.pop("seconds", None)
    if seconds is not None:
        folder.add_seconds(**{f"measuring {name.removesuffix('.json')}": seconds})
    folder.write_json(f"{folder.measured}/{name}", {**result, "how": how})
    return f"{folder.measured}/{name}"


def _rehearse(config: RunConfig, data: DataSet, loss: Loss) -> None:
    """Measure a line between two initialisations on a few examples: what measuring refuses is known before training."""
    model, other = new_model(config, data), new_model(config.with_seed(config.seed + 1), data)
    few = First(data.train.batches(REHEARSED), REHEARSED)
    policy = named_policy(config.measure.batch_norm, few)
    profile(model, Line(model, other), few, loss=loss, alphas=2, batch_norm=policy, derivative=False, progress=False)


@dataclass(frozen=True)
class First:
    """The first `examples` of a re-iterable of batches; None: all of them.

    >>> [len(inputs) for inputs, _ in First([(torch.zeros(4), torch.zeros(4))] * 3, 6)]
    [4, 2]
    """

    batches: Any
    examples: int | None

    def __iter__(self) -> Iterator[Any]:
        left = math.inf if self.examples is None else self.examples
        for inputs, targets in self.batches:
            if left <= 0:
                return
            count = min(len(targets), int(min(left, len(targets))))
            yield (inputs, targets) if count == len(targets) else (inputs[:count], targets[:count])
            left -= count

    def __len__(self) -> int:
        if self.examples is None:
            return len(self.batches)
        left = self.examples
        for number, (_, targets) in enumerate(self.batches, 1):
            left -= len(targets)
            if left <= 0:
                return number
        return len(self.batches)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block: small networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
