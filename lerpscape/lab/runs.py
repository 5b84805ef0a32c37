"""One run, from its configuration to its measurements in a store; finished steps are not repeated."""

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
from lerpscape.lab.resuming import DamagedFile, pack, unpack, weights
from lerpscape.lab.store import RunFolder, State, Store, training_config
from lerpscape.lab.training import TrainingState, train
from lerpscape.networks.batch_norm import named_policy
from lerpscape.networks.losses import Loss, find_loss
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile

LOSS_OF_TASK: dict[str, str | Loss] = {
    "classification": "cross_entropy",
    "reconstruction": "squared_error",
    "language": Loss("cross_entropy", class_dim=-1),  # there may be as many positions as tokens
    "regression": "squared_error",
}
TRIAL_EXAMPLES = 8  # size of the trial measurement before training


@dataclass(frozen=True)
class WorkItem:
    """What a worker needs for one run: the configuration and the folders of store and data.

    With `wait`, the worker waits for another process that holds the run.
    """

    config: RunConfig
    store: str
    data_folder: str | None = None
    wait: bool = False


def check_items(items: Sequence[WorkItem]) -> None:
    """Load the data and build the network of every run, without weights, before the first run is trained.

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


def perform(item: WorkItem) -> State | str:
    """Train and measure one run, as far as the store lacks it; returns its state, or "busy" if another process has it.

    An error inside the run is written to the store as `failed.json`; a full disk or another store's files are raised.
    Runs on one thread, so that the bits of a result do not depend on the number of threads.
    """
    store = Store(item.store)
    with store.lock(item.config, wait=item.wait) as ours:
        if not ours:
            return "busy"
        folder = store.run(item.config)
        state = folder.state  # reads every committed file
        if state == "damaged":
            folder.quarantine(folder.damage())
            state = folder.state
        if state in ("done", "diverged", "failed"):
            return state
        with one_thread():
            try:
                _train_and_measure(folder, item)
            except OSError:
                raise
            except Exception as error:
                folder.write_json("failed.json", {"error": str(error), "traceback": traceback.format_exc()})
        return folder.state


def _train_and_measure(folder: RunFolder, item: WorkItem) -> None:
    config = item.config
    data = load_data(config.data, item.data_folder)
    loss = find_loss(LOSS_OF_TASK[data.task])
    folder.write_json("config.json", training_config(config))
    if not folder.intact("trained.json"):
        _try_measuring(config, data, loss)
        _train(folder, config, data, loss)
    folder.remove("resume.safetensors")
    if folder.read_json("trained.json")["outcome"] != "diverged" and not folder.intact(f"{folder.measured}/done.json"):
        _measure(folder, config, data, loss)


def new_model(config: RunConfig, data: DataSet) -> nn.Module:
    """The run's network at its initialisation."""
    return models.build(
        config.model.name, inputs=data.inputs, outputs=data.outputs, seed=config.seed, **config.model.options
    )


@lru_cache(maxsize=1)
def load_data(config: DataConfig, folder: str | None) -> DataSet:
    """The run's data set; the last one is cached, because the next run usually has the same."""
    # False is not passed on: not every data set has these options.
    switches = {"normalize": True} if config.normalize else {}
    switches |= {"reconstruct": True} if config.reconstruct else {}
    return data_sets.load(config.name, folder, train_size=config.train_size, **switches, **config.options)


def _train(folder: RunFolder, config: RunConfig, data: DataSet, loss: Loss) -> None:
    resumed = _resumed_state(folder)
    model = new_model(config, data)
    if resumed is None:
        folder.write("start.safetensors", weights(model.state_dict()))
    began = time.perf_counter()

    def save(state: TrainingState) -> None:
        nonlocal began
        epoch = state.history[-1].number
        if epoch in config.training.snapshots:
            folder.write(f"epoch-{epoch:04d}.safetensors", weights(state.parameters))
        spent, began = time.perf_counter() - began, time.perf_counter()
        folder.add_seconds(training=spent)
        if not state.finished(config.training):
            folder.write("resume.safetensors", pack(state))

    final = train(model, data.train, loss, config, state=resumed, after_epoch=save)
    epochs = [epoch.number for epoch in final.history]
    folder.write("end.safetensors", weights(final.parameters))
    folder.write_json("history.json", final.history_table())
    snapshots = [f"epoch-{epoch:04d}.safetensors" for epoch in config.training.snapshots if epoch in epochs]
    folder.commit(
        "trained.json",
        ["config.json", "start.safetensors", *snapshots, "end.safetensors", "history.json"],
        outcome="diverged" if final.diverged else "finished",
        epochs=len(epochs),
    )


