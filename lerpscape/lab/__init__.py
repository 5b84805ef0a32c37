"""The laboratory: trains the networks whose lines the instrument measures."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.lab.config import (
        DataConfig,
        MeasureConfig,
        ModelConfig,
        OptimizerConfig,
        RunConfig,
        TrainingConfig,
    )
    from lerpscape.lab.store import Store
    from lerpscape.lab.sweep import Sweep
    from lerpscape.lab.training import train

__getattr__, __dir__, __all__ = attach(__name__, __file__)
