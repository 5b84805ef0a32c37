"""How workers divide a chunk of data: by groups of batches, or by α, and how their results come together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from lerpscape.base.arrays import Floats
from lerpscape.engine.evaluator import Evaluator
from lerpscape.engine.losses_by_alpha import LossesAtAlpha, Numbers
from lerpscape.networks.batches import Batch

# The number of a group, the position of an α, and the losses.
Result: TypeAlias = tuple[int, int, Numbers]


@dataclass(frozen=True)
class Share:
    """The groups of a chunk, by number, that one worker evaluates, at the α of these positions."""

    groups: range
    positions: range


def divided(groups: range, points: int, workers: int, *, estimates: bool, one_group_each: bool = False) -> list[Share]:
    """Shares for so many workers.

    They take turns at groups; with `one_group_each`, every group is a share of its own. They take turns at α where
    there are fewer groups than workers, or where every α also has statistics to estimate, once for all groups.

    >>> divided(range(1, 4), 50, 2, estimates=False)[1]
    Share(groups=range(2, 4, 2), positions=range(0, 50))
    >>> divided(range(3), 50, 2, estimates=True)[1]
    Share(groups=range(0, 3), positions=range(1, 50, 2))
    """
    if len(groups) < workers or estimates:
        return [Share(groups, range(points)[turn::workers]) for turn in range(min(workers, points))]
    shares = len(groups) if one_group_each else workers
    return [Share(groups[turn::shares], range(points)) for turn in range(shares)]


def results(evaluator: Evaluator, alphas: Floats, chunk: list[Batch], share: Share) -> Iterator[Result]:
    """Evaluate a share, group by group."""
    for number, group in enumerate(evaluator.groups(chunk, alphas)):
        if number in share.groups:
            for position in share.positions:
                yield number, position, group.at(float(alphas[position])).numbers()


def in_order(results: Iterable[Result], groups: range, points: int) -> Iterator[list[LossesAtAlpha]]:
    """The losses of one group after the other at all α, from results in any order.

    >>> results = [(1, 0, (np.ones(1), None, None)), (0, 0, (np.zeros(1), None, None))]
    >>> [losses[0].losses.tolist() for losses in in_order(results, range(2), 1)]
    [[0.0], [1.0]]
    """
    waiting: dict[int, dict[int, LossesAtAlpha]] = {number: {} for number in groups}
    for number, position, numbers in results:
        waiting[number][position] = LossesAtAlpha.of(*numbers)
        while waiting and len(waiting[first := next(iter(waiting))]) == points:
            losses = waiting.pop(first)
            yield [losses[place] for place in range(points)]
