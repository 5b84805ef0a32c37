"""Who does the work: this process, several, a Ray cluster, SLURM, or any map; results travel through the store.

One function, `spread`: items in, (item, outcome) out, in the order in which they finish. A worker that dies takes no
other with it: its item is given out again, and goes on from its last epoch.
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

ATTEMPTS = 3  # how often an item is given out before a worker's death counts as the item's fault


@dataclass(frozen=True)
class Lost:
    """The outcome of an item whose workers died, each time."""

    attempts: int
    reason: str


def spread(
    task: Callable[[Work], Outcome], items: Sequence[Work], workers: Workers = 1, *, gpus: float = 0
) -> Iterator[tuple[Work, Outcome | Lost]]:
    """Do the task for every item, and give each with its outcome as it finishes.

    * `workers`: 1: in this process; n: so many processes of one thread each; `"ray"` (started here, or the cluster of
      `RAY_ADDRESS`), `"ray://…"`; `"slurm"` through submitit; or a function like `map`.
    * `gpus`: the share of a GPU for each item, on Ray.

    Task and items must be picklable beyond one process. An exception of the task is raised here.

    Raises `ValueError` for other workers, `ImportError` where Ray or submitit is not installed.

    >>> sorted(spread(abs, [-2, 3], workers=map))
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
    """A pool of one process per place: when one is killed, only its own item is lost, and given out again."""
    waiting = [(item, 1) for item in reversed(items)]
    pools = {place: _pool() for place in range(min(count, len(items)))}
    running: dict[Future[Outcome], tuple[int, Work, int]] = {}
    try:
        while waiting or running:
            for place in set(pools) - {place for place, _, _ in running.values()}:
                if waiting:
                    item, attempt = waiting.pop()
                    running[pools[place].submit(task, item)] = place, item, attempt
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                place, item, attempt = running.pop(future)
                try:
                    yield item, future.result()
                except BrokenProcessPool as death:
                    pools[place].shutdown(wait=False)
                    pools[place] = _pool()
                    if attempt < ATTEMPTS:
                        waiting.append((item, attempt + 1))
                    else:
                        yield item, Lost(attempt, f"its process died {attempt} times ({death})")
    finally:
        for pool in pools.values():
            for process in list((pool._processes or {}).values()) if running else ():
                process.terminate()  # there is no public way to end work that goes on
            pool.shutdown(wait=not running, cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """One thread, and no life after the parent's: an orphan would hold its run's lock."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _ray(
    task: Callable[[Work], Outcome], items: Sequence[Work], address: str, gpus: float
) -> Iterator[tuple[Work, Any]]:
    with cluster(address) as ray:
        # max_retries: a worker's death gives the item out again, on any machine; the store says where it stood.
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)(task)
        waiting = {remote.remote(item): item for item in items}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            for each in done:
                item = waiting.pop(each)
                try:
                    yield item, ray.get(each)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as death:
                    yield item, Lost(ATTEMPTS, f"its worker died {ATTEMPTS} times ({type(death).__name__})")
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error


def _slurm(task: Callable[[Work], Outcome], items: Sequence[Work]) -> Iterator[tuple[Work, Any]]:
    submitit = import_optional("submitit", "slurm")
    executor = submitit.AutoExecutor(folder="slurm-logs", cluster="slurm")
    executor.update_parameters(cpus_per_task=1, tasks_per_node=1, timeout_min=24 * 60, slurm_array_parallelism=256)
    return submitted(task, items, executor)


def submitted(task: Callable[[Work], Outcome], items: Sequence[Work], executor: Any) -> Iterator[tuple[Work, Any]]:
    """Give the items to a submitit executor, as one job array, and wait for each.

    A job that the cluster killed is submitted again; the store says where its run stood.
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
                    yield item, Lost(attempt, f"its job died {attempt} times ({str(death).splitlines()[0]})")
            except submitit.core.utils.FailedJobError as error:
                raise RuntimeError(str(error)) from error
