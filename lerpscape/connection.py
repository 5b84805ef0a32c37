"""A curve of low loss between two networks: training the control point of a quadratic Bezier curve."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lerpscape.batch_norm import BatchNormPolicy, Recalibrate
from lerpscape.batches import Batch, Data, Reader
from lerpscape.checkpoints import Checkpoint, Params, Source
from lerpscape.curves import Bezier
from lerpscape.errors import Diverged, three_parts
from lerpscape.functional import ModelOnPath, undisturbed
from lerpscape.losses import Loss, PerExample, find_loss, per_example_values
from lerpscape.matching import twins
from lerpscape.normalisation import Statistics
from lerpscape.paths import Line
from lerpscape.progress import Progress, progress_bar


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

    θ_c begins halfway on the line. Each batch draws one α from `seed` and makes a step of SGD with `momentum`, at a
    `learning_rate` that falls to 0 along a half cosine. Batches come in an order drawn from `seed`; they must fit in
    memory. Buffers of the control point are halfway between those of the ends.

    `batch_norm` says what layers normalise with while training: `BatchStatistics()`, as usual, or fixed statistics
    with `InterpolateStatistics()` or `EndStatistics()`. Measure the curve with `Recalibrate(data)`.

    Raises `Diverged` for a loss that is not finite, or larger over the last epoch than over the first;
    `EndpointMismatch`, `ValueError` for no epochs, no batch-norm policy, or one that cannot be trained through.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson (2018).

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 0.0]])  # the second weight is free: no curve is lower than the line
    >>> ends = ({"weight": torch.tensor([[1.0, side]])} for side in (-1.0, 1.0))
    >>> curve = connect(model, *ends, [(x, torch.ones(1, 1))], "squared_error", epochs=2, progress=False)
    >>> curve.control.tensors["weight"]
    tensor([[1., 0.]])
    """
    if epochs < 1:
        raise ValueError(three_parts("at least one epoch.", f"{epochs}.", "epochs=20"))
    if isinstance(batch_norm, Recalibrate):
        raise ValueError(
            three_parts(
                "BatchStatistics(), or statistics that stay fixed, to train through.",
                "Recalibrate.",
                "Train with BatchStatistics() and measure the curve with Recalibrate(data).",
            )
        )
    line, chosen = Line(start, end), find_loss(loss)
    with undisturbed(model):
        batches = list(Reader(data).batches())
        on_device = ModelOnPath(model, line, device, None)
        curve, control = _trainable(line, on_device.device)
        on_path = ModelOnPath(model, curve, on_device.device, None)
        module, statistics = _Losses(model, chosen), Statistics(on_path, batch_norm)
        optimizer = torch.optim.SGD(control.values(), lr=learning_rate, momentum=momentum)
        generator = torch.Generator().manual_seed(seed)
        means = []
        with progress_bar(progress, total=epochs * len(batches), what="connect") as report:
            for epoch in range(epochs):
                total, count = 0.0, 0
                for position, index in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
                    done = (epoch + position / len(batches)) / epochs
                    optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
                    alpha = float(torch.rand((), generator=generator, dtype=torch.float64))
                    with torch.enable_grad():
                        state = statistics.apply(on_path.at(alpha), alpha)
                        losses = statistics.call(module, state, batches[index].to(on_path.device, None))
                        optimizer.zero_grad()
                        losses.mean().backward()
                    optimizer.step()
                    total, count = total + float(losses.detach().double().sum()), count + len(losses)
                    report(1)
                    if not math.isfinite(total):
                        raise _diverged(f"a loss that is not finite, in epoch {epoch + 1}", learning_rate)
                means.append(total / count)
    if means[-1] > means[0]:
        raise _diverged(f"{means[-1]:.4g} over the last epoch, {means[0]:.4g} over the first", learning_rate)
    trained = {
        name: tensor.detach().to(line.end.tensors[name].device) for name, tensor in curve.control.tensors.items()
    }
    return Bezier(line.start, Checkpoint(trained, line.start.parameters, "a trained control point"), line.end)


def _trainable(line: Line, device: torch.device) -> tuple[Bezier, Params]:
    """A curve on the device whose control point is halfway on the line, and its parameters that learn, by name."""
    line = line.to(device, None)
    middle, ties = line.at(0.5), twins(line.start, line.end)
    control = {name: middle[name].requires_grad_() for name in line.velocity(0.5) if name in line.start.parameters}
    middle |= {name: control[ties[name]] for name in middle if ties[name] in control}
    return Bezier(line.start, Checkpoint(middle, line.start.parameters, "a control point"), line.end), control


class _Losses(nn.Module):
    """One loss per example of a batch."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch) -> Tensor:
        return per_example_values(self.loss, batch.call(self.model), batch.targets, batch.examples)


def _diverged(what: str, learning_rate: float) -> Diverged:
    return Diverged(
        three_parts(
            "a loss along the curve that falls in training.",
            f"{what} (learning rate {learning_rate:g}).",
            f"Try learning_rate={learning_rate / 10:g}, or more epochs.",
        )
    )
