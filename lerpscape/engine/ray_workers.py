"""A chunk of data evaluated on a Ray cluster: tasks build the evaluator anew from a `Job`, and return losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.ray_cluster import cluster
from lerpscape.engine._shares import Result, Share, divided, results
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.execution import Objective
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.moving_tensors import Mode
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Batch
from lerpscape.networks.losses import Loss
from lerpscape.networks.metrics import Metric
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath

RETRIES = 2  # how often a task is submitted again when its machine died


@dataclass(frozen=True)
class Job:
    """Everything a task needs to compute what the submitting process would; all tasks of a chunk share one job."""

    model: nn.Module
    path: ParamPath
    device: torch.device
    dtype: torch.dtype | None
    loss: Loss
    metrics: tuple[Metric, ...]
    policy: BatchNormPolicy | None
    derivative: Mode | None
    plan: ExecutionPlan
    alphas: Floats
    chunk: list[Batch]

    @classmethod
    def of(cls, evaluator: Evaluator, alphas: Floats, chunk: list[Batch]) -> Job:
        """The job of evaluating these batches at these α."""
        objective = evaluator.objective
        on_path, policy = objective.on_path, objective.statistics.policy
        return cls(
            on_path.model,
            on_path.given,
            on_path.device,
            on_path.dtype,
            objective.loss,
            objective.metrics,
            policy,
            objective.derivative,
            evaluator.plan,
            alphas,
            chunk,
        )

    def results(self, share: Share) -> list[Result]:
        """The losses of a share, on one thread."""
        torch.set_num_threads(1)
        with undisturbed(self.model):
            on_path = ModelOnPath(self.model, self.path, self.device, self.dtype)
            statistics = BatchNormStatistics(on_path, self.policy)
            objective = Objective(on_path, self.loss, statistics, self.derivative, self.metrics)
            return list(results(Evaluator(objective, self.plan), self.alphas, self.chunk, share))


def results_on_ray(
    address: str, evaluator: Evaluator, alphas: Floats, chunk: list[Batch], groups: range
) -> Iterator[Result]:
    """The results of tasks on the cluster of this address, as they come.

    Raises `ImportError` where Ray is not installed, and the exception of a task.
    """
    estimates = evaluator.objective.statistics.estimates()
    with cluster(address) as ray:
        processors = int(ray.cluster_resources().get("CPU", 1))
        shares = divided(groups, len(alphas), processors, estimates=estimates, one_group_each=True)
        job = ray.put(Job.of(evaluator, alphas, chunk))
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_results)
        waiting = [task.remote(job, share) for share in shares]
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                for finished in ray.get(done):
                    yield from finished
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def _results(job: Job, share: Share) -> list[Result]:
    return job.results(share)
