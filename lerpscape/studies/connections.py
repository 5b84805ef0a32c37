"""A curve of low loss between two networks: training the control point of a quadratic Bezier curve."""

from __future__ import annotations

import math

import torch
from torch import nn

from lerpscape.base.errors import Diverged, explain
from lerpscape.base.progress import Progress
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.fitted_losses import fitted
from lerpscape.engine.measurement import opened
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.networks.batch_norm import BatchNormPolicy, Recalibrate
from lerpscape.networks.batches import Batch, Caller
from lerpscape.networks.losses import ExampleLosses, Loss, PerExample, evaluated, weighted_mean
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Checkpoint, Params, Source
from lerpscape.paths.curves import Bezier
from lerpscape.paths.line import Line
from lerpscape.paths.matching import first_tied_names

# The α at which the curve is compared with the line.
_COMPARED = (0.1, 0.3, 0.5, 0.7, 0.9)


def connect(
    model: nn.Module,
    start: Source,
    end: Source,
    data: Data,
    loss: str | PerExample | Loss = "cross_entropy",
    *,
    epochs: int = 20,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    seed: int = 0,
    batch_norm: BatchNormPolicy | None = None,
    device: torch.device | str | None = None,
    progress: Progress = None,
) -> Bezier:
    """Train the control point θ_c of a Bezier curve for a low loss along it: min E_α L(θ(α)), α uniform on [0, 1].

    θ_c starts at the middle of the line. For each batch one α is drawn, and SGD with `momentum` makes one step; the
    learning rate falls from `learning_rate` to 0 along a half cosine. `seed` decides the order of the batches, which
    must fit in memory, and the α. Buffers of the control point are halfway between those of the ends.

    * `loss`, `device`, `progress`: as for `profile`.
    * `batch_norm`: what layers normalise with in training: `BatchStatistics()`, as usual, or fixed statistics with
      `InterpolateStatistics()` or `EndStatistics()`. Measure the curve with `Recalibrate(data)`.

    Raises `Diverged` for a loss that is not finite, or larger at the end than on the straight line (on average over
    α = 0.1, 0.3, …, 0.9 and all examples); `EndpointMismatch`; `ValueError` for no epochs, no batch-norm policy, or one
    that cannot be trained through.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson (2018).

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 0.0]])  # the second weight is free: no curve is lower than the line
    >>> ends = ({"weight": torch.tensor([[1.0, side]])} for side in (-1.0, 1.0))
    >>> curve = connect(model, *ends, [(x, torch.ones(1, 1))], "squared_error", epochs=2, progress=False)
    >>> curve.control.tensors["weight"]
    tensor([[1., 0.]])
    """
    if epochs < 1:
        raise ValueError(explain(expected="at least one epoch.", got=f"{epochs}.", hint="epochs=20"))
    if isinstance(batch_norm, Recalibrate):
        raise ValueError(
            explain(
                expected="BatchStatistics(), or statistics that stay fixed, to train through.",
                got="Recalibrate.",
                hint="Train with BatchStatistics() and measure the curve with Recalibrate(data).",
            )
        )
    line = Line(start, end)
    with opened(
        connect, model, line, data, {"batch_norm": batch_norm, "device": device, "progress": progress}
    ) as measurement:
        chosen = fitted(loss, measurement).loss
        batches = list(measurement.reader.batches())
        on_device = measurement.on_path.device
        curve, control = _trainable(line, on_device)
        losses_at = _LossesAt(ModelOnPath(model, curve, on_device, None), chosen, batch_norm)
        optimizer = torch.optim.SGD(control.values(), lr=learning_rate, momentum=momentum)
        generator = torch.Generator().manual_seed(seed)
        before = losses_at.mean(batches)  # of the line: the control point is halfway
        with measurement.progress_bar(epochs * len(batches), "connect") as report:
            for epoch in range(epochs):
                for position, index in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
                    done = (epoch + position / len(batches)) / epochs
                    optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
                    alpha = float(torch.rand((), generator=generator, dtype=torch.float64))
                    with torch.enable_grad():
                        mean = weighted_mean([losses_at(alpha, batches[index])])
                        optimizer.zero_grad()
                        torch.autograd.backward(mean)
                    if not math.isfinite(float(mean)):
                        raise _diverged(f"a loss that is not finite, in epoch {epoch + 1}", learning_rate)
                    optimizer.step()
                    report(1)
        after = losses_at.mean(batches)
    if not after <= before:
        raise _diverged(f"{after:.4g} after it, {before:.4g} on the straight line", learning_rate)
    trained = {
        name: tensor.detach().to(line.end.tensors[name].device) for name, tensor in curve.control.tensors.items()
    }
    return Bezier(line.start, Checkpoint(trained, line.start.parameters, "a trained control point"), line.end)


def _trainable(line: Line, device: torch.device) -> tuple[Bezier, Params]:
    """A curve on the device whose control point is the middle of the line, and its trainable parameters, by name."""
    line = line.to(device, None)
    middle, ties = line.at(0.5), first_tied_names(line.start, line.end)
    control = {name: middle[name].requires_grad_() for name in line.velocity(0.5) if name in line.start.parameters}
    middle |= {name: control[ties[name]] for name in middle if ties[name] in control}
    return Bezier(line.start, Checkpoint(middle, line.start.parameters, "a control point"), line.end), control


class _LossesAt:
    """One loss per example of a batch at any α, through which gradients pass."""

    def __init__(self, on_path: ModelOnPath, loss: Loss, batch_norm: BatchNormPolicy | None) -> None:
        self._on_path = on_path
        self._statistics = BatchNormStatistics(on_path, batch_norm)
        self._caller = Caller(on_path.model, with_targets=loss.takes_targets)
        self._loss = loss

    def __call__(self, alpha: float, batch: Batch) -> ExampleLosses:
        state = self._statistics.apply(self._on_path.at(alpha), alpha)
        with batch.to(self._on_path.device, None).lent() as own:
            outputs = self._statistics.call(self._caller, state, own)
            return evaluated(self._loss, outputs, own.targets, own.examples)

    def mean(self, batches: list[Batch]) -> float:
        """The mean over all examples and a few points of the curve."""
        return float(weighted_mean([self(alpha, batch) for alpha in _COMPARED for batch in batches]).detach())


def _diverged(what: str, learning_rate: float) -> Diverged:
    return Diverged(
        explain(
            expected="a loss along the curve that falls in training.",
            got=f"{what} (learning rate {learning_rate:g}).",
            hint=f"Try learning_rate={learning_rate / 10:g}, or more epochs.",
        )
    )
