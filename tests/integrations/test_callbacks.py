"""Callbacks that profile in mid-training: the training is bit for bit what it is without them."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hf_folders import SIZES, built
from torch import nn
from torch.utils.data import DataLoader

import lerpscape as ls

EVERY = 2


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a step depends on or leaves behind."""
    return {
        "tensors": copy.deepcopy(model.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "modes": [module.training for module in model.modules()],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def seeded() -> None:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


def by_transformers(folder: Path, watched: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    seeded()
    settings = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    model = built("BertForMaskedLM", "BertConfig", settings | {"hidden_dropout_prob": 0.3}, spread=0.1)
    ids = (torch.arange(160).view(20, 8) * 7) % 61
    rows = [{"input_ids": row, "labels": row.flip(0)} for row in ids]
    arguments = transformers.TrainingArguments(
        str(folder / "run"),
        max_steps=5,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    seen: list[dict[str, Any]] = []

    class Record(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **rest: Any) -> None:
            seen.append(state_of(model, optimizer.optimizer))

    trainer = transformers.Trainer(model, arguments, train_dataset=rows)
    if watched:
        data = DataLoader(rows[:6], batch_size=3)  # which draws a seed whenever it is read
        trainer.add_callback(
            ls.integrations.trainer_callback(trainer, data, every=EVERY, folder=folder / "watch", loss="cross_entropy")
        )
    trainer.add_callback(Record())
    trainer.train()
    return seen, trainer.state.log_history


def by_lightning(folder: Path, watched: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    seeded()
    x = torch.randn(24, 6)
    pairs = list(zip(x, (x.sum(1) > 0).long(), strict=True))

    class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    seen: list[dict[str, Any]] = []
    logged: list[dict[str, Any]] = []

    class Record(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            seen.append(state_of(pl_module, trainer.optimizers[0]))

    class Memory(lightning.loggers.logger.DummyLogger):  # type: ignore[misc, name-defined]
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.append({**metrics, "step": step})

    model, callbacks = Net(), []
    if watched:
        data = DataLoader(pairs, batch_size=8)
        callbacks.append(ls.integrations.lightning_callback(data, every=EVERY, folder=folder / "watch"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few workers, and of a trainer's own imports
        trainer = lightning.Trainer(
            max_steps=5,
            accelerator="cpu",
            logger=Memory(),
            callbacks=[*callbacks, Record()],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=1,
        )
        trainer.fit(model, DataLoader(pairs, batch_size=4, shuffle=True))
    return seen, logged


@pytest.mark.parametrize("by", [by_transformers, by_lightning])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_training_is_the_same_with_and_without_a_look(by: Any, tmp_path: Path) -> None:
    seen, _ = by(tmp_path, False)
    watched, logged = by(tmp_path, True)
    assert len(seen) == len(watched) == 5
    for plain, looked in zip(seen, watched, strict=True):
        for part in plain:
            assert equal(plain[part], looked[part]), part
    looks = [entry for entry in logged if "lerpscape/max_rise" in entry]
    assert [entry["step"] for entry in looks] == [2, 4]
    folder = tmp_path / "watch"
    assert {file.name for file in folder.iterdir()} == {
        "start.safetensors",
        *(f"step{n}.{end}" for n in (2, 4) for end in ("safetensors", "json")),
    }
    saved = ls.Profile.load(folder / "step4.json")
    assert looks[1]["lerpscape/max_rise"] == saved.max_rise
    assert looks[1]["lerpscape/relative_distance"] == pytest.approx(saved.relative_distance)
    assert looks[1]["lerpscape/monotonic"] == float(saved.is_monotonic(0))
    start, now = (ls.checkpoint(folder / f"{name}.safetensors") for name in ("start", "step4"))
    step4 = watched[3]["tensors"]
    assert all(torch.equal(tensor, step4[name]) for name, tensor in now.tensors.items())
    assert not all(torch.equal(tensor, start.tensors[name]) for name, tensor in now.tensors.items())
    assert saved.relative_distance == pytest.approx(ls.Line(start, now).relative_distance())


def test_a_step_is_looked_at_once_and_a_resumed_training_keeps_its_start(tmp_path: Path) -> None:
    from lerpscape.integrations.watching import Watch

    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.tensor([0, 1, 0, 1, 1, 0]))]

    def watch() -> Watch:
        return Watch(data, 3, tmp_path, "cross_entropy", 5, 0.0, {})

    model, first = nn.Linear(3, 2), watch()
    first.begin(model)
    assert [step for step in range(8) if first.is_due(step)] == [3, 6]
    assert first.look(model, 3) == {
        "lerpscape/max_rise": 0.0,
        "lerpscape/relative_distance": 0.0,
        "lerpscape/monotonic": 1.0,
    }  # nothing has moved yet, as in a warm-up
    assert not first.is_due(3)
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.weight.add_(0.5)
    resumed = watch()
    resumed.begin(model)
    assert resumed.look(model, 6)["lerpscape/relative_distance"] == pytest.approx(
        ls.Line(start, model).relative_distance()
    )
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    assert np.isnan(resumed.look(model, 9)["lerpscape/max_rise"])
    with pytest.raises(ValueError, match="every= as a number of steps"):
        Watch(data, 0, tmp_path, "cross_entropy", 5, 0.0, {})
