"""An objective and a plan for it, ready to evaluate groups of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lerpscape.base.arrays import Floats
from lerpscape.base.errors import explain
from lerpscape.engine.execution import GraphExecution, ModuleExecution, Objective
from lerpscape.engine.groups import Group
from lerpscape.engine.plan import ExecutionPlan
from lerpscape.networks.batches import Batch
from lerpscape.networks.rebatching import count_examples, grouped


class Evaluator:
    """Evaluates an objective as a plan says.

    Raises `ValueError` for a plan by the graph of a module whose operations cannot be traced.
    """

    def __init__(self, objective: Objective, plan: ExecutionPlan) -> None:
        self.objective = objective
        self.plan = plan
        self._module = ModuleExecution(objective)
        self._graph: GraphExecution | None = None
        if plan.by == "graph":
            graph = objective.on_path.graph
            if isinstance(graph, str):
                raise ValueError(
                    explain(
                        expected="a model that can be traced, as the plan is to run its operations.",
                        got=f"{type(objective.on_path.model).__name__}: {graph}.",
                        hint="ExecutionPlan.by_module(why) runs any module.",
                    )
                )
            self._graph = GraphExecution(objective, graph, plan)

    def groups(self, chunk: list[Batch], alphas: Floats) -> Iterator[Group]:
        """The batches of a chunk in groups; these α pass over each group together.

        The graph is compared with the module at the first and the last of them; at the first alone where statistics
        are estimated, as the module then computes no end.
        """
        place, estimates = self.objective.place, self.objective.statistics.estimates()
        compared = () if self.plan.rounding is None else (alphas[0],) if estimates else (alphas[0], alphas[-1])
        for batches, share in self._divided(chunk):
            placed = [place(batch) for batch in batches]
            yield Group(placed, share, alphas, self._module, self._graph, estimates=estimates, compared=compared)

    def compared(self) -> Evaluator:
        """The same evaluation, for examples on which the graph has been compared with the module."""
        return Evaluator(self.objective, replace(self.plan, rounding=None))

    def shares(self, chunk: list[Batch]) -> list[float]:
        """How many of the chunk's batches each group makes up, parts of one included."""
        return [share for _, share in self._divided(chunk)]

    def _divided(self, chunk: list[Batch]) -> Iterator[tuple[list[Batch], float]]:
        if self.plan.by == "graph":
            whole = self.plan.estimation == "exact with losses"
            yield from grouped(chunk, count_examples(chunk) if whole else self.plan.group_size)
            return
        size = -(-len(chunk) // self.plan.parts)
        for first in range(0, len(chunk), size):
            batches = chunk[first : first + size]
            yield batches, len(batches)
