"""A trained network as measurements ask for it: its model, line, data, loss, batch norm, fresh starts and snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load as load_weights
from torch import nn

from lerpscape.base.errors import ConfigError, explain, missing_file
from lerpscape.lab import data as data_sets
from lerpscape.lab import models
from lerpscape.lab.config import DataConfig, RunConfig
from lerpscape.lab.data import Batches, DataSet, Split
from lerpscape.lab.store import RunFolder, Store
from lerpscape.lab.training import derived_seed
from lerpscape.networks.batch_norm import named_policy
from lerpscape.networks.losses import Loss
from lerpscape.paths.checkpoints import Checkpoint, checkpoint
from lerpscape.paths.line import Line

if TYPE_CHECKING:
    from lerpscape.lab.measure_config import Part
    from lerpscape.networks.batch_norm import BatchNormPolicy

LOSS_OF_TASK: dict[str, str | Loss] = {
    "classification": "cross_entropy",
    "reconstruction": "squared_error",
    "language": Loss("cross_entropy", class_dim=-1),  # there may be as many positions as tokens
    "regression": "squared_error",
}
FRESH, OTHER = 1, 2  # streams of seeds that no run's own initialisation comes from


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network, as measurements ask for it.

    `start` and `end` are the checkpoints before and after training, `snapshots` those in between by their label, and
    `epochs` the number of epochs trained. `model` is the network at its initialisation.
    """

    config: RunConfig
    data: DataSet
    start: Checkpoint
    end: Checkpoint
    snapshots: Mapping[str, Checkpoint]
    epochs: int

    @cached_property
    def model(self) -> nn.Module:
        """The network at its initialisation."""
        return new_model(self.config, self.data)

    @property
    def line(self) -> Line:
        """The line from the initialisation to the trained network."""
        return Line(self.start, self.end)

    @property
    def loss(self) -> str | Loss:
        """The loss that it was trained on, without penalties."""
        return LOSS_OF_TASK[self.data.task]

    @property
    def trajectory(self) -> dict[str, Checkpoint]:
        """Start, snapshots and end, in the order of training."""
        return {"start": self.start, **self.snapshots, "end": self.end}

    def split(self, part: Part = "train") -> Split:
        """The held-out examples; or the training examples, with the labels of the last epoch trained.

        A run that `stop_below` ended before `label_noise_from` never saw the noise, and is measured without it.
        """
        if part == "held-out":
            return self.data.test
        noise = self.config.data
        noisy = noise.label_noise and self.epochs > noise.label_noise_from
        return self.data.train.corrupted(noise.label_noise, seed=self.config.seed) if noisy else self.data.train

    def batches(
        self, part: Part = "train", examples: int | None = None, *, seed: int = 0, batch_size: int = 2000
    ) -> Batches:
        """At most `examples` examples of a part of the data, drawn with a seed (None: all), without augmentation."""
        split = self.split(part)
        if examples is not None and examples < len(split):
            split = split.subset(examples, seed)
        return split.batches(batch_size)

    def policy(
        self, name: str | None, examples: int | None = None, *, seed: int = 0, batch_size: int = 2000
    ) -> BatchNormPolicy | None:
        """The batch-norm policy of this name, with statistics of training examples that are drawn as in `batches`."""
        return named_policy(name, self.batches("train", examples, seed=seed, batch_size=batch_size))

    def fresh(self, seed: int) -> nn.Module:
        """Another initialisation of the same network; no seed draws that of this run or of its replicates.

        Raises `ConfigError` for a run that starts from another run.
        """
        if self.config.start:
            raise ConfigError(
                explain(
                    expected="a network that started from its initialisation, to compare it with others.",
                    got=f"{self.config.name}, which started from another run.",
                    hint="Leave it out: where = { start =  }, or fresh = 0.",
                )
            )
        return new_model(self.config, self.data, derived_seed(FRESH, self.config.seed, seed))

    @property
    def other(self) -> Checkpoint:
        """One other initialisation, for the plane through two starts and the end."""
        drawn = checkpoint(new_model(self.config, self.data, derived_seed(OTHER, self.config.seed)))
        return replace(drawn, source=f"another start of {self.config.name}")


def subject_of(folder: RunFolder, data: DataSet) -> Subject:
    """The subject of a run whose training is committed."""
    config, files = folder.config, folder.read_json("trained.json")
    model = new_model(config, data)

    def read(name: str) -> Checkpoint:
        model.load_state_dict(load_weights(folder.read(f"{name}.safetensors")))  # so that tied weights are tied again
        return replace(checkpoint(model), source=f"{name} of {config.name}")

    names = sorted(name.removesuffix(".safetensors") for name in files["files"] if name.startswith("epoch-"))
    return Subject(config, data, read("start"), read("end"), {name: read(name) for name in names}, files["epochs"])


def open_run(place: str | Path, data_folder: str | Path | None = None) -> Subject:
    """A trained network of a store: `open_run("results/runs/KEY/SEED")`, or without `runs`.

    `data_folder` is the folder of the data sets, by default `LERPSCAPE_DATA`.

    Raises `FileNotFoundError` where there is no such run, and `ConfigError` for one that is not trained, diverged or
    damaged.
    """
    path = Path(place)
    key, seed = path.parts[-2:] if len(path.parts) > 1 else ("", "")
    root = path.parents[1] if len(path.parts) > 2 else Path()
    root = root.parent if root.name == "runs" else root
    if not (root / "runs" / key / seed / "config.json").is_file():
        raise missing_file("a run STORE/runs/KEY/SEED of a store, which `lerpscape sweep run` writes", place)
    store = Store.existing(root)
    config = next((config for config in store.configs() if config.name == f"{key}/{seed}"), None)
    state = "damaged" if config is None else store.run(config).state()
    if config is None or state != "trained":
        raise ConfigError(
            explain(
                expected=f"{place} to be a trained network.",
                got=f"a run that is {state}.",
                hint="`lerpscape sweep status` says why; `lerpscape sweep run` goes on.",
            )
        )
    folder = None if data_folder is None else str(data_folder)
    return subject_of(store.run(config), load_data(config, folder))


def new_model(config: RunConfig, data: DataSet, seed: int | None = None) -> nn.Module:
    """The run's network at its initialisation, or at that of another seed."""
    drawn = config.seed if seed is None else seed
    return models.build(config.model.name, inputs=data.inputs, outputs=data.outputs, seed=drawn, **config.model.options)


def load_data(config: RunConfig, folder: str | None) -> DataSet:
    """The run's data set; its training examples are drawn with the run's seed, unless `subset_seed` is given."""
    wanted, size = config.data, config.data.train_size
    kept = DataConfig(wanted.name, normalize=wanted.normalize, reconstruct=wanted.reconstruct, options=wanted.options)
    data = _whole_data(kept, folder)
    if size is None:
        return data
    seed = config.seed if wanted.subset_seed is None else wanted.subset_seed
    return replace(data, train=data.train.subset(size, seed))


@lru_cache(maxsize=1)
def _whole_data(config: DataConfig, folder: str | None) -> DataSet:
    """A data set with all its training examples; the last one is kept, because the next run usually has the same."""
    # False is not passed on: not every data set has these options.
    switches = {"normalize": True} if config.normalize else {}
    switches |= {"reconstruct": True} if config.reconstruct else {}
    return data_sets.load(config.name, folder, **switches, **config.options)
