"""A network of a sweep, in place of checkpoints, model and data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lerpscape.cli.arguments import OptionalFolder, OptionalInt, optional

if TYPE_CHECKING:
    from lerpscape.lab.subjects import Subject


@dataclass(frozen=True)
class RunOptions:
    """A network that `lerpscape sweep run` trained, with its ends, data and loss."""

    run: Annotated[str | None, optional("STORE/KEY/SEED")] = None
    """A network that `lerpscape sweep run` trained: gives the ends, the model, the data and the loss."""
    part: Literal["train", "held-out"] = "train"
    """With --run: the part of its data that is measured. Batch-norm statistics come from all its training data."""
    examples: OptionalInt = None
    """With --run: measure so many examples, drawn at random; by default all."""
    examples_seed: int = 0
    """With --run: seed of the draw of the examples."""
    data_dir: OptionalFolder = None
    """With --run: folder of the data sets; by default LERPSCAPE_DATA."""

    @cached_property
    def subject(self) -> Subject | None:
        """The network; None where no run is given."""
        from lerpscape.lab.subjects import open_run

        return None if self.run is None else open_run(self.run, self.data_dir)

    def data(self, subject: Subject) -> Any:
        """The examples that are measured."""
        return subject.batches(self.part, self.examples, seed=self.examples_seed)


NO_RUN = RunOptions()
