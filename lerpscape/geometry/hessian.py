"""`curvature()`: the Hessian of the mean loss along a path, by products with vectors."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import NonFiniteLoss, explain
from lerpscape.base.saving import import_optional, versions
from lerpscape.engine.derivative_check import ValuesAt, wrong_on_few_examples
from lerpscape.engine.fitted_losses import fitted
from lerpscape.engine.measurement import Alphas, Measurement, MeasurementOptions, alpha_grid, opened
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.geometry.curvature_results import Curvature
from lerpscape.networks.batches import Batch, Caller
from lerpscape.networks.losses import Loss, PerExample, evaluated, weighted_mean
from lerpscape.networks.reading import Data
from lerpscape.networks.undisturbed import forward_mode, seed
from lerpscape.paths.checkpoints import Params
from lerpscape.paths.path import ParamPath


def curvature(
    model: nn.Module,
    path: ParamPath,
    data: Data,
    *,
    loss: str | PerExample | Loss = "cross_entropy",
    alphas: Alphas = 11,
    iterations: int = 30,
    probes: int = 30,
    seed: int = 0,
    **options: Unpack[MeasurementOptions],
) -> Curvature:
    """Largest and smallest Hessian eigenvalue, trace, and dᵀHd of the mean loss at every α of a path.

    H is over all parameters (tied ones once) of L = (1/n) Σ ℓ, exact for any batch size, with batch-norm statistics
    held at the policy's values; `BatchStatistics` differentiates through each batch's own. Eigenvalues by Lanczos with
    full orthogonalisation, the trace by Hutch++; both by `hessian-eigenthings` (`pip install "lerpscape[curvature]"`).
    On a ReLU network H is that of the linear piece at θ(α): kinks do not count.

    * `loss`, `alphas`: as for `profile`.
    * `iterations`: Lanczos steps; the residual of each eigenvalue is reported.
    * `probes`: products with H for the trace; a third of them give its standard error.
    * `seed`: of the random vectors, the same at every α.
    * `options`: see `MeasurementOptions`.

    Each α takes about `iterations` + `probes` + 1 passes backwards through a backward pass.

    Raises `ImportError` without the package, `NonFiniteLoss` for NaN in a product, `ValueError` for a gradient that
    disagrees with difference quotients (looked at where there is no batch norm), and what `profile` raises.

    Sources: Ghorbani, Krishnan & Xiao (2019) for Lanczos; Meyer, Musco, Musco & Woodruff (2021) for Hutch++.

    >>> from lerpscape.paths.line import Line
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> line = Line({"weight": torch.zeros(1, 2).double()}, {"weight": torch.ones(1, 2).double()})
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double()  # H = xᵀx for the mean of 2 squared errors
    >>> bend = curvature(model, line, [(x, x[:, :1])], loss="squared_error", alphas=2)
    >>> bend.top.round(9).tolist(), bend.bottom.round(9).tolist(), bend.trace.round(9).tolist(), bend.along.tolist()
    ([9.0, 9.0], [1.0, 1.0], [10.0, 10.0], [10.0, 10.0])
    """
    library = import_optional("hessian_eigenthings", "curvature")
    grid = alpha_grid(alphas)
    if iterations < 2 or probes < 6:
        raise ValueError(
            explain(
                expected="at least 2 iterations and 6 probes.",
                got=f"{iterations} and {probes}.",
                hint="30 of each are usual.",
            )
        )
    columns: dict[str, list[float]] = {name: [] for name in ("top", "top_error", "bottom", "bottom_error")}
    columns |= {name: [] for name in ("trace", "trace_error", "along", "speed")}
    with opened(curvature, model, path, data, options) as measurement:
        hessian = _Hessian(measurement, fitted(loss, measurement).loss)
        total = len(measurement.reader) * len(grid) * (min(iterations, hessian.size) + probes + 1)
        with measurement.progress_bar(total, "curvature") as hessian.report:
            for alpha in grid:
                hessian.move_to(float(alpha))
                operator = library.LambdaOperator(hessian.times, hessian.size, hessian.device, hessian.dtype)
                values, errors = _extremes(library, operator, iterations, seed)
                trace = library.trace(operator, num_matvecs=probes, seed=seed)
                direction = hessian.direction(float(alpha))
                columns["top"].append(values[1])
                columns["top_error"].append(errors[1])
                columns["bottom"].append(values[0])
                columns["bottom_error"].append(errors[0])
                columns["trace"].append(trace.estimate)
                columns["trace_error"].append(trace.stderr)
                columns["along"].append(float(direction.double() @ hessian.times(direction).double()))
                columns["speed"].append(float(direction.double().norm()))
        return Curvature(
            alphas=grid,
            **{name: np.array(values) for name, values in columns.items()},
            parameters=hessian.size,
            examples=hessian.examples,
            unit=hessian.loss.unit,
            loss_name=hessian.loss.name,
            label=measurement.label,
            how=measurement.how(
                iterations=iterations,
                probes=probes,
                seed=seed,
                versions=versions() | {"hessian-eigenthings": library.__version__},
            ),
        )


class _Hessian:
    """Products of the Hessian of the mean loss with vectors, at one α after the other."""

    def __init__(self, measurement: Measurement, loss: Loss) -> None:
        self.loss = loss
        self.reader, self.on_path, self.statistics = measurement.reader, measurement.on_path, measurement.statistics
        self.names = [name for name, _ in self.on_path.model.named_parameters()]
        start = self.on_path.at(0.0)
        self.shapes = [start[name].shape for name in self.names]
        self.size = sum(shape.numel() for shape in self.shapes)
        self.device, self.dtype = self.on_path.device, self.on_path.compute_dtype()
        self.examples = 0
        self.weight = 0.0
        self.report: Any = lambda _: None
        self._caller = Caller(self.on_path.model, with_targets=loss.takes_targets)
        self._alpha = 0.0
        self._state: Params = {}
        if not self.on_path.batch_norms:  # whose statistics move with α, but do not count in H
            self._check_gradient(self.reader.first)

    def _check_gradient(self, batches: list[Batch]) -> None:
        """Compare ⟨∇L, dθ/dα⟩ with difference quotients of the mean loss: where the gradient is cut, so is H."""
        wrong = wrong_on_few_examples(self.on_path, batches, self._mean, "⟨∇L, dθ/dα⟩", "the loss")
        if wrong is not None:
            raise ValueError(
                explain(
                    expected="a loss whose gradient agrees with its difference quotients, for a Hessian.",
                    got=f"{wrong}.",
                    hint="Replace the operation that breaks the gradient by plain torch operations.",
                )
            )

    def _mean(self, on_path: ModelOnPath, probe: Batch) -> ValuesAt:
        """The mean loss of a batch, and ⟨∇L, dθ/dα⟩."""
        placed = probe.to(on_path.device, on_path.dtype)

        def at(alpha: float, derivative: bool) -> tuple[Tensor, Tensor | None]:
            seed(on_path.device)
            velocity, state = on_path.velocity(alpha), on_path.at(alpha)
            with torch.enable_grad(), forward_mode(on_path.model):
                leaves = {name: state[name].detach().requires_grad_(derivative) for name in velocity}
                outputs = self.statistics.call(self._caller, state | leaves, placed)
                mean = weighted_mean([evaluated(self.loss, outputs, placed.targets, placed.examples)])
                if not derivative or not mean.requires_grad:
                    return mean.detach()[None], None
                gradient = torch.autograd.grad(mean, list(leaves.values()), materialize_grads=True)
            slopes = [(g * velocity[name]).sum() for g, name in zip(gradient, leaves, strict=True)]
            return mean.detach()[None], torch.stack(slopes).sum()[None]

        return at

    def move_to(self, alpha: float) -> None:
        """Take the tensors, and the statistics of the policy, at α."""
        self._alpha = alpha
        seed(self.on_path.device)
        self._state = self.statistics.apply(self.on_path.at(alpha), alpha)

    def direction(self, alpha: float) -> Tensor:
        """dθ/dα as one vector over the parameters."""
        velocity = self.on_path.velocity(alpha)
        parts = [
            velocity.get(name, torch.zeros(shape, dtype=self.dtype, device=self.device))
            for name, shape in zip(self.names, self.shapes, strict=True)
        ]
        return torch.cat([part.reshape(-1).to(self.dtype) for part in parts])

    def times(self, vector: Tensor) -> Tensor:
        """H · vector, by a backward pass through a backward pass, summed over all examples."""
        sizes = [shape.numel() for shape in self.shapes]
        parts = [part.view(shape) for part, shape in zip(torch.split(vector, sizes), self.shapes, strict=True)]
        total = torch.zeros_like(vector)
        self.examples, self.weight = 0, 0.0
        for batch in self.reader.batches():
            placed = batch.to(self.device, self.on_path.dtype)
            with torch.enable_grad(), forward_mode(self.on_path.model):
                leaves = [self._state[name].detach().requires_grad_() for name in self.names]
                state = self._state | dict(zip(self.names, leaves, strict=True))
                seed(self.on_path.device)
                with placed.lent() as own:
                    outputs = self.statistics.call(self._caller, state, own)
                    values, _, weights, _ = evaluated(self.loss, outputs, own.targets, own.examples)
                weights = torch.ones_like(values) if weights is None else weights.to(values.dtype)
                gradients = torch.autograd.grad(
                    (values * weights).sum(), leaves, create_graph=True, materialize_grads=True
                )
                inner = torch.stack([(g * part).sum() for g, part in zip(gradients, parts, strict=True)]).sum()
                bends = inner.requires_grad  # not where the loss is linear in every parameter
                product = torch.autograd.grad(inner, leaves, materialize_grads=True) if bends else None
            if product is not None:
                total += torch.cat([part.reshape(-1) for part in product])
            self.examples += int((weights > 0).sum())
            self.weight += float(weights.sum())
            self.report(1)
        if not torch.isfinite(total).all():
            raise NonFiniteLoss(
                explain(
                    expected="a finite Hessian.",
                    got=f"NaN or inf in a product with it at α = {self._alpha:.6g}.",
                    hint="profile() shows whether the loss itself is finite there; dtype=torch.float64 may help.",
                )
            )
        return total / self.weight


def _extremes(library: Any, operator: Any, iterations: int, seed: int) -> tuple[Floats, Floats]:
    """Smallest and largest Ritz value with the norms of their residuals."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(operator.size, dtype=torch.float64, generator=generator).to(operator.device, operator.dtype)
    lanczos = library.lanczos_tridiagonal(operator, first, min(iterations, operator.size), reorthogonalize=True)
    diagonal, beside = lanczos.alphas.double().cpu().numpy(), lanczos.betas.double().cpu().numpy()
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    errors = np.abs(vectors[-1]) * lanczos.last_beta
    return values[[0, -1]], errors[[0, -1]]
