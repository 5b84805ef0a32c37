"""A chunk of data measured by several processes, which share the memory of this one and return rows.

Each process is a fork: data, model and loss are held once and need not be pickled. Rows come back and are summed here
in the order of the data, so the numbers are those of a single process, bit for bit, where both divide the data alike.
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
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, Numbers
from lerpscape.engine.planner import Evaluator
from lerpscape.engine.ray_workers import measured_on
from lerpscape.networks.batches import Batch

# The group, the position of the α, and the row's numbers.
Message: TypeAlias = tuple[int, int, Numbers]


def check_workers(workers: int | str, device: torch.device) -> None:
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


def measured_by(
    workers: int | str, measured: Evaluator, alphas: Floats, chunk: list[Batch], skip: int
) -> Iterator[tuple[float, list[LossesAtAlpha]]]:
    """The rows of each group after the first `skip`, in order, with the group's share of progress.

    Processes, or tasks on Ray, take turns at groups of batches; or at α, where there are fewer groups than processes or
    where each α has work of its own to do beside the batches, estimating batch-norm statistics.
    """
    if isinstance(workers, str):
        yield from measured_on(workers, measured, alphas, chunk, skip)
        return
    weights = [group.progress for group in measured.groups(chunk)][skip:]
    by_alpha = len(weights) < workers or measured.statistics.estimates()
    context = multiprocessing.get_context("fork")
    processes, pipes = [], []
    found: dict[int, dict[int, LossesAtAlpha]] = {number: {} for number in range(len(weights))}
    delivered = 0
    try:
        for worker in range(workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(there, measured, alphas, chunk, skip, worker, workers, by_alpha), daemon=True
            )
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                message = _received(pipe)
                if message is None:
                    pipes.remove(pipe)
                    continue
                number, position, numbers = message
                found[number][position] = LossesAtAlpha.of(*numbers)
                while delivered < len(weights) and len(found[delivered]) == len(alphas):
                    rows = found.pop(delivered)
                    yield weights[delivered], [rows[place] for place in range(len(alphas))]
                    delivered += 1
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _received(pipe: Connection) -> Message | None:
    """What a process says: a row, None at its end; its exception is raised here."""
    try:
        message: Message | Exception | None = pipe.recv()
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


def _work(
    pipe: Connection,
    measured: Evaluator,
    alphas: Floats,
    chunk: list[Batch],
    skip: int,
    worker: int,
    workers: int,
    by_alpha: bool,
) -> None:
    """The life of one process: measure its part, send each row, then None."""
    torch.set_num_threads(1)  # a fork has no threads but its own, and each process has a core
    measured.be_silent()
    try:
        for number, group in enumerate(measured.groups(chunk)):
            if number < skip or not (by_alpha or number % workers == worker):
                continue
            for position, alpha in enumerate(alphas):
                if not by_alpha or position % workers == worker:
                    pipe.send((number - skip, position, measured.at(float(alpha), group).numbers()))
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
