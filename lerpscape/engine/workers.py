"""A chunk of data evaluated by several processes, or by tasks on Ray, which send back losses.

Losses are summed in the main process, in the order of the data, so the numbers are those of a single process: bit for
bit where both divide the data alike.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import TypeAlias

import torch

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.base.ray_cluster import is_address
from lerpscape.engine._shares import Result, Share, divided, in_order, results
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.losses_by_alpha import LossesAtAlpha
from lerpscape.engine.ray_workers import results_on_ray
from lerpscape.networks.batches import Batch

# How many processes, or the address of a Ray cluster.
Workers: TypeAlias = int | str


def check_workers(workers: Workers, device: torch.device) -> None:
    """Make sure that the work can be divided among so many processes, or on Ray.

    Raises `ValueError` for fewer than one, for another word, for a device that processes cannot share, and where there
    is no fork.
    """
    if is_address(workers):
        return
    possible = "fork" in multiprocessing.get_all_start_methods() and device.type == "cpu"
    if isinstance(workers, str) or workers < 1 or (workers > 1 and not possible):
        raise ValueError(
            explain(
                expected='workers=1, or more on the CPU of a system whose processes can fork; or "ray", "ray://host:port".',
                got=f"workers={workers!r} on {device}.",
                hint="Use workers=1; one process keeps a GPU busy.",
            )
        )


def evaluate_in_parallel(
    workers: Workers, evaluator: Evaluator, alphas: Floats, chunk: list[Batch], skip: int
) -> Iterator[list[LossesAtAlpha]]:
    """The losses at all α of each group after the first `skip`, in order."""
    groups = range(skip, len(evaluator.shares(chunk)))
    if not groups:
        return
    if isinstance(workers, str):
        by_worker = results_on_ray(workers, evaluator, alphas, chunk, groups)
    else:
        by_worker = _results_of_forks(workers, evaluator, alphas, chunk, groups)
    yield from in_order(by_worker, groups, len(alphas))


def _results_of_forks(
    workers: int, evaluator: Evaluator, alphas: Floats, chunk: list[Batch], groups: range
) -> Iterator[Result]:
    """What forked processes send: data, model and loss are held in memory once and need not be pickled."""
    context = multiprocessing.get_context("fork")
    processes, pipes = [], []
    try:
        for share in divided(groups, len(alphas), workers, estimates=evaluator.objective.statistics.estimates()):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(there, evaluator, alphas, chunk, share), daemon=True)
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                result = _received(pipe)
                if result is None:
                    pipes.remove(pipe)
                else:
                    yield result
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _received(pipe: Connection) -> Result | None:
    """What a process sends: a result, or None at its end; its exception is raised here."""
    try:
        message: Result | Exception | None = pipe.recv()
    except EOFError:
        message = RuntimeError(
            explain(
                expected="a worker process that lives until its work is done.",
                got="one that ended without a word; the system may have stopped it for want of memory.",
                hint="Use fewer workers, or smaller batches.",
            )
        )
    if isinstance(message, Exception):
        raise message
    return message


def _work(pipe: Connection, evaluator: Evaluator, alphas: Floats, chunk: list[Batch], share: Share) -> None:
    """The life of one process: evaluate its share, send each result, then None."""
    torch.set_num_threads(1)  # a fork has no threads but its own, and each process has a core
    try:
        for result in results(evaluator, alphas, chunk, share):
            pipe.send(result)
        pipe.send(None)
    except Exception as error:
        pipe.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """The exception itself, or its words where it cannot be pickled."""
    try:
        from multiprocessing.reduction import ForkingPickler

        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
