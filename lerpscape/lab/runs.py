"""One run, from its configuration to its measurements in a store, or one comparison; finished steps stay."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load as load_weights
from torch.nn.modules.batchnorm import _BatchNorm

from lerpscape.base.errors import ConfigError, NonFiniteLoss, NonFiniteOutput, explain
from lerpscape.base.results import Result
from lerpscape.lab.comparisons import COMPARISONS
from lerpscape.lab.config import RunConfig
from lerpscape.lab.data import DataSet
from lerpscape.lab.measure_config import CompareConfig, Task
from lerpscape.lab.measurements import MEASUREMENTS, measure
from lerpscape.lab.resuming import DamagedFile, pack, unpack, weights
from lerpscape.lab.store import DONE, FAILED, TRAINED, Folder, RunFolder, State, Store, training_config
from lerpscape.lab.subjects import LOSS_OF_TASK, load_data, new_model, subject_of
from lerpscape.lab.training import TrainingState, train
from lerpscape.networks.batch_norm import named_policy
from lerpscape.networks.losses import Loss, find_loss
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile

TRIAL_EXAMPLES = 8  # size of the trial measurement before training


@dataclass(frozen=True)
class WorkItem:
    """What a worker needs for one run: the configuration, its measurements, and the folders of store and data.

    With `wait`, the worker waits for another process that holds the run.
    """

    config: RunConfig
    store: str
    tasks: tuple[Task, ...] = ()
    data_folder: str | None = None
    wait: bool = False


@dataclass(frozen=True)
class CompareItem:
    """What a worker needs for one comparison of trained runs; see `WorkItem`."""

    compare: CompareConfig
    members: tuple[RunConfig, ...]
    store: str
    data_folder: str | None = None
    wait: bool = False


def check_items(items: Sequence[WorkItem], compared: Sequence[CompareConfig] = ()) -> None:
    """Load the data and build the network of every run, without weights, before the first run is trained.

    Raises `ConfigError` for a model, an option or a data set that does not exist, or batch norm without a policy.
    """
    seen = set()
    for item in items:
        config = item.config
        policies = {task.measure.name: task.measure.examples.batch_norm for task in item.tasks if _needs_policy(task)}
        policies |= {one.name: one.examples.batch_norm for one in compared}
        signature = repr((config.data, config.model, policies))
        if signature in seen:
            continue
        seen.add(signature)
        data = load_data(config, item.data_folder)
        with torch.device("meta"):
            model = new_model(config, data)
        without = [name for name, policy in policies.items() if policy is None]
        if without and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
            raise ConfigError(
                explain(
                    expected=f"batch_norm for {without[0]} of a model with batch norm: recalibrate, pooled, "
                    "interpolate, batch or end.",
                    got=f"none, for the run {config.name} ({config.model.name}).",
                    hint=f'[[measure]] what = "{without[0]}" batch_norm = "recalibrate", '
                    'or where = { "model.batch_norm" = false } to leave such networks out.',
                )
            )


def _needs_policy(task: Task) -> bool:
    return "batch_norm" in MEASUREMENTS[task.measure.what].parameters


def perform(item: WorkItem) -> State | str:
    """Train and measure one run, as far as the store lacks it; returns its state, or "busy" if another process has it.

    An error in training or in a measurement is written to the store as `failed.json`, and the other measurements are
    made; a full disk or another store's files are raised. Runs on one thread, so that the bits of a result do not
    depend on the number of threads.
    """
    store = Store(item.store)
    folder = store.run(item.config)
    with store.lock(folder, wait=item.wait) as ours:
        if not ours:
            return "busy"
        for damaged, damage in folder.damages(item.tasks):  # reads every committed file
            damaged.quarantine(damage, "the run starts again" if damaged is folder else "it is measured again")
        state = folder.stage(item.tasks)
        if state in ("done", "diverged", "failed") and not folder.exists("resume.safetensors"):
            return state
        with one_thread():
            _train_and_measure(folder, item)
        return folder.state(item.tasks)


def _train_and_measure(folder: RunFolder, item: WorkItem) -> None:
    config = item.config
    with _recorded(folder):
        data = load_data(config, item.data_folder)
        if not folder.exists(TRAINED):
            folder.write_json("config.json", training_config(config))
            loss = find_loss(LOSS_OF_TASK[data.task])
            _try_measuring(item, data, loss)
            _train(folder, config, data, loss, _started_from(item))
        folder.remove("resume.safetensors")
    if folder.outcome() != "finished":
        return
    subject = subject_of(folder, data)
    for task in item.tasks:
        place = folder.measurement(task)
        if place.exists(DONE) or place.exists(FAILED):
            continue
        with _recorded(place):
            place.write_json("config.json", task.to_dict())
            began = time.perf_counter()
            _write_result(place, lambda task=task: (measure(task, subject), {}))  # type: ignore[misc]
            folder.add_seconds(**{f"{task.measure.what} {task.part} {task.key}": time.perf_counter() - began})


def _started_from(item: WorkItem) -> RunFolder | None:
    """The folder of the run that this one starts from, which is trained first; None without one."""
    before = item.config.before()
    if before is None:
        return None
    state = perform(replace(item, config=before, tasks=(), wait=True))
    if state != "trained":
        raise ConfigError(
            explain(
                expected=f"a trained network to start from, the run {before.name}.",
                got=f"one that is {state}.",
                hint="Change `start`, or train that run by itself to see why.",
            )
        )
    return Store(item.store).run(before)


@contextmanager
def _recorded(folder: Folder) -> Iterator[None]:
    """Record an error inside the block in the folder; a full disk, or missing files, are raised."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        folder.fail(str(error), traceback.format_exc())