def _resumed_state(folder: RunFolder) -> TrainingState | None:
    """The state that an interrupted run saved, if any; if its file is damaged, the run is moved to quarantine."""
    if not folder.exists("resume.safetensors"):
        return None
    try:
        state = unpack(folder.read("resume.safetensors"))
    except DamagedFile as error:
        folder.quarantine(f"resume.safetensors is damaged ({error})")
        folder.write_json("config.json", training_config(folder.config))
        return None
    return state if folder.exists("start.safetensors") else None


def measured_examples(split: Split, config: RunConfig, epochs: int) -> Split:
    """The training examples with the labels of the last of the `epochs` trained, label noise included.

    A run that `stop_below` ended before `label_noise_from` never saw the noise, and is measured without it.
    """
    noisy = config.data.label_noise and epochs > config.data.label_noise_from
    return split.corrupted(config.data.label_noise, seed=config.seed) if noisy else split


def _measure(folder: RunFolder, config: RunConfig, data: DataSet, loss: Loss) -> None:
    wanted = config.measure
    start, end = (load_weights(folder.read(f"{name}.safetensors")) for name in ("start", "end"))
    model, line = new_model(config, data), Line(start, end)
    learnt = measured_examples(data.train, config, folder.read_json("trained.json")["epochs"])
    train_batches = FirstExamples(learnt.batches(wanted.batch_size), wanted.examples)
    parts: dict[str, Any] = {"train": train_batches}
    if wanted.held_out:
        parts["held-out"] = FirstExamples(data.test.batches(wanted.batch_size), wanted.examples)
    policy = named_policy(wanted.batch_norm, train_batches)
    files = [f"{folder.measured}/config.json"]
    folder.write_json(files[0], config.to_dict().get("measure", {}))
    for label, batches in parts.items():
        measured = profile(
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
        files.append(_write_result(folder, f"{label}.json", measured.to_dict()))
    if wanted.gauss:
        batches = FirstExamples(data.train.batches(wanted.batch_size), wanted.gauss)
        try:
            gauss = gauss_length(model, line, batches, batch_norm=policy, progress=False, label="train").to_dict()
        except NonFiniteOutput as error:  # the outputs overflow, so their paths have no direction
            gauss = {"undefined": str(error), "how": {}}
        files.append(_write_result(folder, "gauss.json", gauss))
    folder.commit(f"{folder.measured}/done.json", files)


def _write_result(folder: RunFolder, name: str, result: dict[str, Any]) -> str:
    """Write a result, with its duration in seconds.json instead, so that equal results have equal bytes."""
    how = dict(result["how"])
    seconds = how.pop("seconds", None)
    if seconds is not None:
        folder.add_seconds(**{f"measuring {name.removesuffix('.json')}": seconds})
    folder.write_json(f"{folder.measured}/{name}", {**result, "how": how})
    return f"{folder.measured}/{name}"


def _try_measuring(config: RunConfig, data: DataSet, loss: Loss) -> None:
    """Measure a line between two initialisations on a few examples, so that a refusal comes before training."""
    model, end = new_model(config, data), new_model(config.with_seed(config.seed ^ 1), data)
    few = FirstExamples(data.train.batches(TRIAL_EXAMPLES), TRIAL_EXAMPLES)
    policy = named_policy(config.measure.batch_norm, few)
    profile(model, Line(model, end), few, loss=loss, alphas=2, batch_norm=policy, derivative=False, progress=False)


@dataclass(frozen=True)
class FirstExamples:
    """The first `examples` examples of a re-iterable of batches; None: all of them.

    >>> [len(inputs) for inputs, _ in FirstExamples([(torch.zeros(4), torch.zeros(4))] * 3, 6)]
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
    """Use one torch thread inside the block; small networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
