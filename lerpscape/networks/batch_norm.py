"""What batch norm normalises with along a path: a choice that changes the curve, so the caller makes it.

A line fixes parameters. Running mean and variance are not parameters, and four answers are in use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from lerpscape.base.errors import explain
from lerpscape.networks.batches import Data


@dataclass(frozen=True)
class InterpolateStatistics:
    """Running statistics on the same line as the parameters. Both ends are exactly the two networks.

    >>> InterpolateStatistics().describe()
    'running statistics interpolated with the parameters'
    """

    def describe(self) -> str:
        """The policy in words."""
        return "running statistics interpolated with the parameters"


@dataclass(frozen=True)
class EndStatistics:
    """The end's running statistics at every α. The start is then not the network that was saved there.

    >>> EndStatistics().describe()
    "the end's running statistics at every α"
    """

    def describe(self) -> str:
        """The policy in words."""
        return "the end's running statistics at every α"


@dataclass(frozen=True)
class BatchStatistics:
    """Each batch normalised by itself, as in training. The result depends on the batches.

    >>> BatchStatistics().describe()
    'the statistics of each batch of the measured data'
    """

    def describe(self) -> str:
        """The policy in words."""
        return "the statistics of each batch of the measured data"


@dataclass(frozen=True)
class Recalibrate:
    """Statistics estimated anew at every α from `data`, usually the training data in evaluation mode.

    By default exact and free of the batch size: each layer's mean and (biased) variance are those of all examples,
    fed by layers that already normalise with theirs. That takes one pass over the data for each batch-norm layer, or
    one pass in all where the data is a single batch. `pooled=True` is the field's cheaper single pass, in which deeper
    layers see inputs normalised by their own batch. `momentum` averages batches exponentially from (0, 1) over
    `passes` passes, as torch's running statistics and the code of Lucas et al. (2021) do. Dropout stays off.

    Raises `ValueError` for `pooled` together with `momentum`, or fewer than one pass.

    >>> batches = [(torch.zeros(4, 2), torch.zeros(4))]
    >>> Recalibrate(batches).describe(), Recalibrate(batches, pooled=True).describe()
    ('exact statistics of all examples at every α', 'pooled statistics of one pass at every α')
    """

    data: Data = field(repr=False)
    pooled: bool = False
    momentum: float | None = None
    passes: int = 1

    def __post_init__(self) -> None:
        if self.pooled and self.momentum is not None:
            raise ValueError(
                explain(
                    expected="pooled=True or a momentum.",
                    got="both.",
                    hint="Leave one out: they are two ways to average.",
                )
            )
        if self.passes < 1 or (self.passes > 1 and self.momentum is None):
            raise ValueError(
                explain(
                    expected="passes ≥ 1, and more than one only with a momentum.",
                    got=f"{self.passes}.",
                    hint="Use passes=1.",
                )
            )

    def describe(self) -> str:
        """The policy in words."""
        if self.momentum is not None:
            return (
                f"exponential average of batch statistics at every α (momentum {self.momentum}, {self.passes} passes)"
            )
        return f"{'pooled statistics of one pass' if self.pooled else 'exact statistics of all examples'} at every α"


BatchNormPolicy: TypeAlias = InterpolateStatistics | EndStatistics | BatchStatistics | Recalibrate


def named_policy(name: str | None, data: Data) -> BatchNormPolicy | None:
    """The policy of a name that files and commands use; what is estimated is estimated from `data`.

    Raises `ValueError` for another name, listing those that exist.

    >>> named_policy("interpolate", []), named_policy(None, [])
    (InterpolateStatistics(), None)
    """
    if name is None:
        return None
    policies: dict[str, Callable[[], BatchNormPolicy]] = {
        "recalibrate": lambda: Recalibrate(data),
        "pooled": lambda: Recalibrate(data, pooled=True),
        "interpolate": InterpolateStatistics,
        "batch": BatchStatistics,
        "end": EndStatistics,
    }
    if name not in policies:
        raise ValueError(
            explain(expected=f"one of {', '.join(policies)}.", got=f"{name!r}.", hint="Choose a batch-norm policy.")
        )
    return policies[name]()
