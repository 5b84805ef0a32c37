"""Workers: this process, several processes, a Ray cluster, SLURM, or any function like `map`.

`map_as_completed` yields (item, outcome) in the order in which items finish. If a worker dies, only its own item is
affected and is submitted again. Results travel through the store, so a repeated run resumes after its last epoch.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeAlias, TypeVar

from lerpscape.base.errors import explain
from lerpscape.base.ray_cluster import cluster, is_address
from lerpscape.base.saving import import_optional

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")
Map: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Workers: TypeAlias = int | str | Map

ATTEMPTS = 3  # an item whose worker dies this often is given up


@dataclass(frozen=True)
class WorkerDied:
    """The outcome of an item whose worker died at every attempt."""

    attempts: int
    reason: str


def map_as_completed(
    task: Callable[[Work], Outcome], items: Sequence[Work], workers: Workers = 1, *, gpus: float = 0
) -> Iterator[tuple[Work, Outcome | WorkerDied]]:
    """Call the task on every item, and yield each item with its outcome as it finishes.

    * `workers`: 1 for this process; n for n processes of one thread each; `"ray"` for a Ray started here or the cluster
      of `RAY_ADDRESS`; `"ray://…"` for that cluster; `"slurm"` for jobs through submitit; or a function like `map`.
    * `gpus`: the share of a GPU for each item, on Ray.

    Unless it runs in this process, task and items must be picklable. An exception of the task is raised here.

    Raises `ValueError` for other `workers`, `ImportError` if Ray or submitit is not installed.

    >>> sorted(map_as_completed(abs, [-2, 3], workers=map))
    [(-2, 2), (3, 3)]
    """
    if callable(workers):
        return zip(items, workers(task, items), strict=True)
    if workers == 1:
        return ((item, task(item)) for item in items)
    if isinstance(workers, int) and workers > 1:
        return _processes(task, items, workers)
    if isinstance(workers, str) and is_address(workers):
        return _ray(task, items, workers, gpus)
    if workers == "slurm":
        return _slurm(task, items)
    raise ValueError(
        explain(
            expected='workers as a number of at least 1, "ray", "ray://host:port", "slurm", or a function like map.',
            got=f"{workers!r}.",
            hint="--workers 2 uses two processes of this machine.",
        )
    )


def _processes(task: Callable[[Work], Outcome], items: Sequence[Work], count: int) -> Iterator[tuple[Work, Any]]:
    """Run items on `count` pools of one process each: a killed process breaks its own pool only."""
    waiting = [(item, 1) for item in reversed(items)]
    pools = [_pool() for _ in range(min(count, len(items)))]
    running: dict[Future[Outcome], tuple[int, Work, int]] = {}
    try:
        while waiting or running:
            for number in set(range(len(pools))) - {number for number, _, _ in running.values()}:
                if waiting:
                    item, attempt = waiting.pop()
                    running[pools[number].submit(task, item)] = number, item, attempt
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                number, item, attempt = running.pop(future)
                try:
                    yield item, future.result()
                except BrokenProcessPool as death:
                    pools[number].shutdown(wait=False)
                    pools[number] = _pool()
                    if attempt < ATTEMPTS:
                        waiting.append((item, attempt + 1))
                    else:
                        yield item, WorkerDied(attempt, f"its process died {attempt} times ({death})")
    finally:
        for pool in pools:
            for process in list((pool._processes or {}).values()) if running else ():
                process.terminate()  # there is no public way to stop a running task
            pool.shutdown(wait=not running, cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """Limit a worker to one thread, and end it with its parent: an orphan would keep its run locked."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _ray(
    task: Callable[[Work], Outcome], items: Sequence[Work], address: str, gpus: float
) -> Iterator[tuple[Work, Any]]:
    with cluster(address) as ray:
        # max_retries: after a worker's death Ray repeats the item on any machine; it resumes from the store.
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)(task)
        waiting = {remote.remote(item): item for item in items}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            for reference in done:
                item = waiting.pop(reference)
                try:
                    yield item, ray.get(reference)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as death:
                    yield item, WorkerDied(ATTEMPTS, f"its worker died {ATTEMPTS} times ({type(death).__name__})")
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error


def _slurm(task: Callable[[Work], Outcome], items: Sequence[Work]) -> Iterator[tuple[Work, Any]]:
    submitit = import_optional("submitit", "slurm")
    executor = submitit.AutoExecutor(folder="slurm-logs", cluster="slurm")
    executor.update_parameters(cpus_per_task=1, tasks_per_node=1, timeout_min=24 * 60, slurm_array_parallelism=256)
    return map_with_submitit(task, items, executor)


def map_with_submitit(
    task: Callable[[Work], Outcome], items: Sequence[Work], executor: Any
) -> Iterator[tuple[Work, Any]]:
    """Submit the items to a submitit executor as one job array, and yield each outcome.

    A job that the cluster killed is submitted again, and its run resumes from the store.
    """
    submitit = import_optional("submitit", "slurm")
    waiting = {job: (item, 1) for job, item in zip(executor.map_array(task, items), items, strict=True)}
    while waiting:
        for job in submitit.helpers.as_completed(list(waiting)):
            item, attempt = waiting.pop(job)
            try:
                yield item, job.result()
            except submitit.core.utils.UncompletedJobError as death:
                if attempt < ATTEMPTS:
                    waiting[executor.submit(task, item)] = item, attempt + 1
                else:
                    yield item, WorkerDied(attempt, f"its job died {attempt} times ({str(death).splitlines()[0]})")
            except submitit.core.utils.FailedJobError as error:
                raise RuntimeError(str(error)) from error
