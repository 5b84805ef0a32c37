"""A chunk of data measured on a Ray cluster: tasks build the model anew, measure their share, and return rows.

The shards are those of `shards`, and so are the numbers, bit for bit where all machines compute alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.ray_cluster import cluster
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, Numbers
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.engine.planner import Evaluator
from lerpscape.networks.batch_norm import BatchNormPolicy
from lerpscape.networks.batches import Batch
from lerpscape.networks.losses import Loss
from lerpscape.networks.undisturbed import undisturbed
from lerpscape.paths.path import ParamPath

# Groups and positions of α that a task measures, and what it found for each of both.
Share: TypeAlias = tuple[list[int], list[int]]
Found: TypeAlias = list[tuple[int, int, Numbers]]
RETRIES = 2  # how often a task whose machine died is given out again


@dataclass(frozen=True)
class Job:
    """Everything a task needs to measure as the process that gives it out does."""

    model: nn.Module
    path: ParamPath
    device: torch.device
    dtype: torch.dtype | None
    loss: Loss
    policy: BatchNormPolicy | None
    derivative: bool
    choice: str
    alphas: Floats
    chunk: list[Batch]

    def measured(self, share: Share) -> Found:
        """The rows of a share, on one thread."""
        torch.set_num_threads(1)
        numbers, positions = share
        with undisturbed(self.model):
            on_path = ModelOnPath(self.model, self.path, self.device, self.dtype)
            statistics = BatchNormStatistics(on_path, self.policy)
            walk = Evaluator(
                on_path, self.loss, statistics, lambda _: None, derivative=self.derivative, probe=self.chunk[0]
            )
            walk.choose(self.alphas, self.chunk, False, self.choice)
            return [
                (number, position, walk.at(float(self.alphas[position]), group).numbers())
                for number, group in enumerate(walk.groups(self.chunk))
                if number in numbers
                for position in positions
            ]


def measured_on(
    address: str, measured: Evaluator, alphas: Floats, chunk: list[Batch], skip: int
) -> Iterator[tuple[float, list[LossesAtAlpha]]]:
    """The rows of each group after the first `skip`, in order, with the group's share of progress.

    Raises `ImportError` where Ray is not installed, and the exception of a task.
    """
    weights = [group.progress for group in measured.groups(chunk)]
    with cluster(address) as ray:
        shares = _shares(skip, len(weights), len(alphas), measured, int(ray.cluster_resources().get("CPU", 1)))
        on_path = measured.on_path
        job = ray.put(
            Job(
                model=on_path.model,
                path=on_path.given,
                device=on_path.device,
                dtype=on_path.dtype,
                loss=measured.loss,
                policy=measured.statistics.policy,
                derivative=measured.derivative,
                choice=measured.plan,
                alphas=alphas,
                chunk=chunk,
            )
        )
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_measured)
        waiting = [task.remote(job, share) for share in shares]
        found: dict[int, dict[int, LossesAtAlpha]] = {number: {} for number in range(skip, len(weights))}
        delivered = skip
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                for number, position, numbers in (each for task in ray.get(done) for each in task):
                    found[number][position] = LossesAtAlpha.of(*numbers)
                while delivered < len(weights) and len(found[delivered]) == len(alphas):
                    rows = found.pop(delivered)
                    yield weights[delivered], [rows[position] for position in range(len(alphas))]
                    delivered += 1
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def _measured(job: Job, share: Share) -> Found:
    return job.measured(share)


def _shares(skip: int, groups: int, points: int, measured: Evaluator, places: int) -> list[Share]:
    """Groups of batches; or α, where there are fewer groups than places, or where each α has statistics to estimate."""
    numbers, positions = list(range(skip, groups)), list(range(points))
    if len(numbers) >= places and not measured.statistics.estimates():
        return [([number], positions) for number in numbers]
    return [(numbers, positions[place::places]) for place in range(min(places, points))]
