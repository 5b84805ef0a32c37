"""Callbacks for the trainers of transformers and Lightning that log the profile from the start to the present."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lerpscape.base.saving import import_optional
from lerpscape.integrations.watching import Watch
from lerpscape.networks.losses import Loss, PerExample
from lerpscape.networks.reading import Data


def trainer_callback(
    trainer: Any,
    data: Data,
    *,
    every: int,
    folder: str | Path,
    loss: str | PerExample | Loss = "next_token",
    alphas: Any = 11,
    tolerance: float = 0.0,
    **options: Any,
) -> Any:
    """A `TrainerCallback` for a transformers `Trainer` that measures the line from the start every so many steps.

    Training goes on as it would without it, bit for bit: parameters, optimiser, modes and random generators.

    * `data`: batches as for `profile`, few enough: every look costs as many forward passes as there are `alphas`.
    * `every`: steps of the optimiser between two looks.
    * `folder`: where `start.safetensors`, and at each look `step100.safetensors` and the `Profile` `step100.json` go;
      the folder is what `studies.onset` and `studies.trajectory` read. A resumed training goes on from its start.
    * `loss`, `alphas`: as for `profile`; `tolerance` is the rise that `monotonic` still allows. `options` too, with
      `derivative=False` by default.

    It logs, by `trainer.log`, `lerpscape/max_rise`, `lerpscape/relative_distance`, `lerpscape/monotonic` (1 or 0),
    `lerpscape/loss_at_start` and `lerpscape/loss_now`; NaN for a curve with a loss that is not finite. Of several
    processes the first one does. Needs `pip install "lerpscape[hf]"`.

    Raises `ValueError` for `every` below 1, and in training what `profile` raises.

    >>> trainer.add_callback(trainer_callback(trainer, blocks, every=100, folder="watch"))  # doctest: +SKIP
    """
    base: Any = import_optional("transformers", "hf").TrainerCallback
    watch = Watch(data, every, Path(folder), loss, alphas, tolerance, options)

    class ProfileCallback(base):  # type: ignore[misc]
        """Measures the line from the start of the training to the present."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                watch.begin(_unwrapped(trainer))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero and watch.is_due(state.global_step):
                trainer.log(watch.look(_unwrapped(trainer), state.global_step))

    return ProfileCallback()


def lightning_callback(
    data: Data,
    *,
    every: int,
    folder: str | Path,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Any = 11,
    tolerance: float = 0.0,
    **options: Any,
) -> Any:
    """A `Callback` for a Lightning `Trainer` that measures the line from the start every so many steps.

    The `LightningModule` is called on `data` as a plain module, by its `forward`. All else is as for
    `trainer_callback`; the numbers go to every logger of the trainer. Needs `pip install "lerpscape[lightning]"`, or
    the package `lightning`.

    >>> Trainer(callbacks=[lightning_callback(batches, every=100, folder="watch")])  # doctest: +SKIP
    """
    # the two packages have classes of their own: take the one whose trainer is in use
    package = "lightning.pytorch" if "lightning.pytorch" in sys.modules else "pytorch_lightning"
    base: Any = import_optional(package, "lightning").Callback
    watch = Watch(data, every, Path(folder), loss, alphas, tolerance, options)

    class ProfileCallback(base):  # type: ignore[misc]
        """Measures the line from the start of the training to the present."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                watch.begin(pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            if trainer.is_global_zero and watch.is_due(trainer.global_step):
                values = watch.look(pl_module, trainer.global_step)
                for logger in trainer.loggers:
                    logger.log_metrics(values, step=trainer.global_step)

    return ProfileCallback()


def _unwrapped(trainer: Any) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)
