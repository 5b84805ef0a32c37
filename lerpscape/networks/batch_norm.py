"""Which mean and variance batch norm uses along a path; the caller chooses, because the choice changes the curve.

A path determines the parameters of a network. Running means and variances are not parameters, and published work
obtains them in the four ways below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from lerpscape.base.errors import explain
from lerpscape.networks.reading import Data


@dataclass(frozen=True)
class InterpolateStatistics:
    """Interpolate running statistics along the path like parameters. Both ends are exactly the two checkpoints.

    >>> InterpolateStatistics().describe()
    'running statistics interpolated with the parameters'
    """

    def describe(self) -> str:
        """The policy in words."""
        return "running statistics interpolated with the parameters"


@dataclass(frozen=True)
class EndStatistics:
    """Use the end's running statistics at every α. At α = 0 the network then differs from the start's checkpoint.

    >>> EndStatistics().describe()
    "the end's running statistics at every α"
    """

    def describe(self) -> str:
        """The policy in words."""
        return "the end's running statistics at every α"


@dataclass(frozen=True)
class BatchStatistics:
    """Normalise each batch by its own mean and variance, as in training. The losses then depend on the batches.

    >>> BatchStatistics().describe()
    'the statistics of each batch of the measured data'
    """

    def describe(self) -> str:
        """The policy in words."""
        return "the statistics of each batch of the measured data"


@dataclass(frozen=True)
class Recalibrate:
    """Estimate the statistics at every α from `data`, usually the training data without augmentation.

    By default they are exact and do not depend on the batch size: the mean and biased variance of each layer's inputs
    over all examples, in the network whose earlier layers already use theirs. That takes one pass over the data for
    each batch-norm layer, or one pass in all if the data is a single batch.

    * `pooled=True` is the usual cheaper estimate by one pass, in which every layer normalises each batch by itself.
    * `momentum` averages the statistics of batches exponentially, starting from mean 0 and variance 1, over `passes`
      passes, as torch's running statistics and the code of Lucas et al. (2021) do.

    Dropout stays off.

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
    """The batch-norm policy with a name that configuration files and commands use; `data` is that of `Recalibrate`.

    Raises `ValueError` for an unknown name; the message lists the known ones.

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
