"""The plan of a measurement: what computes the losses, on how many examples at a time, in which layout, and why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from lerpscape.base.errors import explain

# What estimates batch-norm statistics at an α: hooks in the module; or the graph, pooled over batches, exactly, or
# exactly and in one pass with the losses. "module" is also the plan of models without statistics to estimate.
Estimation: TypeAlias = Literal["module", "pooled", "exact", "exact with losses"]
IN_WORDS: dict[Estimation, str] = {
    "module": "",
    "pooled": ", pooled statistics in one pass",
    "exact": ", exact statistics in one pass",
    "exact with losses": ", exact statistics and losses in one pass",
}


@dataclass(frozen=True)
class ExecutionPlan:
    """How a model is evaluated at many α, as plain data.

    * `by`: the module as it is, the graph of its traced operations, or the module's layers, each at all α before the
      next; `why` says so in words.
    * `batch_size`: examples that the graph computes at a time; `channels_last`: the layout of images and of the
      weights of convolutions; `group_size`: examples whose results that all α share are held in memory together.
    * `estimation`: what estimates batch-norm statistics.
    * `sweep_alphas`: the increasing α at which the layer behind the first ReLU is updated from one to the next; none
      where it is multiplied at every α.
    * `rounding`, `scale`: how far rounding may take the graph's losses from the module's, relative to them or to
      `scale`, whichever is larger. With None nobody looks.
    * `parts`: where the module computes, in how many groups the batches in memory are divided, for as many workers.

    Raises `ValueError` for a graph without sizes.

    >>> plan = ExecutionPlan("graph", "traced operations", batch_size=32, group_size=64)
    >>> plan.describe(), ExecutionPlan.from_json(plan.to_json()) == plan
    ('traced operations, 32 examples at a time', True)
    """

    by: Literal["module", "graph", "layers"]
    why: str
    batch_size: int = 0
    channels_last: bool = False
    group_size: int = 0
    estimation: Estimation = "module"
    sweep_alphas: tuple[float, ...] = ()
    rounding: float | None = None
    scale: float = 0.0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.by == "graph" and min(self.batch_size, self.group_size) < 1:
            raise ValueError(
                explain(
                    expected="a batch size and a group size of at least 1 for traced operations.",
                    got=f"{self.batch_size} and {self.group_size}.",
                    hint="ExecutionPlan.by_module(why) needs no sizes.",
                )
            )

    @classmethod
    def by_module(cls, why: str) -> ExecutionPlan:
        """The module on the caller's own batches, one after the other."""
        return cls("module", why)

    def to_json(self) -> str:
        """The plan as text; see `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ExecutionPlan:
        """The plan that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"sweep_alphas": tuple(fields["sweep_alphas"])})

    def describe(self) -> str:
        """The plan in words, for `how["plan"]`."""
        if self.by == "layers":
            return self.why
        if self.by == "module":
            return f"the module batch by batch: {self.why}"
        sweep = ", the next one updated from α to α" if self.sweep_alphas else ""
        layout = ", channels last" if self.channels_last else ""
        return f"{self.why}{sweep}{layout}, {self.batch_size} examples at a time{IN_WORDS[self.estimation]}"
