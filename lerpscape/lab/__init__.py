"""The laboratory: trains the networks whose lines the instrument measures."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.lab.config import (
        DataConfig as DataConfig,
        ModelConfig as ModelConfig,
        OptimizerConfig as OptimizerConfig,
        RunConfig as RunConfig,
        TrainingConfig as TrainingConfig,
    )
    from lerpscape.lab.measure_config import CompareConfig as CompareConfig, MeasureConfig as MeasureConfig
    from lerpscape.lab.store import Store as Store
    from lerpscape.lab.subjects import Subject as Subject, open_run as open_run
    from lerpscape.lab.sweep import Sweep as Sweep
    from lerpscape.lab.training import train as train

__getattr__, __dir__, __all__ = attach(__name__, __file__)