def compare(item: CompareItem) -> State | str:
    """Make one comparison of trained runs, unless the store has it; returns its state, or "busy"."""
    store = Store(item.store)
    folder = store.comparison(item.compare, item.members)
    with store.lock(folder, wait=item.wait) as ours:
        if not ours:
            return "busy"
        state = folder.state()
        if state == "damaged":
            folder.quarantine(folder.damage(DONE), "it is compared again")
        elif state in ("done", "failed"):
            return state
        with one_thread(), _recorded(folder):
            facts = {"runs": [member.name for member in item.members]}
            folder.write_json("config.json", item.compare.to_dict() | facts)
            subjects = [subject_of(store.run(one), load_data(one, item.data_folder)) for one in item.members]
            _write_result(folder, lambda: COMPARISONS[item.compare.what].compare(item.compare, subjects))
        return folder.state()


def _write_result(folder: Folder, made: Callable[[], tuple[Result, dict[str, bytes]]]) -> None:
    """Write a result and its further files, then the commit; without durations, so that equal results have equal bytes.

    Where losses or outputs are not finite, the result says that it is undefined, and why.
    """
    files: dict[str, bytes] = {}
    try:
        result, files = made()
        content = _without_seconds(result.to_dict())
    except (NonFiniteLoss, NonFiniteOutput) as error:
        content = {"undefined": str(error)}
    for name, data in files.items():
        folder.write(name, data)
    folder.write_json("result.json", content)
    folder.commit(DONE, ["config.json", "result.json", *files])


def _without_seconds(value: Any) -> Any:
    """The same without the duration that each `how` states."""
    if isinstance(value, dict):
        return {
            name: {key: _without_seconds(fact) for key, fact in part.items() if key != "seconds"}
            if name == "how" and isinstance(part, dict) else _without_seconds(part)
            for name, part in value.items()
        }  # fmt: skip
    return [_without_seconds(part) for part in value] if isinstance(value, list) else value


def _train(folder: RunFolder, config: RunConfig, data: DataSet, loss: Loss, first: RunFolder | None) -> None:
    resumed = _resumed_state(folder)
    model = new_model(config, data)
    if resumed is None:
        if first is not None:
            model.load_state_dict(load_weights(first.read("end.safetensors")))
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
        TRAINED,
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
        folder.quarantine(f"resume.safetensors is damaged ({error})", "the run starts again")
        folder.write_json("config.json", training_config(folder.config))
        return None
    return state if folder.exists("start.safetensors") else None


def _try_measuring(item: WorkItem, data: DataSet, loss: Loss) -> None:
    """Measure a line between two initialisations on a few examples, so that a refusal comes before training."""
    model, end = new_model(item.config, data), new_model(item.config, data, item.config.seed ^ 1)
    few = data.train.subset(min(TRIAL_EXAMPLES, len(data.train)), 0).batches(TRIAL_EXAMPLES)
    for name in sorted({task.measure.examples.batch_norm or "" for task in item.tasks if _needs_policy(task)}):
        policy = named_policy(name or None, few)
        profile(model, Line(model, end), few, loss=loss, alphas=2, batch_norm=policy, derivative=False, progress=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one torch thread inside the block; small networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
